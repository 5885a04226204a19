"""The loader: CUDA sources from `lim_gpu.kernels`, compiled at run time. The one file that knows CuPy's RawModule.

CuPy compiles and launches, and allocates nothing: every array is torch's, so that the engine and a training share one
pool of memory, and kernels run on torch's current stream. CuPy keeps compiled binaries on disk, by source text; it does
not see included files, so the header is pasted in.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lim_gpu.cuda.signature import Parameter, Signature, constants, signatures
from lim_gpu.errors import LimGpuError, NoGpuError, UsageError

if TYPE_CHECKING:
    from types import ModuleType

HEADER = "common.cuh"
OPTIONS = ("-std=c++17",)
TORCH_TYPES = {  # torch has no arithmetic on uint64: hashes travel as int64
    "u8": torch.uint8,
    "i16": torch.int16,
    "int": torch.int32,
    "u32": torch.int32,
    "i64": torch.int64,
    "u64": torch.int64,
    "float": torch.float32,
    "double": torch.float64,
}
NUMBERS: dict[str, type[np.generic]] = {"int": np.int32, "i64": np.int64, "float": np.float32, "double": np.float64}
GRID_LIMITS = (2**31 - 1, 65535, 65535)
BLOCK_LIMIT = 1024
SHARED_BYTES = 48 * 1024  # that a block has on every GPU

Grid = int | tuple[int, ...]


def source(name: str) -> str:
    """The whole text of kernels/NAME.cu with the common header; errors name the file and the line in it."""
    folder = resources.files("lim_gpu.kernels")
    files = (HEADER, f"{name}.cu")
    return "".join(f'#line 1 "{file}"\n{folder.joinpath(file).read_text(encoding="utf-8")}\n' for file in files)


class Module(ABC):
    """The kernels of one file. Subclasses run them: on the GPU here, on the CPU in the tests."""

    device_type: str

    def __init__(self, name: str, text: str | None = None) -> None:
        self.name = name
        self.source = source(name) if text is None else text
        self.signatures = signatures(self.source)
        self.constants = constants(self.source)

    def launch(
        self, kernel: str, grid: Grid, block: Grid, *, shared: int = 0, **arguments: torch.Tensor | int | float
    ) -> None:
        """Run a kernel over `grid` blocks of `block` threads, with `shared` bytes of dynamic shared memory.

        `arguments` are the parameters by name; whole numbers that shapes tell may be left out. Raises UsageError, and
        launches nothing, when an array's dtype, shape, layout or device is not as declared, or a number is missing.
        """
        signature = self.signatures[kernel]
        try:
            device, values = bound(signature, arguments, self.device_type)
            sizes = _three(grid, GRID_LIMITS), _three(block, (BLOCK_LIMIT,) * 3)
            if np.prod(sizes[1]) > BLOCK_LIMIT:
                raise ValueError(f"a block of {sizes[1]} has more than {BLOCK_LIMIT} threads")
        except ValueError as error:
            raise UsageError(f"{self.name}.cu: {kernel}: {error}") from None
        self._run(signature, device, *sizes, shared, values)

    def shared_limit(self, device: torch.device) -> int:
        """The most bytes of shared memory that a block may have."""
        return SHARED_BYTES

    @abstractmethod
    def _run(
        self,
        signature: Signature,
        device: torch.device,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        values: Sequence[torch.Tensor | np.generic],
    ) -> None:
        """Launch with arguments that were checked."""


def bound(
    signature: Signature, arguments: dict[str, Any], device_type: str
) -> tuple[torch.device, list[torch.Tensor | np.generic]]:
    """The device of the arrays, and all arguments in order with numbers in the declared types.

    Raises ValueError for whatever differs from the declaration.
    """
    names = {parameter.name for parameter in signature.parameters}
    if unknown := sorted(arguments.keys() - names):
        raise ValueError(f"there is no parameter {', '.join(unknown)}")
    sizes = {name: value for name, value in arguments.items() if isinstance(value, int)}
    arrays = [parameter for parameter in signature.parameters if parameter.shape is not None]
    if missing := [parameter.name for parameter in arrays if parameter.name not in arguments]:
        raise ValueError(f"{', '.join(missing)} is missing")
    device = arguments[arrays[0].name].device
    for parameter in arrays:
        _check(parameter, arguments[parameter.name], sizes)
        place = arguments[parameter.name].device
        if place != device or place.type != device_type:
            where = device if device.type == device_type else device_type
            raise ValueError(f"{parameter.name} lies on {place}, the kernel runs on {where}")
    return device, [_value(parameter, arguments, sizes) for parameter in signature.parameters]


def _check(parameter: Parameter, array: Any, sizes: dict[str, int]) -> None:
    """Compare an array with its declaration; names of extents that are met for the first time go into `sizes`."""
    declared = parameter.shape or ()
    text = f"{parameter.type} ({', '.join(map(str, declared))})"
    if not isinstance(array, torch.Tensor) or array.dtype != TORCH_TYPES[parameter.type] or array.ndim != len(declared):
        raise ValueError(f"{parameter.name} is {_describe(array)}, declared {text}")
    for extent, size in zip(declared, array.shape, strict=True):
        known = sizes.setdefault(extent.name, size - extent.plus) if extent.name else 0
        if known + extent.plus != size:
            raise ValueError(f"{parameter.name} is {_describe(array)}, declared {text} with {extent.name} = {known}")
    if not array.is_contiguous():
        raise ValueError(f"{parameter.name} is not contiguous")


def _describe(array: Any) -> str:
    if isinstance(array, torch.Tensor):
        return f"{str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}"
    return type(array).__name__


def _value(parameter: Parameter, arguments: dict[str, Any], sizes: dict[str, int]) -> torch.Tensor | np.generic:
    if parameter.shape is not None:
        return arguments[parameter.name]
    value = arguments.get(parameter.name, sizes.get(parameter.name))
    number = NUMBERS[parameter.type]
    if not isinstance(value, int | float):
        raise ValueError(f"{parameter.name} is missing")
    if issubclass(number, np.integer) and not (isinstance(value, int) and abs(value) <= np.iinfo(number).max):
        raise ValueError(f"{parameter.name} = {value} is no {parameter.type}")
    return number(value)


def _three(sizes: Grid, limits: tuple[int, int, int]) -> tuple[int, int, int]:
    x, y, z = (*((sizes,) if isinstance(sizes, int) else sizes), 1, 1)[:3]
    if not all(1 <= size <= limit for size, limit in zip((x, y, z), limits, strict=True)):
        raise ValueError(f"a size of {(x, y, z)} is not within 1 and {limits}")
    return x, y, z


# ---------------------------------------------------------------------------------------------------------- the GPU


@cache
def load(name: str) -> Module:
    """The kernels of kernels/NAME.cu on the GPU, compiled at their first launch on each device.

    Raises NoGpuError, with the pip command, where CuPy is missing or broken.
    """
    return CudaModule(name, _cupy())


class CudaModule(Module):
    """Kernels compiled by NVRTC and launched by CuPy."""

    device_type = "cuda"

    def __init__(self, name: str, cupy: ModuleType, text: str | None = None) -> None:
        super().__init__(name, text)
        self._cupy = cupy
        self._module = cupy.RawModule(code=self.source, options=OPTIONS)
        self._function = cache(self._compiled)
        self._shared: dict[tuple[str, int | None], int] = {}  # the most asked for, by kernel and device

    def _compiled(self, kernel: str) -> Any:
        with unchanged_locale():
            return self._module.get_function(kernel)

    def shared_limit(self, device: torch.device) -> int:
        """The most bytes of shared memory that a block may ask for on `device`."""
        return self._cupy.cuda.Device(device.index).attributes["MaxSharedMemoryPerBlockOptin"]

    def _run(
        self,
        signature: Signature,
        device: torch.device,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        values: Sequence[torch.Tensor | np.generic],
    ) -> None:
        addresses = [np.uint64(value.data_ptr()) if isinstance(value, torch.Tensor) else value for value in values]
        stream = _Stream(torch.cuda.current_stream(device).cuda_stream)
        try:
            with self._cupy.cuda.Device(device.index), self._cupy.cuda.Stream.from_external(stream):
                function = self._function(signature.kernel)
                if shared > self._shared.get((signature.kernel, device.index), 0):
                    function.max_dynamic_shared_size_bytes = shared  # beyond 48 KiB it must be asked for
                    self._shared[signature.kernel, device.index] = shared
                function(grid, block, addresses, shared_mem=shared)
        except (RuntimeError, self._cupy.cuda.compiler.CompileException) as error:
            raise LimGpuError(
                f"{self.name}.cu: {signature.kernel} cannot run on {device}: {' '.join(str(error).split())}. "
                "See lim-gpu doctor"
            ) from error


@contextmanager
def unchanged_locale() -> Iterator[None]:
    """The thread keeps its locale: NVRTC 12 leaves "C" behind, in which a text file that is opened is ASCII."""
    uselocale = ctypes.CDLL(None).uselocale
    uselocale.argtypes, uselocale.restype = [ctypes.c_void_p], ctypes.c_void_p
    before = uselocale(None)
    try:
        yield
    finally:
        uselocale(before)


class _Stream:
    """torch's stream in the CUDA stream protocol, which torch's own class speaks only since 2.10."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


def _cupy() -> ModuleType:
    """CuPy, or NoGpuError with the command that installs the one for torch's CUDA."""
    command = f"pip install 'lim-gpu[cuda{(torch.version.cuda or '13').split('.')[0]}]'"
    try:
        import cupy
    except ImportError as error:
        cause = "is not installed" if error.name == "cupy" else f"cannot be loaded: {' '.join(str(error).split())}"
        raise NoGpuError(f"CuPy {cause}. The GPU needs it: {command}") from error
    return cupy
