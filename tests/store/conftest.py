"""The two ways to the pixels of a volume."""

from __future__ import annotations

import pytest

from lim_gpu.store.chunks import Chunks


@pytest.fixture(params=["past HDF5", "through HDF5"])
def way(request, monkeypatch):
    if request.param == "through HDF5":
        monkeypatch.setattr(Chunks, "usable", staticmethod(lambda *_: False))
    return request.param
