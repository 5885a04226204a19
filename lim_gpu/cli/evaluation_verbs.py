"""Verbs of the papers' evaluations and analyses.

A verb checks nothing and computes nothing itself; it calls and prints.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from lim_gpu.cli.command import Run, common
from lim_gpu.cli.options import PATH, cluster_options


@click.command(short_help="CKA, t-SNE and Grad-CAM of two checkpoints.")
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
def analyse(run: Run, kind: str, first: Path, second: Path, data: Path, output: Path | None, **options: Any) -> None:
    """Compare two checkpoints as the paper does, such as before and after fine-tuning, or ALL and reduced.

    cka: how alike the layers are (Figures 8, 9); tsne: maps of the outputs (10, 11); gradcam: where they look (12).

    \b
    Examples: lim-gpu analyse cka all/last.ckpt reduced/last.ckpt --data covid-ct
              lim-gpu analyse gradcam before.ckpt after.ckpt --data covid-ct -o cam.png
    """
    from lim_gpu.analyse import analyse as compare_networks

    outcome = compare_networks(
        kind, first, second, data, output, seed=run.seed, device=run.device, reporter=run.reporter, **options
    )
    run.done(outcome)


@click.command(short_help="The paper's evaluations 0 and A to E.")
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
@click.option(
    "--plan",
    "--dry-run",
    "plan",
    is_flag=True,
    help="List jobs, hours estimated from a measured step, and disk; run and write nothing.",
)
@cluster_options
@partial(common, config=False)
def evaluate(
    run: Run,
    evaluations: tuple[str, ...],
    config: Path | None,
    preset: str | None,
    output: Path,
    plan: bool,
    ray: str | None,
    cpus_per_task: int | None,
) -> None:
    """Run the paper's evaluations on your data: reduce, pretrain and finetune, one folder a job, resumable.

    The tables hold our mean ± sd beside the paper's numbers, with what differs printed under them. Random controls of
    the same budget stand in B, C and D; budgets = ["epochs", "steps"] trains reduced sets for equal steps too.

    \b
    grid.toml:
      budgets = ["epochs", "steps"]
      seeds = 3
      [stores]
      LIDC = "lidc_slices"
      [tasks]
      COVID-19 = "covid-ct"
      Brain = { data = "head-ct", folds = 5 }
      [pretrain]
      epochs = 800
      spark = { epochs = 1600 }
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
        ray=ray,
        cpus_per_task=cpus_per_task,
        reporter=run.reporter,
    )
    run.done(result)
