"""Verbs of the papers' evaluations and analyses.

A verb checks nothing and computes nothing itself; it calls and prints.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from lim_gpu.cli.command import Run, common, verb
from lim_gpu.cli.options import PATH, SHARD, cluster_options, comparison_options, pretext_options


@verb(short_help="CKA, t-SNE, Grad-CAM and probes of two checkpoints; scores of a pretext task.")
@click.argument("kind", type=click.Choice(["cka", "tsne", "gradcam", "probe", "pretext"]))
@click.argument("first", type=PATH, metavar="CHECKPOINT")
@click.argument("second", type=PATH, metavar="SECOND|STORE")
@click.option("--data", type=PATH, metavar="DATA", help="Labelled images, as for finetune; pretext takes a STORE.")
@click.option(
    "--selection", type=PATH, metavar="FILE", help="pretext: NAME.csv of lim-gpu reduce; default: all slices."
)
@click.option("-o", "--output", type=PATH, metavar="FILE", help="A picture, .json beside it; default: KIND.png.")
@click.option(
    "--part", type=click.Choice(["train", "val", "test", "all"]), default="test", show_default=True, help="Of the data."
)
@click.option(
    "--images", type=click.IntRange(min=4), default=512, show_default=True, help="At most so many, spread evenly."
)
@click.option("--size", type=click.IntRange(min=16), help="Pixels a side; default: 224, pretext: as it was trained.")
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
    "--shown", type=click.IntRange(min=1), default=6, show_default=True, help="gradcam, pretext: images in the picture."
)
@click.option("--trust", is_flag=True, help="Unpickle what is not tensors; runs what the file says.")
@click.option("--dry-run", is_flag=True, help="Name what would be written.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@common
def analyse(run: Run, kind: str, first: Path, second: Path, output: Path | None, **options: Any) -> None:
    """Compare two checkpoints as the paper does, such as before and after fine-tuning, or ALL and reduced.

    cka: how alike the layers are (Figures 8, 9); tsne: maps of the outputs (10, 11); gradcam: where they look (12).
    probe: nearest neighbours and a linear layer on frozen features, learnt on train; --part all: in five folds.

    pretext: how well a checkpoint of pretrain --method masked, next-slice, denoise, rotation or flip does its task on
    the slices of a store, beside what answers it without a network.

    \b
    Examples: lim-gpu analyse cka all/last.ckpt reduced/last.ckpt --data covid-ct
              lim-gpu analyse gradcam before.ckpt after.ckpt --data covid-ct -o cam.png
              lim-gpu analyse pretext denoise/last.ckpt held-out-slices --size 256
    """
    where: dict[str, Any] = {"seed": run.seed, "device": run.device, "reporter": run.reporter}
    if kind == "pretext":
        from lim_gpu.analyse.pretext import pretext

        run.done(pretext(first, second, output, **pretext_options(options), **where))
        return
    from lim_gpu.analyse import analyse as compare_networks

    data, options = comparison_options(options)
    run.done(compare_networks(kind, first, second, data, output, **options, **where))


@verb(short_help="The papers' evaluations 0, A to F and T2 to T6; is less more?")
@click.argument("evaluations", nargs=-1, required=True, metavar="0|A|B|C|D|E|F|claim|T2|T3|T4|T5|T6...")
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
@click.option("--seeds", type=int, metavar="N", help="Pre-trainings of every kind; default: the configuration's, or 1.")
@click.option(
    "--minutes", type=click.FloatRange(min=0), metavar="M", help="Begin no seed that would end later; resumable."
)
@click.option("--plan", is_flag=True, help="As --dry-run, with hours and disk from training steps measured here.")
@SHARD
@cluster_options
@click.option("--dry-run", is_flag=True, help="List jobs, slices and steps; run and write nothing.")
@click.option("--overwrite", is_flag=True, help="Do jobs again that stand and were made otherwise.")
@partial(common, config=False)
def evaluate(
    run: Run,
    evaluations: tuple[str, ...],
    config: Path | None,
    preset: str | None,
    output: Path,
    **options: Any,
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

    claim: is less more? Slices of HASH against all and against as many of chance, at equal steps and epochs, paired by
    seeds of the pre-training (seeds = 6, method = "moco"), with a verdict. --plan says what so many seeds can show.
    F: strength of the augmentation against reduction, at equal steps: strengths = [0.5, 1, 1.5], keeps = [0.1, 0.3].

    T2 to T6: the pretext tasks of Tariq et al., scored on other patients (T2), and what they are good for: fine-tuned
    on fractions of labels (T3, T4), as a U-Net (T5), attributes of patients read from them (T6). In a file of their
    own:

    \b
    study.toml:
      seeds = 3
      [stores]
      train = "slices"
      held-out = "slices_of_others"       # T2
      [checkpoints]
      SparK = "spark_run/last.ckpt"       # compared, too; without train alone
      [pretrain]
      preset = "tariq2024-paper"
      [finetune]
      runs = 5                            # whatever lim-gpu finetune takes
      [classification]                    # T3, T4
      data = "rsna_slices"
      labels = "train.csv"
      target = "pe_present_on_image"
      fractions = [0.01, 0.1, 1.0]
      [segmentation]                      # T5
      data = "slices"
      labels = "nodules/labels.csv"
      fractions = [0.1, 0.5, 1.0]
      [attributes]                        # T6
      data = "slices"
      labels = "people/labels.csv"
      targets = ["sex", "age"]

    \b
    Examples: lim-gpu evaluate 0 A B C D E --preset smoke
              lim-gpu evaluate A C --config grid.toml --plan
              lim-gpu evaluate claim --config grid.toml --seeds 6 --minutes 600
              lim-gpu evaluate T2 T3 T4 T5 T6 --preset smoke
              lim-gpu evaluate T2 T5 --config study.toml --plan
    """
    from lim_gpu.evaluate import evaluate as run_evaluations

    result = run_evaluations(
        evaluations,
        output,
        config=config,
        smoke=preset == "smoke",
        device=run.device,
        seed=run.seed,
        reporter=run.reporter,
        **options,
    )
    run.done(result)
