"""The images of a labelled data set as one uint8 tensor, and the batches a network sees of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.intensity import Intensity
from lim_gpu.labelled.parts import PARTS
from lim_gpu.labelled.table import Table, open_npz, read_array
from lim_gpu.pictures import decode_picture
from lim_gpu.progress import Reporter

THREADS = 4  # Pillow decodes without Python's lock
AHEAD = 64  # images decoded before they are taken


@dataclass(frozen=True)
class Images:
    """pixels: (n, C, H, W) uint8, C 1 for grey, 3 where any image has colour. digests: (n) of the pixels as decoded."""

    pixels: Tensor
    digests: tuple[str, ...]

    def to(self, device: torch.device) -> Images:
        """The same on another device. LimGpuError when they do not fit there."""
        try:
            return replace(self, pixels=self.pixels.to(device))
        except torch.OutOfMemoryError:
            size = self.pixels.numel() / 2**30
            raise LimGpuError(f"{size:.1f} GiB of images do not fit on {device}. Give a smaller --size") from None


def load_images(table: Table, size: int, resize: str, reporter: Reporter) -> Images:
    """Decode every image once: files to size x size, whatever their aspect; an .npz as it is (batches are resized).

    Raises InputError that names the first image that cannot be read.
    """
    if table.archive:
        return _from_npz(table)
    decoded: list[Tensor] = []
    digests: list[str] = []
    paths = iter([table.path / name for name in table.files])
    with ThreadPoolExecutor(THREADS) as pool, reporter.track("decode", len(table), "images") as advance:
        waiting = [pool.submit(_prepare, path, size, resize) for path in islice(paths, AHEAD)]
        while waiting:
            image, digest = waiting.pop(0).result()
            decoded.append(image)
            digests.append(digest)
            waiting += [pool.submit(_prepare, path, size, resize) for path in islice(paths, 1)]
            advance(1)
    colours = max(len(image) for image in decoded)
    return Images(torch.stack([image.expand(colours, -1, -1) for image in decoded]), tuple(digests))


def _prepare(path: Path, size: int, resize: str) -> tuple[Tensor, str]:
    image = decode(path)
    digest = hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest()
    return resized(torch.from_numpy(image)[None], size, resize)[0], digest


def decode(path: Path) -> NDArray[np.uint8]:
    """A PNG or JPEG file as (1, H, W) where it is grey, also in RGB, else (3, H, W); row 0 is the top one.

    Transparency is left out, 16-bit grey scaled by its own range. Raises InputError for what cannot be decoded.
    """
    try:
        pixels, _ = decode_picture(path, colour=True)
    except InputError as error:
        raise InputError(f"{path}: cannot be decoded ({error}). Replace it, or take it out of the list") from None
    if pixels.ndim == 3:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return Intensity().to_uint8(pixels[None])


def _from_npz(table: Table) -> Images:
    with open_npz(table.path) as archive:
        arrays = [read_array(archive, table.path, f"{part}_images") for part in PARTS]
    shapes = {array.shape[1:] for array in arrays}
    known = len(shapes) == 1 and all(array.dtype == np.uint8 and array.ndim in (3, 4) for array in arrays)
    if not known or (arrays[0].ndim == 4 and arrays[0].shape[3] != 3) or sum(map(len, arrays)) != len(table):
        raise InputError(
            f"{table.path}: images are not uint8 (n, H, W) or (n, H, W, 3) with a label each. Give MedMNIST"
        )
    pixels = torch.from_numpy(np.concatenate(arrays))
    return Images((pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)).contiguous(), table.digests)


def resized(pixels: Tensor, size: int, resize: str) -> Tensor:
    """(n, C, H, W) uint8 to (n, C, size, size) uint8: "bilinear" antialiased, or "area" as MONAI's Resize."""
    return _resample(pixels.float(), size, resize).round_().clamp_(0, 255).byte()


def _resample(values: Tensor, size: int, resize: str) -> Tensor:
    if resize == "area":
        return interpolate(values, (size, size), mode="area")
    return interpolate(values, (size, size), mode="bilinear", align_corners=False, antialias=True)


@dataclass(frozen=True)
class Normalisation:
    """mean and std of each channel that the network takes, of pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, pixels: Tensor, channels: int) -> Normalisation:
        """Of images (n, C, H, W) uint8 themselves, over all their pixels."""
        bins = torch.stack(
            [torch.bincount(part.flatten().int().cpu(), minlength=256) for part in pixels.split(256)]
        ).sum(0)
        weights = bins.double() / bins.sum()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = float((weights * values).sum())
        std = float((weights * (values - mean) ** 2).sum().sqrt())
        return cls((mean,) * channels, (max(std, 1 / 255),) * channels)

    def describe(self) -> dict[str, Any]:
        """For records."""
        return {"mean": list(self.mean), "std": list(self.std)}


def network_input(pixels: Tensor, size: int, resize: str, normalisation: Normalisation) -> Tensor:
    """(n, C, H, W) uint8 to float32 (n, channels, size, size), normalised, on the device of `pixels`.

    Grey is replicated, and colour becomes luminance (ITU-R 601-2) where the network takes one channel.
    """
    values = pixels.float() / 255
    if values.shape[-2:] != (size, size):
        values = _resample(values, size, resize)
    mean, std = (values.new_tensor(part).view(1, -1, 1, 1) for part in (normalisation.mean, normalisation.std))
    if mean.shape[1] == 1 and values.shape[1] == 3:
        values = (values * values.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    return (values.expand(-1, mean.shape[1], -1, -1) - mean) / std


def batches(places: Sequence[int] | NDArray[np.int64], size: int) -> list[Tensor]:
    """`places` in batches of `size`; one left over joins the batch before it: batch norm cannot use it alone."""
    parts = list(torch.as_tensor(np.asarray(places, dtype=np.int64)).split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
