"""What is searched for near-duplicates: stores, folders of pictures, and the lists (split.csv) that name pictures.

Pictures are decoded in child processes; of each only its hash and a small copy are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import fingerprint
from lim_gpu.intensity import Intensity
from lim_gpu.labelled.listed import LISTS, read_list
from lim_gpu.labelled.parts import part_of, patient_column, pictures_below
from lim_gpu.pictures import decode_picture
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore
from lim_gpu.workers import run_in_children

SIDE = 64  # of the small copies on which a pair is confirmed: images of any size become comparable
SECONDS = 60  # that one picture may take
BATCH = 32  # pictures a task
PATIENT = "patient"  # the column that is looked for where none is named


@dataclass(frozen=True)
class Item:
    """One image: where it comes from and what a list says of it. Texts are "" where nothing is known.

    group   images of one group are not compared with each other: the slices of one volume are neighbours by nature
    path    the file, or the store
    """

    collection: str
    name: str
    group: str
    path: Path
    split: str = ""
    label: str = ""
    patient: str = ""


@dataclass(frozen=True)
class Images:
    """Images in order: `items`, their `hashes` uint64 (n,), and small copies uint8 (n, SIDE, SIDE)."""

    items: list[Item]
    hashes: NDArray[np.uint64]
    small: NDArray[np.uint8]
    failures: list[tuple[str, str]]

    @classmethod
    def joined(cls, parts: Sequence[Images]) -> Images:
        """All of them, one after another."""
        return cls(
            [item for part in parts for item in part.items],
            np.concatenate([part.hashes for part in parts]),
            np.concatenate([part.small for part in parts]),
            [failure for part in parts for failure in part.failures],
        )


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A slice (H, W) as (SIDE, SIDE)."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def read_images(path: Path, patients: str, reporter: Reporter) -> Images:
    """The images of a store, of a list (a CSV with a column `file`), or of a folder with or without such a list.

    patients: the column of the list that names the patient. Raises InputError when there is nothing to read, and
    UsageError for something else.
    """
    if (path / "store.json").is_file():
        return _from_store(path, reporter)
    return _decoded(_items(path, patients), path, reporter)


def identity(path: Path, patients: str) -> str:
    """Changes with the images of a source and with what a list says of them; pictures by name, size and time.

    Raises as `read_images` for what is no source.
    """
    if (path / "store.json").is_file():
        return SliceStore(path).fingerprint
    told = []
    for item in _items(path, patients):
        status = item.path.stat() if item.path.exists() else None
        of_file = (status.st_size, status.st_mtime_ns) if status else None
        told.append([item.name, item.split, item.label, item.patient, of_file])
    return fingerprint(told)


def _items(path: Path, patients: str) -> list[Item]:
    """The pictures of a folder or a list, unread."""
    if path.is_dir():
        listed = next((path / name for name in LISTS if (path / name).is_file()), None)
        return _of_list(listed, patients) if listed else _of_folder(path)
    if path.suffix == ".csv":
        return _of_list(path, patients)
    if not path.exists():
        raise InputError(f"{path}: does not exist. Give a folder, a list or a store")
    raise UsageError(f"{path}: give a store, a folder of PNG or JPEG files, or a CSV with a column file")


def _of_list(path: Path, patients: str) -> list[Item]:
    root = path.parent.resolve()
    items = []
    rows = read_list(path, ["file"])
    patient = _patient_column(path, list(rows[0]), patients)
    for row in rows:
        target = (root / row["file"]).resolve()
        if not target.is_relative_to(root):
            raise InputError(f"{path}: {row['file']!r} leads out of its folder. Give paths below it")
        split, label, person = (row.get(column) or "" for column in ("split", "label", patient))
        texts = (part_of(split) or split, label, person)
        items.append(Item(str(path.parent), row["file"], f"{path}\0{row['file']}", target, *texts))
    if not any(item.path.exists() for item in items):
        where = f"none of its {len(items)} files is in {path.parent}, to which its paths are relative"
        raise InputError(f"{path}: {where}. Put the list into the folder of the pictures")
    return items


def _patient_column(path: Path, columns: Sequence[str], wanted: str) -> str:
    """The column that names the patient: `wanted`, else by default any that is called so; "" for none."""
    if wanted in columns:
        return wanted
    if wanted != PATIENT:
        raise InputError(f"{path}: has no column {wanted}. Give --patients one of {', '.join(columns)}")
    return patient_column(columns) or ""


def _of_folder(folder: Path) -> list[Item]:
    items = []
    for path in sorted(pictures_below(folder)):
        inside = path.relative_to(folder)
        split = next(filter(None, map(part_of, inside.parts[:-1])), "")
        items.append(Item(str(folder), str(inside), f"{folder}\0{inside}", path, split))
    return items


def _decoded(items: list[Item], source: Path, reporter: Reporter) -> Images:
    flat = _in_children(partial(_of_each, _hashed), [item.path for item in items], f"read {source.name}", reporter)
    failures = [(item.name, answer) for item, answer in zip(items, flat, strict=True) if isinstance(answer, str)]
    _say_failures(failures, source, reporter)
    good = [(item, answer) for item, answer in zip(items, flat, strict=True) if not isinstance(answer, str)]
    if not good:
        made = "of DICOM and NIfTI the store that lim-gpu ingest makes"
        raise InputError(f"{source}: holds no PNG or JPEG file that can be read. Give another source, {made}")
    return Images(
        [item for item, _ in good],
        np.array([answer[0] for _, answer in good], dtype=np.uint64),
        np.stack([answer[1] for _, answer in good]),
        failures,
    )


def _say_failures(failures: Sequence[tuple[str, str]], source: Path, reporter: Reporter) -> None:
    by_cause: dict[str, list[str]] = {}
    for name, cause in failures:
        by_cause.setdefault(cause, []).append(f"{source.name}: {name}: {cause}")
    for cause, lines in by_cause.items():
        reporter.errors(lines, f"of {source.name}: {cause}")


def _in_children(work: Callable[..., Any], paths: Sequence[Path], title: str, reporter: Reporter) -> list[Any]:
    """What `work` gives for each path, or the text why it cannot."""
    tasks = [([str(path.absolute()) for path in paths[i : i + BATCH]],) for i in range(0, len(paths), BATCH)]
    answers: list[Any] = [None] * len(tasks)
    with reporter.track(title, len(paths), "images") as advance:
        for outcome in run_in_children(work, tasks, workers=2, timeout=SECONDS * BATCH):
            answers[outcome.task] = outcome.value or [outcome.error] * len(tasks[outcome.task][0])
            advance(len(answers[outcome.task]))
    return [answer for batch in answers for answer in batch]


def larger_pictures(images: Images, places: Sequence[int], side: int, reporter: Reporter) -> dict[int, Any]:
    """Some images again, (h, w) uint8 of at most `side` and in their own shape; the small copy where one is gone."""
    intensity = Intensity.parse()
    found: dict[int, Any] = {i: images.small[i] for i in places}
    files = [i for i in places if images.items[i].path.is_file()]
    again = _in_children(
        partial(_of_each, partial(fitted, side=side)), [images.items[i].path for i in files], "gallery", reporter
    )
    found |= {i: picture for i, picture in zip(files, again, strict=True) if not isinstance(picture, str)}
    for path in dict.fromkeys(images.items[i].path for i in places if images.items[i].path.is_dir()):
        with SliceStore(path) as store:
            for i in (i for i in places if images.items[i].path == path):
                key, _, place = images.items[i].name.partition(":")
                with store[key] as volume:
                    found[i] = fitted(intensity.to_uint8(volume.read(int(place), int(place) + 1))[0], side)
    return found


def fitted(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image (H, W) so that it fits side x side."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _of_each(work: Callable[[NDArray[np.uint8]], Any], paths: list[str]) -> list[Any]:
    """In a child: what `work` makes of each picture (H, W), or why it cannot be read."""
    answers: list[Any] = []
    for path in paths:
        try:
            pixels, _ = decode_picture(path)
            answers.append(work(Intensity.parse().to_uint8(pixels[None])[0]))
        except InputError as error:
            answers.append(f"damaged picture: {error}" if Path(path).exists() else "is not there")
    return answers


def _hashed(image: NDArray[np.uint8]) -> tuple[int, NDArray[np.uint8]]:
    from lim_gpu.similarity.hash import dhash_of

    return dhash_of(image), shrunk(image)


def _from_store(path: Path, reporter: Reporter) -> Images:
    from lim_gpu.similarity.hash import dhash

    intensity = Intensity.parse()
    items: list[Item] = []
    hashes: list[NDArray[np.uint64]] = []
    small: list[NDArray[np.uint8]] = []
    failures = []
    with SliceStore(path) as store, reporter.track(f"read {path.name}", len(store), "volumes") as advance:
        for volume in store:
            try:
                with volume:
                    blocks = [intensity.to_uint8(block) for block in _blocks(volume)]
            except InputError as error:
                reporter.error(error)
                failures.append((volume.key, str(error)))
                continue
            hashes += [dhash(block) for block in blocks]
            small += [shrunk(image) for block in blocks for image in block]
            entry = volume.entry
            items += [
                Item(str(path), f"{entry.key}:{i}", entry.key, path, patient=entry.patient)
                for i in range(entry.shape[0])
            ]
            advance(1)
    if not items:
        raise InputError(f"{path}: no volume can be read. Run lim-gpu ingest again")
    return Images(items, np.concatenate(hashes), np.stack(small), failures)


def _blocks(volume: Any) -> Iterator[NDArray[Any]]:
    for start in range(0, volume.entry.shape[0], BATCH):
        yield volume.read(start, min(start + BATCH, volume.entry.shape[0]))
