"""The benchmark as tests: check, then time. A test is a part; a part that this code has measured here is not run again.

    timed(job, unit, peer, function, count)     in a test: times `function`, which does `count` units of `job`

Run it alone, not in one command with tests/: pytest gives these hooks every test there is.
A part that failed, hung or took the process with it comes last in the next run, so that the others are measured first.
After the run RESULTS.md and its plots are made of all parts, those of earlier runs and other machines too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from bench import inputs, parts, report
from bench.parts import Row
from bench.timing import seconds_of

ORDER = [  # how the names of parts begin: what is worth most first; then all others
    re.compile(name)
    for name in (
        "kernels-(ceiling|copy)", "kernels", "datasets-matrices-(SSIM|MI)-LIDC", "pretrain-step", "pretrain", "pairs",
        "hash", "growth-.*-(1000|5000)$", "deepnet", "reduce", "growth",
    )
]  # fmt: skip
BUDGET = 5.0  # s of a part, where it has no mark of its own
RESUMED = "measured before"
MOST = 160  # characters of what went wrong
UNENDED = f"{parts.FAILED}the run ended within it"
LOST = "a kernel has cost this process its GPU. Run it again: the others go on, and what failed comes last"
ROWS = pytest.StashKey[list[Row]]()
STARTED = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, help="start no part that would end later; the next run goes on")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STARTED] = time.monotonic()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place(part_name(item)))
    no_gpu = "no NVIDIA GPU" if not torch.cuda.is_available() else None if find_spec("cupy") else "no CuPy"
    for item in items:
        if no_gpu and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=no_gpu))
        elif parts.current(part_name(item)):
            item.add_marker(pytest.mark.skip(reason=RESUMED))


def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds, name = item.config.getoption("--seconds"), part_name(item)
    spent = time.monotonic() - item.config.stash[STARTED]
    if seconds and spent + budget(item) > seconds:
        pytest.skip(parts.failure(name) or f"not within {seconds:g} s: run it again, it goes on here")
    parts.save_skip(name, UNENDED)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    if outcome.skipped and outcome.longrepr[2] != f"Skipped: {RESUMED}":
        parts.save_skip(part_name(item), outcome.longrepr[2].removeprefix("Skipped: "))
    elif call.when == "call" and outcome.passed:
        parts.save(part_name(item), item.stash.get(ROWS, []))
    elif outcome.failed:
        parts.save_skip(part_name(item), parts.FAILED + first_line(call))
        if item.get_closest_marker("gpu") and gpu_is_lost():
            item.session.shouldstop = LOST
    return outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.option.collectonly:
        terminalreporter.section("bench/RESULTS.md")
        for line in report.write(parts.load()):
            terminalreporter.write_line(line)


def part_name(item: pytest.Item) -> str:
    """Of test_hash_speed.py::test_peer[imagehash-cpu]: hash-peer-imagehash-cpu."""
    text = f"{item.path.stem.removeprefix('test_').removesuffix('_speed')}-{item.name.removeprefix('test_')}"
    return re.sub(r"[^\w.]+", "-", text).strip("-")


def place(name: str) -> tuple[bool, int]:
    """By which parts are sorted: what failed comes last, what is worth most first."""
    worth = next((number for number, start in enumerate(ORDER) if start.match(name)), len(ORDER))
    return bool(parts.failure(name)), worth


def first_line(call: pytest.CallInfo[None]) -> str:
    """What went wrong, as RESULTS.md shows it."""
    return call.excinfo.exconly().partition("\n")[0][:MOST] if call.excinfo else ""


def gpu_is_lost() -> bool:
    """Whether a kernel went astray: CUDA then answers whatever this process asks with the same error."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def budget(item: pytest.Item) -> float:
    mark = item.get_closest_marker("budget")
    return mark.args[0] if mark else BUDGET


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    return request.node.stash.setdefault(ROWS, []).append


@pytest.fixture
def timed(request: pytest.FixtureRequest, record: Callable[[Row], None]) -> Callable[..., None]:
    """timed(job, unit, peer, function, count, rounds=5, **fields): check first, then call this; see parts.Row.

    warm_up: what to call first, instead of `function`.
    """
    device = "cuda" if request.node.get_closest_marker("gpu") else "cpu"

    def run(
        job: str,
        unit: str,
        peer: str,
        function: Callable[[], Any],
        count: int,
        rounds: int = 5,
        *,
        table: str = "peers",
        warm_up: Callable[[], Any] | None = None,
        **fields: Any,
    ) -> None:
        seconds, memory = seconds_of(function, device, rounds, budget(request.node), warm_up)
        record(Row(table, job, peer, device, unit, count, seconds, memory=memory, **fields))

    return run


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def slices() -> Any:
    """uint8 NumPy (40, 512, 512): the volume that everybody on the CPU is timed on."""
    return inputs.volume(40, "cpu").numpy()
