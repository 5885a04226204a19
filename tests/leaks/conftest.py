from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from leaking import picture


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """Six pictures in three splits; a.png comes again in the test split, larger, and its label differs."""
    folder = tmp_path / "set"
    folder.mkdir()
    rows = []
    for seed, split in enumerate(("train", "train", "train", "val", "test")):
        Image.fromarray(picture(seed)).save(folder / f"{'abcde'[seed]}.png")
        rows.append((f"{'abcde'[seed]}.png", "0", split, f"p{seed}"))
    Image.fromarray(picture(0)).resize((150, 150)).save(folder / "copy.jpg", quality=90)
    rows.append(("copy.jpg", "1", "test", "p9"))
    with open(folder / "split.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([("file", "label", "split", "patient"), *rows])
    return folder
