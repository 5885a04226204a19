"""A similarity method with all that changes its values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError
from lim_gpu.intensity import Intensity
from lim_gpu.weights.load import default_features, told_beside


@dataclass(frozen=True)
class Criterion:
    """A similarity method with all that changes its values.

    method     "ssim", "mi", "deepnet" or "hash"
    intensity  how HU become 0..255
    bins       of MI's histograms, 2..256
    features   of DeepNet: "logits" or "pooled"; "" becomes logits, or pooled where `weights` is a checkpoint of ours
    weights    of DeepNet: a file, or None for torchvision's IMAGENET1K_V1
    precision  of DeepNet: "float32" or "bfloat16", the latter faster and less exact
    """

    method: str
    intensity: Intensity
    bins: int = 100
    features: str = ""
    weights: Path | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", self.features or default_features(self.weights))

    def parameters(self) -> dict[str, Any]:
        """What a fingerprint and a record hold: only what this method uses."""
        values: dict[str, Any] = {"intensity": self.intensity.describe()}
        if self.method == "mi":
            values["bins"] = self.bins
        if self.method == "deepnet":
            values |= {"features": self.features, "weights": self._weights_identity, "precision": self.precision}
        return values

    def network(self) -> dict[str, Any] | None:
        """For a record: the file of DeepNet's own weights, and what the JSON beside it says it is."""
        if self.method != "deepnet" or self.weights is None:
            return None
        beside = told_beside(self.weights)
        told = ("method", "backbone", "channels", "epoch", "global_step", "preprocess")
        return {"file": self.weights.name} | {key: beside[key] for key in told if key in beside}

    @cached_property
    def _weights_identity(self) -> str:
        return weights_identity(self.weights)


def weights_identity(weights: Path | None) -> str:
    """The name of torchvision's weights, or "sha256:..." of a file. Raises InputError when it cannot be read."""
    if weights is None:
        return "IMAGENET1K_V1"
    try:
        with open(weights, "rb") as handle:
            return "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{weights}: cannot be read: {error.strerror}. Give --weights an existing file") from None
