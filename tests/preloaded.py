"""Python with torch, Lightning and this package imported already: a program that starts here costs a fork.

A new interpreter imports for about ten seconds of processor time before it trains. Tests of what is imported when, and
of how a process begins, start one all the same.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # a fork does not survive the threads of OpenMP


class Program:
    """One that was started: its process id, and how it ended."""

    def __init__(self, server: Preloaded, pid: int, folder: TemporaryDirectory[str]) -> None:
        self.pid, self._server, self._folder = pid, server, folder

    def ended(self) -> bool:
        """Whether it has."""
        return self._server.ask({"ended": self.pid}) == 1

    def printed(self) -> str:
        """Its stdout so far."""
        return (Path(self._folder.name) / "out").read_text()

    def kill(self) -> None:
        """SIGKILL for it and all its children."""
        os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Its exit status, negative for a signal, and what it wrote."""
        status = self._server.ask({"wait": self.pid})
        with self._folder as folder:
            texts = [(Path(folder) / name).read_text() for name in ("out", "err")]
        return subprocess.CompletedProcess([], status, *texts)


class Preloaded:
    """The process that has imported everything."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | ONE_THREAD
            | {"PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent)))},  # this package
        )

    def start(self, *arguments: Any, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Program:
        """Start `python *arguments`: a file, `-m` and a module, or `-c` and a program, and what follows."""
        folder = TemporaryDirectory()
        for name in ("out", "err"):
            (Path(folder.name) / name).touch()
        order = {"arguments": list(map(str, arguments)), "cwd": str(cwd or Path.cwd()), "env": dict(env or {})}
        return Program(self, self.ask(order | {"folder": folder.name}), folder)

    def run(self, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        """Start it and wait."""
        return self.start(*arguments, **options).wait()

    def ask(self, order: dict[str, Any]) -> int:
        """What the process answers."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(800)


def _serve() -> None:
    _import()
    for line in sys.stdin:
        order = json.loads(line)
        if "ended" in order:
            state = os.waitid(os.P_PID, order["ended"], os.WEXITED | os.WNOHANG | os.WNOWAIT)
            print(int(state is not None), flush=True)
        elif "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        elif pid := os.fork():
            with suppress(PermissionError, ProcessLookupError):  # the child has done it, and may be gone
                os.setpgid(pid, pid)
            print(pid, flush=True)
        else:
            _become(order)
            return


def _import() -> None:
    import lightning
    import torch

    import lim_gpu.finetune.work
    import lim_gpu.pretrain.moco
    import lim_gpu.pretrain.spark
    import lim_gpu.pretrain.swav
    import lim_gpu.pretrain.training  # noqa: F401

    del lightning
    torch.set_num_threads(1)


def _become(order: dict[str, Any]) -> None:
    """Be the program that is asked for, to the end of the interpreter, in a process group of its own."""
    with suppress(PermissionError):
        os.setpgid(0, 0)
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    for number, name in ((0, os.devnull), (1, "out"), (2, "err")):
        opened = os.open(Path(order["folder"]) / name, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
    kind, *rest = order["arguments"]
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = order["arguments"]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    _serve()
