"""What several processes compute together (torch.distributed); one process alone computes the same without it."""

from __future__ import annotations

import torch
import torch.distributed as dist


def world() -> tuple[int, int]:
    """(rank, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if _together() else (0, 1)


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of every process in order of rank, without gradient: (B, ...) to (world x B, ...)."""
    tensor = tensor.detach().contiguous()
    if not _together():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


def maximum(tensor: torch.Tensor) -> torch.Tensor:
    """The largest value over the processes, element by element, without gradient."""
    return _reduced(tensor, dist.ReduceOp.MAX)


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over the processes, element by element, without gradient."""
    return _reduced(tensor, dist.ReduceOp.SUM)


def _reduced(tensor: torch.Tensor, operation: dist.ReduceOp.RedOpType) -> torch.Tensor:
    if not _together():
        return tensor.detach()
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor, operation)
    return tensor


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
