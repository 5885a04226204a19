"""What parts of a training step cost: SparK's batch norm over the kept positions, and the optimizers' ways to loop.

    python -m bench.step_parts

Checks that the ways are equal, then prints CPU milliseconds of the thread, the least of a few rounds, in one thread:
what else runs on the machine does not count. Of batch norm also the operations on whole maps, forward and backward, and
the bytes that they read and write an element of the map, each argument once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer, RAdam
from torch.utils._python_dispatch import TorchDispatchMode

from bench import inputs
from lim_gpu.pretrain import masked, spark
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.masked import STRIDE, Mask, draw_cells
from lim_gpu.pretrain.resident import SliceBatch
from lim_gpu.weights.backbone import resnet

IMAGES, SIDE, KEPT = 8, 7, 20  # SparK's cells of 224 pixels
MAPS = ((64, 2), (64, 4), (256, 4), (512, 8), (1024, 16), (2048, 32))  # channels and stride, of a ResNet50
ROUNDS = 3
Norm = Callable[[nn.BatchNorm2d, Tensor, Mask], Tensor]


def by_masking(norm: nn.BatchNorm2d, x: Tensor, mask: Mask) -> Tensor:
    """The sums over whole maps, times the mask: what `masked.batch_norm` was before it took the kept positions."""
    where, count = mask.over(x), mask.places(x).numel()
    mean = (x * where).sum((0, 2, 3)) / count
    centred = (x - mean.view(1, -1, 1, 1)) * where
    variance = centred.square().sum((0, 2, 3)) / count
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return centred * scale.view(1, -1, 1, 1) + where * norm.bias.view(1, -1, 1, 1)


def by_index(norm: nn.BatchNorm2d, x: Tensor, mask: Mask) -> Tensor:
    """As SparK's published formula: positions listed, a BatchNorm1d of their rows."""
    rows = mask.over(x).squeeze(1).nonzero(as_tuple=True)
    last = x.permute(0, 2, 3, 1)
    kept = nn.functional.batch_norm(last[rows], None, None, norm.weight, norm.bias, True, 0.1, norm.eps)
    return torch.zeros_like(last).index_put(rows, kept).permute(0, 3, 1, 2)


def unmasked(norm: nn.BatchNorm2d, x: Tensor, mask: Mask) -> Tensor:
    """What a network without a mask pays."""
    return norm(x)


NORMS: dict[str, Norm] = {
    "by masking": by_masking,
    "by index": by_index,
    "taken and put back": masked.batch_norm,
    "BatchNorm2d of all": unmasked,
}


class Counter(TorchDispatchMode):
    """Counts operations on tensors of at least `least` elements, and the bytes of their arguments and results."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.operations, self.bytes = least, 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        results = function(*arguments, **(options or {}))
        large = [
            value
            for value in (*arguments, *(results if isinstance(results, tuple) else (results,)))
            if torch.is_tensor(value) and value.numel() >= self.least
        ]
        if large and not function.is_view:
            self.operations += 1
            self.bytes += sum(min(v.numel() * v.element_size(), v.untyped_storage().nbytes()) for v in large)
        return results


def milliseconds(work: Callable[[], Any]) -> float:
    """The least of ROUNDS calls after one."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return 1e3 * min(times[1:])


def compare_norms() -> None:
    """A row a map; each way but the last has the gradients of the first."""
    mask = Mask(draw_cells(IMAGES, SIDE, KEPT, torch.Generator().manual_seed(0)), KEPT)
    for channels, stride in MAPS:
        side = SIDE * STRIDE // stride
        x = torch.randn(IMAGES, channels, side, side).requires_grad_()
        steps = {name: partial(stepped, norm, x, torch.cos(x.detach()), mask) for name, norm in NORMS.items()}
        for step in list(steps.values())[1:-1]:
            torch.testing.assert_close(step(), steps["by masking"](), rtol=1e-3, atol=1e-3)
        print(
            f"{channels} x {side} x {side}: {'; '.join(told(*step, x.numel()) for step in steps.items())}", flush=True
        )


def stepped(norm: Norm, x: Tensor, gradient: Tensor, mask: Mask) -> tuple[Tensor, ...]:
    """Forward, and backward to the gradients of the map and the weight."""
    module = nn.BatchNorm2d(x.shape[1])
    return torch.autograd.grad(norm(module, x, mask), (x, module.weight), gradient)


def told(name: str, step: Callable[[], Any], elements: int) -> str:
    """Time, operations and bytes of a step."""
    with Counter(elements // 3) as counter:
        step()
    work = f"{counter.operations} operations, {counter.bytes / elements:.0f} bytes"
    return f"{name} {milliseconds(step):.1f} ms ({work})"


def compare_steps() -> None:
    """SparK of resnet18, 224 pixels, batch 8, the optimizer apart, by either norm."""
    config = resolve("spark", overrides={"backbone": "resnet18", "batch_size": IMAGES, "spark.decoder_width": 256})
    method, ids = spark.SparK(config, IMAGES), torch.arange(IMAGES)
    batch = SliceBatch(inputs.volume(IMAGES, "cpu"), torch.full((IMAGES, 2), inputs.SIZE), ids, ids)
    views = method.views(batch, torch.Generator().manual_seed(0))
    for name in ("by masking", "taken and put back"):
        masked.batch_norm = spark.batch_norm = NORMS[name]
        print(f"SparK, a step {name}: {milliseconds(lambda: method.loss(views, batch)['loss'].backward()):.0f} ms")


def compare_optimizers() -> None:
    """A step of each way over the parameters of a ResNet50, and forward and backward of it beside."""
    network = resnet("resnet50")
    parameters, images = list(network.parameters()), torch.randn(16, 3, 96, 96)
    print(f"ResNet50, 16 x 96 pixels, no optimizer: {milliseconds(lambda: network(images).sum().backward()):.0f} ms")
    sgd = partial(SGD, parameters, lr=0.0, momentum=0.9, weight_decay=1e-4)
    radam = partial(RAdam, parameters, lr=0.0)
    ways: dict[str, Optimizer] = {
        "SGD, a loop": sgd(foreach=False),
        "SGD, foreach": sgd(foreach=True),
        "SGD, fused": sgd(fused=True),
        "RAdam, a loop": radam(foreach=False),
        "RAdam, foreach": radam(foreach=True),
    }
    for name, optimizer in ways.items():
        print(f"{name}: {milliseconds(optimizer.step):.1f} ms")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    compare_norms()
    compare_steps()
    compare_optimizers()
