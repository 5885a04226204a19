from __future__ import annotations

import pytest

from stores import make_store


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Four volumes, 35 slices."""
    return make_store(tmp_path_factory.mktemp("pretrain"))
