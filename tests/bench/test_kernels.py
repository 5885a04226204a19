"""What the benchmark runs on a GPU, run here on the CPU: every version gives what its reference gives."""

from __future__ import annotations

import pytest

from bench import inputs, kernels
from emulation import EmulatedModule, emulate


def data(kernel):
    return kernels.inputs(kernel, inputs.volume(3, "cpu", size=24), inputs.random_hashes(20, "cpu"))


@pytest.mark.emulated
@pytest.mark.parametrize("kernel", kernels.ALL, ids=lambda kernel: kernel.name)
def test_every_version_passes_its_check(kernel):
    kernel.error(data(kernel), emulate(kernel.file))
    units, work = kernel.work(data(kernel))
    assert units > 0
    assert all(amount > 0 for amount in work.values())


@pytest.mark.emulated
def test_a_wrong_result_is_not_timed():
    broken = EmulatedModule("ssim", source=emulate("ssim").source.replace("syy = yy - e * e", "syy = yy"))
    with pytest.raises(AssertionError, match="ssim_plain errs"):
        kernels.SSIM[0].error(data(kernels.SSIM[0]), broken)
