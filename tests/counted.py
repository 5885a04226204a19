"""Counts how often a file is opened for reading and how often torch unpickles, to hold that each is read once."""

from __future__ import annotations

import builtins
import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch


def count_opened(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file has been opened for reading from now on, by Python's `open` and pathlib."""
    found: Counter[Path] = Counter()
    real = io.open

    def counting(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if isinstance(file, str | os.PathLike) and not set(mode) & set("wax+"):
            found[Path(file).resolve()] += 1
        return real(file, mode, *args, **options)

    monkeypatch.setattr(builtins, "open", counting)
    monkeypatch.setattr(io, "open", counting)
    return found


def count_loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What torch.load has been called with from now on."""
    found: list[Any] = []
    real = torch.load

    def counting(file: Any, *args: Any, **options: Any) -> Any:
        found.append(file)
        return real(file, *args, **options)

    monkeypatch.setattr(torch, "load", counting)
    return found
