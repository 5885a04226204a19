"""Verbs of training: pre-training, fine-tuning, and weights for others.

A verb checks nothing and computes nothing itself; it calls and prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lim_gpu.cli.command import Run, common, verb
from lim_gpu.cli.options import PATH, OneOf, finetuning_request, intensity_options, pretraining_options


@verb(short_help="Pre-train a backbone on the slices of a store.")
@click.argument("store", type=PATH, default="slices", metavar="[STORE]")
@click.option("--selection", type=PATH, metavar="FILE", help="NAME.csv of lim-gpu reduce; default: every slice.")
@click.option(
    "--method",
    type=OneOf("lim_gpu.pretrain.presets", "METHODS"),
    required=True,
    metavar="METHOD",
    help="swav, moco or spark; rotation or flip: which way was a slice turned? masked, next-slice or denoise: "
    "an autoencoder restores it.",
)
@click.option(
    "--preset",
    type=OneOf("lim_gpu.pretrain.presets", "PRESETS"),
    default="recommended",
    show_default=True,
    metavar="NAME",
    help="recommended, wolf2024-paper or -code, tariq2024-paper or -code: see above.",
)
@click.option("--epochs", type=int, metavar="N", help="Default: the preset's, 800 (spark of wolf2024: 1600; vqae: 20).")
@click.option("--batch-size", type=int, metavar="B", help="Slices of a step over all processes; default: the preset's.")
@click.option(
    "--backbone",
    metavar="NAME",
    help="Any torchvision ResNet, vqae, vqae-small, or timm:NAME (swav, moco, rotation, flip); default: the preset's.",
)
@click.option("--channels", type=int, metavar="1|3", help="3: grey replicated (default); 1: one input channel.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any setting, such as lr=0.1 or swav.queue=3840; --dry-run --json lists them. Again for more.",
)
@click.option(
    "--strength",
    type=float,
    metavar="S",
    help="swav, moco: a factor of the augmentation: of jitter, blur, and 1 - the smallest crop; default: 1.",
)
@click.option("--init", metavar="C|imagenet", help="Begin with the backbone of a checkpoint, a finished run's too.")
@intensity_options
@click.option("-o", "--output", type=PATH, default="run", show_default=True, metavar="RUN", help="Folder of the run.")
@click.option(
    "--checkpoint-every",
    type=int,
    default=50,
    show_default=True,
    metavar="N",
    help="Epochs between two epoch=N.ckpt; last.ckpt is replaced with it, and once a minute.",
)
@click.option(
    "--log-every", type=int, default=1, show_default=True, metavar="N", help="Steps between two lines of metrics.jsonl."
)
@click.option(
    "--probe",
    type=PATH,
    metavar="DATA",
    help="Score each epoch (of 100 steps or more) by nearest neighbours on a small labelled set, never test data: "
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
                      the variance; vqae with codes that begin as encoder outputs, and again when they are dead
      wolf2024-paper  as the tables of Wolf et al. 2024 say
      wolf2024-code   as the published code really ran: swav's learning rate swings to the end, its prototypes stay
                      frozen for 313 epochs
      tariq2024-paper the five pretext tasks of Tariq et al. on vqae (101 million parameters, 400 times the work of
                      resnet50): masked squares grow from 5 to 33 % of the area over the epochs
      tariq2024-code  their masks by side, their summed loss; both keep the codebook that collapses

    RUN gets last.ckpt, epoch=N.ckpt, metrics.jsonl (epoch and step from 0), config.json, plan.txt and TensorBoard
    events. Ctrl-C and SIGTERM save first; --resume goes on, to the bit on the CPU. Several GPUs: torchrun.

    \b
    Examples: lim-gpu pretrain slices --selection hash6.csv --method swav --epochs 200 -o run
              lim-gpu pretrain slices --method moco --set moco.temperature=0.1 --set lr=0.03 --dry-run
              lim-gpu pretrain slices --method masked --backbone vqae-small --set reconstruct.shares=.05,.1,.2
              torchrun --nproc-per-node 4 -m lim_gpu.cli pretrain slices --method swav --batch-size 512
    """
    from lim_gpu.pretrain.plan import rank
    from lim_gpu.pretrain.run import pretrain as run_pretraining

    keywords = pretraining_options(options)
    outcome = run_pretraining(
        store, method, output=output, seed=run.seed, device=run.device, reporter=run.reporter, **keywords
    )
    if rank() == 0:
        run.done(outcome)


@verb(short_help="Fine-tune on labelled images, and evaluate.")
@click.argument("data", type=PATH, metavar="DATA")
@click.option(
    "--split",
    type=PATH,
    metavar="FILE",
    help="A list file,label,split in place of DATA's own, such as leaks --write-split gives; paths relative to DATA.",
)
@click.option("--ignore-split", is_flag=True, help="Draw runs or folds over all images, as if DATA had no split.")
@click.option(
    "--groups",
    type=PATH,
    metavar="FILE",
    help="Images that are alike, as leaks --clusters writes them: a drawn split keeps them together.",
)
@click.option(
    "--labels",
    type=PATH,
    metavar="CSV",
    help="DATA is a store, and this the table of its labels, such as lim-gpu labels makes, or RSNA's train.csv.",
)
@click.option("--target", metavar="COLUMN", help="Of the table of labels; default: label.")
@click.option(
    "--task",
    type=OneOf("lim_gpu.finetune.request", "TASKS"),
    default="classification",
    show_default=True,
    metavar="classification|segmentation",
    help="segmentation: the column mask (PNG, 0 or not) is learnt, by a U-Net on the backbone (extra monai).",
)
@click.option(
    "--fraction",
    type=float,
    default=1.0,
    show_default=True,
    metavar="F",
    help="Train on this part of the training patients; a smaller part lies within a larger one.",
)
@click.option(
    "--choose",
    type=OneOf("lim_gpu.finetune.request", "SCORES"),
    default="accuracy",
    show_default=True,
    metavar="accuracy|auc",
    help="By which validation score the epoch, and of several checkpoints one, is chosen.",
)
@click.option(
    "--context", type=int, default=0, show_default=True, metavar="0|1", help="1: slices z - 1, z, z + 1 as channels."
)
@intensity_options
@click.option(
    "--checkpoint",
    "checkpoints",
    type=PATH,
    multiple=True,
    metavar="C",
    help="Initial weights: ours, the authors', SwAV's, MoCo's, SparK's, lightly's. Of several, validation chooses.",
)
@click.option("--init", metavar="random|calibrated|imagenet", help="Weights without a checkpoint; default: random.")
@click.option(
    "--backbone",
    metavar="B",
    help="torchvision's name, or timm:NAME; default: the checkpoint's, else resnet50.",
)
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
@click.option("--precision", metavar="auto|32|bf16-mixed", help="Default: bf16-mixed on GPUs that have it, else 32.")
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

    DATA: a folder with split.csv (file,label,split) or labels.csv (file,label), a folder per class, a MedMNIST .npz, or
    a store with --labels. For --task segmentation lists have mask in place of label. A column patient keeps the images
    of a patient together. The epoch and, of several checkpoints, the best are chosen on validation. Runs that are
    finished are not done again: an interrupted command goes on where it stopped.

    \b
    Examples: lim-gpu finetune head-ct --checkpoint RUN/last.ckpt --folds 5 -o head-ct-run
              lim-gpu finetune covid-ct --split clean.csv --checkpoint RUN/last.ckpt -o covid-run
              lim-gpu finetune covid-ct --ignore-split --folds 5 --groups groups.csv -o covid-folds
              lim-gpu finetune slices --labels train.csv --target pe_present_on_image --choose auc --context 1 -o pe
              lim-gpu finetune slices --labels nodules/labels.csv --task segmentation -o nodule-run
    """
    from lim_gpu.finetune.run import finetune as run_finetuning

    asked, how = finetuning_request(options, run.seed), {"overwrite": overwrite, "dry_run": dry_run}
    run.done(run_finetuning(asked, output, run.device, run.reporter, against=against, **how))


@verb(short_help="The backbone of a checkpoint for torchvision, timm and MONAI.")
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
    from lim_gpu.weights.export import export as export_checkpoint

    exported = export_checkpoint(checkpoint, output, trust=trust, overwrite=overwrite, dry_run=dry_run)
    run.done(exported)
