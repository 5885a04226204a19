"""The order of the epochs, and a training that goes on where it stopped."""

from __future__ import annotations

from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from lim_gpu.errors import UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.datamodule import Epochs, SlicesDataModule, epoch_order
from lim_gpu.pretrain.resident import AHEAD, ResidentSlices, StreamedSlices
from lim_gpu.progress import Reporter
from lim_gpu.selection.selected import open_selected
from lim_gpu.store.slices import MOST_OPEN
from volumes import pixels, write_store

N, BATCH = 23, 4
STEPS = N // BATCH
ONE = np.zeros(N, dtype=np.int64)  # all of one volume


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "slices", [pixels(12, 16, 12), pixels(11, 12, 16, seed=1)])


class Noting(lightning.LightningModule):
    """Notes the ids that it is given; can stop hard after some steps."""

    def __init__(self, until=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.until = [], until

    def training_step(self, batch, batch_idx):
        assert batch.pixels.shape == (BATCH, 16, 16)
        if len(self.seen) == self.until:
            raise RuntimeError("killed")
        self.seen.append(batch.ids.tolist())
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trained(module, data, epochs, folder, resume=None, **options):
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"enable_checkpointing": False} | options),
    )
    trainer.fit(module, data, ckpt_path=resume)
    return module.seen


def data_of(store, **options):
    return SlicesDataModule(open_selected(store), BATCH, seed=3, **options)


def orders(epochs, seed=3):
    return [row for epoch in range(epochs) for row in epoch_order(ONE, BATCH, seed, epoch).tolist()]


def test_an_epoch_shows_each_slice_at_most_once_and_drops_the_rest():
    order = epoch_order(ONE, BATCH, 0, 0)
    assert order.shape == (STEPS, BATCH)
    assert len(order.unique()) == STEPS * BATCH
    assert order.min() >= 0
    assert order.max() < N
    assert order.dtype == torch.int64


def test_the_order_depends_on_seed_and_epoch_alone():
    assert torch.equal(epoch_order(ONE, BATCH, 5, 2), epoch_order(ONE, BATCH, 5, 2))
    several = {
        tuple(epoch_order(ONE, BATCH, seed, epoch).flatten().tolist()) for seed in range(5) for epoch in range(5)
    }
    assert len(several) == 25
    firsts = torch.stack([epoch_order(ONE, 1, 0, epoch)[0, 0] for epoch in range(2000)])
    assert (firsts.bincount(minlength=N) > 2000 / N / 2).all()


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batch_of_one(world):
    alone = epoch_order(ONE, BATCH, 1, 3)
    shares = [epoch_order(ONE, BATCH, 1, 3, rank, world) for rank in range(world)]
    assert torch.equal(torch.cat(shares, dim=1), alone)
    assert len(torch.cat(shares).unique()) == STEPS * BATCH


@given(
    sizes=st.lists(st.integers(1, 5), min_size=MOST_OPEN + 1, max_size=3 * MOST_OPEN),
    batch=st.sampled_from([4, 8, 12]),
    epoch=st.integers(0, 3),
)
@settings(max_examples=25, deadline=None)
def test_slices_of_many_volumes_come_group_after_group(sizes, batch, epoch):
    volumes = np.repeat(np.arange(len(sizes)), sizes)
    order = epoch_order(volumes, batch, 3, epoch)
    flat = order.flatten().numpy()
    assert len(set(flat.tolist())) == len(flat) == len(volumes) // batch * batch  # each once
    firsts, lasts = {}, {}
    for place, volume in enumerate(volumes[flat]):
        firsts.setdefault(volume, place)
        lasts[volume] = place
    needed = [sum(firsts[v] <= place <= lasts[v] for v in firsts) for place in range(0, len(flat), 7)]
    assert max(needed) <= MOST_OPEN
    shares = [epoch_order(volumes, batch, 3, epoch, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat(shares, dim=1), order)  # at any number of processes
    assert not torch.equal(order, epoch_order(volumes, batch, 3, epoch + 1))


def test_few_volumes_are_shuffled_as_a_whole():
    """As before there were groups: the bits of these runs stay."""
    volumes = np.repeat(np.arange(MOST_OPEN), 3)
    expected = np.random.default_rng((3, 1)).permutation(3 * MOST_OPEN)
    assert epoch_order(volumes, MOST_OPEN, 3, 1).flatten().tolist() == expected.tolist()


def test_the_next_epoch_is_read_ahead_before_this_one_ends(store, monkeypatch):
    data, asked, begun = data_of(store, budget=0), [], []
    data.setup()
    batches = data.slices.batches

    def noted(order):
        begun.append(order)
        return batches(asked.append(ids.tolist()) or ids for ids in order)

    monkeypatch.setattr(data.slices, "batches", noted)
    epochs = data.train_dataloader()
    seen = [batch.ids.tolist() for batch in epochs]
    assert asked == orders(2)[: STEPS + AHEAD]
    seen += [batch.ids.tolist() for batch in epochs]
    assert seen == orders(2)
    assert len(begun) == 1
    data.teardown()


@pytest.mark.parametrize(("budget", "kind"), [(None, ResidentSlices), (0, StreamedSlices)])
def test_a_training_sees_every_epoch_in_its_order(store, tmp_path, budget, kind):
    data = data_of(store, budget=budget)
    assert len(data) == N
    assert trained(Noting(), data, 3, tmp_path) == orders(3)
    assert isinstance(data.slices, kind)


def test_streamed_and_resident_batches_are_the_same_bits(store):
    batches = []
    for budget in (0, None):
        data = data_of(store, budget=budget)
        data.setup()
        batches.append(list(data.train_dataloader()))
    for one, other in zip(*batches, strict=True):
        assert one.following is other.following is None
        assert all(torch.equal(a, b) for a, b in zip(one[:-1], other[:-1], strict=True))


@pytest.mark.parametrize("steps", [1, STEPS - 1, STEPS, STEPS + 2, 2 * STEPS])
def test_a_checkpoint_goes_on_within_its_epoch(store, tmp_path, steps):
    """Saved after any step, also the last of an epoch; killed a step later."""
    saving = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, "after-{step}", every_n_train_steps=steps, save_top_k=-1
    )
    killed = Noting(until=steps + 1)
    with pytest.raises(RuntimeError, match="killed"):
        trained(
            killed,
            data_of(store),
            3,
            tmp_path,
            callbacks=[saving],
            enable_checkpointing=True,
        )
    resumed = trained(
        Noting(),
        data_of(store),
        3,
        tmp_path,
        resume=tmp_path / f"after-step={steps}.ckpt",
    )
    assert killed.seen[:steps] + resumed == orders(3)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_checkpoint_of_an_epochs_end_goes_on_with_the_next(store, tmp_path, epochs):
    saving = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "end", save_on_train_epoch_end=True)
    first = trained(
        Noting(),
        data_of(store),
        epochs,
        tmp_path,
        callbacks=[saving],
        enable_checkpointing=True,
    )
    resumed = trained(Noting(), data_of(store), 3, tmp_path, resume=tmp_path / "end.ckpt")
    assert first + resumed == orders(3)


@pytest.mark.parametrize("position", [0, 3, STEPS, STEPS + 1])
def test_the_position_can_be_given(store, position):
    data = data_of(store, position=position)
    data.setup()
    loader = data.train_dataloader()
    assert len(loader) == STEPS
    seen = [batch.ids.tolist() for _ in range(2) for batch in loader]
    assert seen == orders(3)[position:][: len(seen)]
    assert loader.position == position + len(seen)
    assert loader.position % STEPS == 0


def test_the_position_counts_what_was_handed_out(store):
    """Not what was read ahead."""
    loader = Epochs(StreamedSlices(open_selected(store)), BATCH, 3)
    batches = iter(loader)
    next(batches)
    next(batches)
    assert loader.state_dict() == {"position": 2}
    batches.close()
    again = Epochs(StreamedSlices(open_selected(store)), BATCH, 3)
    again.load_state_dict(loader.state_dict())
    assert next(iter(again)).ids.tolist() == orders(1)[2]


def test_a_batch_larger_than_the_set_is_refused(store):
    with pytest.raises(
        UsageError, match=r"batch-size 24 is larger than the 23 slices of .*slices. Give --batch-size 23"
    ):
        SlicesDataModule(open_selected(store), 24)
    assert len(SlicesDataModule(open_selected(store), 23)) == 23


def of_two_processes(store, batch_size, rank):
    data = SlicesDataModule(open_selected(store), batch_size)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=2, global_rank=rank, strategy=strategy)
    return data


def test_processes_get_disjoint_shares(store):
    seen = []
    for rank in (0, 1):
        data = of_two_processes(store, BATCH, rank)
        data.setup()
        assert len(data.train_dataloader()) == STEPS
        seen.append(torch.stack([batch.ids for batch in data.train_dataloader()]))
    assert torch.equal(torch.cat(seen, dim=1), epoch_order(ONE, BATCH, 0, 0))


def test_a_batch_that_cannot_be_shared_is_refused(store):
    data = of_two_processes(store, 3, 0)
    with pytest.raises(UsageError, match="batch-size 3 cannot be shared by 2 processes"):
        data.setup()


@pytest.mark.parametrize("spot", [False, True])
def test_slices_that_are_all_of_one_grey_are_said(tmp_path, capsys, spot):
    flat = np.stack([np.full((12, 16), value, np.int16) for value in (600, 700, 800)])
    flat[2, 5, 5] -= 1000 * spot
    path = write_store(tmp_path / "slices", [flat])
    lung = Intensity.parse(window="lung")
    with open_selected(path) as slices:
        SlicesDataModule(slices, 2, intensity=lung, reporter=Reporter()).setup()
    assert ("every slice is of one grey" in capsys.readouterr().err) != spot
