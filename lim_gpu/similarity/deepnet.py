"""DeepNet: cosine of ResNet50 outputs (Wolf et al. 2024, equation 3).

Grey is replicated to three channels, resized to 224 x 224 (bilinear, antialiased) and normalised as for ImageNet; for a
pre-trained backbone, as it was trained.
Plain torch on the CPU and the GPU, channels last, which both prefer. By default float32 with TF32 off: cosines within
2e-5 of float64, so that a threshold's borderline of 1e-4 holds all pairs that rounding could take across it. "bfloat16"
(autocast, on CPUs and on GPUs that have it) is for speed: its cosines err by up to 2e-2, beyond that borderline, and a
selection may differ from float32's; the record says which it was. The tests hold both to these bounds, with a network
whose cosines of procedural CT spread over 0.82..1. Seen: 4e-6 and 0.0074 on an AMD EPYC (AVX2), and 0.0102 in bfloat16
on an Intel Xeon (AMX), which sums in another order.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate, normalize

from lim_gpu.cuda.blocks import memory_for_blocks
from lim_gpu.errors import InputError, UsageError
from lim_gpu.weights.backbone import network
from lim_gpu.weights.load import load_backbone, per_channel
from lim_gpu.weights.names import is_timm
from lim_gpu.weights.states import imagenet_state, plain_state
from lim_gpu.weights.timm_models import check_sides

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's ImageNet weights
FEATURES = ("logits", "pooled")  # 1000 outputs, or the 2048 values before the last layer
PRECISIONS = ("float32", "bfloat16")
BATCH = {"cpu": 16, "cuda": 256}  # slices at a time, at most
ACTIVATION_BYTES = 12 << 20  # of a slice at its peak within ResNet50, float32


def load_model(weights: Path | None, device: torch.device | str, features: str = "logits") -> torch.nn.Module:
    """The network, ready to evaluate, on `device`: ResNet50 with torchvision's IMAGENET1K_V1, or what `weights` holds.

    That is for "logits" a .pth or .safetensors of torchvision's whole resnet50, for "pooled" any checkpoint that
    `lim_gpu.weights.load` knows: ours, other makers', every backbone.
    Raises InputError that says how to get the weights when they cannot be had; nothing is ever left at random.
    """
    if weights is not None and features == "pooled":
        return _ready(_pre_trained(weights), device)
    from torchvision.models import resnet50

    state = imagenet_state() if weights is None else _file_state(weights)
    model = resnet50(weights=None)
    expected = model.state_dict()
    wrong = {name for name in expected if name not in state or state[name].shape != expected[name].shape}
    extra = set(state) - set(expected)
    if wrong or extra:
        first, name = min(wrong | extra), weights or "IMAGENET1K_V1"
        raise InputError(
            f"{name}: no ResNet50 of torchvision: {len(wrong)} of {len(expected)} tensors missing or of another "
            f"shape, {len(extra)} unknown, such as {first}. Give --weights a state_dict of torchvision's resnet50, or "
            "--features pooled, which take any backbone"
        )
    model.load_state_dict(state)
    return _ready(model, device)


def _ready(model: Any, device: torch.device | str) -> torch.nn.Module:
    placed: torch.nn.Module = model.to(device, memory_format=torch.channels_last)
    return placed.eval()


def _pre_trained(weights: Path) -> torch.nn.Module:
    """The backbone of a checkpoint, with how its images were normalised."""
    backbone = load_backbone(weights)
    if is_timm(backbone.name):
        check_sides(backbone.name, backbone.channels, (SIDE,))
    model = network(backbone.name, backbone.channels)
    model.load_state_dict(backbone.state)
    scales = (per_channel(tuple(backbone.preprocess[name]), backbone.channels) for name in ("mean", "std"))
    model.normalisation = tuple(scales)  # type: ignore[assignment]
    return model


def embed(
    slices: Any,
    model: torch.nn.Module,
    features: str = "logits",
    data_range: float = 255,
    *,
    precision: str = "float32",
) -> torch.Tensor:
    """Outputs (n, 1000) or pooled features (n, d) of slices (n, H, W), in the model's dtype and on its device.

    d is 2048; of resnet18, resnet34 and vqae it is 512, of timm's networks their own.

    Raises UsageError for unknown features, or a precision that the device does not have, InputError when the weights
    give values that are not finite.
    """
    if features not in FEATURES:
        raise UsageError(f"features {features!r} are unknown. Give {' or '.join(FEATURES)}")
    parameter = next(model.parameters())
    _check_precision(precision, parameter.device)
    half = torch.autocast(parameter.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    slices = torch.as_tensor(slices)
    batches: list[torch.Tensor] = []
    start, step = 0, batch_size(parameter.device, *slices.shape[1:])
    with torch.no_grad(), _full_precision, half:
        while start < len(slices):
            try:
                grey = slices[start : start + step].to(parameter.device)
                batches.append(_forward(model, grey.to(parameter.dtype) / data_range, features))
                start += step
                continue
            except torch.OutOfMemoryError:
                if step == 1:
                    raise
            step //= 2  # outside of the handler, whose traceback holds what was allocated
            torch.cuda.empty_cache()
    embeddings = torch.cat(batches)
    if not bool(torch.isfinite(embeddings).all()):
        raise InputError("the weights of DeepNet give values that are not finite. Give --weights others")
    return embeddings


def batch_size(device: torch.device, height: int, width: int) -> int:
    """Slices at a time: as many as the free memory takes, 1 to BATCH. A batch is a pass of its own either way."""
    if device.type != "cuda":
        return BATCH["cpu"]
    bytes_per_slice = ACTIVATION_BYTES + 2 * 4 * height * width  # grey values as float32, before and after scaling
    return max(1, min(BATCH["cuda"], memory_for_blocks(device) // bytes_per_slice))


def _check_precision(precision: str, device: torch.device) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is unknown. Give {' or '.join(PRECISIONS)}")
    if precision == "bfloat16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise UsageError(f"{device}: computes no bfloat16 (compute capability 8.0 and newer do). Use float32")


class _FullPrecision:
    """Within this context, convolutions without TF32.

    The setting is the process's: the first thread that enters makes it, the last that leaves restores the user's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._restore.enter_context(_no_tf32())
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore.close()


@contextlib.contextmanager
def _no_tf32() -> Iterator[None]:
    """By torch's new setting where it has one: the old and the new may not be mixed."""
    setting = getattr(torch.backends.cudnn, "conv", None)
    if setting is None or not hasattr(setting, "fp32_precision"):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
        return
    before = setting.fp32_precision
    setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        setting.fp32_precision = before


_full_precision = _FullPrecision()


def cosine_matrix(embeddings: torch.Tensor) -> torch.Tensor:
    """Cosines (n, n) of embeddings (n, d), float32, symmetric, in [-1, 1], ones on the diagonal."""
    unit = normalize(embeddings.double(), dim=1)  # float64 knows no TF32
    upper = (unit @ unit.T).float().clamp_(-1, 1).triu_(1)
    matrix = upper + upper.T
    return matrix.fill_diagonal_(1)


def double_precision(model: torch.nn.Module) -> torch.nn.Module:
    """A float64 copy on the CPU, for pairs at a threshold."""
    return copy.deepcopy(model).cpu().double()


def _forward(model: Any, grey: torch.Tensor, features: str) -> torch.Tensor:
    """grey (m, H, W) in 0..1."""
    from torchvision.models import ResNet

    resized = interpolate(grey[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    scales = getattr(model, "normalisation", (MEAN, STD))
    mean, std = (torch.tensor(values, dtype=grey.dtype, device=grey.device).view(1, -1, 1, 1) for values in scales)
    outputs = ((resized - mean) / std).contiguous(memory_format=torch.channels_last)
    if not isinstance(model, ResNet):
        pooled = model(outputs)
        return pooled.to(grey.dtype)
    for name, layer in model.named_children():
        if name == "avgpool":
            outputs = outputs.to(grey.dtype)  # from bfloat16: the mean is not rounded again
        if name == "fc":
            pooled = outputs.flatten(1)
            return pooled if features == "pooled" else _linear(layer, pooled)
        outputs = layer(outputs)
    raise InputError("the model has no layer fc. Give a torchvision ResNet")


def _linear(layer: torch.nn.Linear, pooled: torch.Tensor) -> torch.Tensor:
    """The last layer in float64: the TF32 setting of matrix products is the user's, not ours to change."""
    product = torch.nn.functional.linear(pooled.double(), layer.weight.double(), layer.bias.double())
    return product.to(pooled.dtype)


def _file_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file; a pickle is read without running anything it holds."""
    try:
        state = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    except ImportError:
        raise InputError(f"{path}: needs safetensors. Run pip install safetensors, or give --weights a .pth") from None
    except Exception as error:  # a damaged file can raise anything: IndexError, KeyError, RuntimeError, ...
        raise InputError(f"{path}: cannot be read as weights ({_cause(error)}). Give --weights a state_dict") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state_dict of tensors. Give --weights one, or --features pooled")
    return plain_state(state)


def _pickled(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the version of pickle in a file that then turns out not to be ours
        return torch.load(path, map_location="cpu", weights_only=True)


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file  # type: ignore[import-not-found, unused-ignore]

    return load_file(path)


def _cause(error: Exception) -> str:
    """One line: torch explains over several."""
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]
