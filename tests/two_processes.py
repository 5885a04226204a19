"""Two processes that compute together on the CPU (gloo), and what the tests of pre-training let them compute."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from batches import batch
from lim_gpu.errors import UsageError
from lim_gpu.pretrain import collectives
from lim_gpu.pretrain.agreement import check_agreement
from lim_gpu.pretrain.codebook import Codebook
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.moco import MoCo
from lim_gpu.pretrain.swav import Queue, sinkhorn
from preloaded import Preloaded


def together(preloaded: Preloaded, work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `work(rank)`, a function of this module, returns in each of the two."""
    for program in [preloaded.start(__file__, work.__name__, rank, folder) for rank in range(2)]:
        done = program.wait()
        assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _process(name: str, rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(globals()[name](rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def both(rank: int) -> dict[str, Any]:
    """Everything in one start of two processes, which takes seconds."""
    parts = {"collectives": collect(rank), "swav": assign(rank), "moco": contrast(rank)}
    return parts | {"codebook": quantise(rank), "agreement": agree(rank)}


def agree(rank: int) -> list[str]:
    """What is said where all were given the same, and where one has another store."""
    said = []
    for store in ("one", ("one", "another")[rank]):
        try:
            check_agreement({"store": store, "setting": {"lr": 0.1}})
            said.append("")
        except UsageError as error:
            said.append(str(error))
    return said


def collect(rank: int) -> dict[str, Any]:
    rows = torch.tensor([[1.0, 20.0], [3.0, 4.0]]) * (1 - 3 * rank)
    return {
        "world": collectives.world(),
        "gather": collectives.gather(rows),
        "total": collectives.total(rows),
        "maximum": collectives.maximum(rows),
        "rows": rows,
    }


def quantise(rank: int) -> dict[str, Tensor]:
    """A first step, in which every code begins as an output of the encoder of either process."""
    torch.manual_seed(0)
    book = Codebook(8, 3, dead_after=1)
    generator = torch.Generator().manual_seed(rank)
    z, picks = torch.randn(2, 3, 4, 4, generator=generator), torch.rand(8, generator=generator)
    found = book(z, picks)
    return {"codes": book.codes.detach(), "idle": book.idle, "counts": found.counts, "z": z}


def scores(*shape: int) -> Tensor:
    """Cosines."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(shape[0])) * 2 - 1


def queued(step: int) -> Tensor:
    """Two crops of four embeddings of three dimensions."""
    return torch.arange(24).view(2, 4, 3).float() + 100 * step


def assign(rank: int) -> dict[str, Tensor]:
    queue = Queue(8, 3)
    for step in range(3):
        queue.push(queued(step)[:, 2 * rank : 2 * rank + 2])
    codes = sinkhorn(scores(16, 24)[8 * rank : 8 * rank + 8], 0.05, 3)
    return {"codes": codes, "queue": queue.embeddings, "share": queue.share().clone()}


def contrast(rank: int) -> dict[str, Any]:
    torch.manual_seed(0)
    overrides = {"backbone": "resnet18", "batch_size": 8, "moco.size": 32, "moco.bn_groups": 4, "moco.output": 8}
    method = MoCo(resolve("moco", overrides=overrides | {"moco.mask_hash_bits": 0}), slices=96)
    method.hashes = torch.arange(96) % 4  # known everywhere: every fourth slice looks alike
    ids = torch.arange(8)[4 * rank : 4 * rank + 4]
    found = method.training_step(batch(ids), 0)
    found = method.training_step(batch(ids + 8), 0)
    queue = method.queue
    keys = {"keys": queue.keys, "ids": queue.ids, "volumes": queue.volumes}
    return keys | {name: found[name].detach() for name in ("loss", "negatives")} | {"groups": method.groups}


if __name__ == "__main__":
    _process(sys.argv[1], int(sys.argv[2]), sys.argv[3])
