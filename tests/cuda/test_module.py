"""Launches are checked against the declaration, and reach CuPy typed, on torch's stream, with one-line errors."""

from __future__ import annotations

import builtins
import ctypes
import locale
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lim_gpu.cuda import module
from lim_gpu.cuda.module import CudaModule, Module, load, source
from lim_gpu.errors import LimGpuError, NoGpuError, UsageError

SOURCE = """
extern "C" __global__ void scale(const float *x,  // (n, W - 2)
                                 u8 *out,         // (n, W)
                                 int n, int W, i64 steps, float factor) {}
"""


class Recorder(Module):
    """Records what would run."""

    device_type = "cpu"

    def __init__(self):
        super().__init__("recorder", SOURCE)
        self.runs = []

    def _run(self, *run):
        self.runs.append(run)


def arguments(**changes):
    values = {"x": torch.zeros(3, 5), "out": torch.zeros(3, 7, dtype=torch.uint8), "steps": 2**40, "factor": 0.5}
    return values | changes


def test_numbers_come_from_shapes_and_have_the_declared_types():
    recorder = Recorder()
    recorder.launch("scale", 4, (32, 2), shared=16, **arguments())
    (signature, device, grid, block, shared, values), *_ = recorder.runs
    assert (signature.kernel, device.type, grid, block, shared) == ("scale", "cpu", (4, 1, 1), (32, 2, 1), 16)
    assert [type(value) for value in values] == [torch.Tensor, torch.Tensor, np.int32, np.int32, np.int64, np.float32]
    assert values[2:] == [3, 7, 2**40, 0.5]


WRONG = {
    "x is float64 \\(3, 5\\), declared float \\(n, W - 2\\)": {"x": torch.zeros(3, 5, dtype=torch.float64)},
    "x is float32 \\(15,\\), declared": {"x": torch.zeros(15)},
    "x is ndarray, declared": {"x": np.zeros((3, 5), np.float32)},
    "out is uint8 \\(3, 8\\), declared u8 \\(n, W\\) with W = 7": {"out": torch.zeros(3, 8, dtype=torch.uint8)},
    "x is float32 \\(3, 5\\), declared float \\(n, W - 2\\) with n = 4": {"n": 4},
    "x is not contiguous": {"x": torch.zeros(5, 3).T},
    "x lies on meta, the kernel runs on cpu": {"x": torch.zeros(3, 5, device="meta")},
    "out lies on meta, the kernel runs on cpu": {"out": torch.zeros(3, 7, dtype=torch.uint8, device="meta")},
    "factor is missing": {"factor": None},
    "steps = 0.5 is no i64": {"steps": 0.5},
    "there is no parameter size": {"size": 1},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_differs_from_the_declaration_is_not_launched(message):
    recorder = Recorder()
    with pytest.raises(UsageError, match=f"^recorder.cu: scale: {message}"):
        recorder.launch("scale", 1, 32, **arguments(**WRONG[message]))
    assert not recorder.runs


def test_a_missing_array():
    with pytest.raises(UsageError, match="out is missing"):
        Recorder().launch("scale", 1, 32, x=torch.zeros(3, 5))


@pytest.mark.parametrize(("grid", "block"), [(0, 32), ((1, 70_000), 32), (1, 1025), (1, (64, 32))])
def test_sizes_that_no_gpu_takes(grid, block):
    with pytest.raises(UsageError, match="not within|more than 1024 threads"):
        Recorder().launch("scale", grid, block, **arguments())


def test_the_source_names_its_files():
    lines = source("hash").splitlines()
    assert lines[0] == '#line 1 "common.cuh"'
    assert '#line 1 "hash.cu"' in lines
    assert "#include" not in source("hash")


# ------------------------------------------------------------------------------------------------- what CuPy is told


C, ALL = ctypes.CDLL(None), 0x1FBF  # LC_ALL_MASK of glibc


class FakeCupy:
    """The parts of CuPy that the loader uses."""

    def __init__(self, error=None):
        self.log = []
        self.error = error
        self.cuda = SimpleNamespace(
            Device=self.device, Stream=self, compiler=SimpleNamespace(CompileException=KeyError)
        )

    def device(self, index):
        self.log.append(("device", index))
        return self

    def from_external(self, stream):
        self.log.append(("stream", stream.__cuda_stream__()))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def RawModule(self, **options):  # noqa: N802
        self.options = options
        return self

    def get_function(self, name):
        C.uselocale.argtypes, C.newlocale.restype = [ctypes.c_void_p], ctypes.c_void_p
        C.uselocale(C.newlocale(ALL, b"C", None))  # as NVRTC 12.4 does
        self.log.append(("kernel", name))
        return self

    def __call__(self, grid, block, values, shared_mem):
        if self.error is not None:
            raise self.error
        self.log.append((grid, block, values, shared_mem))


@pytest.fixture
def on_stream_77(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77))
    monkeypatch.setattr(CudaModule, "device_type", "cpu")


def launch_distances(cupy):
    x, out = torch.arange(3), torch.empty((3, 3), dtype=torch.uint8)
    CudaModule("hash", cupy).launch("hash_distances", 1, 32, x=x, y=x, distances=out)
    return x, out


def test_the_locale_is_that_of_before(on_stream_77):
    before = locale.getencoding()
    launch_distances(FakeCupy())
    assert locale.getencoding() == before
    assert before != "ANSI_X3.4-1968", "tests run in UTF-8"


def test_cupy_gets_addresses_and_typed_numbers_on_torchs_stream(on_stream_77):
    cupy = FakeCupy()
    x, out = launch_distances(cupy)
    assert cupy.options == {"code": source("hash"), "options": ("-std=c++17",)}
    *where, (grid, block, values, shared) = cupy.log
    assert where == [("device", None), ("stream", (0, 77)), ("kernel", "hash_distances")]
    assert (grid, block, shared) == ((1, 1, 1), (32, 1, 1), 0)
    assert values == [x.data_ptr(), x.data_ptr(), out.data_ptr(), 3, 3]
    assert [value.dtype for value in values] == [np.uint64] * 3 + [np.int64] * 2


def test_shared_memory_is_asked_for_and_never_taken_back(on_stream_77):
    cupy, x = FakeCupy(), torch.arange(3)
    hashes = CudaModule("hash", cupy)
    for shared, asked in ((100, 100), (60_000, 60_000), (100, 60_000), (70_000, 70_000)):
        distances = torch.empty((3, 3), dtype=torch.uint8)
        hashes.launch("hash_distances", 1, 32, shared=shared, x=x, y=x, distances=distances)
        assert cupy.max_dynamic_shared_size_bytes == asked
        assert cupy.log[-1][-1] == shared


@pytest.mark.parametrize("error", [RuntimeError("CUDA_ERROR_X:\n  bad"), KeyError("hash.cu(3): error: no")])
def test_an_error_of_cupy_is_one_line_with_the_remedy(on_stream_77, error):
    with pytest.raises(LimGpuError) as info:
        launch_distances(FakeCupy(error))
    assert re.fullmatch(r"hash\.cu: hash_distances cannot run on cpu: .*\. See lim-gpu doctor", str(info.value))


@pytest.mark.parametrize(("torch_cuda", "extra"), [("12.8", "cuda12"), ("13.0", "cuda13"), (None, "cuda13")])
@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ModuleNotFoundError("", name="cupy"), "is not installed"),
        (ImportError("libX\n gone"), "cannot be loaded: libX gone"),
    ],
)
def test_without_cupy_the_command_is_named(monkeypatch, torch_cuda, extra, error, cause):
    real = builtins.__import__

    def without_cupy(name, *rest, **more):
        if name == "cupy":
            raise error
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_cupy)
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    module.load.cache_clear()
    with pytest.raises(NoGpuError, match=rf"^CuPy {cause}.*pip install 'lim-gpu\[{extra}\]'$"):
        load("hash")


@pytest.mark.gpu
def test_the_stream_of_torch_orders_the_work():
    from lim_gpu.similarity.cuda.hash import hamming_matrix

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)
        hashes = torch.zeros(64, dtype=torch.int64, device="cuda")
        hashes[5] = -1
        distances = hamming_matrix(hashes)
    stream.synchronize()
    assert distances[5, 4] == 64
    assert distances.sum() == 2 * 63 * 64
