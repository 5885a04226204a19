"""How a network is fine-tuned: phases, learning rates and batch norm, as numbers that can be tested."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError

PRECISIONS = ("auto", "32", "bf16-mixed")


@dataclass(frozen=True)
class Protocol:
    """Two phases: the head alone for `head_epochs`, then all. `epochs` counts both.

    lr is of Adam; `later_lr`, where given, counts from the second epoch of the second phase on. weight_decay is added
    to the gradient (L2). norm: in the head phase batch norm is "frozen" (running statistics used, nothing changes), or
    "adapts" (its weights train and its statistics move). resize: "bilinear" (antialiased) or "area".
    normalise: "weights" (as the initial weights were trained, else by the training images) or "notebooks"
    (their constants: 0.5 for MedMNIST, those of COVID-CT for every other data set).
    precision: "auto" is bf16-mixed on a GPU that has it, else 32; weights and loss are float32 in either.
    """

    name: str
    epochs: int = 70
    head_epochs: int = 10
    lr: float = 1e-4
    later_lr: float | None = None
    weight_decay: float = 5e-4
    batch_size: int = 64
    size: int = 224
    norm: str = "frozen"
    resize: str = "bilinear"
    normalise: str = "weights"
    flip: bool = True
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("head_epochs", 0), ("batch_size", 2), ("size", 32)):
            value = getattr(self, name)
            if value < low:
                raise UsageError(f"--{name.replace('_', '-')} {value} is too small. Give {low} or more")
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision {self.precision} is unknown. Give one of {', '.join(PRECISIONS)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"--lr {self.lr:g} is no learning rate. Give a positive number, such as 1e-4")

    def learning_rate(self, epoch: int) -> float:
        """Of every parameter that trains in this 0-based epoch."""
        return self.later_lr if self.later_lr is not None and epoch > self.head_epochs else self.lr

    def head_only(self, epoch: int) -> bool:
        """Whether this 0-based epoch belongs to the first phase."""
        return epoch < self.head_epochs

    @property
    def frozen(self) -> bool:
        """Whether the backbone gives the same features of an image in all epochs: a linear probe."""
        return self.head_epochs >= self.epochs and self.norm == "frozen" and not self.flip

    def describe(self) -> dict[str, Any]:
        """For records and fingerprints."""
        return asdict(self)


# Wolf et al. 2024, section 2.3 of the text; and what their notebooks do: one Adam over all parameters combined with
# Lightning's BackboneFinetuning leaves batch norm training in the first phase, keeps 1e-4 for one epoch more and then
# lowers the only parameter group to 2e-5. Resizing by area and the constants of COVID-CT are theirs too.
PROTOCOLS = {
    "wolf2024-paper": Protocol("wolf2024-paper"),
    "wolf2024-code": Protocol("wolf2024-code", later_lr=2e-5, norm="adapts", resize="area", normalise="notebooks"),
}


def mirrors(data: Path) -> bool:
    """Whether training images are mirrored where nothing else is asked for.

    MedMNIST's are not: organs have a left and a right, and the authors' notebook does not mirror them.
    """
    return data.suffix != ".npz"


def protocol(name: str, **changes: Any) -> Protocol:
    """The protocol called `name` with what is not None in `changes` changed; a later rate keeps its ratio to lr.

    Raises UsageError for an unknown name."""
    if name not in PROTOCOLS:
        raise UsageError(f"protocol {name!r} is unknown. Give one of {', '.join(PROTOCOLS)}")
    base, given = PROTOCOLS[name], {key: value for key, value in changes.items() if value is not None}
    if base.later_lr is not None and "lr" in given:
        given["later_lr"] = base.later_lr * given["lr"] / base.lr
    return replace(base, **given)
