"""Procedural chests after contrast as a store, with a table of labels of each finding: to try things on.

FOLDER/angiogram-sources    NIfTI files, and label maps of equal names
FOLDER/angiograms           the store
FOLDER/emboli, FOLDER/nodules    a table and masks of each
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lim_gpu.ingest import ingest
from lim_gpu.labels.make import TABLE, make_labels
from lim_gpu.phantom import EMBOLI, NODULES, SCANS, write_angiograms
from lim_gpu.progress import Reporter


def make_angiograms(folder: Path, seed: int, reporter: Reporter, **size: Any) -> tuple[Path, dict[str, Path]]:
    """Make them below `folder`; the store, and the table of every finding. size: as of `write_angiograms`."""
    sources, store = folder / "angiogram-sources", folder / "angiograms"
    reporter.note(f"making angiograms in {sources}")
    write_angiograms(sources, seed, **size)
    ingest([sources / SCANS], store, keep_identifiers=True, overwrite=True, reporter=reporter)
    for finding in (EMBOLI, NODULES):
        make_labels("nifti", sources / finding, store, folder / finding, overwrite=True, reporter=reporter)
    return store, {finding: folder / finding / TABLE for finding in (EMBOLI, NODULES)}
