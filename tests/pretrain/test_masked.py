"""Masked convolution and BatchNorm: equal to gathering, blind to what is masked, plain ResNet where nothing is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lim_gpu.errors import UsageError
from lim_gpu.pretrain.masked import Mask, batch_norm, draw_cells, maps, residual_blocks
from lim_gpu.weights.backbone import resnet


@pytest.fixture
def mask() -> Mask:
    return Mask(draw_cells(3, 2, 2, torch.Generator().manual_seed(1)), 2)


def test_every_image_keeps_equally_many_cells_and_every_cell_is_kept_at_times():
    cells = draw_cells(500, 7, 20, torch.Generator().manual_seed(0))
    assert (cells.sum((1, 2, 3)) == 20).all()
    often = cells.float().mean(0)
    assert often.min() > 0.3  # 20 / 49 = 0.41
    assert often.max() < 0.52


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_equals_the_norm_of_gathered_positions_with_its_gradients(mask, memory_format):
    torch.manual_seed(0)
    ours, plain = nn.BatchNorm2d(5).double(), nn.BatchNorm1d(5).double()
    for norm in (ours, plain):
        nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(2))
        nn.init.uniform_(norm.bias, generator=torch.Generator().manual_seed(3))
    x = (torch.randn(3, 5, 8, 8, dtype=torch.float64) * 3 + 7).contiguous(memory_format=memory_format).requires_grad_()
    y = x.detach().clone().requires_grad_()
    out = batch_norm(ours, x, mask)
    places = mask.over(x).expand(3, 1, 8, 8)[:, 0].nonzero(as_tuple=True)
    gathered = y.permute(0, 2, 3, 1)[places]
    assert len(gathered) == mask.places(x).numel() == 3 * 2 * 16
    expected = torch.zeros_like(y).permute(0, 2, 3, 1).index_put(places, plain(gathered)).permute(0, 3, 1, 2)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert out.is_contiguous(memory_format=memory_format)
    out.square().sin().sum().backward()
    assert x.grad.is_contiguous(memory_format=memory_format)
    expected.square().sin().sum().backward()
    for got, wanted in (
        (x.grad, y.grad),
        (ours.weight.grad, plain.weight.grad),
        (ours.bias.grad, plain.bias.grad),
        (ours.running_mean, plain.running_mean),
        (ours.running_var, plain.running_var),
    ):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    assert ours.num_batches_tracked == 1
    torch.testing.assert_close(
        batch_norm(ours.eval(), x, mask),
        torch.where(mask.over(x), ours(x), 0),  # by its running statistics
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_gradients_of_batch_norm_are_those_of_differences(mask, training):
    torch.manual_seed(0)
    norm, x = nn.BatchNorm2d(2).double().train(training), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    inputs = [value.requires_grad_() for value in (x, norm.weight, norm.bias)]
    assert torch.autograd.gradcheck(lambda x, *_: batch_norm(norm, x, mask), inputs)


def test_the_places_are_those_that_the_mask_keeps():
    mask = Mask(
        torch.tensor([[[[True, False, True], [False, True, True]]], [[[False, True, True], [True, True, False]]]]), 4
    )
    x = torch.zeros(2, 1, 8, 12)
    kept = mask.over(x).flatten(1)
    for places, image in zip(mask.places(x), kept, strict=True):
        assert sorted(places.tolist()) == image.nonzero().flatten().tolist()


def test_sums_are_of_float32_where_the_maps_are_of_half(mask):
    x = (torch.randn(3, 4, 64, 64, generator=torch.Generator().manual_seed(0)) + 30).bfloat16()
    rounded_once = batch_norm(nn.BatchNorm2d(4), x.float(), mask).bfloat16()
    assert torch.equal(batch_norm(nn.BatchNorm2d(4), x, mask), rounded_once)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_with_every_cell_kept_it_is_the_plain_resnet(name):
    torch.manual_seed(0)
    ours = resnet(name).double()
    plain = resnet(name).double()
    plain.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    found = maps(ours, images, Mask(torch.ones(2, 1, 2, 2, dtype=torch.bool), 4))
    assert [tuple(m.shape[2:]) for m in found] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    torch.testing.assert_close(found[-1].mean((2, 3)), plain(images))
    for key, value in ours.state_dict().items():  # running statistics too
        torch.testing.assert_close(value, plain.state_dict()[key])


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_what_is_masked_changes_nothing(name, mask):
    torch.manual_seed(0)
    encoder = resnet(name)
    images = torch.randn(3, 3, 64, 64)
    other = torch.where(mask.over(images), images, torch.randn_like(images) * 100)
    before = maps(encoder, images, mask)
    for map_, same in zip(before, maps(encoder, other, mask), strict=True):
        assert torch.equal(map_, same)
        assert not (map_ * ~mask.over(map_)).any()
        assert map_.any()
    changed = maps(encoder, torch.where(mask.over(images), images + 1, images), mask)
    assert not torch.equal(before[-1], changed[-1])


def test_a_dropped_branch_leaves_the_shortcut():
    torch.manual_seed(0)
    encoder = resnet("resnet18")
    images, mask = torch.randn(2, 3, 32, 32), Mask(torch.ones(2, 1, 1, 1, dtype=torch.bool), 1)
    drop = torch.ones(len(residual_blocks(encoder)), 2)
    kept = maps(encoder, images, mask, drop)
    assert torch.equal(kept[0], maps(encoder, images, mask)[0])
    drop[:2, 1] = 0  # both blocks of layer1, of the second image
    dropped = maps(encoder, images, mask, drop)[0]
    stem = encoder.maxpool(encoder.relu(batch_norm(encoder.bn1, encoder.conv1(images), mask)))
    assert torch.equal(dropped[1], stem[1])
    assert torch.equal(dropped[0], dropped[0].clamp_min(0))
    assert not torch.equal(dropped[0], stem[0])


def test_images_that_the_mask_does_not_fit_are_refused():
    with pytest.raises(UsageError, match="images of 72 x 64 .* cells of 32 x 32. Give multiples"):
        maps(resnet("resnet18"), torch.zeros(1, 3, 72, 64), Mask(torch.ones(1, 1, 2, 2, dtype=torch.bool), 4))
