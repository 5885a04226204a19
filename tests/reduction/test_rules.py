"""The rules facility and k-center through a reduction: what their selections promise and their records say."""

from __future__ import annotations

import numpy as np
import pytest

from lim_gpu.errors import UsageError
from lim_gpu.reduction.parts import load_part
from lim_gpu.reduction.run import reduce
from lim_gpu.selection import Selection
from lim_gpu.store.slices import SliceStore
from stores import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with SliceStore(make_store(tmp_path_factory.mktemp("rules"))) as opened:
        yield opened


@pytest.mark.parametrize("scope", ["volume", "patient", "dataset"])
@pytest.mark.parametrize(
    ("method", "threshold", "least"), [("ssim", 0.6, 0.6), ("mi", 1.2, 1.2), ("hash", 20, 1 - 20 / 64)]
)
def test_k_center_covers_every_dropped_slice(store, method, threshold, least, scope):
    selection = reduce(store, method, threshold=threshold, rule="k-center", scope=scope, device="cpu")
    similarity, kept = (
        np.concatenate([getattr(volume, name) for volume in selection.volumes]) for name in ("similarity", "kept")
    )
    assert 0 < kept.sum() < len(kept)
    assert (similarity[~kept].astype(np.float64) >= least).all()
    worst = similarity[~kept].min()
    expected = 64 * (1 - worst) if method == "hash" else worst
    assert selection.record["resolved_threshold"] == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["facility", "k-center"])
def test_a_selection_of_another_rule_is_made_written_and_read(store, rule, tmp_path):
    made = reduce(store, "ssim", keep=0.3, rule=rule, device="cpu", output=tmp_path / "s.csv")
    read = Selection.load(tmp_path / "s.csv")
    assert read.record["parameters"]["rule"] == rule
    assert (read.record["resolved_threshold"] is None) == (rule == "facility")
    for volume, again in zip(made.volumes, read.volumes, strict=True):
        n = len(volume.z)
        assert volume.kept.sum() == np.ceil(0.3 * n)
        assert sorted(volume.rank.tolist()) == list(range(n))  # one of them is the first that was added
        assert (volume.rank[volume.kept] >= n - volume.kept.sum()).all()
        np.testing.assert_array_equal(volume.rank, again.rank)
        part = load_part(tmp_path / "s.parts", volume.key)
        assert part is not None
        assert part.ranked
    fewer = reduce(store, "ssim", keep=0.2, rule=rule, device="cpu", output=tmp_path / "s.csv", overwrite=True)
    for volume, other in zip(made.volumes, fewer.volumes, strict=True):
        assert set(np.flatnonzero(other.kept)) <= set(np.flatnonzero(volume.kept))


def test_the_rules_keep_different_slices(store):
    kept = {
        rule: [tuple(np.flatnonzero(volume.kept)) for volume in reduce(store, "ssim", keep=0.3, rule=rule).volumes]
        for rule in ("greedy", "facility", "k-center")
    }
    assert kept["facility"] != kept["k-center"] != kept["greedy"] != kept["facility"]


def test_facility_takes_no_threshold(store):
    for asked in ({"threshold": 6}, {"threshold": "auto"}):
        with pytest.raises(UsageError, match="facility rule takes `keep`"):
            reduce(store, "hash", rule="facility", **asked)
    with pytest.raises(UsageError, match="nothing says where to stop"):
        reduce(store, "hash", rule="facility")  # the paper's threshold does not stand for it
    assert reduce(store, "hash", keep=0.2, rule="facility").record["parameters"]["threshold"] is None
