"""Stored values of one volume to 0..255, by NumPy, Numba or the GPU: the bits are the same everywhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import InputError
from lim_gpu.intensity import definition
from lim_gpu.intensity.definition import Limits

if TYPE_CHECKING:
    import torch

START = 1 << 28  # pixels, a thousand slices of 512 x 512: mapping them, NumPy loses what it takes Numba to start

_by_numpy = 0  # pixels that NumPy has mapped in this process


@dataclass(frozen=True)
class VolumeMapping:
    """What makes 0..255 of the slices of one volume; uint8 ones stay as they are.

    limits  in HU, or None: each slice's own minimum and maximum
    body    what lies outside the patient becomes 0 (`lim_gpu.intensity.body`)
    """

    limits: Limits = None
    body: bool = False

    @overload
    def to_uint8(self, slices: NDArray[Any]) -> NDArray[np.uint8]: ...
    @overload
    def to_uint8(self, slices: torch.Tensor) -> torch.Tensor: ...
    def to_uint8(self, slices: Any) -> Any:
        """Map slices (n, H, W) as `Intensity.to_uint8` says; what is given stays as it is."""
        return self.scale(self._cleared(slices) if self.body else slices)

    def clear(self, slices: NDArray[Any]) -> None:
        """Where the body alone counts, give what lies around it in int16 slices (n, H, W) the value that becomes 0."""
        if self.body and slices.dtype == np.int16:
            from lim_gpu.intensity.body import clear_outside

            clear_outside(slices, self.limits)

    @overload
    def scale(self, slices: NDArray[Any]) -> NDArray[np.uint8]: ...
    @overload
    def scale(self, slices: torch.Tensor) -> torch.Tensor: ...
    def scale(self, slices: Any) -> Any:
        """The same of slices that were cleared before, or of which everything counts."""
        dtype = str(slices.dtype).removeprefix("torch.")
        if dtype == "uint8":
            return slices
        if dtype != "int16":
            raise InputError(f"slices of {dtype} have no HU. Give int16 (HU) or uint8 (grey values)")
        if isinstance(slices, np.ndarray):
            return _on_cpu(slices, self.limits)
        if slices.is_cuda:
            from lim_gpu.intensity import cuda

            return cuda.to_uint8(slices, self.limits)
        import torch

        return torch.from_numpy(_on_cpu(slices.numpy(), self.limits))

    def _cleared(self, slices: Any) -> Any:
        """A copy, where it lies; its surroundings are found on the CPU."""
        if isinstance(slices, np.ndarray):
            cleared = slices.copy()
            self.clear(cleared)
            return cleared
        there = slices.cpu().clone()
        self.clear(there.numpy())
        return there.to(slices.device)


def _on_cpu(slices: NDArray[np.int16], limits: Limits) -> NDArray[np.uint8]:
    """By compiled code where Numba runs anyway, or the process maps many slices.

    For a few, as in a report or a short-lived loader worker, starting Numba would take longer:
    `lim_gpu.intensity.compiled` has the times.
    """
    global _by_numpy
    if "numba" not in sys.modules and _by_numpy < START:
        _by_numpy += slices.size
        return definition.to_uint8(slices, limits)
    from lim_gpu.intensity import compiled

    return compiled.to_uint8(slices, limits)
