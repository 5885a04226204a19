"""Which GPUs are there, by NVIDIA's driver itself: asking it takes milliseconds, loading torch seconds."""

from __future__ import annotations

import ctypes

from lim_gpu.errors import NoGpuError

LIBRARY = "libcuda.so.1"


def driver_gpus() -> int:
    """How many GPUs the driver gives this process, CUDA_VISIBLE_DEVICES regarded; 0 without a driver."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def check_gpu(device: str, gpus: int | None = None) -> None:
    """Raise NoGpuError where `device`, "cuda" or "cuda:1", names none of the `gpus` (None: as the driver counts them).

    Whatever else is named passes.
    """
    if not device.startswith("cuda"):
        return
    gpus = driver_gpus() if gpus is None else gpus
    if not gpus:
        raise NoGpuError(f"device {device}: no usable NVIDIA GPU. Use --device cpu, or see lim-gpu doctor")
    if int(device.partition(":")[2] or 0) >= gpus:
        raise NoGpuError(f"device {device}: there are {gpus} GPUs, from cuda:0. Choose another")
