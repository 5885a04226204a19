"""A written volume, the ways to its pixels, and a small store."""

from __future__ import annotations

import numpy as np
import pytest

from lim_gpu.store.chunks import Chunks
from lim_gpu.store.file import VolumeFile
from lim_gpu.store.fletcher import of_slices
from volumes import VOLUMES, pixels, write_store, write_volume

as_it_is = VolumeFile.read


@pytest.fixture
def written(tmp_path):
    write_volume(tmp_path, pixels())
    return tmp_path / ("0" * 16 + ".h5")


@pytest.fixture
def path(tmp_path):
    """A store of VOLUMES."""
    return write_store(tmp_path / "slices", VOLUMES)


def read_and_summed_by_the_caller(file, start=0, stop=None, out=None):
    """As where the pixels go to a GPU."""
    stop = file._slices.shape[0] if stop is None else stop
    if file._chunks is None or start >= stop:
        return as_it_is(file, start, stop, out)
    out = np.empty((stop - start, *file._slices.shape[1:]), file._slices.dtype) if out is None else out
    file.read_unsummed(start, out)(of_slices(out))
    return out


@pytest.fixture(params=["past HDF5", "through HDF5", "summed by the caller"])
def way(request, monkeypatch):
    if request.param == "through HDF5":
        monkeypatch.setattr(Chunks, "usable", staticmethod(lambda *_: False))
    if request.param == "summed by the caller":
        monkeypatch.setattr(VolumeFile, "read", read_and_summed_by_the_caller)
    return request.param
