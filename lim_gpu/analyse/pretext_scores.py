"""The scores of a network at its pretext task, image by image, volume by volume, and their picture."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_auroc

from lim_gpu import augment
from lim_gpu.analyse import Result
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.method import step_generator
from lim_gpu.pretrain.orientation import Orientation, flipped, rotated
from lim_gpu.pretrain.presets import TURNS
from lim_gpu.pretrain.reconstruct import Reconstruction, masked_mse
from lim_gpu.pretrain.resident import SliceBatch, StreamedSlices
from lim_gpu.pretrain.training import method_class
from lim_gpu.progress import Reporter
from lim_gpu.selection.selected import SelectedSlices
from lim_gpu.spread import spread_evenly
from lim_gpu.weights.backbone import training_device

BATCH = 8  # slices at a time: whole ones, of 512 x 512
NETWORK = "network"
Scores = dict[str, dict[str, Tensor]]  # of a batch (B,): of a metric, of who answered


class Shown(NamedTuple):
    """What was asked, answered and right (S, S), and a title."""

    asked: Tensor
    answered: Tensor
    right: Tensor
    title: str


def measured(
    content: dict[str, Any],
    config: PretrainConfig,
    slices: SelectedSlices,
    intensity: Intensity,
    shown: int,
    seed: int,
    device: str,
    reporter: Reporter,
) -> Result:
    """A figure, the scores, and the scores as lines, of the network in the `content` of a checkpoint."""
    place = training_device(device)
    module = method_class(config.method)(config, max(config.batch_size, len(slices)))
    module.load_state_dict(content["state_dict"])
    module.eval().to(place)
    streamed = StreamedSlices(slices, place, intensity)
    places = set(spread_evenly(len(slices), shown).tolist())
    found: dict[str, dict[str, list[Tensor]]] = {}
    pictures: list[Shown] = []
    with torch.no_grad(), reporter.track("pretext", len(slices), "slices") as advance:
        for step, batch in enumerate(streamed.batches(torch.arange(len(slices)).split(BATCH))):
            scores, drawn = _asked(module, batch, step_generator(seed, step, 0))
            for metric, by in scores.items():
                for who, values in by.items():
                    found.setdefault(metric, {}).setdefault(who, []).append(values.cpu())
            pictures += [drawn[i] for i, number in enumerate(batch.ids.tolist()) if number in places]
            advance(len(batch.ids))
    joined = {m: {who: torch.cat(parts).double().numpy() for who, parts in by.items()} for m, by in found.items()}
    told = {"method": config.method, "volumes": len(slices.volumes), "scores": _summaries(joined, streamed.volumes)}
    if config.method == "masked":
        told |= {"share": config.reconstruct.shares[0], "mask_by": config.reconstruct.mask_by}
    return _picture(pictures), told, _lines(told)


def _asked(module: torch.nn.Module, batch: SliceBatch, generator: torch.Generator) -> tuple[Scores, list[Shown]]:
    if isinstance(module, Orientation):
        return _turned(module, batch)
    assert isinstance(module, Reconstruction)
    return _restored(module, batch, generator)


def _restored(module: Reconstruction, batch: SliceBatch, generator: torch.Generator) -> tuple[Scores, list[Shown]]:
    from pytorch_msssim import ssim

    images, target, squares, picks = module.views(batch, generator)
    target = target[:, :1]
    asked = images[:, :1] * module.config.std[0] + module.config.mean[0]
    output = module.restore(images, picks)[0].mean(1, keepdim=True)
    answers = {NETWORK: output, module.trivial: module.without_network(asked)}
    scores: Scores = {"mse": {who: (answer - target).square().mean((1, 2, 3)) for who, answer in answers.items()}}
    clipped = {who: answer.clamp(0, 1) for who, answer in answers.items()}  # a tanh reaches to -1, and no image does
    scores["clipped_mse"] = {who: (answer - target).square().mean((1, 2, 3)) for who, answer in clipped.items()}
    if module.config.method == "masked":
        scores["masked_mse"] = {who: masked_mse(answer, target, squares) for who, answer in answers.items()}
    scores["ssim"] = {who: ssim(a, target, data_range=1, size_average=False) for who, a in answers.items()}
    errors = scores["mse"][NETWORK].tolist()
    rows = zip(asked[:, 0].cpu(), output[:, 0].cpu(), target[:, 0].cpu(), errors, strict=True)
    return scores, [Shown(a, o, t, f"MSE {error:.4f}") for a, o, t, error in rows]


def _turned(module: Orientation, batch: SliceBatch) -> tuple[Scores, list[Shown]]:
    """Every slice in all of its turns."""
    config, turns = module.config, TURNS[module.config.method]
    whole = augment.resize(batch.pixels, batch.sizes, config.orientation.size, square=True)
    turn = rotated if config.method == "rotation" else flipped
    every = [torch.full((len(whole),), way, device=whole.device) for way in range(turns)]
    seen = [turn(whole, way) for way in every]
    logits = torch.stack([module.head(module.encoder(module.normalized(images)).float()) for images in seen], 1)
    right = torch.stack(every, 1)  # (B, turns)
    flat, labels = logits.flatten(0, 1), right.flatten()
    each = {
        "cross_entropy": functional.cross_entropy(flat, labels, reduction="none"),
        "softmax_twice": functional.cross_entropy(flat.softmax(1), labels, reduction="none"),
        "accuracy": (flat.argmax(1) == labels).float(),
    }
    guessing = {"cross_entropy": math.log(turns), "softmax_twice": math.log(turns), "accuracy": 1 / turns, "auroc": 0.5}
    scores: Scores = {name: {NETWORK: values.view_as(right).mean(1)} for name, values in each.items()}
    scores["auroc"] = {NETWORK: logits.softmax(2)}
    for name, chance in guessing.items():
        scores[name]["guessing"] = torch.full((len(whole),), chance)
    told = logits.argmax(2).tolist()
    drawn = [
        Shown(seen[i % turns][i, 0].cpu(), whole[i, 0].cpu(), whole[i, 0].cpu(), f"turn {i % turns}: {row[i % turns]}")
        for i, row in enumerate(told)
    ]
    return scores, drawn


def _summaries(joined: dict[str, dict[str, NDArray[np.float64]]], volumes: Tensor) -> dict[str, Any]:
    """Mean and standard deviation (ddof 1, None for one volume) over the volumes."""
    summaries: dict[str, Any] = {}
    for metric, by in joined.items():
        for who, values in by.items():
            each = [_of_volume(values[volumes == number]) for number in volumes.unique()]
            sd = float(np.std(each, ddof=1)) if len(each) > 1 else None
            summaries.setdefault(metric, {})[who] = {"mean": float(np.mean(each)), "sd": sd}
    return summaries


def _of_volume(values: NDArray[np.float64]) -> float:
    """The mean of its slices; of probabilities (slices, turns, turns) the AUROC, one turn against the rest, mean."""
    if values.ndim == 1:
        return float(values.mean())
    probabilities = torch.from_numpy(values)
    labels = torch.arange(probabilities.shape[1]).repeat(len(probabilities))
    return float(multiclass_auroc(probabilities.flatten(0, 1), labels, probabilities.shape[2], average="macro"))


def _lines(values: dict[str, Any]) -> list[str]:
    of = f" {values['share']:g} of the {values['mask_by']}" if "share" in values else ""
    lines = [f"{values['method']}{of}, mean ± sd over {values['volumes']} volumes"]
    for metric, by in values["scores"].items():
        told = (f"{who} {one['mean']:.4f}" + (f" ± {one['sd']:.4f}" if one["sd"] else "") for who, one in by.items())
        lines.append(f"{metric}: {', '.join(told)}")
    return lines


def _picture(pictures: list[Shown]) -> Figure:
    """A column a slice: what was asked, what was answered, and their difference from what is right."""
    figure = Figure(figsize=(0.4 + 2 * len(pictures), 8.4))
    room = {"left": 0.35 / figure.get_figwidth(), "right": 0.995, "top": 0.965, "bottom": 0.005}
    rows = figure.subplots(4, len(pictures), squeeze=False, gridspec_kw=room | {"wspace": 0.03, "hspace": 0.03})
    for column, one in enumerate(pictures):
        for axes, image in zip(rows[:, column], (one.asked, one.answered, one.right), strict=False):
            axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
        rows[3, column].imshow((one.answered - one.right).numpy(), cmap="RdBu", vmin=-0.5, vmax=0.5)
        rows[0, column].set_title(one.title, fontsize=9)
    for axes, name in zip(rows[:, 0], ("input", "output", "target", "output - target"), strict=True):
        axes.set_ylabel(name)
    for axes in rows.flat:
        axes.set(xticks=[], yticks=[])
    return figure
