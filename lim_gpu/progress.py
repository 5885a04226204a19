"""What is said while something runs (notes, warnings, errors and progress bars, all on stderr), and what came of it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

Advance = Callable[[int], None]
MOST_LINES = 3  # of one kind of error
MOST_SHOWN = 40  # of a list
SILENCE = 20  # seconds until the first line about work in a log; later a tenth of what has passed, at most LONGEST
LONGEST = 600
_interruptions: list[BaseException] = []


def interrupt(error: BaseException) -> NoReturn:
    """For signal handlers: raise `error` here, and again at the next step of the work.

    What a handler raises within a destructor or a callback of a C library is printed at most, and the work goes on.
    """
    _interruptions.append(error)
    raise error


@contextmanager
def telling(how_far: Callable[[], str]) -> Iterator[None]:
    """Let an interruption tell how far the work within was, for the line that ends the program."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            error.add_note(how_far())
        raise


def told_by(error: BaseException) -> str:
    """What `telling` gave to an interruption, or to the one that it was made of; "" where it tells nothing."""
    notes = getattr(error, "__notes__", []) or getattr(error.__cause__, "__notes__", [])
    return ", ".join(notes)


def _stop_if_interrupted() -> None:
    """In the main thread alone: another one would end with a traceback, and nothing else."""
    if _interruptions and threading.current_thread() is threading.main_thread():
        raise _interruptions[-1]


def one_line(text: object) -> str:
    """`text` without control characters, so that a tag or a file name cannot write to the terminal or forge a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def counted(number: int, noun: str) -> str:
    """`number` of `noun`: "1 slice", "1,200 slices"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def two_digits(speed: float) -> str:
    """A speed with two digits at least: a large network on a CPU does less than one image a second."""
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"


def hosts_in_words(hosts: Mapping[str, int]) -> str:
    """How many units each host did: "node1 12, node2 9"."""
    return ", ".join(f"{host} {units:,}" for host, units in hosts.items()) or "none was needed"


def few(lines: Sequence[str], rest: str) -> list[str]:
    """At most `MOST_SHOWN` lines, then how many more; `rest` says of what."""
    more = len(lines) - MOST_SHOWN
    return [*lines[:MOST_SHOWN], *([f"... and {more:,} more {rest}"] if more > 0 else [])]


class _Log:
    """Tells `say` how far work is, from a thread of its own: one step of it may take long."""

    def __init__(self, say: Callable[[str], None], description: str, total: int | None, unit: str) -> None:
        self._say, self._description, self._total, self._unit = say, description, total, unit
        self._done, self._lock, self._over = 0, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> _Log:
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def advance(self, count: int) -> None:
        """Count what is done, and stop interrupted work."""
        _stop_if_interrupted()
        with self._lock:
            self._done += count

    def _tell(self) -> None:
        wait: float = SILENCE
        while not self._over.wait(wait):
            passed = time.monotonic() - self._start
            self._say(self.line(passed))
            wait = min(max(SILENCE, passed / 10), LONGEST)

    def line(self, passed: float) -> str:
        """After `passed` seconds."""
        if self._total is None:
            return f"{self._description}: {in_words(passed)} so far"
        left = f", about {in_words(passed * (self._total / self._done - 1))} left" if self._done else ""
        return f"{self._description}: {self._done:,} of {self._total:,} {self._unit} in {in_words(passed)}{left}"


def in_words(seconds: float) -> str:
    """A time in the unit that suits it: "40 s", "12 min", "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Outcome:
    """What came of a stage: `values` for a program, `lines` for a person.

    skipped  it finished, but something was left out and listed, or (leaks) found: exit code 5
    """

    values: dict[str, Any]
    lines: list[str]
    skipped: bool = False


class Reporter:
    """Writes to stderr. `quiet` hides notes, warnings and bars, never errors.

    Bars show rate and time left, and appear only where stderr is a terminal; elsewhere long work says a line now and
    then.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def note(self, text: str) -> None:
        """Something worth knowing that needs no action."""
        if not self.quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """Something the result depends on, that the user may want to act on."""
        if not self.quiet:
            self._line(f"warning: {text}")

    def error(self, text: object) -> None:
        """A failed or skipped item: its name, the cause, the remedy."""
        self._line(f"error: {text}")

    def errors(self, texts: Sequence[object], rest: str) -> None:
        """Failed items of one kind: a few of them, then how many more; `rest` says of what."""
        for text in texts[:MOST_LINES]:
            self.error(text)
        if len(texts) > MOST_LINES:
            self.error(f"... and {len(texts) - MOST_LINES} more {rest}")

    @contextmanager
    def wait(self, description: str) -> Iterator[None]:
        """Show that work goes on whose parts cannot be counted."""
        with self.track(description, None, "steps"):
            yield

    @contextmanager
    def track(self, description: str, total: int | None, unit: str) -> Iterator[Advance]:
        """A progress bar over `total` units; yields the function that advances it and stops interrupted work."""
        if self.quiet:
            yield lambda _count: _stop_if_interrupted()
            return
        if not sys.stderr.isatty():
            with _Log(self.note, description, total, unit) as log:
                yield log.advance
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        rate = TextColumn(f"{{task.fields[rate]}} {unit}/s")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(description, total=total, rate="-")

            def advance(count: int) -> None:
                _stop_if_interrupted()
                progress.advance(task, count)
                speed = progress.tasks[0].speed
                progress.update(task, rate=f"{speed:.1f}" if speed else "-")

            yield advance

    def _line(self, text: object) -> None:
        print(one_line(text), file=sys.stderr, flush=True)
