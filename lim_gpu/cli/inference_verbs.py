"""Verbs of trained networks: their features, and their predictions.

A verb checks nothing and computes nothing itself; it calls and prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lim_gpu.cli.command import Run, common, verb
from lim_gpu.cli.options import PATH, stated_intensity

OPTIONS = (
    click.option("--trust", is_flag=True, help="Unpickle a checkpoint that is more than tensors: runs what it holds."),
    click.option("--dry-run", is_flag=True, help="Name what would be written."),
    click.option("--overwrite", is_flag=True, help="Replace an existing output."),
    click.option("--hu-range", metavar="LO:HI", help="Map this range of HU to 0..255 instead."),
    click.option(
        "--window",
        metavar="NAME|LEVEL,WIDTH",
        help="lung, abdomen, bone, brain, chest, angio, or a level and a width in HU; default: as the network was "
        "trained, and each slice's own range where it was on pictures.",
    ),
)


def _options(function: Any) -> Any:
    for option in OPTIONS:
        option(function)
    return function


@verb(short_help="Features of a store or of images by a checkpoint.")
@click.argument("data", type=PATH, metavar="STORE|FOLDER")
@click.option("--checkpoint", type=PATH, required=True, metavar="C", help="Ours, or another maker's as for finetune.")
@click.option(
    "-o",
    "--output",
    type=PATH,
    default="features.npy",
    show_default=True,
    help="NAME.npy with the rows' names in NAME.csv, or NAME.parquet (extra parquet); NAME.json beside.",
)
@_options
@common
def embed(run: Run, data: Path, checkpoint: Path, output: Path, **options: Any) -> None:
    """Write the features that a pre-trained network gives for each slice of a store, or each image below a folder.

    Rows of a store are named by volume and slice, as in a selection; pictures, DICOM and NIfTI by their files.

    \b
    Examples: lim-gpu embed slices --checkpoint RUN/last.ckpt -o features.npy
              lim-gpu embed pictures --checkpoint RUN/last.ckpt -o features.parquet
    """
    from lim_gpu.inference.embed import embed as embed_images

    how = stated_intensity(options)
    run.done(embed_images(data, checkpoint, output, device=run.device, reporter=run.reporter, intensity=how, **options))


@verb(short_help="Classes of new images by a fine-tuned network.")
@click.argument("data", type=PATH, metavar="DATA")
@click.option("--checkpoint", type=PATH, required=True, metavar="FT", help="Of finetune: RUN/runs/*/*/best.ckpt.")
@click.option(
    "-o", "--output", type=PATH, default="predictions.csv", show_default=True, help="A row an image; .json beside it."
)
@_options
@common
def predict(run: Run, data: Path, checkpoint: Path, output: Path, **options: Any) -> None:
    """Predict the class of each slice or picture with a network of lim-gpu finetune.

    DATA: a store, a picture or a folder of them, DICOM or NIfTI files. Images are seen as in the training. The
    probabilities are calibrated by a temperature that fine-tuning fitted on its validation images; they hold for images
    like those. Not a medical device.

    \b
    Example: lim-gpu predict new-patients --checkpoint RUN/runs/0/candidate-0/best.ckpt -o predictions.csv
    """
    from lim_gpu.inference.predict import predict as predict_images

    how = stated_intensity(options)
    outcome = predict_images(
        data, checkpoint, output, device=run.device, reporter=run.reporter, intensity=how, **options
    )
    run.done(outcome)
