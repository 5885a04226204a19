"""The slices of a store as Lightning wants them: every epoch in another order, resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from lim_gpu.errors import UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.resident import ResidentSlices, SliceBatch, StreamedSlices, placed
from lim_gpu.progress import Reporter
from lim_gpu.selection.selected import SelectedSlices
from lim_gpu.store.slices import MOST_OPEN


def epoch_order(
    volumes: NDArray[np.int64], batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> Tensor:
    """Ids (steps, batch_size / world) of one process in one epoch: a pure function of its arguments.

    A permutation of the n slices, cut into batches, of which each process takes its share: a step sees the same slices
    however many processes there are. What is left over, less than a batch, is dropped.

    volumes: (n,) the volume of each slice. Of more than MOST_OPEN the slices are permuted within groups of volumes,
    which are drawn anew in each epoch and come one after another: reading opens a file once an epoch, not once a slice.
    """
    n, rng = len(volumes), np.random.default_rng((seed, epoch))
    steps = n // batch_size
    order = _in_groups(volumes, rng)[: steps * batch_size]
    return torch.from_numpy(order).view(steps, world, batch_size // world)[:, rank]


def _in_groups(volumes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A permutation of all slices in which groups of at most MOST_OPEN volumes follow each other."""
    names, volume = np.unique(volumes, return_inverse=True)
    if len(names) <= MOST_OPEN:
        return rng.permutation(len(volumes))
    group = np.empty(len(names), dtype=np.int64)
    for number, part in enumerate(np.array_split(rng.permutation(len(names)), -(-len(names) // MOST_OPEN))):
        group[part] = number
    order = rng.permutation(len(volumes))
    return order[np.argsort(group[volume[order]], kind="stable")]


class Epochs:
    """The batches of one epoch at each iteration, and the next epoch's at the next, which are read ahead already.

    position  batches handed out since the beginning of the training, over all epochs; may be set
    """

    def __init__(
        self,
        slices: ResidentSlices | StreamedSlices,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        position: int = 0,
    ) -> None:
        self.slices = slices
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.position = position
        self._volumes = slices.volumes.cpu().numpy()
        self._ahead: tuple[int, Iterator[SliceBatch]] | None = None  # the batches from a position on

    def __len__(self) -> int:
        return len(self.slices) // self.batch_size

    def __iter__(self) -> Iterator[SliceBatch]:
        left = len(self) - self.position % len(self)
        ahead = self._ahead[1] if self._ahead and self._ahead[0] == self.position else None
        batches = ahead or iter(self.slices.batches(self._orders(*divmod(self.position, len(self)))))
        self._ahead = None  # should reading fail, it begins again
        for batch in islice(batches, left):
            self.position += 1
            self._ahead = self.position, batches
            yield batch

    def _orders(self, epoch: int, done: int) -> Iterator[Tensor]:
        """Ids of every batch from one on, without an end, so that reading ahead goes on into the next epoch."""
        while True:
            yield from epoch_order(self._volumes, self.batch_size, self.seed, epoch, self.rank, self.world)[done:]
            epoch, done = epoch + 1, 0

    def close(self) -> None:
        """End what reads ahead."""
        self._ahead = None

    def state_dict(self) -> dict[str, int]:
        """With it, Lightning holds a training that stopped within an epoch for resumable."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """What `state_dict` gave."""
        self.position = state["position"]


class SlicesDataModule(LightningDataModule):
    """Slices of a store for pre-training; whether they lie on the device or stream is hidden.

    slices      which; intensity: how they become 0..255, by default each by its own range
    batch_size  slices of a step over all processes
    budget      bytes of the device for them; None: half of what is free, 0: they always stream
    position    batches that a training which goes on has seen; Lightning's checkpoints hold it

    Its `len` is the number of slices. They are read at `setup`, onto the trainer's device. Raises InputError where
    there is no slice, UsageError for a batch that is larger than the set, or that the processes cannot share.
    """

    def __init__(
        self,
        slices: SelectedSlices,
        batch_size: int,
        seed: int = 0,
        *,
        intensity: Intensity | None = None,
        budget: int | None = None,
        position: int = 0,
        reporter: Reporter | None = None,
    ) -> None:
        super().__init__()
        self.streamed = StreamedSlices(slices, "cpu", intensity)
        self.batch_size, self.seed, self.budget, self.position = batch_size, seed, budget, position
        self.reporter = reporter
        self.slices: ResidentSlices | StreamedSlices | None = None
        self.epochs: Epochs | None = None
        if batch_size > len(self):
            raise UsageError(
                f"batch-size {batch_size} is larger than the {len(self)} slices of {slices.source}. "
                f"Give --batch-size {len(self)} or less"
            )

    def __len__(self) -> int:
        return len(self.streamed)

    def setup(self, stage: str | None = None) -> None:
        """Read the slices, once."""
        _, world = self._process
        if self.batch_size % world:
            raise UsageError(f"batch-size {self.batch_size} cannot be shared by {world} processes. Give a multiple")
        if self.slices is None:
            if self.reporter and self.streamed.is_blank():
                self.reporter.warn("every slice is of one grey, mapped to 0..255: there is nothing to learn from")
            device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
            self.slices = placed(self.streamed.to(device), self.budget, self.reporter)

    def train_dataloader(self) -> Epochs:
        """The batches of this process; `setup` has been called."""
        assert self.slices is not None
        self.epochs = Epochs(self.slices, self.batch_size, self.seed, *self._process, position=self.position)
        return self.epochs

    def teardown(self, stage: str | None = None) -> None:
        """Nothing is read any more."""
        if self.epochs is not None:
            self.epochs.close()

    def state_dict(self) -> dict[str, int]:
        """Where the training is: Lightning loads a loader's own state within an epoch, but not at its end."""
        return {"position": self.position if self.epochs is None else self.epochs.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """What `state_dict` gave; before `train_dataloader`."""
        self.position = state["position"]

    @property
    def _process(self) -> tuple[int, int]:
        """Rank and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """They are where they belong: the sizes on the CPU, all else on the device."""
        return batch
