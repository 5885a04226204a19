"""A nearest-neighbour score of the backbone on a small labelled set, at the end of every epoch.

The pretext loss does not rank models; this does, cheaply. It is for watching a training, never for reporting: the set
must not be test data, and rows or folders named test are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from lim_gpu import augment
from lim_gpu.errors import InputError, UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.labelled.listed import read_list
from lim_gpu.labelled.parts import part_of, pictures_below, visible_folders
from lim_gpu.pictures import decode_picture
from lim_gpu.pretrain.method import Meter, Pretraining
from lim_gpu.pretrain.plan import Plan

NEIGHBOURS = 20
TEMPERATURE = 0.07  # of the votes, exp(cosine / T): as Wu et al. 2018
BATCH = 64
MOST_IMAGES = 5000  # more belong to `lim-gpu finetune`
MOST_PIXELS = 4096**2
METERS = {"knn_accuracy": Meter("share", "of the probe's images that nearest neighbours classify, mean over classes")}


def load_probe(path: Path, plan: Plan, device: torch.device) -> Callable[[Pretraining], dict[str, float]]:
    """The function that scores a method on the labelled images at `path`.

    path  a folder with a folder of PNG or JPEG files a class, or a CSV file with the columns file and label (files
          relative to it). With a column split, rows of "train" vote on rows of "val"; without, every image is judged
          by all others.

    Raises InputError for what cannot be read, UsageError for test data.
    """
    files, labels, judged = _listed(path)
    names = sorted(set(labels))
    if len(names) < 2:
        raise InputError(f"{path}: has one class only. Give two or more")
    if len(files) > MOST_IMAGES:
        raise UsageError(f"{path}: {len(files)} images are too many for every epoch. Give at most {MOST_IMAGES}")
    images = torch.cat([_image(file, plan.config.view_size) for file in files])
    classes = torch.tensor([names.index(label) for label in labels])
    votes = torch.tensor(judged) if any(judged) else None

    def score(module: Pretraining) -> dict[str, float]:
        embedded = embed_all(module, images, device)
        return {"knn_accuracy": knn_accuracy(embedded, classes, votes)}

    return score


def embed_all(module: Pretraining, images: Tensor, device: torch.device) -> Tensor:
    """Features (n, d) of images (n, 1, S, S) in 0..1, on the CPU; the module's mode is given back."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            parts = [module.embed(module.normalized(part.to(device))).float().cpu() for part in images.split(BATCH)]
    finally:
        module.train(training)
    return torch.cat(parts)


def knn_accuracy(features: Tensor, classes: Tensor, judged: Tensor | None = None) -> float:
    """Mean of the classes' accuracies when the nearest neighbours vote, weighted by exp(cosine / T).

    features (n, d), classes (n,) from 0; judged (n,) bool: the images that are classified, by the others. None: each
    is, by all others.
    """
    z = functional.normalize(features.double(), dim=1)
    cosine = z @ z.T
    if judged is None:
        cosine.fill_diagonal_(-torch.inf)
        asked, truth = cosine, classes
        voters = classes
    else:
        asked, truth, voters = cosine[judged][:, ~judged], classes[judged], classes[~judged]
    near, place = asked.topk(min(NEIGHBOURS, asked.shape[1] - (judged is None)), dim=1)
    count = int(classes.max()) + 1
    votes = torch.zeros(len(asked), count, dtype=torch.float64).scatter_add_(
        1, voters[place], ((near - 1) / TEMPERATURE).exp()
    )
    right = (votes.argmax(1) == truth).double()
    return float(torch.stack([right[truth == c].mean() for c in truth.unique()]).mean())


def _listed(path: Path) -> tuple[list[Path], list[str], list[bool]]:
    """Files, their labels, and which of them are judged by the others."""
    if path.is_dir():
        folders = sorted(visible_folders(path))
        if test := next((folder.name for folder in folders if part_of(folder.name) == "test"), None):
            raise UsageError(f"{path}: has a folder {test}. A probe must not see test data. Give another folder")
        if part := next((folder.name for folder in folders if part_of(folder.name)), None):
            raise InputError(f"{path}: {part} is a part of a split and no class. Give a folder a class, or a CSV file")
        found = [(f, d.name) for d in folders for f in sorted(pictures_below(d))]
        if not found:
            raise InputError(f"{path}: holds no folder of PNG or JPEG files. Give a folder a class, or a CSV file")
        return [f for f, _ in found], [label for _, label in found], [False] * len(found)
    rows = read_list(path, ("file", "label"))
    parts = [part_of(row.get("split") or "") for row in rows]
    splits = set(parts)
    if "test" in splits:
        raise UsageError(f"{path}: has rows of split test. A probe must not see test data. Leave them out")
    if "split" in rows[0] and splits != {"train", "val"}:
        raise InputError(f"{path}: the column split is not train and val. Give both, or leave the column out")
    judged = [part == "val" for part in parts]
    return [path.parent / row["file"] for row in rows], [row["label"] for row in rows], judged


def _image(path: Path, size: int) -> Tensor:
    """A grey image (1, 1, size, size) in 0..1, resized as a whole."""
    try:
        pixels, _ = decode_picture(path)
    except InputError as error:
        raise InputError(f"{path}: cannot be read as PNG or JPEG ({error}). Replace it") from None
    if pixels.size > MOST_PIXELS:
        raise InputError(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels are too many. Give smaller pictures")
    tensor = torch.from_numpy(Intensity().to_uint8(pixels[None]))
    return augment.resize(tensor, torch.tensor([tensor.shape[1:]]), size)
