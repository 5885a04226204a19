from __future__ import annotations

import pytest

from stores import make_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    make_store(folder)
    return folder
