"""Result files: used again only when whole and of the same request."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lim_gpu.reduction.parts import UnitResult, load_part, save_part

RESULT = UnitResult(
    unit="a" * 16,
    volumes=[["a" * 16, 2], ["b" * 16, 1]],
    z=[0.0, 1.5, -3.25],
    kept=[0],
    ranked=True,
    dropped=[2, 1],
    removal_similarity=[float(np.float32(0.9)), 0.5],
    covered_by=[0, 0, 0],
    similarity=[1.0, 0.5, None],
    resolved_threshold=0.5,
    borderline=3,
    matrix={"png": "x", "low": 0.1, "high": 0.9},
    device="cpu",
    seconds=0.25,
)


def test_round_trip(tmp_path):
    save_part(tmp_path, "f", RESULT)
    assert load_part(tmp_path, RESULT.unit, "f") == RESULT


def test_another_fingerprint_or_no_file_is_no_result(tmp_path):
    save_part(tmp_path, "f", RESULT)
    assert load_part(tmp_path, RESULT.unit, "g") is None
    assert load_part(tmp_path, "b" * 16, "f") is None


def test_every_changed_byte_is_seen(tmp_path):
    save_part(tmp_path, "f", RESULT)
    path = tmp_path / f"{RESULT.unit}.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert load_part(tmp_path, RESULT.unit, "f") in (None, RESULT)  # a space may change; a value may not
    for cut in (0, 1, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        assert load_part(tmp_path, RESULT.unit, "f") is None


@pytest.mark.parametrize("change", [{"extra": 1}, {"result": []}, {"result": None}])
def test_foreign_parts_are_no_result(tmp_path, change):
    save_part(tmp_path, "f", RESULT)
    path = tmp_path / f"{RESULT.unit}.json"
    part = json.loads(path.read_text())
    part["result"] = change.get("result", part["result"] | change)
    path.write_text(json.dumps(part))
    assert load_part(tmp_path, RESULT.unit, "f") is None


def test_split_gives_each_volume_its_own_slices():
    first, second = RESULT.split()
    assert first.kept.tolist() == [True, False]
    assert second.kept.tolist() == [False]
    assert first.rank.tolist() == [2, 1]
    assert second.rank.tolist() == [0]
    assert second.covered_by == (("a" * 16, 0),)
    assert np.isnan(second.similarity[0])


def test_several_survivors_have_no_rank():
    split = replace(RESULT, dropped=[2], kept=[0, 1]).split()
    assert [volume.rank.tolist() for volume in split] == [[-1, -1], [0]]
