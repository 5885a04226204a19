"""Work shared among hosts by Ray: the only module that knows it.

Tasks go out in batches, each to one process of a host; what becomes of a task comes back as soon as it is known.
Batches shrink towards the end, so that all hosts end together. A task is an order to read and compute: whoever shares
them out writes the results, so that a host that is lost costs nothing but the time.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lim_gpu.errors import LimGpuError, UsageError, go_on_interrupting
from lim_gpu.progress import counted, one_line
from lim_gpu.sharing import (
    LONGEST_WAIT,
    MOST_TASKS,
    PATIENCE,
    Batch,
    Batched,
    Begun,
    Ended,
    Hosts,
    Sharing,
    check_seen,
    this_host,
    work,
)
from lim_gpu.temporary import temporary_folder
from lim_gpu.workers import CONTEXT, OnTick, TaskResult, Ticked, follow_in_children

AUTO, LOCAL = "auto", "local"
OBJECT_STORE = 256 << 20  # bytes of shared memory: results alone pass through it, and what is more goes to the disk
PAUSE = 2.0  # seconds from one message of a task that is under way to the next: there may be thousands of such tasks

Outcomes = Generator[TaskResult, None, None]


@dataclass(frozen=True)
class Cluster:
    """Where work is shared: the address, see `connect`, and CPUs of a process there. Raises UsageError."""

    address: str
    cpus: int = 1

    def __post_init__(self) -> None:
        check_address(self.address)
        if self.cpus < 1:
            raise UsageError(f"`cpus_per_task` {self.cpus}: give 1 or more")

    @classmethod
    def at(cls, address: str | None, cpus: int | None = None) -> Cluster | None:
        """None without an address. Raises UsageError for `cpus` without one."""
        if address is None and cpus is not None:
            raise UsageError("`cpus_per_task` belongs to `ray`. Give both, or neither")
        return None if address is None else cls(address, 1 if cpus is None else cpus)


@contextmanager
def connect(address: str) -> Iterator[str]:
    """Within this context `run_batches` and `run_on_cluster` reach the hosts of a Ray cluster; then nothing is left.

    address   "auto": the cluster of this machine, or of RAY_ADDRESS; "local": one of this machine alone, for as long as
              this takes; or HOST:PORT of a head node

    Yields what is there, in words. A program that is connected already stays so, to the cluster it has.
    Ray reports nothing to its makers. RAY_AUTH_MODE=token counts; "local" always asks for a token, of its own. Signals
    stay with who had them, and what Ray prints goes to stderr. Raises UsageError where Ray is not installed or
    `address` has another form, LimGpuError where no cluster answers.
    """
    check_address(address)
    with _own_signals() as take_back, redirect_stdout(sys.stderr), _temporary_folder(address) as more:
        ray = _import_ray()
        if ray.is_initialized():
            yield _described(ray)
            return
        try:
            try:
                _init(ray, address, more)
            except SystemExit:  # Ray's own answer to SIGTERM
                take_back()
                signal.raise_signal(signal.SIGTERM)
            take_back()
            yield _described(ray)
        finally:
            ray.shutdown()


def check_address(address: str) -> None:
    """Raise UsageError for what is no address of a cluster."""
    host, _, port = address.rpartition(":")
    if address not in (AUTO, LOCAL) and not (host and "/" not in host and port.isascii() and port.isdigit()):
        raise UsageError(f"`ray` {address!r} is no address. Give {AUTO}, {LOCAL} or HOST:PORT")


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is loaded
    try:
        import ray
    except ImportError:
        raise UsageError("`ray`: Ray is not installed. Run pip install 'lim-gpu[ray]', on every host") from None
    return ray


@contextmanager
def _own_signals() -> Iterator[Callable[[], None]]:
    """Yields what gives SIGTERM and SIGINT back to who had them. In the main thread alone: Python allows no other."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def take_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield take_back
    finally:
        take_back()


@contextmanager
def _temporary_folder(address: str) -> Iterator[dict[str, Any]]:
    """Options of a cluster of this machine alone. Its sockets lie below /tmp: their paths may have 107 bytes."""
    if address != LOCAL:
        yield {}
        return
    if "ray" not in sys.modules:  # it reads them when it is loaded
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # else who reaches its ports could run programs as this user
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with temporary_folder("/tmp") as folder:
        yield {"object_store_memory": OBJECT_STORE, "include_dashboard": False, "_temp_dir": str(folder)}


def _init(ray: Any, address: str, more: dict[str, Any]) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False, **more)
    except ConnectionError:
        remedy = f"Start one with ray start --head, or give HOST:PORT, or {LOCAL} for this machine alone"
        raise LimGpuError(f"ray: no cluster answers at {address}. {remedy}") from None
    except Exception as error:  # of its versions, tokens, ports
        go_on_interrupting(error)
        told = one_line(str(error).strip(" .\n") or type(error).__name__)
        raise LimGpuError(f"ray: {address}: {told}. Check the address, and that Ray is the same there") from error


def _described(ray: Any) -> str:
    hosts = counted(len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}), "host")
    return f"{hosts}, {_in_words(ray.cluster_resources())}"


def _in_words(resources: dict[str, float]) -> str:
    return f"{counted(int(resources.get('CPU', 0)), 'CPU')}, {counted(int(resources.get('GPU', 0)), 'GPU')}"


def described_hosts(address: str) -> list[tuple[str, str, str]]:
    """Of each host of a cluster: its name, its version of this package, what it has. Raises as `connect`."""
    with connect(address):
        ray = _import_ray()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"]]
        where = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        ask = ray.remote(num_cpus=0)(this_host)
        asked = [ask.options(scheduling_strategy=one).remote() for one in where]
        told = [_told(ray, one, node["NodeManagerHostname"]) for one, node in zip(asked, nodes, strict=True)]
        return [(one.host, one.version, _in_words(node["Resources"])) for one, node in zip(told, nodes, strict=True)]


def _told(ray: Any, asked: Any, host: str) -> Begun:
    try:
        return ray.get(asked, timeout=PATIENCE)
    except ray.exceptions.RayError:  # it has just been lost
        return Begun(host, "that does not answer")


def gpus_for(device: str) -> int:
    """GPUs of a process for `device`: "auto" is one where a host has any. Within `connect`."""
    if device == AUTO:
        return int(_import_ray().cluster_resources().get("GPU", 0) > 0)
    return int(device == "cuda")


def run_on_cluster(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    *,
    workers: int,
    timeout: float | None = None,
    memory_limit: int | None = None,
    on_tick: OnTick | None = None,
    sees: Sequence[str | Path] = (),
    worked: Counter[str] | None = None,
) -> Outcomes:
    """As `workers.run_in_children`, whose place it takes: in `workers` children on as many CPUs of a host.

    So what crashes, hangs or exhausts memory costs a child there. sees: files or folders that every host has to see,
    else a LimGpuError names it. worked: see `run_batches`.
    """
    limits = {"workers": workers, "timeout": timeout, "memory_limit": memory_limit, "pause": PAUSE}
    batched = partial(_in_children, function, sees, limits)
    return run_batches(batched, tasks, cpus=workers, worked=worked, on_tick=on_tick)


def _in_children(
    function: Callable[..., Any], sees: Sequence[str | Path], limits: dict[str, Any], batch: Sequence[Any]
) -> Iterator[TaskResult | Ticked]:
    check_seen(sees)
    CONTEXT.set_forkserver_preload([function.__module__])
    return follow_in_children(function, batch, **limits)


def run_batches(
    function: Batched,
    tasks: Sequence[Any],
    *,
    cpus: int = 1,
    gpus: int = 0,
    worked: Counter[str] | None = None,
    most: int = MOST_TASKS,
    on_tick: OnTick | None = None,
) -> Outcomes:
    """What becomes of every task, in any order. Within `connect`.

    function  importable by name, or a partial of one; takes some of the tasks and yields a `TaskResult` of each,
              numbered by its place there, and may yield a `Ticked` before it
    cpus      of a batch, which is a process; gpus: 0 or 1, which is the only one that it sees
    worked    gets the number of tasks that each host did
    tasks     may grow at its end while they are done; most: of a batch
    on_tick   told of a task that is under way: one that goes out again begins anew

    A task whose process died goes out again, alone and to a new process; the second death is its error. So is a GPU
    out of memory. What a lost host was at goes out again. Another exception of `function` is the error of the task that
    it was at. Closing the generator ends what is under way. Raises LimGpuError where for a minute no host has room for
    a task, where a host has another version of this package, and for a HostError.
    """
    ray = _import_ray()
    sharing = Sharing(Counter() if worked is None else worked, most, on_tick)
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=0, num_returns="streaming")(work)
    flying: dict[Any, Batch] = {}
    hosts, shared = Hosts(ray, cpus, gpus), ray.put(function)  # which may hold arrays: once to each host
    try:
        while sharing.know(len(tasks)) or flying:
            for batch in sharing.batches(len(flying), hosts.room()):
                how = {"runtime_env": {"env_vars": {"LIM_GPU_AGAIN": secrets.token_hex(8)}}} if batch.again else {}
                flying[remote.options(**how).remote(shared, [tasks[number] for number in batch.numbers])] = batch
            ready, _others = ray.wait(list(flying), num_returns=1, timeout=LONGEST_WAIT) if flying else ([], [])
            for stream in ready:
                batch = flying.pop(stream)
                answer = _next(ray, stream)
                yield from sharing.take(batch, answer)
                if not isinstance(answer, Ended):
                    flying[stream] = batch  # behind the others
    except SystemError as error:
        go_on_interrupting(error)
        raise
    finally:
        for stream in flying:
            with suppress(Exception):
                ray.cancel(stream, force=True)


def _next(ray: Any, stream: Any) -> Any:
    """The next that a batch sends."""
    from ray import exceptions

    try:
        return ray.get(next(stream))
    except StopIteration:
        return Ended()
    except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError):
        return Ended(died=True)
    except (exceptions.NodeDiedError, exceptions.ObjectLostError, exceptions.TaskCancelledError):
        return Ended()
    except exceptions.RayError as error:  # the task never began: nothing of it can be loaded there
        told = one_line(str(error).strip().splitlines()[-1])
        raise LimGpuError(f"ray: {told}. See lim-gpu doctor --ray") from error
