"""The command line: one verb a stage. Each verb checks nothing and computes nothing itself; it calls and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import lim_gpu
from lim_gpu.command import Run, common, execute
from lim_gpu.errors import EXIT_SKIPPED, NoGpuError

PATH = click.Path(path_type=Path)
METHOD_HELP = "all, every-n, random, ssim, mi, deepnet or hash."


class Verbs(click.Group):
    """Lists the verbs in the order of the pipeline, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: D102  (click's own)
        return list(self.commands)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(lim_gpu.__version__, prog_name="lim-gpu")
def cli() -> None:
    """Similarity matrices of CT volumes, and the redundant slices pruned.

    \b
    lim-gpu ingest DICOM_FOLDER -o slices
    lim-gpu reduce --method ssim --keep 0.1

    Exit codes: 0 done, 2 usage, 3 bad input, 4 no usable GPU though one was asked for, 5 finished but some items
    were skipped and listed, 130/143 interrupted and resumable.
    """


@cli.command(short_help="Make procedural CT, ingest it, reduce it with every method.")
@click.option(
    "-o", "--output", type=PATH, default="demo", show_default=True, help="Folder for all that the demo makes."
)
@click.option("--dry-run", is_flag=True, help="Say what would be made; make nothing.")
@click.option("--overwrite", is_flag=True, help="Use a folder that holds other files.")
@common
def demo(run: Run, output: Path, dry_run: bool, overwrite: bool) -> None:
    """Make procedural CT volumes, ingest them, reduce them with every method, and draw a matrix.

    Needs no download, no GPU and no data; takes less than a minute.

    \b
    Example: lim-gpu demo -o demo
    """
    from lim_gpu.demo import run_demo

    result = run_demo(output, run.seed, run.device, run.reporter, overwrite=overwrite, dry_run=dry_run)
    run.done(result.values, *result.lines)


@cli.command(short_help="Is this machine ready? If not, what to do.")
@common
def doctor(run: Run) -> None:
    """Check GPU, driver, CUDA, CuPy, NVRTC and decoders; compile and run a kernel; print the remedy for what is broken.

    \b
    Example: lim-gpu doctor --device cuda
    """
    from lim_gpu.doctor import BROKEN, examine, gpu_usable

    checks = examine(run.device)
    wanted = run.device.startswith("cuda") or any(check.state == BROKEN for check in checks)
    code = NoGpuError.exit_code if wanted and not gpu_usable(checks) else 0
    values = {"gpu_usable": gpu_usable(checks), "checks": [vars(check) for check in checks]}
    run.done(values, *(check.line() for check in checks), code=code)


@cli.command(short_help="DICOM trees, NIfTI files, PNG/JPEG folders into a store.")
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
    type=click.Choice(["CT", "MR", "PT", "any"]),
    default="CT",
    show_default=True,
    help="Which DICOM images to take; the others are counted.",
)
@click.option(
    "--skip-bad-slices", is_flag=True, help="Drop a slice that cannot be read instead of its volume, and record it."
)
@click.option(
    "--keep-identifiers",
    is_flag=True,
    help="Keep readable names (public collections only); else keys are keyed hashes.",
)
@click.option("--assume-hu", is_flag=True, help="Take CT slices without a rescale slope and intercept as HU.")
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
@click.option("--dry-run", is_flag=True, help="List the volumes; write nothing.")
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
    from lim_gpu.ingest import ingest as ingest_sources

    options["compression"] = None if options["compression"] == "none" else options["compression"]
    report = ingest_sources(sources, output, reporter=run.reporter, **options)
    run.done(report.values(), *report.lines(), code=EXIT_SKIPPED if report.failures else 0)


@cli.command(short_help="What a store or a selection holds.")
@click.argument("path", type=PATH, metavar="FILE")
@click.option("--verify", is_flag=True, help="Read every slice of a store and compare its SHA-256.")
@common
def info(run: Run, path: Path, verify: bool) -> None:
    """Tell what a store or a selection holds.

    \b
    Example: lim-gpu info slices --verify
    """
    from lim_gpu.info import describe

    description = describe(path, verify, run.reporter)
    for _name, cause in description.failures:
        run.reporter.error(cause)
    values = description.values | ({"failures": [list(f) for f in description.failures]} if verify else {})
    run.done(values, *description.lines, code=EXIT_SKIPPED if description.failures else 0)


def criterion_options(function: Any) -> Any:
    """The options that say how slices are compared."""
    for option in (
        click.option(
            "--weights",
            type=PATH,
            metavar="FILE",
            help="deepnet: ResNet50 weights; default: torchvision's IMAGENET1K_V1.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bfloat16"]),
            default="float32",
            show_default=True,
            help="deepnet: bfloat16 is faster, and may select other slices.",
        ),
        click.option(
            "--features",
            type=click.Choice(["logits", "pooled"]),
            default="logits",
            show_default=True,
            help="deepnet: the 1000 outputs or the 2048 pooled features.",
        ),
        click.option(
            "--bins",
            type=click.IntRange(2, 256),
            default=100,
            show_default=True,
            help="mi: bins a side of the joint histogram.",
        ),
        click.option("--hu-range", metavar="LO:HI", help="Map this range of HU to 0..255."),
        click.option(
            "--window",
            metavar="NAME|LEVEL,WIDTH",
            help="lung, abdomen, bone, brain, chest, angio, or a level and a width in HU.",
        ),
        click.option(
            "--intensity",
            type=click.Choice(["slice-minmax"]),
            default="slice-minmax",
            show_default=True,
            help="Each slice's own minimum..maximum to 0..255, as the paper.",
        ),
    ):
        option(function)
    return function


@cli.command(short_help="Select the slices that stay.")
@click.argument("store", type=PATH, default="slices", metavar="[STORE]")
@click.option("--method", required=True, metavar="METHOD", help=METHOD_HELP)
@click.option("--keep", metavar="F", help="Fraction kept of each volume, 0 < F <= 1 (1.0 for all).")
@click.option("--keep-count", type=int, metavar="N", help="Number kept of each volume.")
@click.option(
    "--threshold",
    type=float,
    metavar="T",
    help="hash: bits, a slice goes when its distance to a kept one is <= T (6 when nothing else is said); "
    "ssim -1..1, mi 1..2, deepnet -1..1: when its similarity is >= T.",
)
@click.option(
    "--scope",
    default="volume",
    show_default=True,
    metavar="volume|patient|dataset",
    help="What is pruned together, and what keep counts.",
)
@click.option(
    "--rule",
    default="greedy",
    show_default=True,
    metavar="greedy|leader",
    help="The paper's text, or the authors' script (threshold only): they keep different slices.",
)
@click.option(
    "--order",
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
@click.option("--dry-run", is_flag=True, help="Print volumes, pairs, memory and an estimate; compute nothing.")
@click.option("--overwrite", is_flag=True, help="Replace an output that was made otherwise.")
@common
def reduce(
    run: Run,
    store: Path,
    output: Path,
    write_to: Path | None,
    kept_list: Path | None,
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
    """
    from lim_gpu.verbs import reduce_from_options

    outcome = reduce_from_options(
        store,
        options | {"seed": run.seed, "device": run.device},
        output,
        write_to,
        kept_list,
        dry_run,
        overwrite,
        run.reporter,
    )
    run.done(outcome.values, *outcome.lines, code=EXIT_SKIPPED if outcome.skipped else 0)


@cli.command(short_help="The matrix of one volume as an array or a picture.")
@click.argument("store", type=PATH)
@click.argument("volume")
@click.option("--method", required=True, metavar="METHOD", help="ssim, mi, deepnet or hash.")
@click.option(
    "-o",
    "--output",
    type=PATH,
    required=True,
    metavar="FILE",
    help="matrix.npy (float32, n x n) or matrix.png (a picture).",
)
@click.option("--keep", metavar="F", help="Mark this fraction kept in the picture, the kept slices beside it.")
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
    from lim_gpu.verbs import similarity_from_options

    outcome = similarity_from_options(store, volume, options | {"device": run.device}, output, run.reporter)
    run.done(outcome.values, *outcome.lines)


@cli.command(short_help="Near-duplicates within and between data sets.")
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
@click.option("--dry-run", is_flag=True, help="Name the outputs; read nothing.")
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@common
def leaks(run: Run, sources: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Find near-duplicate images within and between stores, folders of pictures, and the splits of a split.csv.

    Images may have any size. The slices of one volume are not compared with each other: that is what reduce is for.
    Exit code 5 when something was found, 0 when not.

    \b
    Examples: lim-gpu leaks covid-ct -o pairs.csv --write-split clean.csv
              lim-gpu leaks train_slices test_slices --across
    """
    from lim_gpu.leaks import leaks as find_leaks
    from lim_gpu.leaks.search import Rule

    confirm, threshold = options.pop("confirm"), options.pop("threshold")
    threshold = {"ssim": 0.8, "mi": 1.25}[confirm] if threshold is None else threshold
    rule = Rule(options.pop("bits"), options.pop("candidates"), confirm, threshold)
    patients = options.pop("patient_column")
    result = find_leaks(sources, output, rule, patients=patients, reporter=run.reporter, **options)
    run.done(result.values, *result.lines, code=EXIT_SKIPPED if result.found or result.failures else 0)


@cli.command(short_help="Selections or a run as one offline page with pictures.")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="SELECTION...|RUN")
@click.option(
    "-o",
    "--output",
    type=PATH,
    default="report.html",
    show_default=True,
    help="One HTML file; nothing else is needed to read it.",
)
@click.option("--store", type=PATH, metavar="FOLDER", help="Where the store lies now, if it has moved.")
@click.option("--dry-run", is_flag=True, help="Name what would be written.")
@click.option("--overwrite", is_flag=True, help="Replace an existing report.")
@common
def report(run: Run, paths: tuple[Path, ...], output: Path, store: Path | None, dry_run: bool, overwrite: bool) -> None:
    """Show what selections kept and dropped, and why; several of one store stand beside each other.

    Volumes are named by their keys: no name of a patient or a file is shown.

    \b
    Examples: lim-gpu report selection.csv -o report.html
              lim-gpu report ssim.csv mi.csv hash.csv -o methods.html
              lim-gpu report runs/swav -o run.html
    """
    from lim_gpu.report import write_report

    if not dry_run:
        write_report(paths, output, store=store, overwrite=overwrite, reporter=run.reporter)
    run.done({"report": str(output), "dry_run": dry_run}, f"{'plan: ' if dry_run else ''}-> {output}")


@cli.command(short_help="Methods or selections of one store beside each other.")
@click.argument("paths", nargs=-1, type=PATH, metavar="SELECTION...|STORE")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="METHOD",
    help="ssim, mi, deepnet or hash, with a STORE; may be given several times.",
)
@click.option("--keep", metavar="F", help="Fraction kept, with --method.")
@click.option("--threshold", type=float, metavar="T", help="Threshold in the method's own unit, with one --method.")
@click.option(
    "--store", type=PATH, metavar="FOLDER", help="Where the store of the selections lies now, if it has moved."
)
@click.option("--weights", type=PATH, metavar="FILE", help="ResNet50 weights; with them DeepNet is a metric too.")
@click.option(
    "-o", "--output", type=PATH, default="compare.csv", show_default=True, help="The table; .json and .png beside it."
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@common
def compare(
    run: Run,
    paths: tuple[Path, ...],
    methods: tuple[str, ...],
    keep: str | None,
    store: Path | None,
    output: Path,
    **options: Any,
) -> None:
    """Compare what selections keep: counts, overlap, how alike kept slices are, how well dropped ones are covered.

    Every-n and random with the budget of the first selection always stand beside.

    \b
    Examples: lim-gpu compare slices --method ssim --method hash --keep 0.1
              lim-gpu compare ssim.csv hash.csv -o compare.csv
    """
    from lim_gpu.compare import compare as compare_selections
    from lim_gpu.verbs import parse_keep, store_or_selections

    selections, found = store_or_selections(paths)
    result = compare_selections(
        selections,
        output,
        store=store or found,
        methods=methods,
        keep=parse_keep(keep),
        seed=run.seed,
        device=run.device,
        reporter=run.reporter,
        **options,
    )
    run.done(result.values, *result.lines)


def main() -> None:
    """Entry point of `lim-gpu`."""
    execute(cli)


if __name__ == "__main__":
    main()
