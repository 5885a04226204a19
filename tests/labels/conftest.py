"""A store of two CT series of two patients, and what others annotated on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("pydicom")

import annotations_made as made

from dicom_files import series
from lim_gpu.ingest import ingest
from lim_gpu.store.private import read_sources
from lim_gpu.store.slices import SliceStore


@dataclass
class Scans:
    """Where the sources and the store lie, and the UIDs of each volume's slices by its patient."""

    sources: Path
    store: Path
    uids: dict[str, list[str]]
    keys: dict[str, str]


@pytest.fixture
def scans(tmp_path) -> Scans:
    for patient, count, age in (("ann", 6, "039Y"), ("bob", 4, "018M")):
        sex = "F" if patient == "ann" else "M"
        about = {"PatientSex": sex, "PatientAge": age, "EthnicGroup": "x" if patient == "bob" else None}
        series(tmp_path / "in" / patient, count, shape=made.SHAPE, spacing=(0.5, 0.5), patient=patient,
               series=patient, study=patient, **about)  # fmt: skip
    ingest([tmp_path / "in"], tmp_path / "store", workers=1)
    uids, keys = {}, {}
    with SliceStore(tmp_path / "store") as store:
        for entry in store.volumes:
            rows = read_sources(store.path, entry.key)
            patient = Path(rows[0]["path"]).parent.name
            uids[patient], keys[patient] = [row["sop_uid"] for row in rows], entry.key
    return Scans(tmp_path / "in", tmp_path / "store", uids, keys)
