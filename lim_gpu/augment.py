"""Augmentations of a whole batch at once, in one channel, on the device where it lies.

Pixels are uint8 slices (B, H, W) with their valid sizes; images are float32 (n, 1, S, S) in 0..1. Every random number
comes from the given CPU generator, so the same generator gives the same views on the CPU and the GPU (noise alone is
drawn on the device). The results are Pillow's and torchvision's without their rounding to 8 bits after each step.
Autocast is switched off where bfloat16 would round what it makes.

kornia 0.9 on one CPU thread, 32 images of 224 x 224: blur 0.17 ms an image and 0.12 here, jitter 0.90 and 0.05. Its
crop of 512 to 224 takes 0.12 and ours 2.5 (Pillow's 0.4), but it does not antialias.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor
from torch.nn import functional

from lim_gpu.errors import UsageError

TRIES = 10  # torchvision draws that many boxes before it takes the centre
RADIUS = {"bilinear": 1, "bicubic": 2}  # of Pillow's filters, in output pixels
BLUR_TRUNCATE = 4  # standard deviations
Range = tuple[float, float]
P = ParamSpec("P")


def _without_autocast(function: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    @functools.wraps(function)
    def wrapped(values: Tensor, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            return function(values, *args, **kwargs)

    return wrapped


def random_resized_crop(
    pixels: Tensor,
    sizes: Tensor,
    size: int,
    scale: Range,
    ratio: Range,
    generator: torch.Generator,
    interpolation: str = "bilinear",
    crops: int = 1,
) -> Tensor:
    """Crops (crops * B, 1, size, size) of slices (B, H, W), the first crop of every slice first.

    sizes  (B, 2), valid height and width of each slice; boxes stay inside. On the CPU, or the GPU has to wait
    scale  smallest and largest share of the slice's area; ratio: of width / height
    """
    boxes = random_boxes(sizes.cpu().repeat(crops, 1), scale, ratio, generator)
    return crop_and_resize(pixels, boxes, size, interpolation)


def random_boxes(sizes: Tensor, scale: Range, ratio: Range, generator: torch.Generator) -> Tensor:
    """Boxes (n, 4), int64: top, left, height, width, by the rule of torchvision's RandomResizedCrop.

    Area uniform in `scale`, log of the ratio uniform; the first of ten that fits, else the largest box in the centre
    whose ratio is in range.
    """
    heights, widths = sizes.double().unsqueeze(-1).unbind(1)  # (n, 1)
    draws = torch.rand((4, len(sizes), TRIES), generator=generator, dtype=torch.float64)
    area = heights * widths * _between(draws[0], scale)
    aspect = _between(draws[1], (math.log(ratio[0]), math.log(ratio[1]))).exp()
    width, height = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
    top = (draws[2] * (heights - height + 1)).floor()
    left = (draws[3] * (widths - width + 1)).floor()
    boxes = torch.stack([top, left, height, width], dim=-1)
    first = fits.int().argmax(dim=1)  # of equal values, argmax gives the first
    chosen = boxes[torch.arange(len(sizes)), first]
    return torch.where(fits.any(dim=1, keepdim=True), chosen, _centre_boxes(sizes, ratio)).long()


def _centre_boxes(sizes: Tensor, ratio: Range) -> Tensor:
    """The largest boxes (n, 4) in the centre with width / height in `ratio`."""
    height, width = sizes.double().unbind(1)
    height, width = torch.minimum(height, (width / ratio[0]).round()), torch.minimum(width, (height * ratio[1]).round())
    top, left = ((sizes[:, 0] - height) / 2).floor(), ((sizes[:, 1] - width) / 2).floor()
    return torch.stack([top, left, height, width], dim=1)


def resize(
    pixels: Tensor, sizes: Tensor, size: int, interpolation: str = "bilinear", *, square: bool = False
) -> Tensor:
    """Images (B, 1, size, size) of whole slices (B, H, W), or with `square` of their largest central square."""
    sizes = sizes.cpu()
    height, width = sizes.unbind(1)
    whole = torch.stack([torch.zeros_like(height), torch.zeros_like(width), height, width], dim=1)
    boxes = _centre_boxes(sizes, (1.0, 1.0)).long() if square else whole
    return crop_and_resize(pixels, boxes, size, interpolation)


@_without_autocast
def crop_and_resize(pixels: Tensor, boxes: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """Images (n, 1, size, size) of boxes (n, 4) of slices (B, H, W), antialiased; box i is of slice i mod B.

    boxes  top, left, height, width; n a multiple of B
    interpolation  "bilinear" or "bicubic" as Pillow's resize, first across, then down (Pillow 13 begins with the
                   cheaper of the two), within the rounding of its two passes

    Resampling is linear and separable: two batched matrix products, Wy @ slice @ Wx^T, with the filter's weights as
    rows. On the GPU they run on the tensor cores: float16 holds 0..255 exactly, its products are summed in float32, and
    weights and sums between the passes err by less than 0.25 grey levels. Raises UsageError for another interpolation.
    """
    if interpolation not in RADIUS:
        raise UsageError(f"interpolation {interpolation!r} is unknown. Give {' or '.join(RADIUS)}")
    dtype = torch.float16 if pixels.is_cuda else torch.float32
    batch, height, width = pixels.shape
    top, left, box_height, box_width = to_device(
        boxes.view(-1, batch, 4).transpose(0, 1).float(), pixels.device
    ).unbind(-1)
    across = _resampling(left, box_width, width, size, interpolation, dtype)  # (B, crops, size, W)
    down = _resampling(top, box_height, height, size, interpolation, dtype)
    rows = pixels.to(dtype) @ across.flatten(1, 2).mT  # (B, H, crops * size)
    rows = rows.clamp_(0, 255)  # bicubic overshoots, and Pillow's first pass clips
    rows = rows.view(batch, height, -1, size).transpose(1, 2)
    return (down @ rows).transpose(0, 1).flatten(0, 1).unsqueeze(1).float().div_(255).clamp_(0, 1)


def _resampling(start: Tensor, length: Tensor, limit: int, size: int, interpolation: str, dtype: torch.dtype) -> Tensor:
    """Weights (..., size, limit) that resample `length` pixels from `start` on, of a row of `limit`, to `size`.

    Pillow's: the filter is stretched by the reduction, and pixels outside of the box do not count. Only the few weights
    that are not zero are computed; start, length (...).
    """
    scale = (length / size)[..., None]  # input pixels per output pixel
    stretch = scale.clamp(min=1)
    centre = start[..., None] + (torch.arange(size, device=start.device) + 0.5) * scale
    radius = RADIUS[interpolation]
    taps = min(limit, 2 * math.ceil(radius * max(limit / size, 1)) + 1)
    first = (centre - radius * stretch + 0.5).floor().clamp(0, limit - taps)
    places = first[..., None] + torch.arange(taps, device=start.device)
    weights = _filter((places + 0.5 - centre[..., None]) / stretch[..., None], interpolation)
    inside = (places >= start[..., None, None]) & (places < (start + length)[..., None, None])
    weights = weights * inside
    weights = weights / weights.sum(dim=-1, keepdim=True)
    matrix = torch.zeros((*centre.shape, limit), dtype=dtype, device=start.device)
    return matrix.scatter_(-1, places.long(), weights.to(dtype))


def _filter(x: Tensor, interpolation: str) -> Tensor:
    """Pillow's triangle, or its cubic convolution with a = -0.5 (Keys 1981)."""
    x = x.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp_(min=0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


@_without_autocast
def rotate(
    pixels: Tensor,
    sizes: Tensor,
    degrees: Range,
    p: float,
    generator: torch.Generator,
    interpolation: str = "nearest",
) -> Tensor:
    """Slices (B, H, W) rotated about their centres by an angle uniform in `degrees`, each with probability `p`.

    Counter-clockwise, "nearest" or "bilinear" as Pillow's rotate without `expand`; what comes from outside is 0.
    """
    chosen = _chosen(len(pixels), p, generator)
    angle = _between(torch.rand(len(pixels), generator=generator, dtype=torch.float64), degrees).deg2rad()
    turned = chosen.nonzero().squeeze(1)
    if not len(turned):
        return pixels
    where = to_device(turned, pixels.device)
    cos, sin = (to_device(f(angle[turned]).float(), pixels.device)[:, None, None] for f in (torch.cos, torch.sin))
    height, width = to_device(sizes.cpu()[turned].float(), pixels.device)[..., None, None].unbind(1)
    _, rows, columns = pixels.shape
    y = torch.arange(rows, device=pixels.device)[:, None] + 0.5 - height / 2  # from the centre, (n, H, 1)
    x = torch.arange(columns, device=pixels.device) + 0.5 - width / 2
    source_x, source_y = cos * x - sin * y + width / 2, sin * x + cos * y + height / 2
    grid = torch.stack([source_x * (2 / columns) - 1, source_y * (2 / rows) - 1], dim=-1)
    values = functional.grid_sample(pixels[where, None].float(), grid, interpolation, "zeros", align_corners=False)
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    inside &= (x.abs() < width / 2) & (y.abs() < height / 2)
    return pixels.index_copy(0, where, (values.squeeze(1).round() * inside).to(torch.uint8))


def flip(images: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability `p`."""
    return torch.where(_per_image(_chosen(len(images), p, generator), images), images.flip(-1), images)


def vertical_flip(images: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Each image mirrored top to bottom with probability `p`."""
    return torch.where(_per_image(_chosen(len(images), p, generator), images), images.flip(-2), images)


def color_jitter(images: Tensor, brightness: float, contrast: float, p: float, generator: torch.Generator) -> Tensor:
    """torchvision's ColorJitter on grey, each image with probability `p`: its saturation and hue change nothing there.

    Factors uniform in max(0, 1 - strength)..1 + strength, the order of the two random, clipped to 0..1 after each.
    """
    draws = torch.rand((4, len(images)), generator=generator, dtype=torch.float64)
    one = torch.ones(len(images), dtype=torch.float64)
    brighter, harder = (
        torch.where(draws[0] < p, _between(draw, (max(0.0, 1 - strength), 1 + strength)), one)
        for draw, strength in ((draws[1], brightness), (draws[2], contrast))
    )
    first = draws[3] < 0.5
    images = adjust_brightness(images, torch.where(first, brighter, one))
    images = adjust_contrast(images, harder)
    return adjust_brightness(images, torch.where(first, one, brighter))


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Images times factors (n,), clipped to 0..1."""
    return (images * _per_image(factors, images)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Images moved away from their own mean grey by factors (n,), clipped to 0..1."""
    mean = images.mean(dim=(-2, -1), keepdim=True)
    return torch.lerp(mean, images, _per_image(factors, images)).clamp_(0, 1)


def gaussian_blur(images: Tensor, p: float, sigma: Range, generator: torch.Generator) -> Tensor:
    """Each image blurred with probability `p`, its sigma uniform in `sigma`, in pixels (Pillow's radius)."""
    draws = torch.rand((2, len(images)), generator=generator, dtype=torch.float64)
    chosen = torch.where(draws[0] < p, _between(draws[1], sigma), 0.0)
    return blur(images, chosen, math.ceil(BLUR_TRUNCATE * sigma[1]))


@_without_autocast
def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Convolution with Gaussians of standard deviations `sigma` (n,), cut off at `radius`; edges are repeated.

    Sigma 0 leaves an image as it is, to the bit.
    """
    away = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernels = torch.exp(
        -0.5 * (away / sigma.clamp(min=1e-3)[:, None]) ** 2
    )  # of the smallest, all but one weight are 0
    kernels = to_device((kernels / kernels.sum(dim=1, keepdim=True)).float(), images.device)[:, None, None]
    stacked = functional.pad(images, (radius,) * 4, mode="replicate").transpose(0, 1)  # one picture of n channels
    across = functional.conv2d(stacked, kernels, groups=len(images))
    return functional.conv2d(across, kernels.transpose(2, 3), groups=len(images)).transpose(0, 1)


def gaussian_noise(images: Tensor, p: float, variance: Range, generator: torch.Generator) -> Tensor:
    """Noise added to each image with probability `p`, then clipped to 0..1; the log of its variance is uniform.

    Drawn on the device of the images: the CPU and the GPU give different noise.
    """
    draws = torch.rand((2, len(images)), generator=generator, dtype=torch.float64)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    deviation = (_between(draws[1], (math.log(variance[0]), math.log(variance[1]))) / 2).exp()
    there = torch.Generator(images.device).manual_seed(seed)
    noise = torch.empty_like(images).normal_(generator=there)
    return (images + noise * _per_image(torch.where(draws[0] < p, deviation, 0.0), images)).clamp_(0, 1)


def normalize(images: Tensor, mean: float | Sequence[float], std: float | Sequence[float], channels: int) -> Tensor:
    """Images (n, channels, S, S): the grey in every channel, less the channel's mean, divided by its std.

    One number counts for every channel. Raises UsageError when there are others than `channels` of them.
    """
    means, stds = (list(value) if isinstance(value, Sequence) else [value] * channels for value in (mean, std))
    if len(means) != channels or len(stds) != channels:
        raise UsageError(f"mean {mean} and std {std} do not fit channels {channels}. Give one number, or {channels}")
    if len(set(zip(means, stds, strict=True))) == 1:
        return ((images - means[0]) / stds[0]).expand(-1, channels, -1, -1)
    return torch.cat([(images - mean) / std for mean, std in zip(means, stds, strict=True)], dim=1)


def _between(draws: Tensor, limits: Range) -> Tensor:
    """Uniform in 0..1 to uniform in `limits`."""
    return limits[0] + draws * (limits[1] - limits[0])


def _chosen(n: int, p: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64) < p


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """Values (n,) as (n, 1, 1, 1) beside the images."""
    values = values if values.dtype == torch.bool else values.float()
    return to_device(values, images.device)[:, None, None, None]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU on a device; from pinned memory, so that the CPU does not wait for a GPU."""
    if device.type != "cuda":
        return values.to(device)
    return (values if values.is_pinned() else values.pin_memory()).to(device, non_blocking=True)
