"""Verbs of data: into a store, what a file holds, near-duplicates.

A verb checks nothing and computes nothing itself; it calls and prints.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from lim_gpu.cli.command import Run, common, verb
from lim_gpu.cli.options import PATH, SHARD, OneOf, cluster_options


@verb(short_help="DICOM trees, NIfTI files, PNG/JPEG folders into a store.")
@click.argument("sources", nargs=-1, required=True, type=PATH, metavar="SRC...")
@click.option(
    "-o",
    "--output",
    type=PATH,
    default="slices",
    show_default=True,
    help="The store to write: a folder, one HDF5 file a volume.",
)
@click.option(
    "--modality",
    type=OneOf("lim_gpu.ingest.settings", "MODALITIES"),
    metavar="CT|MR|PT|any",
    default="CT",
    show_default=True,
    help="Which DICOM images to take; the others are counted.",
)
@click.option("--max-thickness", type=float, metavar="MM", help="Leave out volumes of thicker slices.")
@click.option(
    "--skip-bad-slices", is_flag=True, help="Drop a slice that cannot be read instead of its volume, and record it."
)
@click.option(
    "--keep-identifiers",
    is_flag=True,
    help="Keep readable names (public collections only); else keys are keyed hashes.",
)
@click.option(
    "--assume-hu", is_flag=True, help="Take CT slices without a rescale as HU, and 16-bit pictures as HU + 32768."
)
@click.option(
    "--patient-pattern",
    metavar="REGEX",
    help="Takes the patient from a NIfTI or PNG path; its first group where it has one.",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "deflate", "zstd", "lz4"]),
    default="none",
    show_default=True,
    help="Of the slices in the store.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Child processes that decode; default: one a core.")
@cluster_options
@click.option("--dry-run", is_flag=True, help="List the volumes; write nothing.")
@SHARD
@click.option(
    "--overwrite", is_flag=True, help="Replace a store that was made from other sources or with other options."
)
@common
def ingest(run: Run, sources: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Read DICOM trees, NIfTI files and folders of PNG/JPEG into a store of slices.

    Series are told apart by UID and geometry and ordered by position; compressed files are decoded in child processes.
    What cannot be read is named and the rest goes on (exit code 5). Sources are never changed; an interrupted ingest
    goes on where it stopped.

    \b
    Example: lim-gpu ingest /data/LIDC-IDRI -o slices
    """
    from lim_gpu.workers import start_server

    if options["ray"] is None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's own wait by spinning; nothing here has products
        start_server()  # what the children need takes longer to import than what this process does
    from lim_gpu.ingest import ingest as ingest_sources

    options["compression"] = None if options["compression"] == "none" else options["compression"]
    report = ingest_sources(sources, output, reporter=run.reporter, **options)
    run.done(report.outcome())


@verb(short_help="What a store, a selection or a checkpoint holds.")
@click.argument("path", type=PATH, metavar="FILE")
@click.option("--verify", is_flag=True, help="Read every slice of a store and compare its SHA-256.")
@click.option("--trust", is_flag=True, help="Unpickle a checkpoint that is more than tensors: runs what it holds.")
@common
def info(run: Run, path: Path, verify: bool, trust: bool) -> None:
    """Tell what a store, a selection or a checkpoint holds.

    \b
    Example: lim-gpu info slices --verify
    """
    from lim_gpu.cli.info import describe

    run.done(describe(path, verify, run.reporter, trust))


@verb(short_help="Near-duplicates within and between data sets.")
@click.argument("sources", nargs=-1, required=True, type=PATH, metavar="A [B ...]")
@click.option(
    "-o", "--output", type=PATH, default="pairs.csv", show_default=True, help="A row a pair; .json and .html beside it."
)
@click.option(
    "--bits", type=click.IntRange(0, 64), default=2, show_default=True, help="Hash distance that counts by itself."
)
@click.option(
    "--candidates",
    type=click.IntRange(0, 64),
    default=6,
    show_default=True,
    help="Hash distance up to which a pair is confirmed.",
)
@click.option(
    "--confirm",
    type=click.Choice(["ssim", "mi"]),
    default="ssim",
    show_default=True,
    help="What confirms a candidate, on copies of 64 x 64 pixels.",
)
@click.option("--threshold", type=float, help="Similarity that confirms; 0.8 for ssim, 1.25 for mi.")
@click.option("--across", is_flag=True, help="Only pairs between sources or between splits.")
@click.option(
    "--patient-column",
    default="patient",
    show_default=True,
    metavar="NAME",
    help="Column of a list that names the patient.",
)
@click.option(
    "--write-split",
    type=PATH,
    metavar="FILE",
    help="Also write a new split.csv without the images that leak; test and val stay whole.",
)
@click.option(
    "--reject",
    type=PATH,
    metavar="FILE",
    help="Pairs that are none: a CSV with columns a,b, such as rows of pairs.csv. They count nowhere.",
)
@click.option(
    "--clusters",
    "groups",
    type=PATH,
    metavar="FILE",
    help="Also write groups instead of pairs: a CSV, a row an image, keep 1 for one image of each group.",
)
@click.option(
    "--keep-list",
    "keep",
    type=PATH,
    metavar="FILE",
    help="Also list the images to keep, a line each: all, but of each group one alone.",
)
@click.option("--dry-run", is_flag=True, help="Name the outputs; compare nothing.")
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@common
def leaks(run: Run, sources: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Find near-duplicate images within and between stores, folders of pictures, and the splits of a split.csv.

    Images may have any size. Paths in a list are relative to the folder it lies in. The slices of one volume are not
    compared with each other: that is what reduce is for.
    Exit code 5 when something was found, 0 when not.

    \b
    Examples: lim-gpu leaks covid-ct -o pairs.csv --write-split clean.csv
              lim-gpu leaks covid-ct -o pairs2.csv --reject not_alike.csv --write-split clean.csv
              lim-gpu leaks train_slices test_slices --across
              lim-gpu leaks pictures --clusters groups.csv --keep-list keep.txt
    """
    from lim_gpu.leaks import leaks as find_leaks
    from lim_gpu.leaks.search import Rule

    confirm, threshold = options.pop("confirm"), options.pop("threshold")
    threshold = {"ssim": 0.8, "mi": 1.25}[confirm] if threshold is None else threshold
    rule = Rule(options.pop("bits"), options.pop("candidates"), confirm, threshold)
    patients = options.pop("patient_column")
    result = find_leaks(sources, output, rule, patients=patients, reporter=run.reporter, **options)
    run.done(result)
