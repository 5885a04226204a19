"""The loops that measure a GPU: their results are the foretold ones, and the compiler leaves every operation in."""

from __future__ import annotations

import re
import subprocess

import pytest

from bench import ceilings, sass
from emulation import EmulatedModule

INSTRUCTIONS = ("FFMA", "ATOMS", "POPC", "IMMA", "HMMA")  # of a lane: UFFMA and UPOPC are one a warp


@pytest.mark.emulated
@pytest.mark.parametrize("ceiling", ceilings.LOOPS, ids=lambda ceiling: ceiling.kernel)
def test_a_loop_gives_what_is_foretold(ceiling):
    kernels = EmulatedModule("ceilings", source=ceilings.text())
    run, operations = ceilings.loop(ceiling, kernels, "cpu", blocks=2, rounds=5)
    run()
    assert operations > 0


@pytest.mark.emulated
def test_a_wrong_loop_is_seen():
    broken = ceilings.text().replace("fmaf(x[c], factor, addend)", "fmaf(x[c], factor, 2 * addend)")
    with pytest.raises(AssertionError, match="ceiling_fma"):
        ceilings.loop(ceilings.LOOPS[0], EmulatedModule("ceilings", source=broken), "cpu", blocks=1, rounds=2)


def test_copies_copy():
    for copy, size in ceilings.copies("cpu", 1000).values():
        assert bool((copy() == 1).all())
        assert size in (1000, 2000)


@pytest.mark.parametrize("architecture", [80, 90, 120])
def test_the_compiler_leaves_every_operation_to_the_lanes(architecture, tmp_path):
    try:
        cubin, log = sass.compile_kernels(ceilings.text(), "ceilings", architecture)
        tool = sass._nvdisasm()
    except sass.Absent as reason:
        pytest.skip(str(reason))
    assert "warning" not in log
    (tmp_path / "ceilings.cubin").write_bytes(cubin)
    code = subprocess.run([tool, "-c", tmp_path / "ceilings.cubin"], capture_output=True, text=True, check=True).stdout
    bodies = dict(re.findall(r"^\.text\.(\w+):\n(.*?)(?=^\.text|\Z)", code, re.MULTILINE | re.DOTALL))
    for ceiling, name in zip(ceilings.LOOPS, INSTRUCTIONS, strict=True):
        assert len(re.findall(rf"\s{name}\b", bodies[ceiling.kernel])) >= 8 * 4  # CHAINS, unrolled
