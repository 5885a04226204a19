"""One run: what moves in each phase, what repeats, and which epoch counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lim_gpu.errors import LimGpuError, UsageError
from lim_gpu.finetune.protocol import Protocol, protocol
from lim_gpu.finetune.splits import Split
from lim_gpu.finetune.starts import Start
from lim_gpu.finetune.training import calibrate, logits, train
from lim_gpu.labelled.images import Images, Normalisation, network_input

PLACES = np.arange(24)
SPLIT = Split(0, 5, PLACES[:12], PLACES[12:18], PLACES[18:])
NORMAL = Normalisation((0.4,) * 3, (0.2,) * 3)
START = Start("random", "resnet18", 3)
BATCH_NORM_STATE = ("running_mean", "running_var", "num_batches_tracked")
QUICK = protocol("wolf2024-paper", epochs=2, head_epochs=1, size=32, batch_size=6)


@pytest.fixture(scope="module")
def data():
    pixels = torch.randint(0, 256, (24, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(24) % 2
    pixels[labels == 1, :, 8:16, 8:16] = 255
    return Images(pixels, tuple(map(str, range(24)))), labels


def changed(before, network):
    after = network.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def run(data, setting, start=START):
    network = start.network(2, SPLIT.seed)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trained = train(network, *data, SPLIT, setting, NORMAL)
    return changed(before, network), trained, network


def test_the_head_phase_leaves_the_backbone_as_it_is_to_the_last_statistic(data):
    moved, trained, _ = run(data, replace(QUICK, epochs=1))
    assert moved == {"head.weight", "head.bias"}
    assert trained.history[0]["phase"] == "head"


def test_a_linear_probe_encodes_each_image_once_and_learns_what_the_head_phase_learns(data, monkeypatch):
    setting = replace(QUICK, epochs=3, head_epochs=3, flip=False)
    others = (replace(setting, flip=True), replace(setting, norm="adapts"), replace(setting, epochs=4))
    assert [one.frozen for one in (setting, *others)] == [True, False, False, False]
    seen = []
    network = START.network(2, SPLIT.seed)
    network.encoder.register_forward_hook(lambda _module, _inputs, out: seen.append(len(out)))
    trained = train(network, *data, SPLIT, setting, NORMAL)
    assert sum(seen) == len(SPLIT.train) + len(SPLIT.val)
    monkeypatch.setattr(Protocol, "frozen", False)
    _, each_epoch, _ = run(data, setting)
    assert trained.epoch == each_epoch.epoch
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(trained.state[name], each_epoch.state[name], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(trained.state[name], each_epoch.state[name]) for name in trained.state if "head" not in name)


def test_the_notebooks_head_phase_trains_batch_norm_too(data):
    moved, _, _ = run(data, protocol("wolf2024-code", epochs=1, head_epochs=1, size=32, batch_size=6))
    backbone = {name for name in moved if name.startswith("encoder.")}
    assert "encoder.bn1.weight" in backbone
    assert "encoder.layer4.1.bn2.running_mean" in backbone
    assert not any("conv" in name or "downsample.0" in name for name in backbone)


def test_the_epoch_is_that_of_the_highest_auc_where_that_is_asked_for(data):
    """By hand from the outputs of each epoch; six images tie in accuracy more often than in AUC."""
    network = START.network(2, SPLIT.seed)
    seen = []

    def note(_count):
        outputs = torch.softmax(logits(network, data[0], SPLIT.val, QUICK, NORMAL), 1)[:, 1]
        true = data[1][SPLIT.val] == 1
        pairs = (outputs[true][:, None] - outputs[~true]).sign() / 2 + 0.5
        seen.append(float(pairs.mean()))
        network.train()

    setting = replace(QUICK, epochs=4, head_epochs=0)
    trained = train(network, *data, SPLIT, setting, NORMAL, note, 1)
    assert [entry["val_auc"] for entry in trained.history] == pytest.approx(seen)
    assert trained.epoch == int(np.argmax(seen))


def test_in_mixed_precision_weights_and_logits_stay_float32(data):
    seen = []
    network = START.network(2, 0)
    network.encoder.layer1.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    setting = replace(QUICK, precision="bf16-mixed")
    assert logits(network, data[0], SPLIT.test, setting, NORMAL).dtype == torch.float32
    assert seen == [torch.bfloat16]
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}
    logits(network, data[0], SPLIT.test, QUICK, NORMAL)
    assert seen[1:] == [torch.float32]  # on a CPU not by itself
    with pytest.raises(UsageError, match="--precision half is unknown. Give one of auto, 32, bf16-mixed"):
        replace(QUICK, precision="half")


def test_calibrated_weights_are_random_ones_whose_batch_norm_has_seen_the_training_images(data):
    network, untouched = START.network(2, 0), START.network(2, 0).state_dict()
    calibrate(network, data[0], SPLIT.train, QUICK, NORMAL)
    moved = changed(untouched, network)
    assert moved == {name for name in untouched if name.split(".")[-1] in BATCH_NORM_STATE}
    images = network_input(data[0].pixels[SPLIT.train], 32, "bilinear", NORMAL)
    first = torch.stack([network.encoder.conv1(part).mean((0, 2, 3)) for part in images.split(6)]).mean(0)
    torch.testing.assert_close(network.encoder.bn1.running_mean, first)
    assert network.encoder.bn1.momentum == 0.1


def test_the_second_phase_trains_everything(data):
    moved, trained, network = run(data, QUICK)
    assert moved == set(network.state_dict())
    assert [entry["phase"] for entry in trained.history] == ["head", "all"]


def test_a_seed_repeats_to_the_bit(data):
    first, again = run(data, QUICK)[1], run(data, QUICK)[1]
    assert first.history == again.history
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)


def test_the_head_is_the_same_for_every_start_of_one_seed(data):
    other = Start(
        "other", "resnet18", 1, START.network(2, 99).encoder.state_dict() | {"conv1.weight": torch.ones(64, 1, 7, 7)}
    )
    one, two = START.network(2, 5), other.network(2, 5)
    assert torch.equal(one.head.weight, two.head.weight)
    assert not torch.equal(one.head.weight, START.network(2, 6).head.weight)
    assert torch.equal(two.encoder.conv1.weight, torch.ones(64, 1, 7, 7))


def test_making_a_network_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    START.network(2, 5)
    assert torch.equal(torch.rand(3), expected)


def test_the_best_epoch_by_validation_counts_and_ties_keep_the_earlier(data):
    _, trained, network = run(data, replace(QUICK, epochs=5))
    accuracies = [entry["val_acc"] for entry in trained.history]
    assert trained.epoch == int(np.argmax(accuracies))
    network.load_state_dict(trained.state)
    outputs = logits(network, data[0], SPLIT.val, QUICK, NORMAL)
    assert float((outputs.argmax(1) == data[1][SPLIT.val]).double().mean()) == trained.scores["val_acc"]


def test_logits_do_not_depend_on_the_company_an_image_keeps(data):
    network = START.network(2, 0)
    together = logits(network, data[0], PLACES, QUICK, NORMAL)
    alone = torch.cat([logits(network, data[0], PLACES[k : k + 1], QUICK, NORMAL) for k in range(4)])
    assert torch.allclose(together[:4], alone, rtol=1e-4, atol=1e-4)


def test_a_loss_that_is_not_finite_stops(data):
    with pytest.raises(LimGpuError, match="not finite in epoch 0.*--lr"):
        run(data, replace(QUICK, lr=1e30))


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives(data):
    images, labels = data
    network = START.network(2, 5)
    expected = logits(network, images, PLACES, QUICK, NORMAL)
    place = torch.device("cuda")
    found = logits(network.to(place), images.to(place), PLACES, QUICK, NORMAL)
    assert torch.allclose(found.cpu(), expected, atol=2e-2)  # TF32 convolutions
    trained = train(network, images.to(place), labels.to(place), SPLIT, QUICK, NORMAL)
    assert all(value.device.type == "cpu" for value in trained.state.values())
