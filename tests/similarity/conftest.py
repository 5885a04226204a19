"""The real CT as the methods see it, and weights for DeepNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import resnet50

from lim_gpu.intensity import Intensity


@pytest.fixture(scope="session")
def headneck_grey(headneck: Path) -> np.ndarray:
    """The 135 slices (135, 512, 512) in spatial order, each mapped by its own minimum..maximum."""
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("jpeg_ls", reason="pyjpegls is not installed")
    datasets = sorted((pydicom.dcmread(path) for path in headneck.iterdir()), key=lambda d: d.ImagePositionPatient[2])
    hu = np.stack([dataset.pixel_array for dataset in datasets])  # rescale slope 1 and intercept 0
    hu[hu < -1024] = -1024
    return Intensity.parse().to_uint8(hu)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet50 of seeded random weights: its outputs differ from slice to slice, and nothing is downloaded."""
    torch.manual_seed(11)
    path = tmp_path_factory.mktemp("weights") / "seeded.pth"
    torch.save(resnet50(weights=None).state_dict(), path)
    return path
