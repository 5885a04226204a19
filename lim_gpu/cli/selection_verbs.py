"""Verbs of selections: made, drawn, shown and compared.

A verb checks nothing and computes nothing itself; it calls and prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lim_gpu.cli.command import Run, common, verb
from lim_gpu.cli.options import (
    METHOD,
    METHOD_HELP,
    PATH,
    SHARD,
    SIMILARITY,
    Fraction,
    OneOf,
    Threshold,
    cluster_options,
    criterion_of,
    criterion_options,
    reduction_request,
    store_or_selections,
)


@verb(short_help="Select the slices that stay.")
@click.argument("store", type=PATH, default="slices", metavar="[STORE]")
@click.option("--method", type=METHOD, required=True, metavar="METHOD", help=METHOD_HELP)
@click.option("--keep", type=Fraction(), metavar="F", help="Fraction kept of each volume, 0 < F <= 1 (1.0 for all).")
@click.option("--keep-count", type=int, metavar="N", help="Number kept of each volume.")
@click.option(
    "--threshold",
    type=Threshold(),
    metavar="T|auto",
    help="hash: bits, a slice goes when its distance to one still there is <= T (6 when nothing else is said); "
    "ssim -1..1, mi 1..2, deepnet -1..1: when its similarity is >= T. auto: as alike as two augmented views of one "
    "slice usually are.",
)
@click.option(
    "--scope",
    type=OneOf("lim_gpu.reduction.request", "SCOPES"),
    default="volume",
    show_default=True,
    metavar="volume|patient|dataset",
    help="What is pruned together, and what keep counts.",
)
@click.option(
    "--rule",
    type=OneOf("lim_gpu.pruning.checks", "RULES"),
    default="greedy",
    show_default=True,
    metavar="greedy|leader|facility|k-center",
    help="The paper's text; the authors' script (threshold only); facility location, which covers all slices best on "
    "average (budget only); k-center, which covers the worst best: a threshold holds for every dropped slice.",
)
@click.option(
    "--order",
    type=OneOf("lim_gpu.reduction.request", "ORDERS"),
    default="spatial",
    show_default=True,
    metavar="spatial|lexicographic",
    help="lexicographic: slice numbers as text, 0, 1, 10, 100, 101, as the authors' files sort.",
)
@criterion_options
@click.option(
    "-o",
    "--output",
    type=PATH,
    default="selection.csv",
    show_default=True,
    help="NAME.csv, with NAME.json and NAME.parts beside it.",
)
@click.option("--write", "write_to", type=PATH, metavar="FOLDER", help="Also copy the kept slices into a new store.")
@click.option(
    "--kept-list",
    type=PATH,
    metavar="FILE",
    help="Also list source files and SOP UIDs of kept slices (private, mode 0600).",
)
@cluster_options
@SHARD
@click.option("--dry-run", is_flag=True, help="Print volumes, pairs, memory and an estimate; compute nothing.")
@click.option("--overwrite", is_flag=True, help="Replace an output that was made otherwise.")
@common
def reduce(
    run: Run,
    store: Path,
    output: Path,
    write_to: Path | None,
    kept_list: Path | None,
    ray: str | None,
    cpus_per_task: int | None,
    shard: str | None,
    dry_run: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Select the slices of every volume that stay; the store is never changed.

    Of a budget (--keep, --keep-count) and a --threshold the first that stops, stops. Every dropped slice names the kept
    slice that stands for it. An interrupted run goes on where it stopped.

    \b
    Examples: lim-gpu reduce --method ssim --keep 0.1
              lim-gpu reduce slices --method hash --threshold 6 --rule leader -o hash6.csv
              lim-gpu reduce slices --method ssim --threshold 0.8 --rule k-center -o covered.csv
    """
    from lim_gpu.reduction.run import cluster_for
    from lim_gpu.reduction.verb import Targets, reduce_verb
    from lim_gpu.selection import selection_paths
    from lim_gpu.shard import Shard

    request, automatic = reduction_request(options, run.seed)
    targets = Targets(selection_paths(output)[0], write_to, kept_list, overwrite)
    how: dict[str, Any] = {"device": run.device, "dry_run": dry_run, "reporter": run.reporter}
    how["cluster"] = cluster_for(ray, cpus_per_task, run.device)
    how["shard"] = Shard.asked(shard, ray=ray, write=write_to, kept_list=kept_list)
    run.done(reduce_verb(store, request, targets, automatic=automatic, **how))


@verb(short_help="The matrix of one volume as an array or a picture.")
@click.argument("store", type=PATH)
@click.argument("volume")
@click.option("--method", type=SIMILARITY, required=True, metavar="METHOD", help="ssim, mi, deepnet or hash.")
@click.option(
    "-o",
    "--output",
    type=PATH,
    required=True,
    metavar="FILE",
    help="matrix.npy (float32, n x n) or matrix.png (a picture).",
)
@click.option(
    "--keep", type=Fraction(), metavar="F", help="Mark this fraction kept in the picture, the kept slices beside it."
)
@criterion_options
@click.option("--dry-run", is_flag=True, help="Print what would be computed.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@common
def similarity(run: Run, store: Path, volume: str, output: Path, **options: Any) -> None:
    """Write the similarity matrix of one volume as an array or a picture.

    VOLUME is a key, the beginning of one, a name, or a position (0 is the first); see lim-gpu info STORE.

    \b
    Example: lim-gpu similarity slices 0 --method ssim --keep 0.1 -o matrix.png
    """
    from lim_gpu.reduction.matrix_verb import similarity_verb

    how: dict[str, Any] = {"device": run.device, "reporter": run.reporter}
    run.done(similarity_verb(store, volume, criterion_of(options), output, **how, **options))


@verb(short_help="Selections or a run as one offline page with pictures.")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="SELECTION...|RUN...")
@click.option(
    "-o",
    "--output",
    type=PATH,
    default="report.html",
    show_default=True,
    help="One HTML file; nothing else is needed to read it.",
)
@click.option("--store", type=PATH, metavar="FOLDER", help="Where the store lies now, if it has moved.")
@click.option(
    "--window",
    metavar="NAME|LEVEL,WIDTH",
    help="Of the pictures: lung, abdomen, bone, brain, chest, angio, soft-tissue, or a level and a width in HU; "
    "default: as the first selection saw the slices.",
)
@click.option("--dry-run", is_flag=True, help="Name what would be written.")
@click.option("--overwrite", is_flag=True, help="Replace an existing report.")
@common
def report(
    run: Run,
    paths: tuple[Path, ...],
    output: Path,
    store: Path | None,
    window: str | None,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Show what selections kept and dropped, and why; several of one store stand beside each other.

    Slices can be kept and dropped by a click in the page, and the changes saved as a file for lim-gpu select --edits.
    Volumes are named by their keys, and by their names where ingest --keep-identifiers kept them.

    \b
    Examples: lim-gpu report selection.csv -o report.html
              lim-gpu report ssim.csv mi.csv hash.csv -o methods.html
              lim-gpu report runs/swav -o run.html
    """
    from lim_gpu.report import write_report

    how: dict[str, Any] = {"store": store, "window": window, "overwrite": overwrite, "dry_run": dry_run}
    run.done(write_report(paths, output, **how, reporter=run.reporter))


@verb(short_help="Methods or selections of one store beside each other.")
@click.argument("paths", nargs=-1, type=PATH, metavar="SELECTION...|STORE")
@click.option(
    "--method",
    "methods",
    type=METHOD,
    multiple=True,
    metavar="METHOD",
    help="ssim, mi, deepnet or hash, with a STORE; may be given several times.",
)
@click.option(
    "--rule",
    "rules",
    type=OneOf("lim_gpu.pruning.checks", "RULES"),
    multiple=True,
    metavar="RULE",
    help="greedy (the default), leader, facility or k-center, with --method; may be given several times.",
)
@click.option("--keep", type=Fraction(), metavar="F", help="Fraction kept, with --method.")
@click.option("--threshold", type=float, metavar="T", help="Threshold in the method's own unit, with one --method.")
@click.option(
    "--store", type=PATH, metavar="FOLDER", help="Where the store of the selections lies now, if it has moved."
)
@click.option("--weights", type=PATH, metavar="FILE", help="ResNet50 weights; with them DeepNet is a metric too.")
@click.option(
    "-o", "--output", type=PATH, default="compare.csv", show_default=True, help="The table; .json and .png beside it."
)
@click.option("--dry-run", is_flag=True, help="Check all and name the outputs; compute nothing.")
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@common
def compare(
    run: Run,
    paths: tuple[Path, ...],
    methods: tuple[str, ...],
    keep: float | None,
    store: Path | None,
    output: Path,
    **options: Any,
) -> None:
    """Compare what selections keep: counts, overlap, how alike kept slices are, how well dropped ones are covered.

    Every-n and random with the budget of each selection always stand beside.

    \b
    Examples: lim-gpu compare slices --method ssim --method hash --keep 0.1
              lim-gpu compare slices --method ssim --rule greedy --rule facility --rule k-center --keep 0.1
              lim-gpu compare ssim.csv hash.csv -o compare.csv
    """
    from lim_gpu.report.compare import compare as compare_selections

    selections, found = store_or_selections(paths)
    result = compare_selections(
        selections,
        output,
        store=store or found,
        methods=methods,
        keep=keep,
        seed=run.seed,
        device=run.device,
        reporter=run.reporter,
        **options,
    )
    run.done(result)
