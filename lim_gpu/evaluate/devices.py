"""The jobs of the evaluations on the GPUs of one machine: those whose needs stand at once, a process and a GPU each."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from lim_gpu.errors import LimGpuError
from lim_gpu.evaluate.hosts import Doing
from lim_gpu.evaluate.job import Job
from lim_gpu.evaluate.queue import Queue
from lim_gpu.progress import Reporter, one_line
from lim_gpu.workers import LONGEST_WAIT, SECONDS_TO_DIE, start_process

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus_of(device: str) -> list[str]:
    """The GPUs that jobs can have one each, as CUDA_VISIBLE_DEVICES names them; none for the CPU or a named GPU.

    Raises NoGpuError when `device` asks for a GPU that is not there.
    """
    from lim_gpu.similarity import resolve_devices

    found = [place for place in resolve_devices(device) if place.type == "cuda" and device in ("auto", "cuda")]
    names = os.environ.get(VISIBLE, "").split(",")
    return names[: len(found)] if len(names) >= len(found) > 1 else [str(place.index) for place in found]


def do_on_gpus(todo: Sequence[Job], worker: Doing, gpus: Sequence[str], reporter: Reporter) -> dict[Job, str]:
    """Do the jobs, one at a time on each GPU; returns those that could not be done, with the cause.

    worker: does them on "cuda", and pickles. A job whose process dies has failed; the others go on.
    """
    queue, begun = Queue(todo), 0
    free, running = list(gpus), dict[Connection, tuple[Any, Job, str]]()
    try:
        with reporter.track("evaluate", len(todo), "jobs") as advance:
            while begun < len(queue.ready) or running:
                for job in queue.ready[begun : begun + len(free)]:
                    gpu, begun = free.pop(0), begun + 1
                    reporter.note(f"GPU {gpu}: {job.folder}")
                    process, connection = start_process(_work, worker, job, gpu, daemon=False)
                    running[connection] = process, job, gpu
                for answered in wait(list(running), LONGEST_WAIT):
                    assert isinstance(answered, Connection)
                    process, job, gpu = running.pop(answered)
                    free.append(gpu)
                    new = queue.finish(job, _outcome(process, answered, job))
                    for error in new:
                        reporter.error(error)
                    advance(max(1, len(new)))
    finally:
        for connection, (process, _job, _gpu) in running.items():
            connection.close()  # which ends it
            process.join(SECONDS_TO_DIE)
            process.kill()
    return queue.failed


def _outcome(process: Any, connection: Connection, job: Job) -> str | None:
    """What went wrong, if something did."""
    try:
        error: str | None = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        error = f"{job.folder}: its process ended (exit code {process.exitcode})"
    connection.close()
    process.join()
    return error


def _work(connection: Connection, worker: Doing, job: Job, gpu: str) -> None:
    """Body of a process: CUDA begins when it is first used, and then sees one GPU."""
    os.environ[VISIBLE] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    try:
        worker.do(job)
    except LimGpuError as error:
        connection.send(str(error))
    except Exception as error:
        connection.send(f"{job.folder}: {one_line(f'{type(error).__name__}: {error}')}")
    else:
        connection.send(None)


def _end_with_parent(connection: Connection) -> None:
    """Nothing comes from the parent: it is gone, or wants this to end."""
    with suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)
