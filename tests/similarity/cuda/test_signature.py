"""Declarations read from CUDA sources."""

from __future__ import annotations

import pytest

from lim_gpu.cuda.module import TORCH_TYPES, source
from lim_gpu.cuda.signature import constants, signatures

SOURCE = """
#define THREADS 256
#define TILE 2  // slices
constexpr int WINDOW = 2 * RADIUS + 1;
constexpr int RADIUS = 5;
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    mean(const float* __restrict__ x,   // (n, 3, H - 10): units, (other, words)
         u8 *out,                       // (n)
         i64 n, int H, double scale) {
    f(x, 1);
}
"""


def test_a_declaration():
    (mean,) = signatures(SOURCE).values()
    x, out, n, height, scale = mean.parameters
    assert mean.kernel == "mean"
    assert (x.name, x.type, x.constant) == ("x", "float", True)
    assert [str(extent) for extent in x.shape] == ["n", "3", "H - 10"]
    assert (out.name, out.type, out.constant) == ("out", "u8", False)
    assert [(p.name, p.type, p.shape) for p in (n, height, scale)] == [
        ("n", "i64", None),
        ("H", "int", None),
        ("scale", "double", None),
    ]


def test_constants_that_are_numbers():
    assert constants(SOURCE) == {"THREADS": 256, "TILE": 2, "RADIUS": 5}


@pytest.mark.parametrize(
    "parameters", ["float *x, int n", "float *x)", "float *x,  // any\nint n)", "float *x,  // (n x m)\nint n)"]
)
def test_an_array_without_a_shape(parameters):
    with pytest.raises(ValueError, match="shape"):
        signatures(f'extern "C" __global__ void k({parameters}) {{}}')


@pytest.mark.parametrize("name", ["ssim", "mi", "hash", "intensity"])
def test_the_kernels_declare_all(name):
    kernels = signatures(source(name))
    assert len(kernels) == source(name).count("__global__ void")
    for kernel in kernels.values():
        assert {parameter.type for parameter in kernel.parameters if parameter.shape} <= TORCH_TYPES.keys()
        assert any(not parameter.constant for parameter in kernel.parameters), "a kernel without a result"
