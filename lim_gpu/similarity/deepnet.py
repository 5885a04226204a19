"""DeepNet: cosine of ResNet50 outputs (Wolf et al. 2024, equation 3).

Grey is replicated to three channels, resized to 224 x 224 (bilinear, antialiased) and normalised as for ImageNet.
Plain torch on the CPU and the GPU, float32, TF32 off.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate, normalize

from lim_gpu.errors import InputError, UsageError

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's ImageNet weights
FEATURES = ("logits", "pooled")  # 1000 outputs, or the 2048 values before the last layer
BATCH = {"cpu": 16, "cuda": 256}  # about 2.5 MiB of activations a slice at the widest layer pair


def load_model(weights: Path | None, device: torch.device | str) -> torch.nn.Module:
    """ResNet50, ready to evaluate, on `device`: torchvision's IMAGENET1K_V1, or the state in a .pth or .safetensors.

    Raises InputError that says how to get the weights when they cannot be had; nothing is ever left at random.
    """
    from torchvision.models import resnet50

    state = _imagenet_state() if weights is None else _file_state(weights)
    model = resnet50(weights=None)
    expected = model.state_dict()
    wrong = {name for name in expected if name not in state or state[name].shape != expected[name].shape}
    extra = set(state) - set(expected)
    if wrong or extra:
        first = min(wrong | extra)
        raise InputError(
            f"{weights}: no ResNet50 of torchvision: {len(wrong)} of {len(expected)} tensors missing or of another "
            f"shape, {len(extra)} unknown, such as {first}. Give --weights a state_dict of torchvision's resnet50"
        )
    model.load_state_dict(state)
    return model.to(device).eval()


def embed(slices: Any, model: torch.nn.Module, features: str = "logits", data_range: float = 255) -> torch.Tensor:
    """Outputs (n, 1000), or pooled features (n, 2048), of slices (n, H, W), in the model's dtype and on its device."""
    if features not in FEATURES:
        raise UsageError(f"features {features!r} are unknown. Give {' or '.join(FEATURES)}")
    parameter = next(model.parameters())
    slices = torch.as_tensor(slices)
    step = BATCH[parameter.device.type]
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        batches = [
            _forward(model, slices[start : start + step].to(parameter.device, parameter.dtype) / data_range, features)
            for start in range(0, len(slices), step)
        ]
    return torch.cat(batches)


def cosine_matrix(embeddings: torch.Tensor) -> torch.Tensor:
    """Cosines (n, n) of embeddings (n, d), symmetric, in [-1, 1], ones on the diagonal."""
    unit = normalize(embeddings, dim=1)
    upper = (unit @ unit.T).triu(1).clamp(-1, 1)
    return upper + upper.T + torch.eye(len(unit), dtype=unit.dtype, device=unit.device)


def double_precision(model: torch.nn.Module) -> torch.nn.Module:
    """A float64 copy on the CPU, for pairs at a threshold."""
    return copy.deepcopy(model).cpu().double()


def _forward(model: Any, grey: torch.Tensor, features: str) -> torch.Tensor:
    """grey (m, H, W) in 0..1."""
    resized = interpolate(grey[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    mean, std = (torch.tensor(values, dtype=grey.dtype, device=grey.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    outputs = (resized - mean) / std
    for name, layer in model.named_children():
        if name == "fc":
            pooled = outputs.flatten(1)
            return pooled if features == "pooled" else layer(pooled)
        outputs = layer(outputs)
    raise InputError("the model has no layer fc")


def _imagenet_state() -> dict[str, torch.Tensor]:
    from torchvision.models import ResNet50_Weights

    url = ResNet50_Weights.IMAGENET1K_V1.url
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, progress=False)
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"DeepNet's ImageNet weights cannot be had ({error}). Put {url} into {folder}, or give --weights FILE"
        ) from None


def _file_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file; a pickle is read without running anything it holds."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise InputError(f"{path}: needs safetensors. Run pip install safetensors") from None
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        cause = str(error).split("\n", 1)[0]
        raise InputError(f"{path}: cannot be read as weights ({cause}). Give --weights a state_dict") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state_dict of tensors")
    return state
