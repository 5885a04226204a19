"""Every version of every kernel once, after a call that warms up, for a profiler that starts when it is told to.

    ncu --set full --profile-from-start off --export kernels python -m bench.profiled [NAME ...]

NAME: a kernel as bench/kernels.py calls it; without one all but the plain twins.
"""

from __future__ import annotations

import sys

import torch

from bench import inputs, kernels

N, HASHES = 128, 20_000  # small: the profiler runs a kernel 40 times, and restores its memory each time


def run(names: list[str], device: str = "cuda") -> list[str]:
    """Run the kernels of these names between the profiler's start and stop; the names of those that ran."""
    slices, hashes = inputs.volume(N, device), inputs.random_hashes(HASHES, device)
    chosen = [kernel for kernel in kernels.ALL if kernel.name in names or (not names and "plain" not in kernel.name)]
    for kernel in chosen:
        data = kernels.inputs(kernel, slices, hashes)
        kernel.run(data, None)
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        kernel.run(data, None)
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
    return [kernel.name for kernel in chosen]


if __name__ == "__main__":
    print(*run(sys.argv[1:]), sep="\n")
