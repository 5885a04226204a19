from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lim_gpu.ingest import IngestReport, ingest
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.volume import Volume


@dataclass
class Result:
    report: IngestReport
    store: SliceStore

    @property
    def volumes(self) -> list[Volume]:
        return list(self.store)

    @property
    def only(self) -> Volume:
        (volume,) = self.volumes
        return volume


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Ingest `sources` (default: tmp_path / "in") into tmp_path / "out", and open the store."""
    opened = []

    def function(*sources: Path, output: Path | None = None, **options: Any) -> Result:
        output = output or tmp_path / "out"
        report = ingest(list(sources) or [tmp_path / "in"], output, **({"workers": 1} | options))
        opened.append(SliceStore(output))
        return Result(report, opened[-1])

    yield function
    for store in opened:
        store.__exit__()
