"""Whether all processes of a run were given the same data and settings; a host may hold an older copy of a store."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from lim_gpu.errors import UsageError


def check_agreement(values: Mapping[str, Any]) -> None:
    """Raise UsageError, in every process alike, that names the first one whose `values` are not those of process 0.

    values: what they must agree on, by names that a user knows. Every process calls it.
    """
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, (socket.gethostname(), dict(values)))
    host, expected = found[0]
    for rank, (other, given) in enumerate(found):
        if differing := [name for name in (*expected, *given) if given.get(name) != expected.get(name)]:
            raise UsageError(
                f"process {rank} on {other} was given another {differing[0]} than process 0 on {host}. "
                "Give all the same options, and the same store on every host"
            )
