"""Hashes stand volume by volume: every threshold and scope, other selections and shards share them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

import lim_gpu
from lim_gpu import similarity
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.reduction import measure, standing
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.edit import select_verb
from lim_gpu.reduction.parts import save_measure
from lim_gpu.reduction.reader import Reader
from lim_gpu.reduction.request import Request
from lim_gpu.reduction.shards import reduce_shard
from lim_gpu.reduction.unit import units_of
from lim_gpu.selection import Selection
from lim_gpu.shard import Shard
from reductions import MEASURES, RESULTS, cut_short
from stores import make_store

QUIET = Reporter(quiet=True)


@pytest.fixture
def hashed(monkeypatch):
    """How often the slices of each volume were hashed, by key."""
    counts: Counter[str] = Counter()
    load = Reader._load

    def counted(self, piece):
        counts[piece.volume.key] += piece.stop - piece.start
        return load(self, piece)

    monkeypatch.setattr(Reader, "_load", counted)
    return counts


def once(store):
    return {entry.key: entry.shape[0] for entry in store.volumes}


def text_of(selection):
    return "".join(selection.lines())


def hash_of(store, output, **how):
    lim_gpu.reduce(store, "hash", **how, device="cpu", output=output, overwrite=True)
    return output.read_bytes()


WAYS = [{"threshold": 3}, {"threshold": 6}, {"threshold": 12}, {"scope": "patient"}, {"scope": "dataset", "keep": 0.2}]


@pytest.mark.parametrize("ways", [WAYS, WAYS[::-1]], ids=["narrow first", "wide first"])
def test_thresholds_and_scopes_hash_the_pixels_once(store, tmp_path, hashed, ways):
    made = [hash_of(store, tmp_path / "s.csv", **way) for way in ways]
    assert hashed == once(store)
    for way, bytes_made in zip(ways, made, strict=True):
        assert text_of(lim_gpu.reduce(store, "hash", **way, device="cpu")) == bytes_made.decode()


def test_other_selections_of_the_folder_share_them(store, tmp_path, hashed):
    for number, way in enumerate(WAYS):
        hash_of(store, tmp_path / f"{number}.csv", **way)
    assert hashed == once(store)
    window = {"intensity": Intensity.parse(window="lung"), "threshold": 3}
    other = hash_of(store, tmp_path / "lung.csv", **window)
    assert hashed == {key: 2 * n for key, n in once(store).items()}
    assert other.decode() == text_of(lim_gpu.reduce(store, "hash", **window, device="cpu"))


def test_what_was_borrowed_outlives_its_lender_and_needs_no_hard_links(store, tmp_path, hashed, monkeypatch):
    hash_of(store, tmp_path / "a.csv")
    monkeypatch.setattr(measure.os, "link", lambda *_: (_ for _ in ()).throw(OSError()))
    hash_of(store, tmp_path / "b.csv", threshold=9)
    lent = {file.name: file.read_bytes() for file in (tmp_path / "a.parts").glob(MEASURES)}
    assert len(lent) == 4
    assert {file.name: file.read_bytes() for file in (tmp_path / "b.parts").glob(MEASURES)} == lent
    assert hashed == once(store)


@pytest.mark.parametrize("scope", ["patient", "dataset"])
def test_hashing_goes_on_where_it_stopped(store, tmp_path, hashed, monkeypatch, scope):
    whole = text_of(lim_gpu.reduce(store, "hash", scope=scope, device="cpu"))
    hashed.clear()
    save = measure.save_measure

    def save_two(folder, *rest):
        if len(list(folder.glob(MEASURES))) == 2:
            raise KeyboardInterrupt
        save(folder, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(measure, "save_measure", save_two)
        with pytest.raises(KeyboardInterrupt):
            hash_of(store, tmp_path / "s.csv", scope=scope)
    stands = {file.stem for file in (tmp_path / "s.parts").glob(MEASURES)}
    hashed.clear()
    assert hash_of(store, tmp_path / "s.csv", scope=scope).decode() == whole
    assert hashed == {key: n for key, n in once(store).items() if key not in stands}
    assert len(hashed) == 2


def data_set(**how):
    return Request(Criterion("hash", Intensity()), scope="dataset", **how)


def test_shards_of_a_data_set_hash_its_volumes_and_one_run_compiles(store, tmp_path, hashed):
    done = [reduce_shard(store, data_set(), tmp_path / "s.csv", "cpu", Shard(i, 3), QUIET) for i in (0, 2, 1)]
    assert sorted(one.unit.place for share in done for one in share) == [0, 1, 2, 3]
    assert hashed == once(store)
    assert not list((tmp_path / "s.parts").glob(RESULTS))
    compiled = hash_of(store, tmp_path / "s.csv", scope="dataset")
    assert hashed == once(store)
    assert compiled.decode() == text_of(lim_gpu.reduce(store, "hash", scope="dataset", device="cpu"))


def test_a_shard_that_came_again_hashes_nothing(store, tmp_path, hashed):
    for _ in range(2):
        reduce_shard(store, data_set(), tmp_path / "s.csv", "cpu", Shard(0, 2), QUIET)
    assert sum(hashed.values()) == sum(once(store)[store.volumes[i].key] for i in (0, 2))


@pytest.mark.parametrize("scope", ["patient", "dataset"])
def test_what_earlier_versions_kept_of_a_unit_is_used(store, tmp_path, hashed, scope):
    """The hashes of all its volumes in one file."""
    whole = hash_of(store, tmp_path / "new.csv", scope=scope)
    request = Request(Criterion("hash", Intensity()), scope=scope)
    criterion = request.criterion.parameters()
    for unit in units_of(store.volumes, scope):
        digests = [(entry.key, entry.digest) for entry in unit.volumes]
        values = measure.find_measure(tmp_path / "new.parts", unit.name, "hash", criterion, digests)
        save_measure(tmp_path / "old" / "s.parts", unit.name, measure.measure_fingerprint(unit, request), values)
    assert hash_of(store, tmp_path / "old" / "s.csv", scope=scope) == whole
    assert hashed == once(store)


@pytest.mark.parametrize("engines", [1, 3])
def test_several_devices_hash_one_data_set(store, tmp_path, hashed, monkeypatch, engines):
    monkeypatch.setattr(similarity, "resolve_devices", lambda _device: [torch.device("cpu")] * engines)
    made = hash_of(store, tmp_path / "s.csv", scope="dataset", keep=0.3)
    assert made.decode() == text_of(lim_gpu.reduce(store, "hash", scope="dataset", keep=0.3, device="cpu"))
    assert hashed == {key: 2 * n for key, n in once(store).items()}


def test_volumes_of_a_data_set_that_cannot_be_read_are_listed_in_order(tmp_path, hashed):
    slices = make_store(tmp_path)
    with lim_gpu.SliceStore(slices) as store:
        keys = [cut_short(store, place) for place in (2, 0)]
        for output in (None, tmp_path / "s.csv"):
            made = lim_gpu.reduce(store, "hash", scope="dataset", device="cpu", output=output)
            assert [failure["volume"] for failure in made.record["failures"]] == keys[::-1]
            assert [volume.key for volume in made.volumes] == [store.volumes[i].key for i in (1, 3)]


@pytest.mark.parametrize("scope", ["patient", "dataset"])
def test_a_correction_by_hand_finds_them(store, tmp_path, hashed, scope):
    hash_of(store, tmp_path / "s.csv", scope=scope, keep_count=2)
    kept = Selection.load(tmp_path / "s.csv").kept()
    key = kept[0][0]
    added = next(i for i in range(once(store)[key]) if (key, i) not in kept)
    select_verb(tmp_path / "s.csv", [f"{key}:{added}"], [], None, tmp_path / "edited.csv", store=store.path)
    for volume in Selection.load(tmp_path / "edited.csv").volumes:
        assert np.isfinite(volume.similarity).all()
    assert hashed == once(store)


def test_only_hashes_are_borrowed(store, tmp_path, monkeypatch):
    monkeypatch.setattr(standing, "borrow_hashes", lambda *_: pytest.fail("asked for"))
    lim_gpu.reduce(store, "mi", keep=0.5, device="cpu", output=tmp_path / "s.csv")
