"""Attributes of the patients, a row a volume: sex, age in decades, and race, at the volume's widest slice.

The tags are read again from the files that the private lists name, in child processes, and go into a table that is for
its owner alone. Nothing of them enters the store.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lim_gpu.errors import InputError
from lim_gpu.ingest.quiet import silence
from lim_gpu.ingest.records import SourceError
from lim_gpu.ingest.settings import default_workers
from lim_gpu.intensity.body import SURFACE
from lim_gpu.labelled.listed import read_list
from lim_gpu.labelled.parts import patient_column
from lim_gpu.labels.origins import sources_of
from lim_gpu.progress import Advance
from lim_gpu.store.slices import SliceStore
from lim_gpu.workers import TaskResult, run_in_children

COLUMNS = ("volume", "slice", "sex", "age", "race")
TAGS = ["PatientID", "PatientSex", "PatientAge", "EthnicGroup"]
AGE = re.compile(r"(\d{1,3})([DWMY])")  # PS3.5 6.2, VR AS
YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
DECADE = 10
SECONDS = 600  # for a volume


@dataclass(frozen=True)
class Person:
    """What the tags of one volume say, "" where they say nothing. patient is for --patients alone."""

    patient: str
    sex: str
    age: str
    race: str


def attribute_rows(
    source: Path, store: SliceStore, patients: Path | None, counted: Counter[str], advance: Advance
) -> Iterator[tuple[object, ...] | str]:
    """A row of `COLUMNS` for each volume made of DICOM files below `source`, or why it has none.

    patients: a CSV with columns patient (as PatientID) and race, which counts before the tag.
    """
    races = {} if patients is None else read_races(patients)
    folder = source.resolve()
    paths = {entry.key: sources_of(store, entry.key)[0]["path"] for entry in store.volumes}
    below = [key for key, path in paths.items() if Path(path).resolve().is_relative_to(folder)]
    if len(below) < len(paths):
        counted["volumes whose files are not below SOURCE"] += len(paths) - len(below)
    tasks = [(paths[key], store.path.resolve(), key) for key in below]
    rows: dict[int, tuple[object, ...] | str] = {}
    for outcome in run_in_children(read_person, tasks, workers=default_workers(), timeout=SECONDS):
        advance(1)
        rows[outcome.task] = _row(below[outcome.task], outcome, races)
    yield from (rows[task] for task in sorted(rows))


def _row(key: str, outcome: TaskResult, races: Mapping[str, str]) -> tuple[object, ...] | str:
    if outcome.error is not None:
        return f"{key}: {outcome.error}"
    person, middle = outcome.value
    return key, middle, person.sex, decade(person.age), races.get(person.patient, person.race)


def read_person(path: str, store: Path, key: str) -> tuple[Person, int]:
    """What the tags of a DICOM file say, and the widest slice of its volume (in a child process)."""
    silence()
    person = _read_tags(path)
    with SliceStore(store) as opened, opened[key] as volume:
        if not volume.entry.holds_hu:
            raise InputError("holds no HU, so the patient cannot be told from the air. Ingest CT")
        return person, widest(volume.read_slice(i) for i in range(volume.entry.shape[0]))


def _read_tags(path: str) -> Person:
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import dcmread

    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=[*TAGS])
        return Person(*(str(dataset.get(tag) or "").strip() for tag in TAGS))
    except InvalidDicomError:
        raise SourceError("no DICOM file", "NIfTI and pictures have no such tags") from None
    except OSError as error:
        raise SourceError("its source cannot be read", error.strerror or "") from None
    except Exception as error:  # pydicom raises many kinds, and their texts quote values
        raise SourceError("damaged header", type(error).__name__) from None


def widest(slices: Iterator[np.ndarray]) -> int:
    """Which of some slices of HU has the most pixels in its largest connected region above `SURFACE`, the first one."""
    return int(np.argmax([largest_region(pixels) for pixels in slices]))


def largest_region(pixels: np.ndarray) -> int:
    """Pixels of the largest region of (H, W) above `SURFACE`; those of a region touch at their sides."""
    from scipy import ndimage

    regions, count = ndimage.label(pixels > SURFACE)
    return int(np.bincount(regions.ravel())[1:].max()) if count else 0


def decade(age: str) -> str:
    """A DICOM age, such as 039Y, as the ten years it lies in, such as 30-39; "" for another text."""
    found = AGE.fullmatch(age)
    if found is None:
        return ""
    first = int(int(found[1]) * YEARS[found[2]]) // DECADE * DECADE
    return f"{first}-{first + DECADE - 1}"


def read_races(path: Path) -> dict[str, str]:
    """Race by patient, of a CSV. Raises InputError for another one, and for a patient with two."""
    rows: Sequence[dict[str, str]] = read_list(path, ("race",))
    column = patient_column(rows[0])
    if column is None:
        raise InputError(f"{path}: has no column patient. Give patient,race in its first line")
    races: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        if races.setdefault(row[column], row["race"]) != row["race"]:
            raise InputError(f"{path}: line {line}: its patient has another race in a line above. Correct one")
    return races
