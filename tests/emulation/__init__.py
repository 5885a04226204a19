"""Runs the CUDA sources on the CPU: g++ builds each with emulation.h, ctypes launches it on torch's CPU tensors."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from lim_gpu.cuda.module import Module
from lim_gpu.cuda.signature import Signature, signatures

HEADER = Path(__file__).with_name("emulation.h")
SHARED_BYTES = 99 << 10  # that a block may ask for, on the GPUs of compute capability 8.0 and more that give the least
FLAGS = ("-std=c++17", "-O2", "-march=native", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas")
_libc = ctypes.CDLL(None, use_errno=True)


class EmulationError(Exception):
    """What a GPU would answer with a hang, a fault or a wrong result."""


class EmulatedModule(Module):
    """The kernels of one file on the CPU. `seed` shuffles the order of threads and blocks."""

    device_type = "cpu"

    def __init__(self, name: str, seed: int = 0, source: str | None = None) -> None:
        super().__init__(name, source)
        self.seed = seed
        self.shared_bytes = SHARED_BYTES
        self._library = _build(self.source)

    def shared_limit(self, device: torch.device) -> int:
        return self.shared_bytes

    def _run(
        self,
        signature: Signature,
        device: torch.device,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        values: Sequence[torch.Tensor | np.generic],
    ) -> None:
        if shared > self.shared_bytes:
            raise EmulationError(f"{signature.kernel}: {shared} bytes of shared memory")
        guards = [Guarded(value, self.seed % 2 == 0) if isinstance(value, torch.Tensor) else None for value in values]
        cells = [
            ctypes.c_void_p(guard.address) if guard else np.ctypeslib.as_ctypes(np.array(value))
            for guard, value in zip(guards, values, strict=True)
        ]
        pointers = (ctypes.c_void_p * len(cells))(*map(ctypes.addressof, cells))
        function = getattr(self._library, f"run_{signature.kernel}")
        function.restype = ctypes.c_char_p
        error = function((ctypes.c_uint * 8)(*grid, *block, shared, self.seed), pointers)
        if error is not None:
            raise EmulationError(f"{signature.kernel}: {error.decode()}")
        for guard, value, parameter in zip(guards, values, signature.parameters, strict=True):
            if guard is not None and not parameter.constant:
                guard.copy_to(value)


class Guarded:
    """A copy of a tensor that ends (or begins) where pages begin (or end) that cannot be touched."""

    def __init__(self, tensor: torch.Tensor, at_end: bool) -> None:
        self.size = tensor.numel() * tensor.element_size()
        page = mmap.PAGESIZE
        room = -(-max(self.size, 1) // page) * page
        self._map = mmap.mmap(-1, room + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for guard in (start, start + page + room):
            if _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        self.address = start + page + (room - self.size if at_end else 0)
        ctypes.memmove(self.address, tensor.data_ptr(), self.size)

    def copy_to(self, tensor: torch.Tensor) -> None:
        ctypes.memmove(tensor.data_ptr(), self.address, self.size)


@cache
def emulate(name: str, seed: int = 0) -> EmulatedModule:
    """The kernels of kernels/NAME.cu; skips the test where g++ is missing."""
    return EmulatedModule(name, seed)


@cache
def _build(source: str) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    text = f'#include "{HEADER}"\n{source}\n' + "".join(map(_entry, signatures(source).values()))
    key = hashlib.sha256(f"{text}{HEADER.read_text()}{FLAGS}{_version(compiler)}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"lim-gpu-emulation-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        temporary = folder / f"{key}.{os.getpid()}"
        (code := temporary.with_suffix(f".{os.getpid()}.cpp")).write_text(text)
        subprocess.run([compiler, *FLAGS, "-shared", "-fPIC", "-o", temporary, code], check=True)
        temporary.rename(library)
        code.unlink()
    return ctypes.CDLL(str(library))


def _version(compiler: str) -> str:
    """What -march=native means: the folder of libraries may outlive the machine."""
    command = [compiler, "-march=native", "-Q", "--help=target", "--version"]
    return subprocess.run(command, capture_output=True, check=True).stdout.hex()


def _entry(signature: Signature) -> str:
    """A function with one C signature for every kernel: sizes, and the addresses of the arguments."""
    arguments = ", ".join(
        f"*({parameter.type} {'' if parameter.shape is None else '*'}*)a[{k}]"
        for k, parameter in enumerate(signature.parameters)
    )
    return (
        f'extern "C" const char *run_{signature.kernel}(const unsigned *s, void **a) {{\n'
        "    return emulation::run({s[0], s[1], s[2]}, {s[3], s[4], s[5]}, s[6], s[7], "
        f"[=] {{ {signature.kernel}({arguments}); }});\n}}\n"
    )
