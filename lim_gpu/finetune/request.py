"""What is asked of a fine-tuning, checked. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError, unknown
from lim_gpu.finetune.protocol import Protocol
from lim_gpu.labelled.table import Table
from lim_gpu.weights.names import RESNETS

INITS = ("random", "imagenet", "calibrated")  # the last: random, its batch norm having seen the training images


@dataclass(frozen=True)
class Request:
    """What is asked of `finetune`, checked. Raises UsageError for what contradicts itself."""

    data: Path
    protocol: Protocol
    checkpoints: tuple[Path, ...] = ()
    init: str | None = None
    backbone: str | None = None
    runs: int | None = None
    folds: int | None = None
    seed: int = 0
    positive: str | None = None
    trust: bool = False
    split: Path | None = None  # a list in place of that of `data`

    def __post_init__(self) -> None:
        if self.checkpoints and self.init is not None:
            raise UsageError(f"--init {self.init} and --checkpoint exclude each other. Give one of them")
        if self.backbone not in (None, *RESNETS):
            raise unknown("`backbone`", str(self.backbone), RESNETS)
        if self.init not in (None, *INITS):
            raise UsageError(f"--init {self.init} is unknown. Give {', '.join(INITS)}, or --checkpoint FILE")
        for name, value, low in (("runs", self.runs, 1), ("folds", self.folds, 2), ("seed", self.seed, 0)):
            if value is not None and value < low:
                raise UsageError(f"--{name} {value} is too small. Give {low} or more")
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise UsageError("a --checkpoint is given twice. Give each once")

    def starts(self) -> list[str]:
        """The initial weights by name, the candidates among which validation chooses."""
        return [str(path) for path in self.checkpoints] or [self.init or INITS[0]]

    def parameters(self, digests: Sequence[str]) -> dict[str, Any]:
        """All that changes the result; nothing that does not (device, paths). digests: SHA-256 of the checkpoints."""
        return {
            "starts": list(digests) or self.starts(),
            "backbone": self.backbone,
            "runs": self.runs,
            "folds": self.folds,
            "seed": self.seed,
            "positive": self.positive,
            "protocol": self.protocol.describe(),
        }

    def positive_in(self, table: Table) -> int:
        """The place of the positive class: the second in natural order, as in the authors' notebooks, or the named one.

        Raises UsageError for a name that is no class of `table`, or one of more than two.
        """
        if self.positive is None:
            return 1
        if self.positive not in table.classes:
            known = ", ".join(table.classes)
            raise UsageError(f"--positive {self.positive}: {table.path} has the classes {known}. Give one of them")
        if len(table.classes) > 2:
            count = len(table.classes)
            raise UsageError(f"--positive {self.positive}: only two classes have a positive one, and here are {count}")
        return table.classes.index(self.positive)
