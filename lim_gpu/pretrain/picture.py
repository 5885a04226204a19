"""A picture of what the network will see: the views of a few slices, so that a wrong window or crop shows at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lim_gpu.files import replacing
from lim_gpu.pretrain.method import Pretraining
from lim_gpu.pretrain.resident import StreamedSlices
from lim_gpu.spread import spread_evenly

SLICES = 6  # columns
SIDE = 112  # pixels of a picture


def save_views(module: Pretraining, slices: StreamedSlices, path: Path) -> None:
    """Draw PATH (.png): a column for each of some slices spread over the data, a row for each view of it."""
    from PIL import Image

    config = module.config
    places = torch.from_numpy(spread_evenly(len(slices), SLICES))
    (batch,) = slices.batches([places])
    generator = torch.Generator().manual_seed(config.seed)
    views = module.views(batch, generator)
    rows = [chunk for view in views for chunk in _pictures(view, len(places))]
    if (masks := [view for view in views if view.ndim == 4 and view.dtype == torch.bool]) and rows:
        rows.append(interpolate(masks[0].float(), rows[0].shape[-2:]) * rows[0])
    mean, std = (torch.tensor(values).mean() for values in (config.mean, config.std))
    grey = torch.cat([torch.cat(list(_shrunk(row * std + mean)), dim=-1) for row in rows])
    pixels = (grey * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    with replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, format="PNG")


def _pictures(view: Tensor, count: int) -> list[Tensor]:
    """Views (k * count, C, S, S) as k times (count, 1, S, S); nothing for what is no picture."""
    if view.ndim != 4 or not view.is_floating_point():
        return []
    return list(view.detach().cpu().float().mean(dim=1, keepdim=True).split(count))


def _shrunk(row: Tensor) -> Tensor:
    """(count, SIDE, SIDE)."""
    return interpolate(row, (SIDE, SIDE), mode="bilinear", antialias=True)[:, 0]
