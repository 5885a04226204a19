"""How well a network does the pretext task that it was trained on, beside what answers it without a network.

The numbers of Tariq et al.'s Table II: means over the slices of a volume, then mean and deviation over the volumes.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.analyse import write_result
from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import fingerprint
from lim_gpu.intensity import Intensity
from lim_gpu.outputs import check_file, standing_record
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.pairs import PairedSlices, paired
from lim_gpu.pretrain.presets import RECONSTRUCTIONS, TURNS
from lim_gpu.progress import Outcome, Reporter
from lim_gpu.selection.selected import SelectedSlices, open_selected
from lim_gpu.spread import spread_evenly
from lim_gpu.weights.file import CheckpointFile


def pretext(
    checkpoint: Path,
    store: Path,
    output: Path | None = None,
    *,
    selection: Path | None = None,
    images: int = 512,
    size: int | None = None,
    shown: int = 6,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
    reporter: Reporter,
) -> Outcome:
    """Measure a checkpoint of `lim-gpu pretrain` on slices of a store; write OUTPUT (.png) and OUTPUT's .json.

    images  at most so many slices, spread evenly; size: pixels a side of the whole slices, None: as it was trained;
    shown   slices in the picture

    Intensities are those of the training; a masked share is that of the checkpoint's stage. What stands at `output` and
    was made of the same is left. Raises UsageError for another existing output without `overwrite`, InputError for what
    cannot be read or is no checkpoint of a pretext task.
    """
    output = output or Path("pretext.png")
    if output.suffix != ".png":
        raise UsageError(f"{output}: give a name that ends in .png")
    check_file(output)
    if dry_run:
        line = f"plan: pretext task of {checkpoint} on {store} -> {output}"
        return Outcome({"dry_run": True, "output": str(output)}, [line])
    with CheckpointFile(checkpoint) as file:
        content, digest = file.read(), file.sha256
    config, intensity = _trained(checkpoint, content, size)
    with open_selected(store, selection) as opened:
        slices = _spread(opened, config, images)
        looked_at = [slices.store.fingerprint, slices.places.tolist()]
        asked = fingerprint(["pretext", digest, looked_at, config.to_dict(), shown, seed, version("lim-gpu")])
        beside = output.with_suffix(".json")
        if (standing := standing_record(beside, asked, [output, beside], overwrite)) is not None:
            return Outcome(standing | {"unchanged": True}, [f"unchanged: {output}"])
        about: dict[str, Any] = {"analysis": "pretext", "checkpoint": str(checkpoint), "sha256": digest}
        about |= {
            "store": str(store),
            "slices": len(slices),
            "size": config.view_size,
            "seed": seed,
            "fingerprint": asked,
        }
        from lim_gpu.analyse.pretext_scores import measured

        result = measured(content, config, slices, intensity, shown, seed, device, reporter)
    return write_result(output, about, result)


def _trained(checkpoint: Path, content: dict[str, Any], size: int | None) -> tuple[PretrainConfig, Intensity]:
    """How a checkpoint was trained, for whole slices of `size` pixels and the share of its last stage."""
    record = content.get("lim_gpu")
    method = record.get("config", {}).get("method") if isinstance(record, dict) else None
    if not isinstance(record, dict) or method not in (*RECONSTRUCTIONS, *TURNS):
        raise InputError(
            f"{checkpoint}: is no checkpoint of a pretext task. Give one of lim-gpu pretrain --method "
            f"{', '.join((*RECONSTRUCTIONS, *TURNS))}"
        )
    config = PretrainConfig.from_dict(record["config"])
    share = config.share(max(0, content["epoch"] - 1))
    part = replace(config.reconstruct, size=size or config.reconstruct.size, scale=(1.0, 1.0), shares=(share,))
    turned = replace(config.orientation, size=size or config.orientation.size)
    intensity = Intensity.described(record["preprocess"].get("intensity"))
    return replace(config, reconstruct=part, orientation=turned, compile=False), intensity


def _spread(slices: SelectedSlices, config: PretrainConfig, most: int) -> SelectedSlices:
    """At most `most` of the slices, or of their pairs, spread evenly."""
    if not len(slices):
        raise InputError(f"{slices.source}: holds no slice to look at. Give another store or --selection")
    if config.method == "next-slice":
        pairs = paired(slices, config.reconstruct.max_mm)
        chosen = spread_evenly(len(pairs), most)
        return PairedSlices(pairs.store, pairs.selection, pairs.places[chosen], pairs.following[chosen])
    chosen = np.asarray(spread_evenly(len(slices), most))
    return SelectedSlices(slices.store, slices.selection, slices.places[chosen])
