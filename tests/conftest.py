"""Shared fixtures. Real CT is read from beside the checkout where it is; nothing depends on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line; before torch loads OpenMP

from contextlib import suppress

import pytest

from preloaded import Preloaded

with suppress(ImportError):  # a bare GPU machine may lack it
    from hypothesis import settings

    # No test depends on the clock; and what CI runs is the same every time, as in Hypothesis' own profile for it.
    settings.register_profile("lim-gpu", deadline=None, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("lim-gpu")

REAL_DATA = Path(__file__).parents[1] / "../shared/data"


def _real(name: str) -> Path:
    folder = REAL_DATA / name
    if not folder.is_dir():
        pytest.skip(f"the real CT of {name} is not on this machine")
    return folder.resolve()


@pytest.fixture(scope="session")
def headneck() -> Path:
    """135 axial CT slices of one GE scanner, JPEG-LS DICOM; names are not in spatial order."""
    return _real("ct/headneck-ge")


@pytest.fixture(scope="session")
def real_ct() -> Path:
    """The CT series with a SEG object drawn on it."""
    return _real("ct")


@pytest.fixture(scope="session")
def nifti_folder() -> Path:
    """Three small CT volumes in NIfTI, RAS and LPS."""
    return _real("nifti")


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Preloaded]:
    """Python that has imported everything, for programs that train."""
    process = Preloaded()
    yield process
    process.close()


@pytest.fixture
def make_newer(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives a file of `lim_gpu/report` another content, as a newer program would."""
    from lim_gpu.report import page

    def newer(name: str) -> None:
        monkeypatch.setattr(page, "HERE", shutil.copytree(page.HERE, tmp_path_factory.mktemp("newer") / "report"))
        (page.HERE / name).write_text("newer")

    return newer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, with the reason."""
    from importlib.util import find_spec

    import torch

    reason = None
    if not torch.cuda.is_available():
        reason = "no NVIDIA GPU"
    elif find_spec("cupy") is None:
        reason = "CuPy is not installed"
    if reason:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=reason))
