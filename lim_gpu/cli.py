"""The command line: one verb a stage. Each verb checks nothing and computes nothing itself; it calls and prints."""

from __future__ import annotations

from functools import partial
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

    Exit codes: 0 done, 2 usage, 3 bad input, 4 no usable GPU though one was asked for, 5 finished, but something
    was skipped and listed or (leaks) found, 130/143 interrupted and resumable.
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


@cli.command(short_help="What a store, a selection or a checkpoint holds.")
@click.argument("path", type=PATH, metavar="FILE")
@click.option("--verify", is_flag=True, help="Read every slice of a store and compare its SHA-256.")
@click.option("--trust", is_flag=True, help="Unpickle a checkpoint that is more than tensors: runs what it holds.")
@common
def info(run: Run, path: Path, verify: bool, trust: bool) -> None:
    """Tell what a store, a selection or a checkpoint holds.

    \b
    Example: lim-gpu info slices --verify
    """
    from lim_gpu.info import describe

    description = describe(path, verify, run.reporter, trust)
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
    metavar="T|auto",
    help="hash: bits, a slice goes when its distance to a kept one is <= T (6 when nothing else is said); "
    "ssim -1..1, mi 1..2, deepnet -1..1: when its similarity is >= T. auto: as alike as two augmented views of one "
    "slice usually are.",
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


@cli.command(short_help="Pre-train a backbone on the slices of a store.")
@click.argument("store", type=PATH, default="slices", metavar="[STORE]")
@click.option("--selection", type=PATH, metavar="FILE", help="NAME.csv of lim-gpu reduce; default: every slice.")
@click.option("--method", required=True, metavar="METHOD", help="swav, moco or spark.")
@click.option(
    "--preset",
    default="recommended",
    show_default=True,
    metavar="NAME",
    help="recommended, wolf2024-paper or wolf2024-code: see above.",
)
@click.option("--epochs", type=int, metavar="N", help="Default: the preset's, 800 (spark of wolf2024: 1600).")
@click.option("--batch-size", type=int, metavar="B", help="Slices of a step over all processes; default: the preset's.")
@click.option("--backbone", metavar="NAME", help="Any torchvision ResNet; default: resnet50.")
@click.option("--channels", type=int, metavar="1|3", help="3: grey replicated (default); 1: one input channel.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any setting, such as lr=0.1 or swav.queue=3840; --dry-run --json lists them. Again for more.",
)
@click.option("--window", metavar="NAME|LEVEL,WIDTH", help="Map this window of HU to 0..255, as in reduce.")
@click.option("--hu-range", metavar="LO:HI", help="Map this range of HU to 0..255; default: each slice's own.")
@click.option("-o", "--output", type=PATH, default="run", show_default=True, metavar="RUN", help="Folder of the run.")
@click.option(
    "--checkpoint-every",
    type=int,
    default=50,
    show_default=True,
    metavar="N",
    help="Epochs between two epoch=N.ckpt; last.ckpt is replaced after every epoch.",
)
@click.option(
    "--log-every", type=int, default=1, show_default=True, metavar="N", help="Steps between two lines of metrics.jsonl."
)
@click.option(
    "--probe",
    type=PATH,
    metavar="DATA",
    help="Score every epoch by nearest neighbours on a small labelled set, never test data: "
    "a folder a class, or CSV with file,label[,split].",
)
@click.option("--wandb", metavar="PROJECT", help="Log to Weights & Biases too (extra wandb).")
@click.option("--compile", is_flag=True, help="torch.compile the backbone.")
@click.option(
    "--stream", is_flag=True, help="Read slices from the store in every epoch, also if the device has room for them."
)
@click.option("--resume", is_flag=True, help="Go on with the unfinished run in RUN; begin where there is none.")
@click.option("--dry-run", is_flag=True, help="Print the plan; train nothing.")
@click.option("--overwrite", is_flag=True, help="Replace a run that was made otherwise.")
@common
def pretrain(run: Run, store: Path, method: str, output: Path, **options: Any) -> None:
    """Pre-train a backbone on the slices of a store, or on those that a selection keeps.

    \b
    Presets:
      recommended     bf16-mixed on GPUs, learning rates scaled with the batch; swav with a queue and one frozen
                      epoch, moco with an MLP head, split-BN and a queue that suits the data, spark with a floor of
                      the variance
      wolf2024-paper  as the tables of Wolf et al. 2024 say
      wolf2024-code   as the published code really ran: swav's learning rate swings to the end, its prototypes stay
                      frozen for 313 epochs

    RUN gets last.ckpt, epoch=N.ckpt, metrics.jsonl (epoch and step from 0), config.json, plan.txt and TensorBoard
    events. Ctrl-C and SIGTERM save first; --resume goes on, to the bit on the CPU. Several GPUs: torchrun.

    \b
    Examples: lim-gpu pretrain slices --selection hash6.csv --method swav --epochs 200 -o run
              lim-gpu pretrain slices --method moco --set moco.temperature=0.1 --set lr=0.03 --dry-run
              torchrun --nproc-per-node 4 -m lim_gpu.cli pretrain slices --method swav --batch-size 512
    """
    from lim_gpu.intensity import Intensity
    from lim_gpu.pretrain.config import parse_overrides
    from lim_gpu.pretrain.plan import rank
    from lim_gpu.pretrain.run import pretrain as run_pretraining

    options["intensity"] = Intensity.parse(window=options.pop("window"), hu_range=options.pop("hu_range"))
    options["overrides"] = parse_overrides(options["overrides"])
    outcome = run_pretraining(
        store, method, output=output, seed=run.seed, device=run.device, reporter=run.reporter, **options
    )
    if rank() == 0:
        run.done(outcome.values, *outcome.lines)


@cli.command(short_help="Fine-tune on labelled images, and evaluate.")
@click.argument("data", type=PATH, metavar="DATA")
@click.option(
    "--checkpoint",
    "checkpoints",
    type=PATH,
    multiple=True,
    metavar="C",
    help="Initial weights: ours, the authors', SwAV's, MoCo's, SparK's, lightly's. Of several, validation chooses.",
)
@click.option("--init", metavar="random|imagenet", help="Initial weights without a checkpoint; default: random.")
@click.option("--backbone", metavar="B", help="torchvision's name; default: the checkpoint's, else resnet50.")
@click.option("--runs", type=int, metavar="N", help="Runs of the data's own split, 5 by default; else random splits.")
@click.option("--folds", type=int, metavar="N", help="Folds of data without a split, 5 by default.")
@click.option("--epochs", type=int, metavar="N", help="In all, the head phase included; default: 70.")
@click.option("--head-epochs", type=int, metavar="N", help="Epochs in which the last layer trains alone; default: 10.")
@click.option(
    "--protocol",
    default="wolf2024-paper",
    show_default=True,
    metavar="wolf2024-paper|wolf2024-code",
    help="Two phases at 1e-4, batch norm frozen in the first; or as the notebooks ran: batch norm adapts, 2e-5 from "
    "epoch 11 on.",
)
@click.option("--batch-size", type=int, metavar="N", help="Default: 64.")
@click.option("--lr", type=float, metavar="LR", help="Of Adam; default: 1e-4.")
@click.option("--size", type=int, metavar="N", help="Pixels a side that the network sees; default: 224.")
@click.option("--flip/--no-flip", default=None, help="Mirror training images; default: flip, but not MedMNIST's.")
@click.option("--positive", metavar="CLASS", help="Of two classes; default: the second in natural order.")
@click.option("--trust", is_flag=True, help="Unpickle checkpoints that are more than tensors: runs what they hold.")
@click.option(
    "--against", type=PATH, metavar="RUN_B", help="Compare with this finished run of the same data and seeds."
)
@click.option(
    "-o", "--output", type=PATH, required=True, metavar="RUN", help="Folder of results, predictions, weights."
)
@click.option("--dry-run", is_flag=True, help="Print images, splits and steps; train nothing.")
@click.option("--overwrite", is_flag=True, help="Replace a run that was made otherwise.")
@common
def finetune(run: Run, output: Path, against: Path | None, dry_run: bool, overwrite: bool, **options: Any) -> None:
    """Fine-tune a network on labelled images and evaluate it on the test part, once.

    DATA: a folder with split.csv (file,label,split) or labels.csv (file,label), a folder per class, or a MedMNIST .npz.
    A column patient keeps the images of a patient together. The epoch and, of several checkpoints, the best are chosen
    on validation. Runs that are finished are not done again: an interrupted command goes on where it stopped.

    \b
    Example: lim-gpu finetune head-ct --checkpoint RUN/last.ckpt --folds 5 -o head-ct-run
    """
    from lim_gpu.finetune.run import finetune_from_options

    outcome = finetune_from_options(
        options | {"seed": run.seed}, output, run.device, run.reporter, against, overwrite, dry_run
    )
    run.done(outcome.values, *outcome.lines)


@cli.command(short_help="The backbone of a checkpoint for torchvision, timm and MONAI.")
@click.argument("checkpoint", type=PATH)
@click.option(
    "-o",
    "--output",
    type=PATH,
    default="weights.safetensors",
    show_default=True,
    help="With NAME.safetensors.json beside it: backbone, origin, how to preprocess.",
)
@click.option("--trust", is_flag=True, help="Unpickle a checkpoint that is more than tensors: runs what it holds.")
@click.option("--dry-run", is_flag=True, help="Say what would be written.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@common
def export(run: Run, checkpoint: Path, output: Path, trust: bool, dry_run: bool, overwrite: bool) -> None:
    """Write the backbone of a checkpoint as safetensors under torchvision's names.

    CHECKPOINT may be ours, the authors' SwAV, MoCo, BYOL or SparK, facebookresearch's or lightly's.

    \b
    Example: lim-gpu export RUN/last.ckpt -o weights.safetensors
    """
    from lim_gpu.checkpoint import export as export_checkpoint

    exported = export_checkpoint(checkpoint, output, trust=trust, overwrite=overwrite, dry_run=dry_run)
    run.done(exported.values, *exported.lines)


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
@click.option("--dry-run", is_flag=True, help="Name the outputs; read nothing.")
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

    Every-n and random with the budget of each selection always stand beside.

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


@cli.command(short_help="CKA, t-SNE and Grad-CAM of two checkpoints.")
@click.argument("kind", type=click.Choice(["cka", "tsne", "gradcam"]))
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--data", type=PATH, required=True, metavar="DATA", help="Labelled images, as for finetune.")
@click.option("-o", "--output", type=PATH, metavar="FILE", help="A picture, .json beside it; default: KIND.png.")
@click.option(
    "--part", type=click.Choice(["train", "val", "test", "all"]), default="test", show_default=True, help="Of the data."
)
@click.option(
    "--images", type=click.IntRange(min=4), default=512, show_default=True, help="At most so many, spread evenly."
)
@click.option("--size", type=click.IntRange(min=32), default=224, show_default=True, help="Pixels a side.")
@click.option("--batch-size", type=click.IntRange(min=4), default=64, show_default=True)
@click.option(
    "--layers",
    type=click.Choice(["blocks", "convolutions"]),
    default="blocks",
    show_default=True,
    help="cka: which layers.",
)
@click.option(
    "--threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="gradcam: where a heat map counts."
)
@click.option(
    "--shown", type=click.IntRange(min=1), default=6, show_default=True, help="gradcam: images in the picture."
)
@click.option("--trust", is_flag=True, help="Unpickle what is not tensors; runs what the file says.")
@click.option("--dry-run", is_flag=True, help="Name what would be written.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@common
def analyse(
    run: Run, kind: str, first: Path, second: Path, data: Path, output: Path | None, dry_run: bool, **options: Any
) -> None:
    """Compare two checkpoints as the paper does, such as before and after fine-tuning, or ALL and reduced.

    cka: how alike the layers are (Figures 8, 9); tsne: maps of the outputs (10, 11); gradcam: where they look (12).

    \b
    Examples: lim-gpu analyse cka all/last.ckpt reduced/last.ckpt --data covid-ct
              lim-gpu analyse gradcam before.ckpt after.ckpt --data covid-ct -o cam.png
    """
    from lim_gpu.analyse import analyse as compare_networks

    target = output or Path(f"{kind}.png")
    if dry_run:
        run.done(
            {"dry_run": True, "output": str(target)}, f"plan: {kind} of {first} and {second} on {data} -> {target}"
        )
    result = compare_networks(
        kind, first, second, data, target, seed=run.seed, device=run.device, reporter=run.reporter, **options
    )
    run.done(result.values, *result.lines)


@cli.command(short_help="The paper's evaluations 0 and A to E.")
@click.argument("evaluations", nargs=-1, required=True, metavar="0|A|B|C|D|E...")
@click.option("--config", type=PATH, metavar="grid.toml", help="Stores, tasks and options; the help above shows one.")
@click.option(
    "--preset",
    type=click.Choice(["smoke"]),
    help="smoke: procedural data, five to ten minutes on a CPU.",
)
@click.option(
    "-o",
    "--output",
    type=PATH,
    default="evaluation",
    show_default=True,
    help="One folder a job; tables and pictures beside.",
)
@click.option("--plan", is_flag=True, help="List jobs, hours estimated from a measured step, and disk; run nothing.")
@partial(common, config=False)
def evaluate(
    run: Run, evaluations: tuple[str, ...], config: Path | None, preset: str | None, output: Path, plan: bool
) -> None:
    """Run the paper's evaluations on your data: reduce, pretrain and finetune, one folder a job, resumable.

    The tables hold our mean ± sd beside the paper's numbers, with what differs printed under them. Random controls of
    the same budget stand in B, C and D; budgets = ["epochs", "steps"] trains reduced sets for equal steps too.

    \b
    grid.toml:
      [stores]
      LIDC = "lidc_slices"
      [tasks]
      COVID-19 = "covid-ct"
      Brain = { data = "head-ct", folds = 5 }
      [pretrain]
      epochs = 800
      batch_size = 128
      [finetune]
      runs = 5
      epochs = 70

    \b
    Examples: lim-gpu evaluate 0 A B C D E --preset smoke
              lim-gpu evaluate A C --config grid.toml --plan
    """
    from lim_gpu.evaluate import evaluate as run_evaluations

    result = run_evaluations(
        evaluations,
        output,
        config=config,
        smoke=preset == "smoke",
        plan=plan,
        device=run.device,
        seed=run.seed,
        reporter=run.reporter,
    )
    run.done(result.values, *result.lines, code=EXIT_SKIPPED if result.failures else 0)


def main() -> None:
    """Entry point of `lim-gpu`."""
    execute(cli)


if __name__ == "__main__":
    main()
