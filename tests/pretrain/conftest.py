from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from lim_gpu.pretrain.run import pretrain
from pretrainings import METHODS, arguments
from stores import make_store


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Four volumes, 35 slices."""
    return make_store(tmp_path_factory.mktemp("pretrain"))


@contextmanager
def _in_one_thread():
    """As the killed processes are, so that sums are made in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread():
    with _in_one_thread():
        yield


@pytest.fixture(scope="session")
def finished(store, tmp_path_factory):
    """An uninterrupted run of every method, in one thread."""
    folder = tmp_path_factory.mktemp("finished")
    with _in_one_thread():
        for method in METHODS:
            pretrain(store, method, output=folder / method, **arguments(method))
    return folder
