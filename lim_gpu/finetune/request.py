"""What is asked of a fine-tuning, checked. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError, unknown
from lim_gpu.finetune.protocol import Protocol
from lim_gpu.intensity import Intensity
from lim_gpu.labelled.table import Table
from lim_gpu.weights.names import BACKBONES, is_timm

INITS = ("random", "imagenet", "calibrated")  # the last: random, its batch norm having seen the training images
TASKS = ("classification", "segmentation")
SCORES = ("accuracy", "auc")  # by which validation chooses an epoch and a candidate
CONTEXTS = (0, 1)  # slices on either side


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
    ignore_split: bool = False  # draw runs or folds over all images
    groups: Path | None = None  # a list of images that are alike, kept together where a split is drawn
    labels: Path | None = None  # a table over `data`, which then is a store
    target: str | None = None
    fraction: float = 1.0  # of the training patients
    choose: str = SCORES[0]
    context: int = 0
    intensity: Intensity = field(default_factory=Intensity)
    task: str = TASKS[0]

    def __post_init__(self) -> None:
        if self.checkpoints and self.init is not None:
            raise UsageError(f"--init {self.init} and --checkpoint exclude each other. Give one of them")
        if self.backbone not in (None, *BACKBONES) and not is_timm(str(self.backbone)):
            raise unknown("`backbone`", str(self.backbone), BACKBONES)
        if self.init not in (None, *INITS):
            raise UsageError(f"--init {self.init} is unknown. Give {', '.join(INITS)}, or --checkpoint FILE")
        for name, value, low in (("runs", self.runs, 1), ("folds", self.folds, 2), ("seed", self.seed, 0)):
            if value is not None and value < low:
                raise UsageError(f"--{name} {value} is too small. Give {low} or more")
        self._check_task()
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise UsageError("a --checkpoint is given twice. Give each once")

    def _check_task(self) -> None:
        for name, value, known in (("task", self.task, TASKS), ("choose", self.choose, SCORES)):
            if value not in known:
                raise unknown(f"`{name}`", value, known)
        if self.ignore_split and self.split is not None:
            raise UsageError("`split` and `ignore_split` exclude each other. Give one of them")
        if not 0 < self.fraction <= 1:
            raise UsageError(f"`fraction` {self.fraction:g} is none. Give 0 < F <= 1, such as 0.1")
        if self.context not in CONTEXTS:
            raise UsageError(f"`context` {self.context} is not possible. Give 0, or 1 for z - 1, z and z + 1")
        if self.labels is None and (self.target or self.context or self.intensity != Intensity()):
            raise UsageError("`target`, `context` and an intensity are of a store. Give its table as `labels`")
        if self.labels is not None and self.split is not None:
            raise UsageError("`split` is a list of pictures. Give the parts in a column split of `labels`")
        if self.segments and (self.target or self.positive or self.choose != SCORES[0]):
            raise UsageError("`target`, `positive` and `choose` are of classification. Leave them out")

    @property
    def segments(self) -> bool:
        """Whether masks are learnt, not classes."""
        return self.task == TASKS[1]

    def starts(self) -> list[str]:
        """The initial weights by name, the candidates among which validation chooses."""
        return [str(path) for path in self.checkpoints] or [self.init or INITS[0]]

    def parameters(self, digests: Sequence[str]) -> dict[str, Any]:
        """All that changes the result; nothing that does not (device, paths). digests: SHA-256 of the checkpoints."""
        values = {"fraction": self.fraction, "choose": self.choose, "context": self.context, "task": self.task}
        values["intensity"] = self.intensity.describe()
        usual = {"fraction": 1.0, "choose": SCORES[0], "context": 0, "task": TASKS[0]}
        usual["intensity"] = Intensity().describe()
        return {name: value for name, value in values.items() if value != usual[name]} | {
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
            raise UsageError(f"--positive {self.positive}: only two classes have one, here are {count}. Leave it out")
        return table.classes.index(self.positive)
