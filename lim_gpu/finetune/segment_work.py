"""The work of a segmentation: as that of a classification, with masks in place of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lim_gpu.errors import LimGpuError
from lim_gpu.finetune import segmenting
from lim_gpu.finetune.folder import predictions_path
from lim_gpu.finetune.masks import load_masks
from lim_gpu.finetune.overlap import OVERLAPS, Overlaps, overlap, overlaps
from lim_gpu.finetune.results import Run
from lim_gpu.finetune.segment_results import save_overlays, shown_places, write_overlaps
from lim_gpu.finetune.splits import Split
from lim_gpu.finetune.starts import Start
from lim_gpu.finetune.training import Trained
from lim_gpu.finetune.unet import UNet
from lim_gpu.finetune.work import Worker
from lim_gpu.labelled.images import Normalisation
from lim_gpu.weights.file import CheckpointFile


@dataclass(frozen=True, eq=False)
class Segmenter(Worker):
    """Trains and tests on `images` and their masks."""

    @cached_property
    def masks(self) -> Tensor:
        """(n, 1, size, size) uint8 on the device of the images."""
        return load_masks(self.table, self.request.protocol.size, self.reporter).to(self.images.pixels.device)

    def _trained(self, split: Split, start: Start, normalisation: Normalisation) -> Trained:
        protocol, place = self.request.protocol, self.images.pixels.device
        network = start.unet(split.seed).to(place)
        with self.reporter.track(f"run {split.run}, {start.name}", protocol.epochs, "epochs") as advance:
            try:
                return segmenting.train(
                    network, self.images, self.masks, split, self.groups, protocol, normalisation, advance
                )
            except torch.OutOfMemoryError:
                step = f"a step of {protocol.batch_size} images does not fit in its memory"
                raise LimGpuError(f"{place}: {step}. Give a smaller --batch-size or --size") from None

    def test(self, split: Split, candidate: int) -> Overlaps:  # type: ignore[override]
        """Dice and IoU on the test part, made once by the chosen candidate's best epoch."""
        path = predictions_path(self.folder.path, split.run)
        standing = self.folder.part(path)
        if standing is None or standing["candidate"] != candidate:
            predicted = self._predicted(split, candidate, split.test)
            true = self.masks[torch.as_tensor(split.test, device=self.masks.device)].cpu()
            scores = dict(zip(OVERLAPS, overlap(predicted.numpy(), true.numpy()), strict=True))
            alarms = (predicted.flatten(1).any(1) & ~true.bool().flatten(1).any(1)).tolist()
            values: dict[str, Any] = {"candidate": candidate, "places": split.test.tolist()}
            values |= {"groups": self.groups[split.test].tolist(), "false_alarms": alarms}
            values |= {name: [None if np.isnan(v) else v for v in part.tolist()] for name, part in scores.items()}
            standing = self.folder.write_part(path, values, readable=False)
        return overlaps(standing)

    def _predicted(self, split: Split, candidate: int, places: np.ndarray) -> Tensor:
        """Masks (len(places), 1, size, size) of 0 and 1 of a training's best epoch."""
        start = self.starts[candidate]
        network = UNet(start.backbone, start.channels)
        with CheckpointFile(self.folder.checkpoint(split.run, candidate)) as file:
            network.load_state_dict(file.read()["state_dict"])
        network.to(self.images.pixels.device)
        normalisation = self._normalisation(candidate, split)
        return segmenting.predict(network, self.images, places, self.request.protocol, normalisation) > 0

    def write(self, runs: Sequence[Run]) -> None:
        """Write overlaps.csv, overlays.png of the first run, results.md and results.json."""
        first = runs[0]
        shown = shown_places(first.predictions)
        places = first.predictions.places[shown]
        predicted = self._predicted(first.split, first.chosen, places)[:, 0].numpy()
        true = self.masks[torch.as_tensor(places, device=self.masks.device), 0].cpu().numpy()
        middle = self.images.pixels.shape[1] // 2
        grey = self.images.pixels[torch.as_tensor(places, device=self.images.pixels.device), middle].cpu().numpy()
        titles = [
            f"{self.table.files[p]}\nDice {d:.3f}" for p, d in zip(places, first.predictions.dice[shown], strict=True)
        ]
        save_overlays(self.folder.path / "overlays.png", grey, true, predicted, titles)
        write_overlaps(self.folder, self.request, self.table, [start.name for start in self.starts], runs)
