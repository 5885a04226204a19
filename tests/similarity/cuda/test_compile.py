"""Every kernel compiles for every GPU generation, without a warning, without a register spilled, without a driver."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache

import pytest

from lim_gpu.similarity.cuda.module import OPTIONS, SHARED_BYTES, source
from lim_gpu.similarity.cuda.signature import signatures

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
NAMES = ("hash", "intensity", "mi", "ssim")
REGISTERS_PER_SM = 65536
WANTED_THREADS = {"ssim_pairs": 512}  # that an SM holds at once
USAGE = {
    "frame": re.compile(r"(\d+) bytes stack frame"),
    "stores": re.compile(r"(\d+) bytes spill stores"),
    "loads": re.compile(r"(\d+) bytes spill loads"),
    "registers": re.compile(r"Used (\d+) registers"),
    "shared": re.compile(r"(\d+) bytes smem|$"),
}


class CompilationError(Exception):
    """With the log of NVRTC."""


def absent(reason):
    """Skip where something is not installed; in CI, where the test extra is, fail."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@cache
def nvrtc():
    """cuda.bindings 12 or 13 over the NVRTC library of the installed nvidia packages, or a skipped test."""
    try:
        from cuda.bindings import nvrtc as module
    except ImportError:
        absent("cuda.bindings is not installed")
    try:
        module.nvrtcVersion()
    except RuntimeError as error:
        absent(f"the NVRTC library cannot be loaded: {error}")
    return module


def call(function, *arguments):
    result, *values = function(*arguments)
    if result != nvrtc().nvrtcResult.NVRTC_SUCCESS:
        raise CompilationError(function.__name__, result)
    return values[0] if values else None


def usage(log):
    """What ptxas reports of each kernel: stack frame, spills and shared memory in bytes, registers."""
    found = {}
    for report in log.split("Compiling entry function ")[1:]:
        found[report.split("'")[1]] = {name: int(pattern.search(report)[1] or 0) for name, pattern in USAGE.items()}
    return found


def compile_kernels(text, name, architecture):
    """The cubin and the log, with ptxas's report of each kernel."""
    library = nvrtc()
    program = call(library.nvrtcCreateProgram, text.encode(), f"{name}.cu".encode(), 0, None, None)
    # CuPy adds -ftz=true to what it compiles
    options = [*(option.encode() for option in OPTIONS), b"-ftz=true", f"-arch=sm_{architecture}".encode()]
    options.append(b"--ptxas-options=-v")
    result, *_ = library.nvrtcCompileProgram(program, len(options), options)
    log = b" " * call(library.nvrtcGetProgramLogSize, program)
    call(library.nvrtcGetProgramLog, program, log)
    log = log.decode().rstrip("\0 ")
    if result != library.nvrtcResult.NVRTC_SUCCESS:
        raise CompilationError(log)
    cubin = b" " * call(library.nvrtcGetCUBINSize, program)
    call(library.nvrtcGetCUBIN, program, cubin)
    call(library.nvrtcDestroyProgram, program)
    return cubin, log


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_warning_or_spill(name, architecture, record_property):
    if architecture not in call(nvrtc().nvrtcGetSupportedArchs):
        absent(f"this NVRTC does not know sm_{architecture}")
    cubin, log = compile_kernels(source(name), name, architecture)
    assert cubin.startswith(b"\x7fELF")
    assert "warning" not in log, log
    used = usage(log)
    assert used.keys() == signatures(source(name)).keys()
    for kernel, use in used.items():
        record_property(kernel, use["registers"])
        assert use["frame"] == use["stores"] == use["loads"] == 0, f"{kernel}: {use}"
        assert use["shared"] <= SHARED_BYTES
        threads = REGISTERS_PER_SM // (-(-use["registers"] // 8) * 8)
        assert threads >= WANTED_THREADS.get(kernel, 768), f"{kernel}: {use}"


def test_a_spill_would_be_seen():
    crowded = source("ssim").replace("__launch_bounds__(MAX_THREADS, 2)", "__launch_bounds__(MAX_THREADS, 6)")
    _, log = compile_kernels(crowded, "ssim", 90)
    assert usage(log)["ssim_pairs"]["stores"] > 0


def test_errors_and_warnings_name_the_file_and_the_line():
    broken = source("ssim").replace("double sum = 0;", "double sum = 0; int unused; nonsense;")
    line = next(k for k, text in enumerate(broken.split('"ssim.cu"\n')[1].splitlines(), 1) if "nonsense" in text)
    with pytest.raises(CompilationError, match=rf"ssim\.cu\({line}\): error: .*nonsense") as info:
        compile_kernels(broken, "ssim", 90)
    assert f"ssim.cu({line}): warning" in str(info.value)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_alone_with_nvcc(name, tmp_path):
    """As a person would look at it: nvcc -std=c++17 -include kernels/common.cuh -cubin kernels/NAME.cu"""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    for file in source(name).split('#line 1 "')[1:]:
        file_name, _, text = file.partition('"\n')
        (tmp_path / file_name).write_text(text)
    command = ["nvcc", "-std=c++17", "-include", "common.cuh", "-cubin", "-o", "out", f"{name}.cu"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
