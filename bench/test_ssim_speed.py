"""SSIM of all pairs against scikit-image, a pair at a time."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

import lim_gpu

JOB = "SSIM, 512 x 512"
PAIRS = list(combinations(range(0, 40, 10), 2))  # what scikit-image is timed on: 6 of the 780


def scikit_image(slices):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return [structural_similarity(slices[i], slices[j], **options) for i, j in PAIRS]


def check(matrix, slices):
    values = [float(matrix[i, j]) for i, j in PAIRS]
    np.testing.assert_allclose(values, scikit_image(slices), rtol=0, atol=1e-5)


def test_scikit_image(slices, timed):
    timed(JOB, "pair", "scikit-image", lambda: scikit_image(slices), len(PAIRS))


@pytest.mark.parametrize("threads", [1, 2])
def test_cpu(slices, timed, threads):
    torch.set_num_threads(threads)
    check(lim_gpu.similarity_matrix(slices, "ssim", device="cpu"), slices)
    peer = f"lim_gpu, CPU, {threads} thread{'s' * (threads > 1)}"
    timed(JOB, "pair", peer, lambda: lim_gpu.similarity_matrix(slices, "ssim", device="cpu"), 780)


@pytest.mark.gpu
def test_gpu(slices, timed):
    many = torch.from_numpy(np.concatenate([np.roll(slices, shift, axis=2) for shift in range(12)])).cuda()
    check(lim_gpu.similarity_matrix(many, "ssim")[:40, :40], slices)

    def compute():
        lim_gpu.similarity_matrix(many, "ssim")
        torch.cuda.synchronize()

    timed(JOB, "pair", f"lim_gpu, GPU, n = {len(many)}", compute, len(many) * (len(many) - 1) // 2)
