"""What every verb of `lim-gpu` shares: options, configuration file, exit codes, signals, one-line errors."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from lim_gpu.errors import EXIT_SKIPPED, LimGpuError, UsageError, as_options
from lim_gpu.files import read_toml
from lim_gpu.progress import Outcome, Reporter, counted, interrupt, one_line, told_by

DEVICE = re.compile(r"(auto|cpu|cuda(:\d+)?)\Z")
_asked: dict[str, Any] = {"json": False, "verbose": False, "verb": ""}  # what an error that ends all must know
RESUMING = "demo ingest reduce apply finetune compare evaluate".split()  # what stands of them is not done again
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
Function = TypeVar("Function", bound=Callable[..., Any])


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt no Exception, but not one either: click would turn that into Abort."""


@dataclass
class Run:
    """How this call reports: made from the common options, given to every verb as its first argument."""

    device: str
    seed: int
    as_json: bool
    reporter: Reporter

    def done(self, outcome: Outcome, code: int = 0) -> NoReturn:
        """End the verb: its values as one JSON object on stdout under --json, else its lines; exit with `code`."""
        lines = [json.dumps(outcome.values, allow_nan=False)] if self.as_json else map(one_line, outcome.lines)
        try:
            for line in lines:
                print(line)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as head, left: no fault, though click would exit with 1
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_SKIPPED if outcome.skipped else code)


class Verb(click.Command):
    """A verb that tells which argument is too many, and what it may have been meant for, before what is missing."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:  # noqa: D102  (click's own)
        given, more, _order = self.make_parser(ctx).parse_args(list(args))
        if more and "help" not in given and not ctx.resilient_parsing:
            raise _too_many(ctx, more, "output" in given)
        return super().parse_args(ctx, args)


verb = partial(click.command, cls=Verb)


def _too_many(context: click.Context, more: Sequence[str], has_output: bool) -> UsageError:
    """The error for arguments that a verb has no place for; a single one is its output, where that was not given."""
    arguments = [parameter.make_metavar(context) for parameter in context.command.params if _is_argument(parameter)]
    takes = f"takes {' '.join(arguments)} alone" if arguments else "takes no argument"
    others = f" and {counted(len(more) - 1, 'other')} are" if len(more) > 1 else " is"
    free = len(more) == 1 and not has_output and any(one.name == "output" for one in context.command.params)
    remedy = f"Did you mean -o {more[0]}?" if free else "Leave out what is too many, or quote a name with spaces"
    return UsageError(f"{context.info_name} {takes}: {more[0]!r}{others} too many. {remedy}")


def _is_argument(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Argument)


def common(function: Function, *, config: bool = True) -> Function:
    """Add the options that every verb takes, and hand the verb a `Run` as its first argument.

    config: whether --config is the file with options; a verb may give that name to a file of its own.
    """

    def wrapper(device: str, seed: int, quiet: bool, verbose: bool, as_json: bool, **values: Any) -> Any:
        if config:
            del values["config"]  # its values are the defaults by now
        _asked.update(json=as_json, verbose=verbose, verb=function.__name__)
        if not DEVICE.match(device):
            raise UsageError(f"device {device!r} is unknown. Give auto, cpu, cuda or cuda:1")
        return function(Run(device, seed, as_json, Reporter(quiet)), **values)

    wrapper.__doc__, wrapper.__name__ = function.__doc__, function.__name__
    wrapper.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
    options = click.option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_read_config,
        help="TOML with options; the command line wins.",
    )
    for option in (
        *([options] if config else []),
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, the rest on stderr."),
        click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error."),
        click.option("-q", "--quiet", is_flag=True, help="Hide progress and notes, never errors."),
        click.option("--seed", type=int, default=0, show_default=True, help="Of everything random."),
        click.option(
            "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:i]", help="Where to compute."
        ),
    ):
        option(wrapper)
    return wrapper  # type: ignore[return-value]


def _read_config(context: click.Context, _parameter: click.Parameter, path: str | None) -> str | None:
    """Take defaults from a TOML file: keys are option names, at the top or in a table named after the verb."""
    if path is None:
        return None
    path = os.path.expanduser(path)
    values = read_toml(Path(path))
    verb = str(context.info_name)
    tables = {key for key, value in values.items() if isinstance(value, dict)}
    own = {key: value for key, value in values.items() if key not in tables} | (values[verb] if verb in tables else {})
    names = {name: p.name for p in context.command.params for name in _names(p)}
    unknown = sorted(key for key in own if key.replace("_", "-") not in names)
    if unknown:
        raise UsageError(f"{path}: {verb} has no option {', '.join(unknown)}. See lim-gpu {verb} --help")
    context.default_map = {str(names[key.replace("_", "-")]): value for key, value in own.items()}
    _asked.update({name: bool(own[name]) for name in ("json", "verbose") if name in own})  # for errors of other options
    return path


def _names(parameter: click.Parameter) -> list[str]:
    flags = [flag.lstrip("-") for flag in parameter.opts if flag.startswith("--")]
    return flags or [str(parameter.name).replace("_", "-")]


def execute(group: click.Group) -> NoReturn:
    """Run the command line and leave with its exit code (see `lim-gpu --help`; 1 is a fault of this program)."""
    # Before torch loads OpenMP: its threads spin while they wait, which on a core that something else uses made a small
    # training step six times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _leave_out_interruptions
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        group.main(standalone_mode=False)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except Terminated as error:
        code = _fail(_stopped("terminated", error), 143)
    except (KeyboardInterrupt, click.Abort) as error:
        code = _fail(_stopped("interrupted", error), 130)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else "")
        code = 0
    except click.ClickException as error:
        code = _fail(_usage_text(error), 2)
    except LimGpuError as error:
        code = _fail(as_options(str(error)), error.exit_code)
    except BrokenPipeError:
        sys.stdout = None  # the reader left; nothing more can be said to it
        code = 0
    except Exception as error:
        code = _fail_otherwise(error)
    raise SystemExit(code)


def _stopped(how: str, error: BaseException) -> str:
    return f"{', '.join(filter(None, (how, told_by(error))))}. {_how_to_go_on()}"


def _how_to_go_on() -> str:
    verb = _asked["verb"]
    if verb == "pretrain":
        return "Run the same command again with --resume to go on"
    return f"Run the same command again{' to go on' if verb in RESUMING else ''}"


def _show_warning(message: Warning | str, *_where: Any) -> None:
    """A library's warning as one line."""
    Reporter().warn(str(message).split("\n", 1)[0])


def _leave_out_interruptions(what: Any) -> None:
    """Ctrl-C within a destructor is printed by Python with a traceback; it comes again at the next step of the work."""
    if issubclass(what.exc_type, Exception):
        sys.__unraisablehook__(what)


def _terminate(_signal: int, _frame: object) -> NoReturn:
    interrupt(Terminated())


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    interrupt(KeyboardInterrupt())


def _fail(text: str, code: int) -> int:
    if _asked["verbose"] or {"-v", "--verbose"} & set(sys.argv):
        traceback.print_exc()
    if _asked["json"] or "--json" in sys.argv:
        print(json.dumps({"error": one_line(text), "exit_code": code}), flush=True)
    Reporter().error(text)
    return code


def _fail_otherwise(error: Exception) -> int:
    """What the system does not allow is no fault of this program."""
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED and error.filename is not None:
        return _fail(f"{error.filename}: {error.strerror}. Change its permissions, or choose another place", 3)
    return _fail(f"internal: {type(error).__name__}: {error}. Run with -v and report the traceback", 1)


def _usage_text(error: click.ClickException) -> str:
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "lim-gpu"
    text = (_with_nearest(error) or error.format_message()).removesuffix(".")
    return f"{text}{'' if text.endswith(('?', '?)')) else '.'} See {path} --help"


def _with_nearest(error: click.ClickException) -> str:
    """An unknown option or command with those like it, the nearest first: click sorts them; "" where it has none.

    Of options the dashes do not count, by which --seed is like --keeep.
    """
    by_name = {name.lstrip("-"): name for name in getattr(error, "possibilities", None) or ()}
    asked = str(getattr(error, "option_name", "") or getattr(error, "command_name", ""))
    near = [by_name[name] for name in get_close_matches(asked.lstrip("-"), by_name)]
    return f"{error.message.removesuffix('.')}. Did you mean {' or '.join(near)}?" if near else ""
