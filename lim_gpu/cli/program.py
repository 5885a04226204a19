"""The program `lim-gpu`: a verb a stage, in the order of the pipeline."""

from __future__ import annotations

import click

import lim_gpu
from lim_gpu.cli.command import execute
from lim_gpu.cli.data_verbs import info, ingest, leaks
from lim_gpu.cli.evaluation_verbs import analyse, evaluate
from lim_gpu.cli.inference_verbs import embed, predict
from lim_gpu.cli.kept_verbs import apply, select
from lim_gpu.cli.label_verbs import labels
from lim_gpu.cli.selection_verbs import compare, reduce, report, similarity
from lim_gpu.cli.start_verbs import demo, doctor
from lim_gpu.cli.training_verbs import export, finetune, pretrain


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


for verb in (
    *(demo, doctor, ingest, info, reduce, similarity, select, apply),
    *(pretrain, labels, finetune, predict, embed, export, leaks, report, compare, analyse, evaluate),
):
    cli.add_command(verb)


def main() -> None:
    """Entry point of `lim-gpu`."""
    execute(cli)
