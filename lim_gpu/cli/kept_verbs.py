"""Verbs of what was selected: corrected by hand, and brought to the user's own files.

A verb checks nothing and computes nothing itself; it calls and prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lim_gpu.cli.command import Run, common, verb
from lim_gpu.cli.options import PATH, one_folder


@verb(short_help="Correct a selection by hand.")
@click.argument("selection", type=PATH)
@click.option("--add", multiple=True, metavar="VOLUME:SLICES", help="Keep these slices as well, such as 3c30:3,5-9.")
@click.option("--drop", multiple=True, metavar="VOLUME:SLICES", help="Do not keep these.")
@click.option(
    "--edits",
    type=PATH,
    metavar="FILE",
    help="A file of such changes, a line each: add VOLUME:SLICES or drop VOLUME:SLICES; or a copy of the selection's "
    "CSV whose column kept was changed.",
)
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE", help="NAME.csv, with NAME.json beside it.")
@click.option("--store", type=PATH, metavar="FOLDER", help="Where the store lies now, if it has moved.")
@click.option("--dry-run", is_flag=True, help="Say what would be kept; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace an output that was made otherwise.")
@common
def select(
    run: Run,
    selection: Path,
    add: tuple[str, ...],
    drop: tuple[str, ...],
    edits: Path | None,
    output: Path,
    store: Path | None,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Add slices to a selection and take others out; the result is a selection like any other, and says so.

    VOLUME is a key or the beginning of one, SLICES are numbers and ranges, both ends included: the first columns of
    the CSV. Which kept slice stands for each dropped one is found anew. The parent stays as it is.

    \b
    Examples: lim-gpu select selection.csv --add 3c30df74:12,14-16 --drop 3c30df74:0 -o edited.csv
              lim-gpu select selection.csv --edits changes.txt -o edited.csv
    """
    from lim_gpu.reduction.edit import select_verb

    how = {"overwrite": overwrite, "dry_run": dry_run}
    run.done(select_verb(selection, add, drop, edits, output, store=store, **how))


@verb(short_help="The kept slices' original files, or NIfTI and PNG of them.")
@click.argument("selection", type=PATH)
@click.option("--copy", type=PATH, metavar="DIR", help="Copy the source files, or write NIfTI or PNG files, into DIR.")
@click.option("--link", type=PATH, metavar="DIR", help="Symbolic links to the source files in DIR.")
@click.option("--list", "list_", type=PATH, metavar="DIR", help="DIR/files.csv alone, which names them.")
@click.option(
    "--as",
    "form",
    type=click.Choice(["source", "dicom", "nifti", "png"]),
    default="source",
    show_default=True,
    help="source: the files as they are; dicom: the same, of DICOM alone; nifti: one file a volume; png: a folder a "
    "volume, 8 bit, by the window that the selection was made with.",
)
@click.option("--store", type=PATH, metavar="FOLDER", help="Where the store lies now, if it has moved.")
@click.option("--dry-run", is_flag=True, help="Count the files and name what is missing; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace what an apply of another selection or form left in DIR.")
@common
def apply(
    run: Run,
    selection: Path,
    copy: Path | None,
    link: Path | None,
    list_: Path | None,
    form: str,
    **options: Any,
) -> None:
    """Bring the kept slices to DIR: their source files, which the private folder beside the store names, or new ones.

    Source files lie in DIR as below the folder that holds them all. DIR/files.csv names volume, slice and z of every
    file. Files of others are never touched; the same command goes on where one was interrupted. What is missing is
    named (exit code 5).

    \b
    Examples: lim-gpu apply selection.csv --copy kept
              lim-gpu apply selection.csv --copy kept_nifti --as nifti
              lim-gpu apply selection.csv --list kept_list
    """
    from lim_gpu.selection import Selection

    how, folder = one_folder(copy=copy, link=link, list=list_)
    run.done(Selection.load(selection).apply(folder, how, form, reporter=run.reporter, **options))
