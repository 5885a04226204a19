"""`reduce` from a store to a selection, against reading the store alone and against the matrices alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lim_gpu
from bench import inputs, peers
from lim_gpu.ingest import ingest
from lim_gpu.progress import Reporter

VOLUMES, N = {"cpu": 3, "cuda": 8}, {"cpu": 120, "cuda": 240}
METHODS = {"ssim": "SSIM", "mi": "MI", "hash": "HASH"}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A function of the device: a store of VOLUMES of N slices of 512 x 512."""
    made = {}

    def store(device: str) -> lim_gpu.SliceStore:
        if device not in made:
            folder = tmp_path_factory.mktemp(device)
            for number in range(VOLUMES[device]):
                for i, pixels in enumerate(inputs.volume(N[device], device, seed=number).cpu().numpy()):
                    Image.fromarray(pixels).save(folder / f"v{number}_{i}.png", compress_level=1)
            ingest([folder], folder / "slices", workers=os.cpu_count(), reporter=Reporter(quiet=True))
            made[device] = lim_gpu.SliceStore(folder / "slices")
        return made[device]

    return store


def forget(folder: Path) -> None:
    """Let the page cache forget the files of a folder, so that they are read from the disk."""
    for path in folder.rglob("*.h5"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


@pytest.mark.budget(10)
@pytest.mark.parametrize("device", peers.DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_reduce(method, device, stores, timed, tmp_path):
    torch.set_num_threads(os.cpu_count() or 1)
    store = stores(device)
    volumes = [torch.from_numpy(volume.read()) for volume in store]
    count = sum(map(len, volumes))
    job = f"reduce, {METHODS[method]}, {len(volumes)} volumes of {N[device]}"

    def read() -> None:
        forget(store.path)
        for volume in store:
            volume.read()
            volume.close()

    def compute() -> None:
        for slices in volumes:
            lim_gpu.similarity_matrix(slices, method, device=device)

    def reduce() -> lim_gpu.Selection:
        forget(store.path)
        return lim_gpu.reduce(store, method, keep=0.1, device=device, reporter=Reporter(quiet=True))

    expected = [lim_gpu.rank(lim_gpu.similarity_matrix(slices, method, device=device)).keep(0.1) for slices in volumes]
    for volume, kept in zip(reduce().volumes, expected, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(volume.kept), kept)
    for peer, function in (("reading alone", read), ("matrices alone", compute), ("lim_gpu, reduce", reduce)):
        timed(job, "slice", peer, function, count, 3, table="pipeline", n=N[device])
