"""What the views of pre-training cost (SwAV, 2 x 224 + 6 x 96): against lightly's loader, and of a whole step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench import inputs
from bench.peers import DEVICES
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.datamodule import epoch_order
from lim_gpu.pretrain.method import laid_out, step_generator
from lim_gpu.pretrain.optimizers import build_optimizer
from lim_gpu.pretrain.resident import ResidentSlices, SliceBatch
from lim_gpu.pretrain.swav import SwAV

VIEWS, STEP = "Pre-training, views", "Pre-training, step"
LIGHTLY, RANDOM = "lightly's loader, PNG files", "random tensors, the step alone"
BATCH = {"cpu": 4, "cuda": 128}
STEPS = {"cpu": 1, "cuda": 12}  # of an epoch: lightly's workers need some to get going
BACKBONE = {"cpu": "resnet18", "cuda": "resnet50"}
PICTURES = 64  # files; an epoch reads them again and again
BUDGETS = {"lim_gpu": 15, RANDOM: 15, LIGHTLY: 45}  # s; lightly's workers crop on the CPU
PEERS = [pytest.param(name, marks=pytest.mark.budget(seconds)) for name, seconds in BUDGETS.items()]
Views = list[Tensor]


class Pictures(Dataset[list[Tensor]]):
    """PNG files as the authors' ImageFolder reads them, through lightly's SwaVTransform."""

    def __init__(self, folder: Path, length: int) -> None:
        from lightly.transforms import SwaVTransform

        self.paths, self.length, self.transform = sorted(folder.glob("*.png")), length, SwaVTransform()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(Image.open(self.paths[index % len(self.paths)]).convert("RGB"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(inputs.volume(PICTURES, "cpu").numpy()):
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


class Setting:
    """A device with its network, its slices and the three sources of views."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        self.device, self.batch, self.count = device, BATCH[device], BATCH[device] * STEPS[device]
        self.config = resolve("swav", "recommended", {"backbone": BACKBONE[device], "batch_size": self.batch})
        self.swav = laid_out(SwAV(self.config, self.count).to(device), torch.device(device))  # as training does
        self.optimizer = build_optimizer(self.swav, self.config)
        pixels = inputs.volume(self.count, device)
        sizes = torch.full((self.count, 2), inputs.SIZE)
        self.slices = ResidentSlices(pixels, sizes, torch.zeros(self.count, dtype=torch.int64))

    def lim_gpu(self) -> Iterator[Views]:
        for step, batch in enumerate(
            self.slices.batches(epoch_order(self.slices.volumes.cpu().numpy(), self.batch, 0, 0))
        ):
            yield self.swav.views(batch, step_generator(0, step, 0))

    def random(self) -> Iterator[Views]:
        views = [torch.randn(n * self.batch, 3, side, side, device=self.device) for n, side in ((2, 224), (6, 96))]
        for _ in range(STEPS[self.device]):
            yield views

    def lightly(self, pictures: Path) -> Callable[[], Iterator[Views]]:
        workers = (os.cpu_count() or 1) if self.device == "cuda" else 0
        loader = DataLoader(
            Pictures(pictures, self.count), self.batch, True, drop_last=True, num_workers=workers,
            persistent_workers=workers > 0, pin_memory=self.device == "cuda",
        )  # fmt: skip

        def views() -> Iterator[Views]:
            for crops in loader:
                there = [crop.to(self.device, non_blocking=True) for crop in crops]
                yield [torch.cat(there[:2]), torch.cat(there[2:])]

        return views

    def train(self, source: Iterator[Views]) -> float:
        """One epoch; the last loss."""
        ids = torch.arange(self.batch, device=self.device)
        batch = SliceBatch(self.slices.pixels[: self.batch], self.slices.sizes[: self.batch], ids, ids)
        for views in source:
            views = [laid_out(view, view.device) for view in views]
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                loss = self.swav.loss(views, batch)["loss"]
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        return float(loss.detach())


@pytest.fixture(scope="module")
def setting():
    """A function of the device."""
    made: dict[str, Setting] = {}
    return lambda device: made.setdefault(device, Setting(device))


@pytest.fixture
def sources(setting, request):
    """A function of the device and the peer's name: a function that starts an epoch of views."""

    def source(device: str, peer: str) -> Callable[[], Iterator[Views]]:
        there = setting(device)
        if peer == LIGHTLY:
            pytest.importorskip("lightly")
            return there.lightly(request.getfixturevalue("pictures"))
        return there.random if peer == RANDOM else there.lim_gpu

    return source


def check(views: Views, device: str) -> None:
    """The crops that a step needs, normalised, and no two alike."""
    assert [tuple(view.shape) for view in views] == [(n * BATCH[device], 3, s, s) for n, s in ((2, 224), (6, 96))]
    for view in views:
        assert view.device.type == device
        assert view.isfinite().all()
        assert -5 < float(view.mean()) < 5
        assert float(view[0].std()) > 0.1
        assert not torch.equal(view[0], view[BATCH[device]])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("peer", PEERS)
def test_step(peer, device, sources, setting, timed):
    source, there = sources(device, peer), setting(device)
    assert 0 < there.train(source()) < 100
    timed(STEP, "slice", peer, lambda: there.train(source()), there.count, 3, n=there.count)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("peer", [peer for peer in PEERS if RANDOM not in peer.values])
def test_views(peer, device, sources, setting, timed):
    source = sources(device, peer)
    check(next(source()), device)
    count = setting(device).count
    timed(VIEWS, "slice", peer, lambda: [None for _ in source()], count, 3, n=count)
