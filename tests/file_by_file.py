"""The tests marked gpu, one process a file: a kernel that goes astray takes CUDA from its own process alone.

    python tests/file_by_file.py [--jobs 4] [--seconds 900] [--logs build/test-gpu]

Each file has a log. The last line counts the tests of all files; the exit code is 0 only if every file went well.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

TESTS = Path(__file__).parent
MARKED = re.compile(r"mark\.gpu\b|def test_\w+\(.*\bengine\b")  # the mark, or the fixture whose parameters have it
COUNTS = re.compile(r"(\d+) (passed|failed|skipped|error)")
WELL = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
OPTIONS = ("-q", "-m", "gpu", "--tb=short", "--durations=3", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Result:
    """What became of a file."""

    name: str
    well: bool
    output: str

    @property
    def ending(self) -> str:
        return (self.output.strip().splitlines() or ["no output"])[-1].strip("= ")


def files() -> list[Path]:
    """Every file that may hold a test marked gpu, those of the kernels first."""
    found = [path for path in TESTS.rglob("test_*.py") if MARKED.search(path.read_text())]
    return sorted(found, key=lambda path: ("cuda" not in path.parts, path))


def run(path: Path, logs: Path, end: float) -> Result:
    """The tests of a file, killed at `end` (time.monotonic()) and not begun after it."""
    name = str(path.relative_to(TESTS))
    log = logs / f"{name.removesuffix('.py').replace('/', '-')}.log"
    with log.open("w") as output:
        try:
            code = _pytest(path, output, end - time.monotonic())
            ending = "" if code in (*WELL, pytest.ExitCode.TESTS_FAILED) else f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, ending = None, "killed or not begun: no time left"
        output.write(ending)
    result = Result(name, code in WELL, log.read_text(errors="replace"))
    print(f"{name}: {result.ending}", flush=True)
    return result


def _pytest(path: Path, output: TextIO, seconds: float) -> int:
    command = [sys.executable, "-m", "pytest", *OPTIONS, str(path)]
    if seconds <= 0:
        raise subprocess.TimeoutExpired(command, seconds)
    return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=seconds).returncode


def summary(results: list[Result]) -> str:
    """The tests of all files by outcome, and the files that did not go well."""
    counts: Counter[str] = Counter()
    for result in results:
        counts.update({kind: int(number) for number, kind in COUNTS.findall(result.ending)})
    told = ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "no test"
    bad = [result.name for result in results if not result.well]
    return f"{len(results)} files: {told}" + (f"; NOT WELL: {', '.join(bad)}" if bad else "")


def main(paths: list[Path], jobs: int, seconds: float, logs: Path) -> int:
    logs.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda path: run(path, logs, end), paths))
    for result in results:
        if not result.well:
            print(f"\n=== {result.name}\n{result.output}")
    print(summary(results))
    return 0 if all(result.well for result in results) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4, help="files at a time")
    parser.add_argument("--seconds", type=float, default=900, help="for all of them")
    parser.add_argument("--logs", type=Path, default=TESTS.parent / "build/test-gpu")
    options = parser.parse_args()
    sys.exit(main(files(), options.jobs, options.seconds, options.logs))
