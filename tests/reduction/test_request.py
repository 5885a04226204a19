"""What contradicts itself is refused before anything is opened; what changes a result changes the fingerprint."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.request import METHODS, Request
from lim_gpu.reduction.unit import Unit, units_of


def request(method="ssim", *, bins=100, features="logits", window=None, **values):
    return Request(Criterion(method, Intensity.parse(window=window), bins, features), **values)


def entry(key="a", patient="p", shape=(10, 8, 8), digest="d"):
    return SimpleNamespace(key=key * 16, patient=patient * 16, shape=shape, digest=digest)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("unknown", {"keep": 0.1}),
        ("ssim", {}),
        ("mi", {}),
        ("deepnet", {}),
        ("ssim", {"keep": 0.1, "keep_count": 3}),
        ("ssim", {"keep": 1}),
        ("ssim", {"keep": 0.0}),
        ("ssim", {"keep": 1.5}),
        ("ssim", {"threshold": 1.5}),
        ("mi", {"threshold": 0.5}),
        ("hash", {"threshold": -1}),
        ("hash", {"threshold": 65}),
        ("hash", {"threshold": float("nan")}),
        ("hash", {"keep": 0.1, "rule": "leader"}),
        ("ssim", {"keep": 0.1, "rule": "leader"}),
        ("ssim", {"keep": 0.1, "rule": "best"}),
        ("ssim", {"keep": 0.1, "scope": "study"}),
        ("ssim", {"keep": 0.1, "order": "random"}),
        ("every-n", {}),
        ("every-n", {"keep": 0.1, "threshold": 6}),
        ("random", {"keep": 0.1, "threshold": 0.5}),
        ("random", {}),
        ("all", {"keep": 0.1}),
        ("all", {"threshold": 0.5}),
        ("every-n", {"keep": 0.1, "rule": "leader"}),
    ],
)
def test_contradictions_are_refused(method, values):
    with pytest.raises(UsageError):
        request(method, **values)


def test_hash_takes_the_threshold_of_the_paper_where_nothing_is_said():
    assert request("hash").threshold == 6
    assert request("hash").similarity_threshold == 1 - 6 / 64
    assert request("hash", keep=0.1).threshold is None
    assert request("hash", threshold=6.5).similarity_threshold == 1 - 6.5 / 64
    assert request("ssim", threshold=0.5).similarity_threshold == 0.5
    with pytest.raises(UsageError, match="in bits, not a similarity"):
        request("hash", threshold=0.9)


def test_what_changes_the_result_changes_the_fingerprint():
    unit = Unit("a", 0, (entry(),))
    variants = [
        request(keep=0.1),
        request(keep=0.2),
        request(keep_count=1),
        request(keep=0.1, threshold=0.5),
        request(keep=0.1, order="lexicographic"),
        request(keep=0.1, scope="patient"),
        request(keep=0.1, window="lung"),
        request("mi", keep=0.1),
        request("mi", keep=0.1, bins=64),
        request("deepnet", keep=0.1),
        request("deepnet", keep=0.1, features="pooled"),
        request("random", keep=0.1),
        request("random", keep=0.1, seed=1),
    ]
    prints = [unit.fingerprint(variant) for variant in variants]
    assert len(set(prints)) == len(prints)
    assert Unit("a", 0, (entry(digest="e"),)).fingerprint(variants[0]) not in prints


def test_what_changes_nothing_changes_no_fingerprint():
    unit = Unit("a", 0, (entry(),))
    assert unit.fingerprint(request(keep=0.1, bins=64, seed=3)) == unit.fingerprint(request(keep=0.1))
    assert unit.fingerprint(request(keep=0.1)) == Unit("a", 5, (entry(),)).fingerprint(request(keep=0.1))
    assert unit.fingerprint(request("random", keep=0.1)) != Unit("a", 5, (entry(),)).fingerprint(
        request("random", keep=0.1)
    )


def test_units_follow_the_scope_in_store_order():
    entries = [entry("a", "p"), entry("b", "q"), entry("c", "p", (4, 6, 6))]
    assert [unit.slices for unit in units_of(entries, "volume")] == [10, 10, 4]
    by_patient = units_of(entries, "patient")
    assert [[e.key[0] for e in unit.volumes] for unit in by_patient] == [["a", "c"], ["b"]]
    assert by_patient[0].pairs("hash") == 14 * 13 // 2
    assert by_patient[0].pairs("ssim") == 45 + 6  # unequal shapes are not compared
    assert units_of(entries, "dataset")[0].slices == 24
    assert all(by_patient[0].pairs(method) == 0 for method in METHODS[:3])
