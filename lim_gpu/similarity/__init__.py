"""Similarity matrices of slices: one call, four methods, CPU or GPU."""

from __future__ import annotations

import warnings
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError, NoGpuError, UsageError
from lim_gpu.weights.load import default_features

if TYPE_CHECKING:
    import torch

METHODS = ("ssim", "mi", "deepnet", "hash")
FAR_BEYOND = 1e6  # times data_range: no image, and float32 products would overflow
HASH_BLOCK = 256  # slices copied to a GPU at a time
NEAR_ROWS = 1024  # of a matrix searched at a time
BORDERLINE = 1e-4  # 50 times the largest float32 error seen: nearer to a threshold, float64 decides


def similarity_matrix(
    slices: Any,
    method: str,
    *,
    data_range: float | None = None,
    device: str = "auto",
    bins: int = 100,
    features: str | None = None,
    weights: str | Path | None = None,
) -> torch.Tensor:
    """Similarity of every pair of slices, larger = more alike (Wolf et al. 2024, section 2.1).

    slices      (n, H, W), n >= 1: NumPy, torch or CuPy; no copy where it already lies on the device. uint8 is taken as
                it is; other numbers become float32 and need data_range
    method      "ssim" in [-1, 1], H, W >= 11 (Wang et al. 2004); "mi" in [1, 2] (Studholme et al. 1998);
                "deepnet" in [-1, 1] (cosine of ResNet50 outputs); "hash" in [0, 1], 1 - bits/64
    data_range  maximum - minimum that the values can have, SSIM's L; 255 for uint8. HASH and DeepNet map 0..data_range
    device      "auto": where the slices lie if on a GPU, else a GPU where there is one, else the CPU; "cpu"; "cuda[:i]"
    bins        of MI's histograms, 2..256
    features    of DeepNet: "logits" or "pooled"; None: pooled of a checkpoint of ours, else logits
    weights     of DeepNet: for logits torchvision's resnet50 in a file, for pooled any checkpoint; None: IMAGENET1K_V1

    Returns a float32 torch tensor (n, n) on that device, symmetric. Raises InputError for slices of another shape, with
    NaN, infinity or values far beyond data_range, UsageError for a contradictory call, NoGpuError for no usable GPU.
    """
    import torch

    if method not in METHODS:
        raise UsageError(f"method {method!r} is unknown. Give one of {', '.join(METHODS)}")
    if not isinstance(bins, int) or not 2 <= bins <= 256:
        raise UsageError(f"bins {bins!r} is no whole number within 2..256")
    features = features or default_features(weights)
    if features not in ("logits", "pooled"):
        raise UsageError(f"features {features!r} are unknown. Give logits or pooled")
    tensor = as_tensor(slices)
    place = resolve_device(str(tensor.device) if device == "auto" and tensor.is_cuda else device)
    tensor, extent = _checked(tensor if place.type == "cuda" else tensor.cpu(), data_range)
    if method == "deepnet":
        from lim_gpu.similarity import deepnet

        model = deepnet.load_model(Path(weights) if weights is not None else None, place, features)
        extent = 255 if tensor.dtype == torch.uint8 else extent  # grey values are taken as they are
        return deepnet.cosine_matrix(deepnet.embed(tensor, model, features, extent))
    if method == "hash":
        tensor = _as_uint8(tensor, extent)
    if place.type == "cuda":
        return _on_gpu(tensor, method, extent, bins, place)
    return torch.from_numpy(_on_cpu(tensor.numpy(), method, extent, bins))


def resolve_device(device: str) -> torch.device:
    """The torch device that "auto", "cpu", "cuda" or "cuda:1" means on this machine.

    "auto" takes a GPU only where CuPy is there too. Raises UsageError for another name, NoGpuError for a GPU that is
    not usable.
    """
    import torch

    try:
        place = torch.device("cpu" if device == "auto" else device)
    except RuntimeError:
        place = torch.device("meta")
    if place.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is unknown. Give auto, cpu, cuda or cuda:1")
    if device == "auto":
        if torch.cuda.is_available() and not _has_cupy():
            warnings.warn("a GPU is there, but CuPy is not: computing on the CPU. See lim-gpu doctor", stacklevel=2)
            return place
        return torch.device("cuda", 0) if torch.cuda.is_available() else place
    if place.type == "cpu":
        return place
    if not torch.cuda.is_available():
        raise NoGpuError(f"device {device}: no usable NVIDIA GPU. Use --device cpu, or see lim-gpu doctor")
    if (place.index or 0) >= torch.cuda.device_count():
        raise NoGpuError(f"device {device}: there are {torch.cuda.device_count()} GPUs, from cuda:0. Choose another")
    if not _has_cupy():
        raise NoGpuError(f"device {device}: CuPy is not installed. See lim-gpu doctor, or use --device cpu")
    return torch.device("cuda", place.index or 0)


def resolve_devices(device: str) -> list[torch.device]:
    """The devices that share a reduction: all GPUs for "auto" and "cuda", else the one that is named.

    Raises what `resolve_device` raises.
    """
    import torch

    first = resolve_device(device)
    if first.type != "cuda" or device not in ("auto", "cuda"):
        return [first]
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]


def refine(
    matrix: torch.Tensor,
    slices: Any,
    method: str,
    threshold: float,
    *,
    bins: int = 100,
    model: Any = None,
    features: str = "logits",
) -> tuple[torch.Tensor, int]:
    """Decide the pairs within 1e-4 of `threshold` in float64 on the CPU; returns a new matrix and their number.

    matrix: float32 (n, n), searched where it lies. slices: uint8 (n, H, W), NumPy or torch, or a function of i that
    gives slice i; only those of such pairs come to the CPU. The float64 value is stored as the nearest float32 on the
    same side of the threshold, so that comparing the matrix gives its answer. HASH is exact and left as it is.
    """
    import torch

    near = [] if method == "hash" else pairs_near(matrix, threshold)
    if not near:
        return matrix, 0
    needed = sorted({i for pair in near for i in pair})
    images = dict(zip(needed, _fetched(slices, needed), strict=True))
    exact = _exact(method, near, images, bins, model, features)
    values = torch.tensor(np.array([same_side(value, threshold) for value in exact]), device=matrix.device)
    rows, columns = torch.tensor(near, device=matrix.device).T
    matrix = matrix.clone()
    matrix[rows, columns] = matrix[columns, rows] = values
    return matrix, len(near)


def pairs_near(matrix: torch.Tensor, threshold: float) -> list[list[int]]:
    """The pairs [i, j], i < j, whose similarity is within 1e-4 of `threshold`, in order."""
    import torch

    found = []
    for start in range(0, len(matrix), NEAR_ROWS):  # float64 for some rows at a time
        apart = (matrix[start : start + NEAR_ROWS].double() - threshold).abs_()
        found.append((apart <= BORDERLINE).triu_(start + 1).nonzero() + torch.tensor([start, 0], device=matrix.device))
    return torch.cat(found).tolist()


def _fetched(slices: Any, indices: list[int]) -> list[NDArray[np.uint8]]:
    """Those slices in host memory; from a GPU in one copy."""
    if callable(slices):
        return [slices(i) for i in indices]
    return list(as_tensor(slices[indices]).cpu().numpy())


def same_side(value: float, threshold: float) -> np.float32:
    """The float32 nearest to `value` among those that compare with `threshold` as `value` does."""
    rounded = np.float32(value)
    if (float(rounded) >= threshold) == (value >= threshold):
        return rounded
    return np.nextafter(rounded, np.float32(np.inf if value >= threshold else -np.inf))


def _exact(
    method: str, pairs: list[list[int]], images: dict[int, NDArray[np.uint8]], bins: int, model: Any, features: str
) -> list[float]:
    """The float64 similarities of `pairs` of images."""
    from lim_gpu.similarity.blocks import Threads

    if method == "deepnet":
        from torch.nn.functional import normalize

        from lim_gpu.similarity import deepnet

        double = deepnet.double_precision(model)
        unit = {i: normalize(deepnet.embed(image[None], double, features)[0], dim=0) for i, image in images.items()}
        return [float(unit[i] @ unit[j]) for i, j in pairs]
    from lim_gpu.similarity.mi import mi_pair
    from lim_gpu.similarity.ssim import ssim_pair

    def value(pair: list[int]) -> float:
        x, y = (images[i] for i in pair)
        return ssim_pair(x, y, 255) if method == "ssim" else mi_pair(x, y, bins)

    with Threads() as pool:
        return pool.map(value, pairs)


def as_tensor(slices: Any) -> torch.Tensor:
    """A torch tensor of NumPy, torch or CuPy memory, without a copy. Raises InputError for what is no array."""
    import torch

    if isinstance(slices, torch.Tensor):
        return _plain_tensor(slices)
    if hasattr(slices, "__cuda_array_interface__"):
        return torch.utils.dlpack.from_dlpack(slices)
    try:
        array = np.asarray(slices)
    except ValueError:
        raise InputError("slices of different sizes are no array. Give one array (n, H, W)") from None
    if array.dtype.kind not in "uif" or array.dtype.itemsize > 8:
        raise InputError(f"slices of {array.dtype} are no images. Give uint8, or numbers with data_range")
    if not array.dtype.isnative or array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of read-only memory, which nothing here writes
        return torch.from_numpy(np.ascontiguousarray(array))


def _plain_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The same without gradients, its values as they lie in memory. Raises InputError where there are none."""
    import torch

    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        kind = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
        raise InputError(f"a {kind} tensor of {tensor.dtype} is no plain array. Give a dense tensor (n, H, W)")
    return tensor.detach().resolve_neg().resolve_conj()


def _checked(tensor: torch.Tensor, data_range: float | None) -> tuple[torch.Tensor, float]:
    """Contiguous uint8 or float32 slices and their data range."""
    import torch

    if tensor.ndim != 3 or 0 in tensor.shape:
        raise InputError(f"slices are (n, H, W) with n, H, W >= 1, these are {tuple(tensor.shape)}")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"slices of {tensor.dtype} are no images. Give uint8, or numbers with data_range")
    if data_range is not None and not (isinstance(data_range, Real) and 0 < data_range < float("inf")):
        raise UsageError(f"data_range {data_range!r} is not a positive number")
    if tensor.dtype == torch.uint8:
        return tensor.contiguous(), 255.0 if data_range is None else float(data_range)
    if data_range is None:
        raise UsageError(f"slices of {tensor.dtype} need data_range. Give the range of their values, or uint8 slices")
    values = tensor.to(torch.float32).contiguous()
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{int((~torch.isfinite(values)).sum())} pixels are NaN or infinite")
    largest = float(values.abs().max())
    if largest > FAR_BEYOND * data_range:
        raise InputError(f"values up to {largest:g} are far beyond data_range {data_range:g}. Give their range")
    return values, float(data_range)


def _as_uint8(tensor: torch.Tensor, data_range: float) -> torch.Tensor:
    import torch

    if tensor.dtype == torch.uint8:
        return tensor
    mapped = torch.empty(tensor.shape, dtype=torch.uint8, device=tensor.device)
    for values, out in zip(tensor, mapped, strict=True):  # float64 for a slice at a time
        out.copy_((values.double() / data_range * 255).round().clamp(0, 255))
    return mapped


def _on_cpu(slices: NDArray[Any], method: str, data_range: float, bins: int) -> NDArray[np.float32]:
    if method == "ssim":
        from lim_gpu.similarity.ssim import ssim_matrix

        return ssim_matrix(slices, data_range)
    if method == "mi":
        from lim_gpu.similarity.mi import mi_matrix

        return mi_matrix(slices, bins)
    from lim_gpu.similarity.hash import dhash, matrix_of_hashes

    return matrix_of_hashes(dhash(slices))


def _on_gpu(slices: torch.Tensor, method: str, data_range: float, bins: int, device: torch.device) -> torch.Tensor:
    """Slices in host memory are copied to `device` in blocks, so that a volume need not fit there."""
    import torch

    if method == "ssim":
        from lim_gpu.similarity.cuda.ssim import ssim_matrix

        return ssim_matrix(slices, data_range, device=device)
    if method == "mi":
        from lim_gpu.similarity.cuda.mi import mi_matrix

        return mi_matrix(slices, bins, device=device)
    from lim_gpu.similarity.cuda.hash import dhash, matrix_of_hashes

    return matrix_of_hashes(torch.cat([dhash(block.to(device)) for block in slices.split(HASH_BLOCK)]))


def _has_cupy() -> bool:
    from importlib.util import find_spec

    return find_spec("cupy") is not None
