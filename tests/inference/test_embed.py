"""Features of a store and of pictures against torch alone, with what joins them to a selection."""

from __future__ import annotations

import csv
import importlib.util
import json

import numpy as np
import pytest
import torch

import lim_gpu
from lim_gpu.errors import InputError, UsageError
from lim_gpu.inference.embed import embed
from lim_gpu.intensity import Intensity
from lim_gpu.labelled.images import Normalisation, network_input, resized
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore
from reductions import cut_short
from volumes import pixels, write_store

QUIET = Reporter(quiet=True)
VOLUMES = (pixels(4, 40, 48), pixels(70, 24, 20, seed=1))  # the second is more than a block and a batch


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("embed"), VOLUMES)


def expected(path, network, intensity):
    with SliceStore(path) as store:
        for volume in store:
            grey = torch.from_numpy(intensity.to_uint8(volume.read()))[:, None]
            inputs = network_input(resized(grey, 64, "bilinear"), 64, "bilinear", Normalisation((0.3,), (0.25,)))
            with torch.no_grad():
                yield [(volume.key, str(i)) for i in range(len(grey))], network(inputs).numpy()


@pytest.mark.parametrize("asked", [None, "40,400"], ids=["as trained", "another window"])
def test_features_are_the_networks_of_slices_as_it_was_trained_to_see_them(store_path, pretrained, asked, tmp_path):
    checkpoint, network = pretrained(mapping="window", hu=[-1000, 400])
    intensity = None if asked is None else Intensity.parse(window=asked)
    how = {"device": "cpu", "reporter": QUIET, "intensity": intensity}
    outcome = embed(store_path, checkpoint, tmp_path / "f.npy", **how)
    names, features = zip(*expected(store_path, network, intensity or Intensity((-1000, 400))), strict=True)
    found = np.load(tmp_path / "f.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.concatenate(features), atol=1e-4)
    with (tmp_path / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["volume"], row["slice"]) for row in rows] == [name for own in names for name in own]
    assert list(rows[0]) == ["volume", "slice", "z_mm"]
    record = json.loads((tmp_path / "f.json").read_text())
    assert record == outcome.values
    assert record["view"]["intensity"]["hu"] == ([-1000, 400] if asked is None else [-160, 240])
    assert embed(store_path, checkpoint, tmp_path / "f.npy", **how).values["unchanged"]
    (tmp_path / "f.csv").unlink()
    with pytest.raises(UsageError, match="--overwrite"):
        embed(store_path, checkpoint, tmp_path / "f.npy", **how)


def test_a_damaged_volume_is_left_out_and_listed(pretrained, tmp_path):
    checkpoint, _network = pretrained()
    path = write_store(tmp_path / "own", VOLUMES)
    with SliceStore(path) as store:
        key = cut_short(store, 0)
    outcome = embed(path, checkpoint, tmp_path / "f.npy", device="cpu", reporter=QUIET)
    assert outcome.skipped
    assert [failure["images"] for failure in outcome.values["failures"]] == [key]
    assert len(np.load(tmp_path / "f.npy")) == 70


def test_a_plan_counts_and_writes_nothing(store_path, pretrained, tmp_path):
    checkpoint, _network = pretrained()
    outcome = embed(store_path, checkpoint, tmp_path / "f.npy", dry_run=True, reporter=QUIET)
    assert outcome.values["images"] == 74
    assert outcome.values["outputs"] == [str(tmp_path / name) for name in ("f.npy", "f.csv", "f.json")]
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said_first(store_path, pretrained, tmp_path):
    checkpoint, _network = pretrained()
    with pytest.raises(UsageError, match=r"\.npy or \.parquet"):
        embed(store_path, checkpoint, tmp_path / "f.csv", reporter=QUIET)
    with pytest.raises(InputError, match="does not exist"):
        embed(tmp_path / "none", checkpoint, tmp_path / "f.npy", device="cpu", reporter=QUIET)
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(InputError, match=r"pip install 'lim-gpu\[parquet\]'"):
            embed(store_path, checkpoint, tmp_path / "f.parquet", reporter=QUIET)


def test_parquet_holds_names_and_features(store_path, pretrained, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    checkpoint, _network = pretrained()
    how = {"device": "cpu", "reporter": QUIET}
    embed(store_path, checkpoint, tmp_path / "f.npy", **how)
    embed(store_path, checkpoint, tmp_path / "g.parquet", **how)
    table = parquet.read_table(tmp_path / "g.parquet")
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), np.load(tmp_path / "f.npy"))
    assert [f"{field.name} {field.type}" for field in table.schema] == [
        "volume string",
        "slice int64",
        "z_mm double",
        "features fixed_size_list<element: float>[512]",
    ]
    assert embed(store_path, checkpoint, tmp_path / "g.parquet", **how).values["unchanged"]


def test_parquet_joins_a_selection_in_pandas(store_path, pretrained, tmp_path):
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    checkpoint, _network = pretrained()
    embed(store_path, checkpoint, tmp_path / "f.parquet", device="cpu", reporter=QUIET)
    with SliceStore(store_path) as store:
        kept = lim_gpu.reduce(store, "every-n", keep=0.25, output=tmp_path / "selection.csv").kept()
    features = pandas.read_parquet(tmp_path / "f.parquet")
    selection = pandas.read_csv(tmp_path / "selection.csv", dtype={"volume": str})  # a key may look like a number
    joined = features.merge(selection, on=["volume", "slice"], validate="one_to_one")
    assert len(joined) == 74
    chosen = joined[joined.kept == 1]
    assert list(zip(chosen.volume, chosen.slice, strict=True)) == kept
    assert np.stack(chosen.features).dtype == np.float32
    np.testing.assert_array_equal(joined.z_mm_x, joined.z_mm_y)
