"""The reader of pixels where the memory of a device runs out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lim_gpu.errors import LimGpuError
from lim_gpu.intensity import Intensity
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.reader import Reader
from volumes import pixels


def hash_reader():
    return Reader(Criterion("hash", Intensity.parse()), torch.device("cpu"))


def test_pieces_that_do_not_fit_on_the_gpu_go_there_in_halves(monkeypatch):
    sizes, on_device = [], Reader._on_device

    def short_of_memory(self, slices):
        sizes.append(len(slices))
        if len(slices) > 2:
            raise torch.OutOfMemoryError
        return on_device(self, slices)

    monkeypatch.setattr(Reader, "_on_device", short_of_memory)
    slices = pixels(7, 20, 24)
    found = torch.cat(list(hash_reader()._in_halves(torch.from_numpy(slices))))
    np.testing.assert_array_equal(found, Intensity.parse().to_uint8(slices))
    assert sizes == [7, 4, 2, 2, 3, 2, 1]


def test_no_memory_for_one_slice_is_one_line(monkeypatch):
    def none_left(self, slices):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Reader, "_on_device", none_left)
    with pytest.raises(LimGpuError, match="^cpu: out of memory for one slice. Free memory, or use --device cpu$"):
        list(hash_reader()._in_halves(torch.zeros((3, 4, 4), dtype=torch.int16)))
