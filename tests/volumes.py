"""Volume files and stores written directly, for tests that need no ingest."""

from __future__ import annotations

import os
import resource
import traceback
from pathlib import Path

import h5py
import numpy as np
import pytest

from lim_gpu.errors import InputError
from lim_gpu.store.file import VolumeFile
from lim_gpu.store.header import VolumeHeader
from lim_gpu.store.slices import write_index
from lim_gpu.store.volume import VolumeEntry
from lim_gpu.store.writer import VolumeWriter


def pixels(n=5, height=12, width=9, seed=0, dtype="int16"):
    rng = np.random.default_rng(seed)
    values = (
        rng.integers(-1024, 3000, (n, height, width)) if dtype == "int16" else rng.integers(0, 256, (n, height, width))
    )
    return values.astype(dtype)


VOLUMES = [pixels(5), pixels(3, 7, 8, seed=1), pixels(2, dtype="uint8", seed=2)]  # of a small store


def header(shape, key="0" * 16, dtype="int16", **values) -> VolumeHeader:
    defaults = {
        "patient": "f" * 16,
        "name": "",
        "source": "dicom",
        "modality": "CT",
        "unit": "HU",
        "spacing": (2.5, 1.0, 1.0),
        "affine": np.eye(4).tolist(),
        "orientation": "axial",
        "photometric": "MONOCHROME2",
        "transfer_syntax": "",
        "padding": 0,
        "clamped": 0,
        "defects": {"gaps": [[3, 7.5]]},
        "fingerprint": "x",
    }
    return VolumeHeader(key=key, shape=tuple(shape), dtype=dtype, **(defaults | values))


def write_volume(folder: Path, volume, key="0" * 16, compression=None, **values) -> VolumeEntry:
    """Write one volume file under `folder` (a `volumes` folder) and return its entry."""
    head = header(volume.shape, key, str(volume.dtype), **values)
    with VolumeWriter(folder, key, *volume.shape, str(volume.dtype), compression) as writer:
        for image in volume:
            writer.append(image)
        digest = writer.finish(head, np.arange(len(volume)) * 2.5)
    return VolumeEntry.of(head, digest)


def write_store(folder: Path, volumes, **values) -> Path:
    """A store of arrays (n, H, W), keyed 0000.., 0001.. ; `values` of their headers."""
    entries = [
        write_volume(folder / "volumes", volume, f"{i:016x}", patient=f"{i // 2:016x}", **values)
        for i, volume in enumerate(volumes)
    ]
    write_index(folder, entries, {"modality": "CT"}, {}, "origin")
    return folder


def stored_checksums(slices: np.ndarray) -> np.ndarray:
    """What HDF5 itself writes behind each slice."""
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        chunk = (1, *slices.shape[1:])
        dataset = file.create_dataset("slices", data=slices, chunks=chunk, fletcher32=True)
        stored = [dataset.id.read_direct_chunk((i, 0, 0))[1] for i in range(len(slices))]
    return np.array([np.frombuffer(data[-4:], "<u4")[0] for data in stored], np.uint32)


def refuses(path, reason):
    """That reading is refused in one line, which names the file and this reason."""
    with pytest.raises(InputError, match=str(path)) as caught:
        read_all(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def read_all(path: Path, key="0" * 16):
    """Pixels, positions and header of a volume file."""
    with VolumeFile(path, key) as file:
        return file.read(), file.z, file.header


def forked(function, memory=None):
    """Exit code of a forked child that calls `function`: 0, or 1 for an exception; `memory` is what it may add."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if memory is not None:
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + memory,) * 2)
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
