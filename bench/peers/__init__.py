"""Who else computes what lim_gpu does, on the same slices. To add a peer: its function, and its line in a table here.

A peer that is not installed is skipped by name. All get uint8 slices (n, H, W) on the device, as a volume in memory is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest


@dataclass(frozen=True)
class Peer:
    """Somebody's implementation of a method.

    needs      the module that must be importable
    compute    what it does; its arguments are the table's
    devices    where it runs
    tolerance  that it keeps against the reference: what is faster because it is wrong is no peer
    """

    name: str
    needs: str
    compute: Callable[..., Any]
    devices: str = "cpu cuda"
    tolerance: float = 1e-3


DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))


def params(table: tuple[Peer, ...], *before: str) -> list[Any]:
    """Parameters (*before, peer, device) of a test, for each peer where it runs."""
    return [
        pytest.param(
            *before, peer, device, id="-".join([*before, peer.name, device]),
            marks=[
                pytest.mark.skipif(find_spec(peer.needs) is None, reason=f"{peer.name} is not installed"),
                *([pytest.mark.gpu] if device == "cuda" else []),
            ],
        )
        for peer in table
        for device in peer.devices.split()
    ]  # fmt: skip
