"""Tasks that go out in batches to processes which may die: what such a process does, and which tasks are left."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lim_gpu.errors import LimGpuError, NoGpuError
from lim_gpu.files import remove_stale, temporary_of
from lim_gpu.progress import one_line
from lim_gpu.workers import OnTick, TaskResult, Ticked

MOST_TASKS = 64  # of a batch
LONGEST_WAIT = 1.0  # seconds: an interruption is seen between two waits
PATIENCE = 60.0  # seconds without a host that could take a task: hosts that start together come one by one
SIGN = "hosts"
Batched = Callable[[Sequence[Any]], Iterator[TaskResult | Ticked]]


class HostError(LimGpuError):
    """For what works on a batch: this host can do none of the tasks. Ends them all, as it would try one after another.

    Its text is preceded by the host's name.
    """


def check_seen(paths: Sequence[str | Path]) -> None:
    """On a host: raise HostError for a path that is not there."""
    for path in paths:
        if not os.path.exists(path):
            raise HostError(f"{path}: is not there. Every host has to see the files at the same place")


@contextmanager
def sign_in(folder: Path) -> Iterator[Path]:
    """A file that no host has looked for before, for `check_seen`: network disks remember what was not there.

    A kill leaves it, and the next one in that folder clears it.
    """
    remove_stale(folder, SIGN.__eq__)
    path = temporary_of(folder / SIGN)
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Begun:
    """The first that a batch sends: where it is, and of which version."""

    host: str
    version: str


@dataclass(frozen=True)
class Failed:
    """The last that a batch sends where an exception ended it. ran_out: of the memory of a GPU; the process ends, too.

    No error: the process can do nothing here, and had begun nothing. unfit: no process of this host can.
    """

    error: str | None
    ran_out: bool = False
    unfit: bool = False


@dataclass(frozen=True)
class Ended:
    """No more comes of a batch; died: its process did."""

    died: bool = False


@dataclass
class Batch:
    """Tasks that went out together; `left`, by their numbers, has those that have not come back, in order."""

    numbers: list[int]
    again: bool = False
    host: str = "a host"
    failed: bool = False
    left: list[int] = field(default_factory=list)


@dataclass
class Sharing:
    """Which tasks are left to go out, and how often each went wrong."""

    worked: Counter[str]
    most: int = MOST_TASKS
    on_tick: OnTick | None = None
    known: int = 0
    waiting: deque[int] = field(default_factory=deque)
    again: deque[int] = field(default_factory=deque)  # alone
    tries: Counter[int] = field(default_factory=Counter)

    def know(self, tasks: int) -> bool:
        """Of how many there are by now; whether any is left."""
        self.waiting.extend(range(self.known, tasks))
        self.known = tasks
        return bool(self.waiting or self.again)

    def batches(self, flying: int, room: int) -> Iterator[Batch]:
        """As many as there is room for, and some more, which wait where a process ends its own."""
        for _ in range(room + room // 4 + 1 - flying if room else 0):
            if self.again:
                numbers = [self.again.popleft()]
            elif self.waiting:
                size = max(1, min(self.most, len(self.waiting) // (2 * room)))
                numbers = [self.waiting.popleft() for _ in range(size)]
            else:
                return
            yield Batch(numbers, again=bool(self.tries[numbers[0]]), left=list(numbers))

    def take(self, batch: Batch, answer: Any) -> Iterator[TaskResult]:
        """What an answer of a batch says of its tasks; those that it leaves open go out again."""
        if isinstance(answer, Begun):
            batch.host = answer.host
            _check_version(answer)
        elif isinstance(answer, TaskResult):
            number = batch.numbers[answer.task]
            batch.left.remove(number)
            self.worked[batch.host] += 1
            yield replace(answer, task=number)
        elif isinstance(answer, Ticked):
            if self.on_tick is not None:
                self.on_tick(batch.numbers[answer.task], answer.count)
        elif isinstance(answer, Failed):
            batch.failed = True
            if answer.unfit:
                raise LimGpuError(f"{batch.host}: {answer.error}")
            if answer.error is not None:
                yield from self._wrong(batch, answer.error, hopeless=not answer.ran_out)
        elif isinstance(answer, Ended):
            if answer.died and not batch.failed and batch.left:
                yield from self._wrong(batch, f"the process on {batch.host} died, twice", hopeless=False)
            self.waiting.extendleft(reversed(batch.left))

    def _wrong(self, batch: Batch, error: str, hopeless: bool) -> Iterator[TaskResult]:
        """The task that the batch was at goes out once more, or that is its error."""
        number = batch.left.pop(0)
        self.tries[number] += 1
        if hopeless or self.tries[number] > 1:
            yield TaskResult(number, error=error)
        else:
            self.again.append(number)


class Hosts:
    """How many batches the hosts can work on at once, asked now and then: they come and go."""

    def __init__(self, ray: Any, cpus: int, gpus: int) -> None:
        self._ray = ray
        self._wanted = {name: count for name, count in (("CPU", cpus), ("GPU", gpus)) if count}
        self._asked = self._had_room = time.monotonic() - LONGEST_WAIT
        self._room = 0

    def room(self) -> int:
        """Raises LimGpuError when there has been none for a while."""
        now = time.monotonic()
        if now - self._asked >= LONGEST_WAIT:
            self._asked, self._room = now, sum(self._of(node) for node in self._ray.nodes() if node["Alive"])
        if self._room:
            self._had_room = now
        elif now - self._had_room > PATIENCE:
            needs = " and ".join(f"{count} {name}" for name, count in self._wanted.items())
            raise (NoGpuError if "GPU" in self._wanted else LimGpuError)(
                f"ray: no host with {needs} is there. What is done stands: run the same command again when one is"
            )
        else:
            time.sleep(LONGEST_WAIT / 10)
        return self._room

    def _of(self, node: dict[str, Any]) -> int:
        return int(min(node["Resources"].get(name, 0) // count for name, count in self._wanted.items()))


@cache
def own_version() -> str:
    """Of this package, here: it is asked for with every batch, and parsing what pip left takes milliseconds."""
    return version("lim-gpu")


def _check_version(begun: Begun) -> None:
    if begun.version != (own := own_version()):
        raise LimGpuError(f"{begun.host}: has lim-gpu {begun.version}, {own} runs here. Install the same on every host")


def this_host() -> Begun:
    """Where this is."""
    return Begun(socket.gethostname(), own_version())


def work(function: Batched, batch: Sequence[Any]) -> Iterator[Any]:
    """In a process of a host: what becomes of each task of a batch."""
    _end_with_parent()
    yield this_host()
    failed = Failed(None, ran_out=True) if _has_another_gpu() else None
    try:
        if failed is None:
            yield from function(batch)
            return
    except Exception as error:
        text = str(error) if isinstance(error, LimGpuError) else f"{type(error).__name__}: {error}"
        failed = Failed(one_line(text), _ran_out(error), isinstance(error, HostError))
    yield failed
    if failed.ran_out:  # what it holds on the GPU goes with it
        raise SystemExit


@cache
def _end_with_parent() -> None:
    """End this process when the one that began it has, Ray's own of this host: nobody would hear of it any more."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LONGEST_WAIT)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _given_gpu() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


_first_gpu = cache(_given_gpu)  # of this process


def _has_another_gpu() -> bool:
    """Whether Ray gives a process that began on one GPU another: CUDA would not notice."""
    return _first_gpu() != _given_gpu()


def _ran_out(error: BaseException | None) -> bool:
    """Whether the memory of a GPU did, as torch or CuPy call it."""
    while error is not None:
        if type(error).__name__ == "OutOfMemoryError":
            return True
        error = error.__cause__ or error.__context__
    return False
