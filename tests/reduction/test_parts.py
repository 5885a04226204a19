"""Result files: used again only when whole and of the same request."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from lim_gpu.files import JSON_LIMIT, canonical_json, fingerprint
from lim_gpu.reduction import parts
from lim_gpu.reduction.parts import UnitResult, load_part, result_names, save_part
from reductions import assert_same_result

RESULT = UnitResult(
    unit="a" * 16,
    volumes=[["a" * 16, 2], ["b" * 16, 1]],
    z=np.array([0.0, 1.5, -3.25]),
    kept=np.array([0]),
    ranked=True,
    dropped=np.array([2, 1]),
    removal_similarity=np.array([np.float64(np.float32(0.9)), 0.5]),
    covered_by=np.array([0, 0, 0]),
    similarity=np.array([1.0, 0.5, np.nan], np.float32),
    resolved_threshold=0.5,
    borderline=3,
    matrix={"png": "x", "low": 0.1, "high": 0.9},
    device="cpu",
    seconds=0.25,
)


def old_file(folder, part_fingerprint="f", result=RESULT):
    """As version 1 wrote it."""
    values = {field.name: getattr(result, field.name) for field in fields(UnitResult)}
    values = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
    values["similarity"] = [None if value != value else value for value in values["similarity"]]
    part = {"fingerprint": part_fingerprint, "sha256": fingerprint(values), "result": values}
    path = folder / f"{result.unit}.json"
    path.write_text(canonical_json(part) + "\n")
    return path


def test_round_trip(tmp_path):
    save_part(tmp_path, "f", RESULT)
    assert_same_result(load_part(tmp_path, RESULT.unit, "f"), RESULT)
    assert_same_result(load_part(tmp_path, RESULT.unit), RESULT)


def test_a_result_beyond_the_limit_of_json_is_read_back(tmp_path):
    n = JSON_LIMIT // 22
    number = np.arange(n)
    large = replace(RESULT, z=number / 3, kept=number[::5], dropped=number[1:][::-1])
    large = replace(large, removal_similarity=number[1:] / n, covered_by=number, similarity=np.ones(n, np.float32))
    save_part(tmp_path, "f", large)
    assert (tmp_path / f"{RESULT.unit}.result.npz").stat().st_size > JSON_LIMIT
    assert_same_result(load_part(tmp_path, RESULT.unit, "f"), large)


def test_results_of_version_1_are_read_until_they_are_made_anew(tmp_path):
    old = old_file(tmp_path)
    assert_same_result(load_part(tmp_path, RESULT.unit, "f"), RESULT)
    assert load_part(tmp_path, RESULT.unit, "g") is None
    assert result_names(tmp_path) == [old.name]
    save_part(tmp_path, "g", RESULT)
    assert_same_result(load_part(tmp_path, RESULT.unit, "g"), RESULT)
    assert not old.exists()


def test_another_version_fingerprint_or_no_file_is_no_result(tmp_path, monkeypatch):
    save_part(tmp_path, "f", RESULT)
    assert load_part(tmp_path, RESULT.unit, "g") is None
    assert load_part(tmp_path, "b" * 16, "f") is None
    monkeypatch.setattr(parts, "VERSION", 3)
    assert load_part(tmp_path, RESULT.unit, "f") is None


def test_every_changed_byte_is_seen(tmp_path):
    save_part(tmp_path, "f", RESULT)
    path = tmp_path / f"{RESULT.unit}.result.npz"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        if (found := load_part(tmp_path, RESULT.unit, "f")) is not None:
            assert_same_result(found, RESULT)  # a date within the archive may change; a value may not
    for cut in (0, 1, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        assert load_part(tmp_path, RESULT.unit, "f") is None


@pytest.mark.parametrize("value", [[], None, {"extra": 1}])
def test_foreign_parts_are_no_result(tmp_path, value):
    (tmp_path / f"{RESULT.unit}.json").write_text(canonical_json({"fingerprint": "f", "result": value}))
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
    split = replace(RESULT, dropped=np.array([2]), kept=np.array([0, 1])).split()
    assert [volume.rank.tolist() for volume in split] == [[-1, -1], [0]]
