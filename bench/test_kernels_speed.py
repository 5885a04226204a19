"""What the units of this GPU do at the most, and every version of every kernel against it."""

from __future__ import annotations

import pytest
import torch

from bench import ceilings, inputs, kernels

pytestmark = pytest.mark.gpu
N, HASHES = 256, 20_000  # the distances of fewer hashes would fit into the L2 cache


@pytest.mark.parametrize("ceiling", ceilings.LOOPS, ids=lambda ceiling: ceiling.kernel.removeprefix("ceiling_"))
def test_ceiling(ceiling, timed):
    blocks = ceilings.BLOCKS_PER_SM * torch.cuda.get_device_properties(0).multi_processor_count
    run, operations = ceilings.loop(ceiling, ceilings.module(), "cuda", blocks, ceilings.ROUNDS)
    timed("ceilings", "operation", ceiling.resource, run, operations, 9, table="ceilings")


@pytest.mark.parametrize("resource", ["bytes", "bytes over the bus"])
def test_copy(resource, timed):
    copy, size = ceilings.copies("cuda")[resource]
    timed("ceilings", "byte", resource, copy, size, 9, table="ceilings")


@pytest.mark.budget(8)
@pytest.mark.parametrize("kernel", kernels.ALL, ids=lambda kernel: kernel.name)
def test_kernel(kernel, timed):
    small = kernels.inputs(kernel, inputs.volume(12, "cuda"), inputs.random_hashes(100, "cuda"))
    error = kernel.error(small)
    data = kernels.inputs(kernel, inputs.volume(N, "cuda"), inputs.random_hashes(HASHES, "cuda"))
    units, work = kernel.work(data)
    timed(
        kernel.file, kernel.unit, kernel.name, lambda: kernel.run(data, None), units, table="kernels", n=len(data),
        work=work, error=error,
    )  # fmt: skip
