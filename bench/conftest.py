"""The benchmark as tests: check, then time. A test is a part; a part that this code has measured here is not run again.

    timed(job, unit, peer, function, count)     in a test: times `function`, which does `count` units of `job`

Run it alone, not in one command with tests/: pytest gives these hooks every test there is.
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

ORDER = "kernels pairs hash deepnet growth datasets reduce".split()  # what matters most first; then all others
BUDGET = 5.0  # s of a part, where it has no mark of its own
RESUMED = "measured before"
ROWS = pytest.StashKey[list[Row]]()
STARTED = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, help="start no part that would end later; the next run goes on")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STARTED] = time.monotonic()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
    no_gpu = "no NVIDIA GPU" if not torch.cuda.is_available() else None if find_spec("cupy") else "no CuPy"
    for item in items:
        if no_gpu and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=no_gpu))
        elif parts.current(part_name(item)):
            item.add_marker(pytest.mark.skip(reason=RESUMED))


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--minutes")
    spent = time.monotonic() - item.config.stash[STARTED]
    if minutes and spent + budget(item) > 60 * minutes:
        pytest.skip(f"not within {minutes:g} minutes: run it again, it goes on here")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    if outcome.skipped and outcome.longrepr[2] != f"Skipped: {RESUMED}":
        parts.save_skip(part_name(item), outcome.longrepr[2].removeprefix("Skipped: "))
    elif call.when == "call" and outcome.passed:
        parts.save(part_name(item), item.stash.get(ROWS, []))
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


def _place(item: pytest.Item) -> int:
    stem = item.path.stem.removeprefix("test_").removesuffix("_speed")
    return ORDER.index(stem) if stem in ORDER else len(ORDER)


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
