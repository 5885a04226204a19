"""Jobs as a worker does them: what one has found out, another does not look for again."""

from __future__ import annotations

import pytest

pytest.importorskip("pydicom")

import lim_gpu
from lim_gpu.evaluate.grid import CONTROL, Grid, Reduce
from lim_gpu.evaluate.work import Worker
from lim_gpu.progress import Reporter
from lim_gpu.reduction.reader import Reader
from reductions import contents
from stores import make_store


def test_each_volume_is_hashed_once_for_all_thresholds(tmp_path, monkeypatch):
    store = make_store(tmp_path)
    worker = Worker(Grid({"S": store}, ()), tmp_path / "out", "cpu", 0, Reporter(quiet=True))
    worker.do(Reduce("S", "hash 6"))
    lim_gpu.reduce(store, "hash", threshold=3, device="cpu", output=tmp_path / "alone" / "selection.csv")
    monkeypatch.setattr(Reader, "_load", None)
    for name in ("hash 3", CONTROL, "hash 0.1"):
        worker.do(Reduce("S", name))
    alone = contents(tmp_path / "alone" / "selection.csv")
    assert contents(tmp_path / "out" / "reduce" / "S" / "hash-3" / "selection.csv") == alone
    with pytest.raises(TypeError):
        worker.do(Reduce("S", "ssim 0.1"))  # which needs pixels
