"""The slider of the report: what it says a budget or a threshold keeps is what `reduce` keeps."""

from __future__ import annotations

import numpy as np
import pytest

import lim_gpu
from lim_gpu.report.shown import read_selections
from lim_gpu.report.slider import slider
from lim_gpu.selection import Selection


def counts(selection: Selection) -> list[int]:
    return [int(volume.kept.sum()) for volume in selection.volumes]


def asked(folder, tmp_path, method, name="asked", **options):
    """The slider of a selection, and that selection."""
    output = tmp_path / f"{name}.csv"
    selection = lim_gpu.reduce(folder / "slices", method, output=output, device="cpu", **options)
    (shown,) = read_selections([output])
    return slider(shown), selection


@pytest.mark.parametrize(
    ("options", "what", "others"),
    [
        ({"keep": 0.3}, "keep", [{"keep": 0.1}, {"keep": 0.57}, {"keep": 1.0}]),
        ({"keep": 0.125}, "keep", [{"keep": 0.2}]),
        ({"keep_count": 3}, "keep-count", [{"keep_count": 1}, {"keep_count": 14}]),
        ({"keep": 0.2, "scope": "patient"}, "keep", [{"keep": 0.4, "scope": "patient"}]),
        ({"keep": 0.2, "threshold": 0.6}, "keep", [{"keep": 0.05, "threshold": 0.6}]),
    ],
)
def test_a_budget_keeps_of_each_unit_what_reduce_keeps(reduced, tmp_path, options, what, others):
    table, own = asked(reduced, tmp_path, "ssim", **options)
    assert table["what"] == what
    for place, budget in enumerate([options, *others]):
        _, selection = asked(reduced, tmp_path, "ssim", f"s{place}", **budget)
        value = budget[what.replace("-", "_")]
        i = table["labels"].index(f"{what} {value:g}")
        assert table["kept"][i] == sum(counts(selection))
        if place == 0:
            assert table["start"] == i
            units = [unit["kept"] for unit in own.record["units"]]
            assert (table["least"][i], table["most"][i]) == (min(units), max(units))
            assert table["last"][i] == f"{own.record['resolved_threshold']:.4f} SSIM"
    assert len(table["labels"]) == len(table["kept"]) == len(table["last"])


def test_a_threshold_keeps_what_reduce_keeps(reduced, tmp_path):
    table, own = asked(reduced, tmp_path, "hash", threshold=6)
    assert table["what"] == "threshold"
    assert table["labels"][:2] == ["threshold 0 bits apart", "threshold 1 bits apart"]
    assert table["start"] == 6
    for bits in (0, 3, 6, 12, 30, 31):  # the last two keep the same
        own_table, selection = asked(reduced, tmp_path, "hash", f"s{bits}", threshold=bits)
        assert table["kept"][bits] == sum(counts(selection))
        assert own_table["start"] == bits
    table, selection = asked(reduced, tmp_path, "ssim", "ssim", threshold=0.5)
    assert table["labels"][table["start"]] == "threshold 0.5000 SSIM"
    assert table["kept"][table["start"]] == sum(counts(selection))
    assert np.all(np.diff(table["kept"]) >= 0)  # a higher similarity lets fewer go
    assert table["kept"][-1] >= own.record["counts"]["volumes"]


def test_what_has_no_ranking_has_no_slider(reduced, tmp_path):
    assert asked(reduced, tmp_path, "every-n", keep=0.3)[0] is None
    assert asked(reduced, tmp_path, "ssim", "leader", threshold=0.5, rule="leader")[0] is None
