"""Fine-tunings so small that one takes seconds on a CPU."""

from __future__ import annotations

import json

from lim_gpu.finetune.protocol import protocol
from lim_gpu.finetune.request import Request
from lim_gpu.progress import Reporter

QUIET = Reporter(quiet=True)
QUICK = {"epochs": 2, "head_epochs": 1, "size": 32, "batch_size": 16}


def request(data, checkpoints=(), **options):
    settings = QUICK | {name: options.pop(name) for name in list(options) if name in (*QUICK, "lr", "flip")}
    backbone = None if checkpoints else "resnet18"
    options = {"backbone": backbone, "folds": 2} | options
    return Request(data, protocol("wolf2024-paper", **settings), tuple(checkpoints), **options)


def read(path):
    return json.loads(path.read_text())
