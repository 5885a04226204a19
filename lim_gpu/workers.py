"""Child processes for work that may crash, hang or exhaust memory: decoding, and writing HDF5.

The children come from a fork server, so they inherit neither CUDA nor threads, and they never import torch. A child
that dies costs the task it was at; the next task gets a new child.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.forkserver import ensure_running as ensure_server
from multiprocessing.resource_tracker import ensure_running
from typing import Any

from lim_gpu.errors import LimGpuError
from lim_gpu.progress import one_line

CONTEXT = multiprocessing.get_context("forkserver")
OF_INGEST = ("lim_gpu.ingest.convert", "lim_gpu.ingest.dicom")  # named here: they need not be imported to be told
LONGEST_WAIT = 1.0  # seconds
PAUSE = 0.2  # seconds from one message of a task that is under way to the next
SECONDS_TO_DIE = 5  # for a child that closed its pipe; one that hangs on its way out is killed


@dataclass(frozen=True)
class TaskResult:
    """What became of task number `task`: its value, or an error of one line."""

    task: int
    value: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Ticked:
    """Task number `task` is under way, and has called `tick` so many times."""

    task: int
    count: int


Runner = Callable[..., Iterator[TaskResult]]  # `run_in_children`, or what takes its place
OnTick = Callable[[int, int], None]  # takes what a `Ticked` says


@dataclass
class _Child:
    process: Any
    connection: Connection
    task: int = -1
    deadline: float = float("inf")

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_in_children(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    *,
    workers: int,
    timeout: float | None = None,
    memory_limit: int | None = None,
    on_tick: OnTick | None = None,
) -> Iterator[TaskResult]:
    """Call `function(*task)` for every task in at most `workers` children; yield outcomes as they finish, in any order.

    function      importable by name; arguments and results must pickle
    timeout       seconds a task may take
    memory_limit  bytes of address space of a child
    on_tick       told now and then of a task that calls `tick`

    An exception becomes `TaskResult.error`, and so do a crash and a time-out. Closing the generator kills the children.
    """
    followed = follow_in_children(
        function, tasks, workers=workers, timeout=timeout, memory_limit=memory_limit, pause=PAUSE
    )
    with closing(followed):
        for news in followed:
            if isinstance(news, TaskResult):
                yield news
            elif on_tick is not None:
                on_tick(news.task, news.count)


def follow_in_children(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    *,
    workers: int,
    timeout: float | None,
    memory_limit: int | None,
    pause: float,
) -> Generator[TaskResult | Ticked, None, None]:
    """As `run_in_children`; yields how far a task is, too, once in `pause` seconds."""
    waiting = deque(range(len(tasks)))
    children: list[_Child] = []
    try:
        while waiting or children:
            while waiting and len(children) < workers:
                children.append(_start(memory_limit, pause))
                _give(children[-1], waiting.popleft(), function, tasks, timeout)
            for child in _ready(children):
                news, alive = _collect(child)
                yield news
                if isinstance(news, Ticked):
                    continue
                if alive and waiting:
                    _give(child, waiting.popleft(), function, tasks, timeout)
                else:
                    children.remove(child)
                    child.kill()
    finally:
        for child in children:
            child.kill()


def start_server(preload: Sequence[str] = OF_INGEST) -> None:
    """Start what children are forked from, where it does not stand: it imports `preload` while the caller goes on."""
    CONTEXT.set_forkserver_preload(list(preload))
    with _without_main(), _without_interruptions():
        ensure_server()


def _start(memory_limit: int | None, pause: float) -> _Child:
    return _Child(*start_process(_serve, memory_limit, pause, daemon=True))


def start_process(function: Callable[..., None], *arguments: Any, daemon: bool) -> tuple[Any, Connection]:
    """A new process that calls `function(connection, *arguments)`, and the other end of that connection.

    daemon: it may have no child processes of its own.
    """
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=function, args=(theirs, *arguments), daemon=daemon)
    with _without_main(), _without_interruptions():
        process.start()
    theirs.close()
    return process, ours


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide `__main__`, which a child would import again: a user's script need not be guarded, nor torch-free."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _without_interruptions() -> Iterator[None]:
    """Hold Ctrl-C back: the fork server that starts here, and all its children, inherit that and never see it.

    The terminal sends it to all of them, and one that is still importing would answer with a traceback.
    """
    ensure_running()  # the resource tracker: its own start, which comes first, lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _give(
    child: _Child,
    task: int,
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    timeout: float | None,
) -> None:
    child.task = task
    child.deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    with suppress(BrokenPipeError, ConnectionResetError):  # it died between two tasks: _collect finds its end
        child.connection.send((function, tasks[task]))


def _ready(children: list[_Child]) -> list[_Child]:
    """Children that have answered, died, or run out of time; none of them now and then.

    A Ctrl-C that comes just before the wait is seen only after it, so no wait is long.
    """
    remaining = min(child.deadline for child in children) - time.monotonic()
    answered = wait([child.connection for child in children], max(0, min(remaining, LONGEST_WAIT)))
    now = time.monotonic()
    return [child for child in children if child.connection in answered or child.deadline <= now]


def _collect(child: _Child) -> tuple[TaskResult | Ticked, bool]:
    """The outcome of the child's task or how far it is, and whether the child lives."""
    if not child.connection.poll():
        return TaskResult(child.task, error="took too long and was stopped"), False
    try:
        answer = child.connection.recv()
    except (EOFError, ConnectionResetError):
        child.process.join(SECONDS_TO_DIE)
        return TaskResult(child.task, error=_cause_of_death(child.process.exitcode)), False
    return Ticked(child.task, answer) if isinstance(answer, int) else TaskResult(child.task, *answer), True


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"the child process ended (exit code {exitcode})"
    if exitcode == -signal.SIGKILL:
        return "the child process was killed (SIGKILL), perhaps because memory ran out"
    names = {number.value: number.name for number in signal.Signals}
    return f"the child process crashed ({names.get(-exitcode, f'signal {-exitcode}')})"


@dataclass
class _Ticks:
    """How often the task of this child has called `tick`, and when its parent was told."""

    connection: Connection
    pause: float
    count: int = 0
    told: float = field(default_factory=time.monotonic)

    def add(self) -> None:
        self.count += 1
        if time.monotonic() - self.told >= self.pause:
            self.told = time.monotonic()
            self.connection.send(self.count)


_ticks: _Ticks | None = None  # of the task that this child is at


def tick() -> None:
    """In a child: its task has done one step more, such as a slice. Nothing elsewhere."""
    if _ticks is not None:
        _ticks.add()


def _serve(connection: Connection, memory_limit: int | None, pause: float) -> None:
    """Body of a child: take tasks until the parent closes the pipe."""
    global _ticks
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold pixels and names
    if memory_limit is not None:
        _limit_memory(memory_limit)
    while True:
        try:
            task = connection.recv()
            _ticks = _Ticks(connection, pause)
            answer = _attempt(*task)
        except EOFError:
            return
        except Exception as error:  # the task cannot be unpickled here
            answer = None, _text(error)
        try:
            connection.send(answer)
        except BrokenPipeError:  # the parent was killed
            return
        except Exception as error:  # the value cannot be pickled; nothing was sent
            connection.send((None, _text(error)))


def _limit_memory(limit: int) -> None:
    """Never above what the user's own limit allows."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
    try:
        return function(*arguments), None
    except Exception as error:
        return None, _text(error)


def _text(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "needs more memory than a child process may take"
    return one_line(error if isinstance(error, LimGpuError) else f"{type(error).__name__}: {error}")
