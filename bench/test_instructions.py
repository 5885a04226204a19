"""What the compilers make of the kernels: registers, spills, and the instructions of an inner loop. Without a GPU."""

from __future__ import annotations

import pytest

from bench import sass
from bench.parts import Row

ARCHITECTURES = (80, 90, 120)
FILES = ("ssim", "mi", "hash", "prune", "intensity")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_instructions(file, architecture, record):
    try:
        used = sass.usage(sass.compiled(file, architecture)[1])
        counted = {name: sass.counts(file, name, architecture) for name in used if name in sass.LOOPS}
    except sass.Absent as reason:
        pytest.skip(str(reason))
    for name, use in used.items():
        work = {"registers": use["registers"], "spilled": use["stores"] + use["loads"], **counted.get(name, {})}
        record(Row("instructions", file, name, f"sm_{architecture}", "pixel of a pair", 1, [0.0], work=work))
