"""Reading a store out of the page cache, by one thread and by several: HDF5, preadv without checksums, and ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from bench.test_reduce_speed import write_volume
from lim_gpu.store.file import VolumeFile
from lim_gpu.store.volume import VolumeEntry

VOLUMES, BLOCK = 4, 64  # slices that are read at once
THREADS = sorted({1, os.cpu_count() or 1})
Job = tuple[int, int]  # volume, first slice


def through_hdf5(files: Sequence[h5py.File], job: Job, out: NDArray[np.int16]) -> None:
    """What h5py gives: one lock for all files and threads, its own checksum."""
    number, start = job
    files[number]["slices"].read_direct(out, np.s_[start : start + len(out)])


def plain(files: Sequence[tuple[int, NDArray[np.int64]]], job: Job, out: NDArray[np.int16]) -> None:
    """The floor: the bytes and nothing else."""
    number, start = job
    descriptor, offsets = files[number]
    for i, pixels in enumerate(out, start):
        os.preadv(descriptor, [pixels.data.cast("B")], int(offsets[i]))


def ours(files: Sequence[VolumeFile], job: Job, out: NDArray[np.int16]) -> None:
    number, start = job
    files[number].read(start, start + len(out), out)


def unsummed(files: Sequence[VolumeFile], job: Job, out: NDArray[np.int16]) -> None:
    """As where a GPU sums what comes to it."""
    number, start = job
    files[number].read_unsummed(start, out)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, VolumeEntry]]:
    folder = tmp_path_factory.mktemp("reading")
    entries = [write_volume(folder, number, "cpu") for number in range(VOLUMES)]
    return [(folder / f"{entry.key}.h5", entry) for entry in entries]


@pytest.mark.budget(10)
@pytest.mark.parametrize("threads", THREADS)
def test_reading(threads, written, timed):
    opened = [h5py.File(path, "r", rdcc_nbytes=0) for path, _ in written]
    volumes = [VolumeFile(path, entry.key) for path, entry in written]
    raw = [(os.open(path, os.O_RDONLY), offsets_of(file)) for (path, _), file in zip(written, opened, strict=True)]
    lengths = [entry.shape[0] for _, entry in written]
    jobs = [(number, start) for number, n in enumerate(lengths) for start in range(0, n - BLOCK + 1, BLOCK)]
    peers: dict[str, tuple[Callable[..., None], Sequence[object]]] = {
        "h5py": (through_hdf5, opened),
        "preadv, no checksum": (plain, raw),
        "lim_gpu, read": (ours, volumes),
        "lim_gpu, read for a GPU": (unsummed, volumes),
    }
    outs = {job: np.empty((BLOCK, *written[0][1].shape[1:]), np.int16) for job in jobs}
    with ThreadPoolExecutor(threads) as pool:
        found = {}
        for peer, (read, files) in peers.items():
            list(pool.map(lambda job, read=read, files=files: read(files, job, outs[job]), jobs))
            found[peer] = [out.copy() for out in outs.values()]
        for peer in peers:
            for one, other in zip(found[peer], found["h5py"], strict=True):
                np.testing.assert_array_equal(one, other)
        for peer, (read, files) in peers.items():

            def all_jobs(read=read, files=files) -> None:
                list(pool.map(lambda job: read(files, job, outs[job]), jobs))

            timed(f"reading, warm, {threads} threads", "slice", peer, all_jobs, BLOCK * len(jobs), 7)


def offsets_of(file: h5py.File) -> NDArray[np.int64]:
    slices = file["slices"].id
    return np.array([slices.get_chunk_info(i).byte_offset for i in range(slices.shape[0])])
