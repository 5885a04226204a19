"""Every kernel compiles for every GPU generation, without a warning, without a register spilled, without a driver."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from bench import sass
from lim_gpu.cuda.module import SHARED_BYTES, source
from lim_gpu.cuda.signature import constants, signatures
from lim_gpu.similarity.cuda.mi import STATIC_BYTES
from lim_gpu.similarity.cuda.ssim import TENSOR, WARP, WARPS, shared_bytes, threads_of

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
NAMES = ("hash", "intensity", "mi", "prune", "ssim")
REGISTERS_PER_SM = 65536
SHARED_BYTES_SINCE_8_0 = 99 << 10  # of a block, on 8.6, 8.9 and 12.0; the others have more
SHARED_BYTES_OF_HOPPER = 227 << 10
ON_TENSOR_CORES = [tensor.kernel for tensor in TENSOR.values()]
# an SM at once; else 768
WANTED_THREADS = {"ssim_pairs": 512, "ssim_slabs": 512, **dict.fromkeys(ON_TENSOR_CORES, WARPS * WARP)}
PINNED = ((13, 0), (13, 5))  # versions of NVRTC whose numbers are held: what torch 2.9 to 2.14 brings, and the newest
PER_PIXEL = {  # ceilings of the instructions for a pixel of a pair, from compute capability 8.0 on
    "ssim_pairs": 87,
    "ssim_pairs_tensor_4x16": 45,
    "ssim_pairs_tensor_8x24": 41,
    "mi_pairs_plain": 32,
    "mi_pairs": 29,
    "mi_pairs_every": 5,
}
REGISTERS = {  # ceilings: the most that any architecture takes, in steps of 8
    "hash_bits": 40,
    "hash_columns": 64,
    "hash_distances": 48,
    "hash_drop": 32,
    "hash_nearest": 48,
    "hash_rows": 64,
    "hash_settle": 24,
    "hash_similarities": 40,
    "intensity_minmax": 56,
    "intensity_summed": 64,
    "intensity_sums_u8": 48,
    "intensity_window": 48,
    "mi_bins_f32": 32,
    "mi_bins_u8": 40,
    "mi_marginals": 72,
    "mi_pairs": 48,
    "mi_pairs_every": 56,
    "mi_pairs_plain": 48,
    "prune_leader": 24,
    "prune_nearest": 40,
    "prune_rank": 40,
    "prune_rank_plain": 40,
    "prune_rows": 32,
    "ssim_center_f32": 32,
    "ssim_center_u8": 32,
    "ssim_fields": 80,
    "ssim_means": 32,
    "ssim_pairs": 128,
    "ssim_pairs_tensor_4x16": 168,
    "ssim_pairs_tensor_8x24": 168,
    "ssim_plain_f32": 64,
    "ssim_plain_u8": 64,
    "ssim_slabs": 112,
}


def absent(reason):
    """Skip where something is not installed; in CI, where the test extra is, fail."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(autouse=True)
def tools():
    try:
        sass.nvrtc()
    except sass.Absent as error:
        absent(str(error))


def known(architecture):
    if architecture not in sass.call(sass.nvrtc().nvrtcGetSupportedArchs):
        (absent if sass.version() in PINNED else pytest.skip)(f"this NVRTC does not know sm_{architecture}")


def spills_in_loops(name, kernel, architecture):
    try:
        return sass.spills_in_loops(name, kernel, architecture)
    except sass.Absent as error:
        absent(str(error))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_warning_or_spill(name, architecture, record_property):
    """Versions of NVRTC that are not pinned may spill where it costs nothing, and differ in registers."""
    known(architecture)
    cubin, log = sass.compiled(name, architecture)
    assert cubin.startswith(b"\x7fELF")
    assert "warning" not in log, log
    used = sass.usage(log)
    assert used.keys() == signatures(source(name)).keys()
    for kernel, use in used.items():
        record_property(kernel, use["registers"])
        assert use["shared"] <= SHARED_BYTES
        if kernel in ON_TENSOR_CORES and architecture < 80:
            continue  # which the launcher leaves alone
        if sass.version() in PINNED:
            assert use["frame"] == use["stores"] == use["loads"] == 0, f"{kernel}: {use}"
            assert use["registers"] <= REGISTERS[kernel], f"{kernel}: {use}"
        elif use["frame"]:
            assert spills_in_loops(name, kernel, architecture) == 0, f"{kernel}: {use}"
        if sass.version() in PINNED:
            threads = REGISTERS_PER_SM // (-(-use["registers"] // 8) * 8)
            assert threads >= WANTED_THREADS.get(kernel, 768), f"{kernel}: {use}"


def test_every_kernel_has_a_ceiling_and_every_ceiling_a_kernel():
    assert REGISTERS.keys() == {kernel for name in NAMES for kernel in signatures(source(name))}


def counts(kernel, architecture):
    try:
        return sass.counts(kernel.split("_")[0], kernel, architecture)
    except sass.Absent as error:
        absent(str(error))


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
@pytest.mark.parametrize("kernel", PER_PIXEL)
def test_instructions_of_a_pixel(kernel, architecture, record_property):
    known(architecture)
    if sass.version() not in PINNED:
        pytest.skip(f"instructions are held for NVRTC {PINNED}, not {sass.version()}")
    found = counts(kernel, architecture)["all"]
    record_property(kernel, found)
    assert found < PER_PIXEL[kernel]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", ON_TENSOR_CORES)
def test_tensor_cores(kernel, architecture):
    known(architecture)
    found = counts(kernel, architecture)
    if architecture < 80:
        assert "tensor" not in found  # the plain twin stands in, which the launcher leaves alone
        return
    code = sass.disassembly("ssim", architecture)
    products = sum("IMMA" in op.name for op in code[kernel])
    assert found["tensor"] > 0
    assert products % 18 == 0  # three digits, two slices, three rows, however often that is unrolled
    if sass.version() in PINNED:
        assert (found["tensor"], products) == (0.75, 18)
    assert any("LDGSTS" in op.name for op in code[kernel])
    assert not any("IMMA" in op.name for op in code["ssim_fields"])
    assert sass.spills_in_loops("ssim", kernel, architecture) == 0


@pytest.mark.parametrize("tensor", TENSOR.values(), ids=ON_TENSOR_CORES)
def test_a_block_fits_in_the_shared_memory_of_every_gpu_with_tensor_cores(tensor):
    names = constants(source("ssim"))
    assert sass.usage(sass.compiled("ssim", 86)[1])[tensor.kernel]["shared"] == 0  # beside what is asked for
    assert shared_bytes(tensor, names) <= SHARED_BYTES_SINCE_8_0


@pytest.mark.parametrize(
    ("version", "limit"), [("tensor_4x16", SHARED_BYTES_OF_HOPPER), ("tensor_8x24", SHARED_BYTES_SINCE_8_0)]
)
def test_its_warps_fit_in_that_of_a_multiprocessor(version, limit):
    names, tensor = constants(source("ssim")), TENSOR[version]
    assert WARPS * WARP // threads_of(tensor, names) * shared_bytes(tensor, names) <= limit


def test_histograms_leave_the_shared_memory_that_the_kernels_take():
    used = sass.usage(sass.compiled("mi", 90)[1])
    assert max(use["shared"] for kernel, use in used.items() if kernel.startswith("mi_pairs")) <= STATIC_BYTES


def test_a_spill_would_be_seen(monkeypatch):
    crowded = source("ssim").replace("__launch_bounds__(MAX_THREADS, 2)", "__launch_bounds__(MAX_THREADS, 6)")
    compiled = sass.compile_kernels(crowded, "ssim", 90)
    assert sass.usage(compiled[1])["ssim_pairs"]["stores"] > 0
    monkeypatch.setattr(sass, "compiled", lambda *_: compiled)
    monkeypatch.setattr(sass, "disassembly", sass.disassembly.__wrapped__)
    assert spills_in_loops("ssim", "ssim_pairs", 90) > 0
    assert spills_in_loops("ssim", "ssim_means", 90) == 0


def test_errors_and_warnings_name_the_file_and_the_line():
    broken = source("ssim").replace("double sum = 0;", "double sum = 0; int unused; nonsense;")
    line = next(k for k, text in enumerate(broken.split('"ssim.cu"\n')[1].splitlines(), 1) if "nonsense" in text)
    with pytest.raises(sass.CompilationError, match=rf"ssim\.cu\({line}\): error: .*nonsense") as info:
        sass.compile_kernels(broken, "ssim", 90)
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
