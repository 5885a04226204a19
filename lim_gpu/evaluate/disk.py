"""What fine-tunings need on the disk: a network a run until its scores are written, and what stays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from lim_gpu.evaluate.grid import Finetune, Grid, analyses


@dataclass(frozen=True)
class Networks:
    """Those of a fine-tuning: one a run, of which so many stay. backbone: None as in `lim_gpu.finetune`."""

    backbone: str | None
    runs: int
    kept: int = 0
    segments: bool = False


def kept(job: Finetune, grid: Grid) -> int:
    """Of how many runs the fine-tuned networks stay: the analyses look at the first, and nothing at others."""
    return int(job.folder in {analysis.second.folder for analysis in analyses(grid)})


def needed(found: Iterable[Networks]) -> tuple[int, int]:
    """Bytes of the networks of the largest fine-tuning, and of all that stay. Loads torch."""
    sizes = [(one, _bytes(one.backbone, one.segments)) for one in found]
    return max((one.runs * size for one, size in sizes), default=0), sum(one.kept * size for one, size in sizes)


@cache
def _bytes(backbone: str | None, segments: bool) -> int:
    from lim_gpu.finetune.starts import DEFAULT_BACKBONE
    from lim_gpu.finetune.training import Classifier
    from lim_gpu.finetune.unet import UNet

    name = backbone or DEFAULT_BACKBONE
    network = UNet(name, 3) if segments else Classifier(name, 3, 2)
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())
