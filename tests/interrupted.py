"""`lim-gpu ARGUMENTS` whose reading waits for a signal from volume number `WAITS_FROM` on, as `ENGINES` engines."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import Any, NoReturn

import torch

from lim_gpu import cli, similarity
from lim_gpu.cli import command
from lim_gpu.progress import interrupt
from lim_gpu.store.volume import Volume

handled = threading.Event()
numbers = itertools.count()
read = Volume.read


def read_after_the_signal(self: Volume, *arguments: Any, **named: Any) -> Any:
    """One line of stdout a volume. The pause lets the main thread go on from its signal handler."""
    os.write(1, b"reading\n")  # in one piece, whatever other threads write
    if next(numbers) >= int(os.environ["WAITS_FROM"]):
        handled.wait()
        time.sleep(0.3)
    return read(self, *arguments, **named)


def noted(error: BaseException) -> NoReturn:
    """What the handler of a signal calls."""
    handled.set()
    interrupt(error)


if __name__ == "__main__":
    similarity.resolve_devices = lambda device: [torch.device("cpu")] * int(os.environ["ENGINES"])
    command.interrupt = noted
    Volume.read = read_after_the_signal  # type: ignore[method-assign]
    cli.main()
