"""The verb that makes labels of annotations.

A verb checks nothing and computes nothing itself; it calls and prints.
"""

from __future__ import annotations

from pathlib import Path

import click

from lim_gpu.cli.command import Run, common, verb
from lim_gpu.cli.options import PATH, OneOf


@verb(short_help="Labels, masks and attributes as a table over a store.")
@click.argument("kind", type=OneOf("lim_gpu.labels.make", "KINDS"))
@click.argument("source", type=PATH)
@click.argument("store", type=PATH)
@click.option(
    "-o", "--output", type=PATH, required=True, metavar="DIR", help="Folder of labels.csv, and of masks/ beside it."
)
@click.option(
    "--patients",
    type=PATH,
    metavar="FILE",
    help="attributes: a CSV with the columns patient (as PatientID) and race, which counts before the tag.",
)
@click.option("--dry-run", is_flag=True, help="Read the annotations and count; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace a table that was made otherwise.")
@common
def labels(
    run: Run,
    kind: str,
    source: Path,
    store: Path,
    output: Path,
    patients: Path | None,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Make a table of labels over a store, for finetune, of annotations that others made.

    \b
    KIND and SOURCE:
      lidc        the folder of LIDC-IDRI's XML files: nodules, as half of the readers or more enclose them
      dicom-seg   DICOM Segmentation objects drawn on slices of the store
      nifti       label maps, named as the NIfTI volumes that were ingested
      attributes  the DICOM folder that was ingested: sex, age and race of each volume's patient, at its widest slice

    labels.csv has a row for every slice of a volume that is annotated: volume, slice, label (1 where something is
    marked) and mask. Slices are found by the private lists beside the store. A table of attributes is for its owner
    alone (mode 0600); no tag enters the store. Exit code 5 when a file could not be used.

    \b
    Examples: lim-gpu labels lidc LIDC-XML slices -o nodules
              lim-gpu labels attributes /data/LIDC-IDRI slices -o people --patients race.csv
    """
    from lim_gpu.labels.make import make_labels

    how = {"overwrite": overwrite, "dry_run": dry_run}
    run.done(make_labels(kind, source, store, output, patients=patients, reporter=run.reporter, **how))
