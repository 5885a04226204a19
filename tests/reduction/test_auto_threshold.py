"""--threshold auto: the rule, on data where its answer is known, and in the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lim_gpu.cli.options import reduction_request
from lim_gpu.errors import UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.reduction.auto_threshold import auto_threshold, two_views
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.request import AUTO
from lim_gpu.reduction.run import reduce
from lim_gpu.reduction.verb import Targets, reduce_verb
from lim_gpu.reduction.views import SWAV
from lim_gpu.similarity.hash import dhash
from lim_gpu.store.slices import SliceStore
from stores import make_store

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("auto"))


def found(store, method, seed=0):
    with SliceStore(store) as opened:
        return auto_threshold(opened, Criterion(method, Intensity.parse()), SWAV, seed, "cpu", QUIET)


@pytest.mark.parametrize("method", ["hash", "ssim", "mi"])
def test_the_threshold_is_the_median_of_the_views(store, method):
    result = found(store, method)
    assert len(result.views) == 12 + 8 + 10 + 1  # slices that have a next one, at most twelve, or the only one
    median = float(np.median(result.views))
    assert result.threshold == (np.floor(median) if method == "hash" else round(median, 4))
    assert found(store, method) == result
    assert found(store, method, seed=1).views != result.views


def test_hashes_of_views_are_compared_in_bits(store):
    result = found(store, "hash")
    assert all(float(value).is_integer() and 0 <= value <= 64 for value in [*result.views, *result.neighbours])


def test_views_differ_and_keep_the_slice():
    image = np.zeros((3, 64, 80), np.uint8)
    image[:, 16:48, 20:60] = 200
    first, second = two_views(image, SWAV, 0)
    assert first.shape == second.shape == (3, 64, 64)
    assert (first != second).any()
    assert np.corrcoef(first[0].ravel(), second[0].ravel())[0, 1] > 0.6
    assert len(dhash(first)) == 3


def asked(**values):
    given = {"method": "hash", "keep": None, "keep_count": None, "threshold": AUTO, "scope": "volume", "bins": None}
    given |= {"rule": "greedy", "order": "spatial", "intensity": "slice-minmax", "window": None, "hu_range": None}
    return reduction_request(given | {"features": None, "weights": None, "precision": None} | values, seed=0)


def test_the_command_line_finds_it_and_records_why(store, tmp_path):
    def run(dry_run):
        request, automatic = asked()
        targets = Targets(tmp_path / "s.csv")
        return reduce_verb(store, request, targets, automatic=automatic, device="cpu", dry_run=dry_run, reporter=QUIET)

    plan = run(dry_run=True)
    assert plan.lines[-1] == "threshold: from the data, when it runs"
    said = run(dry_run=False).lines[0]
    record = json.loads((tmp_path / "s.json").read_text())
    assert f", {record['seconds'] + record['threshold_rule']['seconds']:.1f} s on" in said
    assert record["parameters"]["threshold"] == record["threshold_rule"]["threshold"] == found(store, "hash").threshold
    assert record["threshold_rule"]["augmentation"] == "swav wolf2024-paper"
    before = (tmp_path / "s.csv").stat().st_mtime_ns
    run(dry_run=False)
    assert (tmp_path / "s.csv").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="compares nothing"):
        asked(method="all")


def test_python_finds_it_too_with_a_window_as_a_text(store, tmp_path):
    with SliceStore(store) as opened:
        selection = reduce(opened, "hash", threshold="auto", window="lung", device="cpu")
        assert selection.record["threshold_rule"]["threshold"] == selection.record["parameters"]["threshold"]
        assert selection.record["parameters"]["intensity"]["hu"] == [-1150, 350]
        with pytest.raises(UsageError, match="is no number"):
            reduce(opened, "hash", threshold="automatic")
        with pytest.raises(UsageError, match="compares nothing"):
            reduce(opened, "random", keep=0.5, threshold="auto")
        with pytest.raises(UsageError, match="exclude each other"):
            reduce(opened, "hash", intensity=Intensity(), window="lung")
