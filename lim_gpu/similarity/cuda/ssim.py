"""SSIM of every pair of slices on the GPU: kernels/ssim.cu. The definition stands in lim_gpu/similarity/ssim.py."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from lim_gpu.cuda.blocks import Block, block_size, memory_for_blocks, over_pairs, square_matrix
from lim_gpu.cuda.module import Module, load
from lim_gpu.errors import UsageError
from lim_gpu.similarity.ssim import K1, K2, RADIUS, check_sides, gaussian

WARP = 32
PLAIN_THREADS = 128
RECORD_THREADS = 128
SEGMENT = 136  # rows of a slice that a thread prepares, at the most; it reads 15 more


class Tensor(NamedTuple):
    """A kernel for the tensor cores: a block takes x slices against y, and folds `ahead` chunks ahead (ssim.cu)."""

    kernel: str
    x: int
    y: int
    ahead: int


# By version, for 8-bit slices, the faster first, as an H200 had them (bench/NOTES.md). All give the same bits. WARPS
# fill the registers of a multiprocessor; how much shared memory that many need is what they differ in.
TENSOR = {
    "tensor_4x16": Tensor("ssim_pairs_tensor_4x16", 4, 16, ahead=1),
    "tensor_8x24": Tensor("ssim_pairs_tensor_8x24", 8, 24, ahead=0),
}
VERSIONS = ("pairs", *TENSOR)
WARPS = 12
TENSOR_SINCE = (8, 0)  # compute capability; older tensor cores have no product of this shape
AGREEMENT = 1e-5  # between the versions: the tolerance of the definition


class Shape(NamedTuple):
    """How a block of threads covers a row: `strips` of threads * columns - 10 windows, in rows of `pitch` floats."""

    threads: int
    strips: int
    pitch: int


class Planes(NamedTuple):
    """Centred pixels, deviations and spreads (k, 3, H, pitch) of k slices, and what was taken off (k), scaled."""

    planes: torch.Tensor
    offset: torch.Tensor


def ssim_matrix(
    slices: torch.Tensor,
    data_range: float,
    *,
    device: torch.device | None = None,
    budget: int | None = None,
    module: Module | None = None,
    version: str | None = None,
) -> torch.Tensor:
    """SSIM of every pair of slices (n, H, W), uint8 or float32, as float32 (n, n) in [-1, 1], ones on the diagonal.

    data_range  maximum - minimum that the values can have
    device      where to compute, by default where the slices lie; slices in host memory are copied in blocks
    budget      bytes of device memory for blocks of slices, by default most of what is free
    module      the kernels, by default those of the GPU
    version     "pairs", or one of TENSOR for uint8 of range 255, by default the fastest for this GPU

    A pair's value depends on its two slices alone, bit for bit: not on n, their order, or the blocks.
    Raises UsageError for an unknown version, InputError for slices smaller than 11 x 11, LimGpuError when two slices do
    not fit in the memory.
    """
    n, height, width = slices.shape
    check_sides(height, width)
    module = module or load("ssim")
    device = device or slices.device
    matrix = square_matrix(n, 1, device)
    version = version or default_version(slices.dtype, data_range, device, module)
    if version not in VERSIONS:
        raise UsageError(f"there is no version {version!r} of SSIM. Give one of {', '.join(VERSIONS)}")
    budget = memory_for_blocks(device) if budget is None else budget
    pairs: _Pairs | _Tensor
    if version in TENSOR:
        pairs = _Tensor(slices, data_range, matrix, module, TENSOR[version])
    else:
        pairs = _Pairs(slices, data_range, matrix, module)
    prepare: Callable[[int, int], Any] = pairs.prepare
    over_pairs(n, block_size(n, pairs.bytes_per_slice, budget), prepare, pairs.compare)
    return matrix


def default_version(dtype: torch.dtype, data_range: float, device: torch.device, module: Module) -> str:
    """The version for slices of `dtype` on `device`: one of VERSIONS.

    8-bit slices of range 255 go to the tensor cores where there are some: half the instructions (ssim.cu).
    """
    if dtype != torch.uint8 or data_range != 255 or device.type != "cuda":
        return "pairs"
    able = torch.cuda.get_device_capability(device) >= TENSOR_SINCE
    return tensor_version(device, module) if able and tensor_cores_agree(device, module) else "pairs"


def tensor_version(device: torch.device, module: Module) -> str:
    """The first of TENSOR of which WARPS fit in the shared memory of a block, which is nearly a multiprocessor's."""
    limit = module.shared_limit(device)

    def fits(tensor: Tensor) -> bool:
        blocks = WARPS * WARP // threads_of(tensor, module.constants)
        return blocks * shared_bytes(tensor, module.constants) <= limit

    return next((version for version, tensor in TENSOR.items() if fits(tensor)), "tensor_8x24")


@cache
def tensor_cores_agree(device: torch.device, module: Module) -> bool:
    """Whether the tensor cores give what "pairs" does on a few slices, asked of each GPU once, in milliseconds.

    How they lay out their operands is checked by emulation and compilation, not on every GPU there is. One that differs
    is left out with a warning.
    """
    generator = torch.Generator().manual_seed(0)
    slices = torch.randint(0, 256, (9, 27, 43), generator=generator, dtype=torch.uint8)
    slices[3:6] = (slices[3:6] // 16 + slices[:3] // 2).clamp(max=255)
    slices[7:, 5:20] = 255
    versions = tensor_version(device, module), "pairs"
    by_tensor, by_pairs = (ssim_matrix(slices.to(device), 255, module=module, version=version) for version in versions)
    apart = float((by_tensor - by_pairs).abs().max())
    if apart <= AGREEMENT:
        return True
    warnings.warn(
        f"{device}: SSIM on its tensor cores is off by {apart:.2g} and is not used. Please report this GPU",
        stacklevel=2,
    )
    return False


class _Pairs:
    """ssim_pairs: planes of float32."""

    def __init__(self, slices: torch.Tensor, data_range: float, matrix: torch.Tensor, module: Module) -> None:
        _, height, width = slices.shape
        self.slices, self.matrix, self.module, self.shape = slices, matrix, module, strip_shape(width, module)
        self.scale = 2.0 ** -round(math.log2(data_range))
        self.half_c1, self.half_c2 = ((k * data_range * self.scale) ** 2 / 2 for k in (K1, K2))
        self.tail = _upload(np.cumsum(gaussian()[::-1])[:RADIUS][::-1], matrix.device)
        self.bytes_per_slice = 3 * height * self.shape.pitch * 4 + height * width * slices.element_size()

    def prepare(self, first: int, last: int) -> Planes:
        slices = self.slices[first:last].to(self.matrix.device)
        return _planes(slices, self.scale, self.half_c2, self.tail, self.shape, self.module)

    def compare(self, x: Block[Planes], y: Block[Planes]) -> None:
        tiles = -(-len(x.content.planes) // self.module.constants["X_TILE"]) * -(
            -len(y.content.planes) // self.module.constants["Y_TILE"]
        )
        self.module.launch(
            "ssim_pairs", tiles, self.shape.threads, x=x.content.planes, x_offset=x.content.offset, y=y.content.planes,
            y_offset=y.content.offset, tail=self.tail, matrix=self.matrix, W=self.slices.shape[2], x_first=x.first,
            y_first=y.first, half_c1=self.half_c1, half_c2=self.half_c2,
        )  # fmt: skip


class _Tensor:
    """The kernels of TENSOR: slabs (strips, chunks, k, 688) of 8-bit slices."""

    def __init__(
        self, slices: torch.Tensor, data_range: float, matrix: torch.Tensor, module: Module, tensor: Tensor
    ) -> None:
        if slices.dtype != torch.uint8 or data_range != 255:
            raise UsageError(f"{slices.dtype} of range {data_range:g} is not for tensor cores. Give uint8 of range 255")
        _, height, width = slices.shape
        self.slices, self.matrix, self.module, self.tensor = slices, matrix, module, tensor
        self.constants = module.constants
        self.strips = -(-(width - 2 * RADIUS) // self.constants["STRIP"])
        self.chunks = -(-height // self.constants["CHUNK"])
        self.c1 = (K1 * data_range) ** 2
        self.half_c2 = (K2 * data_range) ** 2 / 2 * self.constants["WEIGHT_SUM"] / 4
        self.vertical = torch.from_numpy(gaussian()).to(matrix.device)
        self.bytes_per_slice = self.strips * self.chunks * self.constants["SLAB"] + height * width

    def prepare(self, first: int, last: int) -> torch.Tensor:
        slices = self.slices[first:last].to(self.matrix.device)
        low, high = torch.aminmax(slices.flatten(1), dim=1)
        offset = (low.int() + high.int() + 1) // 2  # up, so that what is left fits in -128 .. 127
        shape = self.strips, self.chunks, len(slices), self.constants["SLAB"]
        slabs = torch.empty(shape, dtype=torch.uint8, device=slices.device)
        windows, rows = self.strips * self.constants["STRIP"], self.chunks * self.constants["CHUNK"]
        segments = -(-rows // SEGMENT)
        grid = len(slices), -(-windows // RECORD_THREADS), segments
        self.module.launch(
            "ssim_slabs", grid, RECORD_THREADS, slices=slices, offset=offset, vertical=self.vertical, slabs=slabs,
            segment=-(-rows // segments), half_c2=self.half_c2,
        )  # fmt: skip
        return slabs

    def compare(self, x: Block[torch.Tensor], y: Block[torch.Tensor]) -> None:
        a, b, height, width = x.content.shape[2], y.content.shape[2], *self.slices.shape[1:]
        tiles = -(-a // self.tensor.x) * -(-b // self.tensor.y)
        sums = torch.zeros((a, b), dtype=torch.int64, device=self.matrix.device)
        self.module.launch(
            self.tensor.kernel, (tiles, self.strips), threads_of(self.tensor, self.constants),
            shared=shared_bytes(self.tensor, self.constants), x=x.content, y=y.content, sums=sums, H=height, W=width,
            x_first=x.first, y_first=y.first, c1=self.c1, half_c2=self.half_c2,
        )  # fmt: skip
        windows = (height - 2 * RADIUS) * (width - 2 * RADIUS)
        self.module.launch(
            "ssim_means", (a, -(-b // RECORD_THREADS)), RECORD_THREADS, sums=sums, matrix=self.matrix,
            x_first=x.first, y_first=y.first, windows=windows,
        )  # fmt: skip


def ssim_matrix_plain(slices: torch.Tensor, data_range: float, *, module: Module | None = None) -> torch.Tensor:
    """The same matrix by the plain kernel, straight from the definition: the specification and the baseline."""
    module = module or load("ssim")
    n = len(slices)
    matrix = square_matrix(n, 1, slices.device)
    weights = _upload(gaussian(), slices.device)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    kernel = "ssim_plain_u8" if slices.dtype == torch.uint8 else "ssim_plain_f32"
    module.launch(kernel, n * n, PLAIN_THREADS, slices=slices, weights=weights, matrix=matrix, c1=c1, c2=c2)
    return matrix


def threads_of(tensor: Tensor, constants: dict[str, int]) -> int:
    """Of a block: a warp takes X_WARP slices against Y_WARP."""
    return tensor.x // constants["X_WARP"] * (tensor.y // constants["Y_WARP"]) * WARP


def shared_bytes(tensor: Tensor, constants: dict[str, int]) -> int:
    """Of shared memory that a block asks for: slabs, fragments, the band of weights and a total a thread (ssim.cu)."""
    slabs = (2 + tensor.ahead) * tensor.x + 2 * tensor.y
    fragments = (1 + tensor.ahead) * constants["CHUNK"] * tensor.x * constants["DIGITS"]
    return slabs * constants["SLAB"] + (fragments * WARP + 4 * WARP + threads_of(tensor, constants)) * 16


def strip_shape(width: int, module: Module) -> Shape:
    """The fewest strips of at most MAX_THREADS threads, and the fewest warps for them."""
    columns, windows = module.constants["COLUMNS"], width - 2 * RADIUS
    strips = -(-windows // (module.constants["MAX_THREADS"] * columns - 2 * RADIUS))
    threads = -(-(-(-windows // strips) + 2 * RADIUS) // (columns * WARP)) * WARP
    return Shape(threads, strips, strips * (threads * columns - 2 * RADIUS) + 2 * RADIUS)


def _planes(
    slices: torch.Tensor, scale: float, half_c2: float, tail: torch.Tensor, shape: Shape, module: Module
) -> Planes:
    """What belongs to single slices (k, H, W) on the device, computed once."""
    n, height, _ = slices.shape
    low, high = torch.aminmax(slices.flatten(1), dim=1)
    offset = ((low.double() + high.double()) / 2).floor() if slices.dtype == torch.uint8 else low / 2 + high / 2
    offset = offset.float()
    planes = torch.empty((n, 3, height, shape.pitch), dtype=torch.float32, device=slices.device)
    center = "ssim_center_u8" if slices.dtype == torch.uint8 else "ssim_center_f32"
    rows = min(height, 32)
    module.launch(center, (n, rows), 128, slices=slices, offset=offset, planes=planes, scale=scale)
    W = slices.shape[2]
    module.launch("ssim_fields", (n, shape.strips), shape.threads, planes=planes, tail=tail, W=W, half_c2=half_c2)
    return Planes(planes, offset * scale)


def _upload(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device)
