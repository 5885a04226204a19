from __future__ import annotations

from pathlib import Path

import pytest

from lim_gpu.ingest import ingest
from lim_gpu.reduction.run import reduce
from lim_gpu.store.slices import SliceStore
from stores import make_sources


@pytest.fixture(scope="package")
def reduced(tmp_path_factory) -> Path:
    """A folder with a store of 35 slices in four volumes, and selections of it."""
    folder = tmp_path_factory.mktemp("reduced")
    sources = make_sources(folder / "sources")
    ingest([sources], folder / "slices", patient_pattern=r"(p\d+)v", keep_identifiers=True, workers=1)
    with SliceStore(folder / "slices") as store:
        reduce(store, "ssim", keep=0.3, output=folder / "ssim.csv", device="cpu")
        reduce(store, "hash", threshold=6, output=folder / "hash.csv", device="cpu")
        reduce(store, "every-n", keep=0.3, output=folder / "every.csv", device="cpu")
        reduce(store, "hash", threshold=6, scope="patient", output=folder / "patient.csv", device="cpu")
    return folder
