"""`reduce` from a store to a selection, against reading alone and computing alone: HU in memory to matrices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import lim_gpu
from bench import inputs
from bench.peers import DEVICES
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.store.header import VolumeHeader
from lim_gpu.store.slices import write_index
from lim_gpu.store.volume import VolumeEntry
from lim_gpu.store.writer import VolumeWriter

VOLUMES, N = {"cpu": 3, "cuda": 8}, {"cpu": 120, "cuda": 240}
METHODS = {"ssim": "SSIM", "mi": "MI", "hash": "HASH"}
PAGE = 4096
PROBES = 64  # pages of a file that are asked for


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A function of the device: a store of VOLUMES of N slices of 512 x 512, HU."""
    made = {}

    def store(device: str) -> lim_gpu.SliceStore:
        if device not in made:
            folder = tmp_path_factory.mktemp(device) / "slices"
            entries = [write_volume(folder / "volumes", number, device) for number in range(VOLUMES[device])]
            write_index(folder, entries, {}, {}, "bench")
            made[device] = lim_gpu.SliceStore(folder)
        return made[device]

    return store


def write_volume(folder: Path, number: int, device: str) -> VolumeEntry:
    """As ingest writes a CT. Mapped by its minimum..maximum, a slice is that of inputs.volume again."""
    return write_pixels(
        folder, number, (inputs.volume(N[device], device, seed=number).short() * 8 - 1024).cpu().numpy()
    )


def write_pixels(folder: Path, number: int, pixels: NDArray[np.int16]) -> VolumeEntry:
    key, spacing = f"{number:016x}", (1.0, 1.0, 1.0)
    header = VolumeHeader(
        key, key, "", "dicom", "CT", pixels.shape, "int16", "HU", spacing, np.eye(4).tolist(), "axial", "MONOCHROME2",
        "", 0, 0, {}, "bench",
    )  # fmt: skip
    with VolumeWriter(folder, key, *pixels.shape, "int16", None) as writer:
        for image in pixels:
            writer.append(image)
        digest = writer.finish(header, np.arange(float(len(pixels))))
    return VolumeEntry.of(header, digest)


def opened(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*.h5"):
        descriptor = os.open(path, os.O_RDONLY)
        yield descriptor
        os.close(descriptor)


def forget(folder: Path) -> None:
    """Let the page cache forget the files of a folder, so that they are read from the disk, however small they are."""
    for descriptor in opened(folder):
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def cached(folder: Path) -> float:
    """The share of the files that the page cache holds, by some of their pages."""
    found = []
    for descriptor in opened(folder):
        for place in np.linspace(0, os.fstat(descriptor).st_size - PAGE, PROBES, dtype=int):
            try:
                found.append(os.preadv(descriptor, [bytearray(PAGE)], int(place), os.RWF_NOWAIT) > 0)
            except BlockingIOError:
                found.append(False)
    return float(np.mean(found))


@pytest.mark.budget(10)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_reduce(method, device, stores, timed, tmp_path):
    torch.set_num_threads(os.cpu_count() or 1)
    store = stores(device)
    volumes = [torch.from_numpy(volume.read()).to(device) for volume in store]
    count = sum(map(len, volumes))
    job = f"reduce, {METHODS[method]}, {len(volumes)} volumes of {N[device]}"

    def read() -> None:
        forget(store.path)
        for volume in store:
            volume.read()
            volume.close()

    def compute() -> list[torch.Tensor]:
        return [lim_gpu.similarity_matrix(Intensity().to_uint8(slices), method, device=device) for slices in volumes]

    def reduce() -> lim_gpu.Selection:
        forget(store.path)
        return lim_gpu.reduce(store, method, keep=0.1, device=device, reporter=Reporter(quiet=True))

    forget(store.path)
    if (share := cached(store.path)) > 0.05:
        pytest.skip(f"the page cache of {store.path.anchor} keeps {share:.0%} of what it is told to forget")
    expected = [lim_gpu.rank(matrix).keep(0.1) for matrix in compute()]
    for volume, kept in zip(reduce().volumes, expected, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(volume.kept), kept)
    for peer, function in (("reading alone", read), ("computing alone", compute), ("lim_gpu, reduce", reduce)):
        timed(job, "slice", peer, function, count, 3, table="pipeline", n=N[device])
