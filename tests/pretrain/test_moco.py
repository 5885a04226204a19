"""MoCo: the loss against a double loop, the momentum encoder, the queue with its ids, split batch normalisation."""

from __future__ import annotations

import math

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional

from batches import batch
from lim_gpu.errors import UsageError
from lim_gpu.pretrain import moco as moco_module
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.moco import MoCo, Queue, SplitBatchNorm2d, info_nce_logits, split_batch_norm

TINY = {"backbone": "resnet18", "batch_size": 8, "moco.size": 32, "moco.bn_groups": 2, "moco.output": 8}


def moco(slices: int = 96, **overrides) -> MoCo:
    torch.manual_seed(0)
    return MoCo(resolve("moco", overrides=TINY | {f"moco.{k}": v for k, v in overrides.items()}), slices)


def unit(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return functional.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


def test_loss_equals_a_double_loop():
    q, k, queue = unit(5, 8), unit(6, 8)[:5], unit(11, 8)
    hidden = torch.rand(5, 11, generator=torch.Generator().manual_seed(0)) < 0.3
    hidden[2] = True
    total = 0.0
    for i in range(5):
        own = math.exp(float(q[i] @ k[i]) / 0.2)
        others = 0.0
        for j in range(11):
            if not hidden[i, j]:
                others += math.exp(float(q[i] @ queue[j]) / 0.2)
        total -= math.log(own / (own + others)) / 5
    logits = info_nce_logits(q, k, queue, hidden, 0.2)
    loss = functional.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    assert loss.item() == pytest.approx(total, rel=1e-12)


def test_keys_follow_the_query_by_momentum_and_take_no_gradient():
    method = moco(key_momentum=0.9)
    names = [name for name, _ in method.encoder.named_parameters()]
    queries = dict(method.encoder.named_parameters())
    keys = dict(method.key_encoder.named_parameters())
    assert names == list(keys)
    before = {name: keys[name].clone() for name in names}
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(1)
    method.update_keys()
    for name in names:
        torch.testing.assert_close(keys[name], 0.9 * before[name] + 0.1 * queries[name])
        assert not keys[name].requires_grad
    method.training_step(batch(torch.arange(8)), 0)
    method.training_step(batch(torch.arange(8, 16)), 0)["loss"].backward()
    assert all(p.grad is not None for p in queries.values())
    trained = {id(p) for group in method.configure_optimizers().param_groups for p in group["params"]}
    assert trained == {id(p) for p in (*method.encoder.parameters(), *method.head.parameters())}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_refused_because_their_momentum_stops(dtype):
    with pytest.raises(UsageError, match="half precision: its steps round to nothing. Give bf16-mixed or 32"):
        moco().to(dtype).update_keys()


def test_the_loss_stays_float32_under_autocast():
    method = moco()
    with torch.autocast("cpu", torch.bfloat16):
        for first in (0, 8):
            found = method.training_step(batch(torch.arange(first, first + 8)), 0)
    assert all(value.dtype == torch.float32 for value in found.values())
    assert found["loss"].isfinite()


def test_the_queue_keeps_the_newest_with_their_ids_and_wraps_around():
    queue = Queue(5, 2)
    assert queue.ids.tolist() == [-1] * 5
    for start in (0, 2, 4):
        ids = torch.tensor([start, start + 1])
        queue.push(ids[:, None].repeat(1, 2).float(), ids, ids // 4)
    assert queue.ids.tolist() == [4, 5, 2, 3, 0]
    assert queue.volumes.tolist() == [1, 1, 0, 0, 0]
    assert queue.keys.tolist() == [[i, i] for i in (4, 5, 2, 3, 0)]


def test_own_slices_and_volumes_can_be_hidden():
    ids = torch.tensor([0, 1, 2, 3, 16, 17, 32, 33])  # volumes 0, 1 and 2
    others = torch.tensor([0, 1, 2, 50, 51, 52, 64, 65])
    views = moco().views(batch(ids), torch.Generator().manual_seed(0))
    losses = {}
    for name, hidden in (
        ("nothing", {"mask_same_slice": False}),
        ("slice", {}),
        ("near", {"mask_near_mm": 5.0}),  # of a volume's first four slices all but the last and the first
        ("volume", {"mask_same_volume": True}),
    ):
        method = moco(slices=32, **hidden)
        assert len(method.queue.ids) == 8
        method.positions = 2.5 * torch.arange(96)
        method.queue.push(unit(8, 8).float(), others, others // 16)
        found = method.loss(views, batch(ids))
        assert found["own_negatives"].item() == 3 / 8
        hidden_pairs = {"nothing": 0, "slice": 3, "near": 3 * 4 - 1, "volume": 3 * 4}[name]
        assert found["negatives"].item() == 8 - hidden_pairs / 8
        losses[name] = found["loss"].item()
    assert (
        losses["nothing"] > losses["slice"] > losses["near"] > losses["volume"] > 0
    )  # fewer negatives, less to tell apart


@pytest.mark.parametrize(
    "asked", [{"mask_hash_bits": 2}, {"soft_hash_bits": 3.0}, {"mask_hash_bits": 0, "soft_hash_bits": 8.0}]
)
def test_keys_that_look_like_the_query_count_less_or_not(monkeypatch, asked):
    """Against a loop over queries and keys, whose codes are compared bit by bit; slices of other volumes are alike."""
    seen = []
    monkeypatch.setattr(moco_module, "info_nce_logits", lambda *args: seen.append(args) or info_nce_logits(*args))
    codes = [0, 0, 1, 3, 7, 2**63, 2**40 - 1, 5] * 12
    method = moco(slices=32, **asked)
    method.hashes = torch.tensor([code - 2**64 * (code >= 2**63) for code in codes])
    ids, others = torch.tensor([0, 1, 2, 3, 16, 17, 32, 33]), torch.tensor([0, 8, 34, 50, 51, 52, 64, 65])
    method.queue.push(unit(8, 8).float(), others, others // 16)
    method.queue.ids[-1] = -1  # nothing has come there yet
    found = method.loss(moco().views(batch(ids), torch.Generator().manual_seed(0)), batch(ids))
    ((q, k, keys, _, temperature),) = seen
    q = q.detach()
    total, left = 0.0, 0.0
    for i, query in enumerate(ids.tolist()):
        negatives = 0.0
        for j, key in enumerate(others.tolist()[:-1]):
            apart = (codes[query] ^ codes[key]).bit_count()
            if query == key or ("mask_hash_bits" in asked and apart <= asked["mask_hash_bits"]):
                continue
            counts = 1 - math.exp(-(apart**2) / (2 * asked["soft_hash_bits"] ** 2)) if "soft_hash_bits" in asked else 1
            negatives += counts * math.exp(float(q[i] @ keys[j]) / temperature)
            left += counts / 8
        own = math.exp(float(q[i] @ k[i]) / temperature)
        total -= math.log(own / (own + negatives)) / 8
    assert found["loss"].item() == pytest.approx(total, rel=1e-5)
    assert found["negatives"].item() == pytest.approx(left, rel=1e-5)
    assert 0 < left < 6.5


def test_an_empty_queue_has_no_negatives():
    method = moco()
    first = method.training_step(batch(torch.arange(8)), 0)
    assert first["loss"] == 0
    assert first["negatives"] == 0
    assert first["queue_filled"].item() == pytest.approx(8 / 24)
    second = method.training_step(batch(torch.arange(8, 16)), 0)
    assert 0 < second["loss"] < 2 * math.log(9)
    assert not torch.isnan(second["loss"])


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])  # timm's activates
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_split_norm_equals_a_norm_of_each_sub_batch(memory_format, kind):
    torch.manual_seed(0)
    whole = nn.Sequential(kind(3)).double()
    nn.init.uniform_(whole[0].weight)
    parts = [kind(3).double() for _ in range(4)]
    for part in parts:
        part.load_state_dict(whole[0].state_dict())
    split_batch_norm(whole, 4)
    assert isinstance(whole[0], SplitBatchNorm2d)
    x = torch.randn(8, 3, 5, 5, dtype=torch.float64).contiguous(memory_format=memory_format)
    x, y = x.requires_grad_(), x.detach().clone().requires_grad_()
    out, expected = whole(x), torch.stack([part(y[i::4]) for i, part in enumerate(parts)], dim=1).flatten(0, 1)
    assert out.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    out.sin().sum().backward()
    expected.sin().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-12)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(part, name) for part in parts]).mean(0)
        torch.testing.assert_close(getattr(whole[0], name), mean, rtol=0, atol=1e-12)
    assert whole[0].num_batches_tracked == 1
    plain = kind(3).double().eval()
    plain.load_state_dict(whole[0].state_dict())
    assert torch.equal(whole.eval()(x), plain(x))


def test_all_groups_are_normalised_in_one_call(monkeypatch):
    calls, norm = [], functional.batch_norm
    monkeypatch.setattr(functional, "batch_norm", lambda x, *args: calls.append(x.shape) or norm(x, *args))
    whole = nn.Sequential(nn.BatchNorm2d(3))
    split_batch_norm(whole, 4)
    whole(torch.randn(8, 3, 5, 5))
    assert calls == [(2, 12, 5, 5)]


def test_a_group_has_as_many_slices_on_several_devices_as_on_one():
    config = resolve("moco", overrides={"batch_size": 128, "moco.bn_groups": 8})
    assert [config.bn_groups_of(processes) for processes in (1, 2, 4)] == [8, 4, 2]
    assert config.bn_groups_of(8) == 2  # a single one would let query and key share their statistics
    assert resolve("moco", "wolf2024-code").bn_groups_of(4) == 1  # plain, as published


def test_the_names_of_the_encoder_stay_those_of_torchvision():
    from torchvision.models import resnet18

    names = {name for name in resnet18().state_dict() if not name.startswith("fc.")}
    assert set(moco().encoder.state_dict()) == names


def test_the_keys_batch_is_shuffled_and_comes_back_in_order():
    method, slices = moco(bn_groups=1), batch(torch.arange(8))
    query, key, order = method.views(slices, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(8))
    assert order.tolist() != list(range(8))
    other = order.flip(0)

    def keys(groups: int, order: torch.Tensor) -> torch.Tensor:
        method = moco(bn_groups=groups)
        method.loss([query, key, order], slices)
        return method.queue.keys[:8]

    # Normalised over the whole batch, an order changes nothing; over sub-batches, it changes each image's company.
    torch.testing.assert_close(keys(1, order), keys(1, other), rtol=0, atol=1e-5)
    assert (keys(2, order) - keys(2, torch.arange(8))).abs().max() > 1e-3


def test_groups_that_do_not_fit_the_batch_are_refused():
    for groups in (3, 8):
        with pytest.raises(UsageError, match=f"moco.bn_groups {groups} does not split the 8 slices"):
            moco(bn_groups=groups).training_step(batch(torch.arange(8)), 0)


def test_a_saved_method_goes_on_with_the_same_loss(tmp_path):
    method = moco()
    for first in (0, 8):
        method.training_step(batch(torch.arange(first, first + 8)), 0)
    torch.save(method.state_dict(), tmp_path / "state.pt")
    again = moco()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    last = batch(torch.arange(16, 24))
    expected, got = (m.training_step(last, 0) for m in (method, again))
    assert expected["loss"] > 0
    assert {k: v.item() for k, v in expected.items()} == {k: v.item() for k, v in got.items()}


def test_every_published_augmentation_can_be_switched_on():
    plain = moco().views(batch(torch.arange(8)), torch.Generator().manual_seed(0))
    full = moco(rotate=1.0, vertical_flip=0.5, noise=1.0).views(
        batch(torch.arange(8)), torch.Generator().manual_seed(0)
    )
    assert [tuple(v.shape) for v in full] == [(8, 3, 32, 32), (8, 3, 32, 32), (8,)]
    assert not torch.equal(plain[0], full[0])
    assert not torch.equal(full[0], full[1])
