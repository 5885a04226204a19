"""A store to reduce; kernels on the CPU by emulation, and on a GPU where there is one."""

from __future__ import annotations

import shutil

import pytest

from kernel_engines import engine as engine
from lim_gpu.store.slices import SliceStore
from stores import make_store


@pytest.fixture(scope="session")
def store_path(tmp_path_factory):
    """Of four volumes, 35 slices in all; no test changes it."""
    return make_store(tmp_path_factory.mktemp("reduction"))


@pytest.fixture
def store(store_path):
    with SliceStore(store_path) as store:
        yield store


@pytest.fixture
def copied(store_path, tmp_path):
    """The folder of a store that a test may damage."""
    return shutil.copytree(store_path, tmp_path / "slices")
