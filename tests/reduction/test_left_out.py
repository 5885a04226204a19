"""What cannot be compared or read is refused, or left out and said, and the rest goes on."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import lim_gpu
from lim_gpu.errors import InputError, UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Reporter
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.matrix_verb import find_volume
from lim_gpu.reduction.plan import make_plan
from lim_gpu.reduction.request import Request
from lim_gpu.reduction.unit import units_of
from lim_gpu.selection import Selection
from lim_gpu.store.slices import SliceStore, write_index
from reductions import cut_short, kept_of
from volumes import pixels, write_store, write_volume


def test_slices_of_unequal_shape_are_not_compared_and_that_is_said_once(store, capsys):
    selection = lim_gpu.reduce(store, "ssim", keep_count=1, scope="dataset", device="cpu", reporter=Reporter())
    assert capsys.readouterr().err.count("equal shape") == 1
    assert len(selection.kept()) == 3  # one for each shape


@pytest.mark.parametrize("write", [False, True])
def test_a_window_on_values_that_are_no_hu_is_refused_before_anything_is_written(tmp_path, write):
    path = write_store(tmp_path / "s", [pixels(4, 20, 20)], modality="MR", unit="stored")
    output = tmp_path / "selection.csv" if write else None
    lung = {"intensity": Intensity.parse(window="lung"), "output": output, "device": "cpu"}
    with SliceStore(path) as store:
        with pytest.raises(UsageError, match=r"no HU in 1 volume \(MR\)"):
            lim_gpu.reduce(store, "hash", **lung)
        assert not list(tmp_path.glob("selection*"))
        assert lim_gpu.reduce(store, "every-n", keep=0.5, **lung).record["counts"]["kept"] == 2  # compares nothing


def test_a_body_among_grey_values_alone_is_refused(tmp_path):
    grey = write_store(tmp_path / "s", [pixels(4, 20, 20, dtype="uint8")], unit="grey", modality="")
    with pytest.raises(UsageError, match="no HU in any volume, by which `body` is found. Leave it out"):
        lim_gpu.reduce(grey, "hash", body=True, device="cpu")


def test_a_store_of_both_kinds_remembers_what_was_done_to_which(tmp_path):
    path = write_store(tmp_path / "s", [pixels(4, 20, 20), pixels(4, 20, 20, dtype="uint8")])
    record = lim_gpu.reduce(path, "hash", window="lung", body=True, device="cpu").record
    asked = Intensity.parse(window="lung", body=True).describe()
    assert record["parameters"]["intensity"] == asked
    first, second = ("0" * 16, "0" * 15 + "1")
    assert record["intensities"] == [asked | {"volumes": [first]}, {"mapping": "as stored", "volumes": [second]}]
    assert "intensities" not in lim_gpu.reduce(path, "every-n", keep=0.5).record


def test_body_in_python_is_that_of_the_command_line(tmp_path):
    path = write_store(tmp_path / "s", [pixels(6, 20, 20)])
    said = lim_gpu.reduce(path, "mi", keep=0.4, window="lung", body=True, device="cpu")
    parsed = lim_gpu.reduce(path, "mi", keep=0.4, intensity=Intensity.parse(window="lung", body=True), device="cpu")
    assert said.record["parameters"]["intensity"]["body"] is True
    assert said.record["parameters"] == parsed.record["parameters"]
    assert said.kept() == parsed.kept()


@pytest.mark.parametrize("method", ["hash", "mi"])
def test_values_that_are_no_hu_go_by_the_percentiles_of_their_volume(tmp_path, method):
    volumes = [pixels(9, 20, 20, seed=i) // (1 + i) for i in range(2)]
    volumes[0][0, 0, 0] = 32767  # beyond the percentiles
    path = write_store(tmp_path / "s", volumes, modality="MR", unit="stored")
    with SliceStore(path) as store:
        by_volume = lim_gpu.reduce(store, method, keep=0.4, intensity="volume-percentile", device="cpu")
        for volume, slices in zip(store, volumes, strict=True):
            low, high = np.percentile(slices, [0.5, 99.5])
            mapped = Intensity((low, high)).to_uint8(slices)
            kept = lim_gpu.rank(lim_gpu.similarity_matrix(mapped, method)).keep(0.4)
            np.testing.assert_array_equal(kept_of(by_volume)[volume.key], kept)
    assert by_volume.record["parameters"]["intensity"]["mapping"] == "volume-percentile"


@pytest.mark.parametrize("method", ["hash", "mi"])
@pytest.mark.parametrize("scope", ["volume", "dataset"])
def test_volumes_of_one_grey_in_every_slice_are_said(tmp_path, capsys, method, scope):
    flat = np.stack([np.full((20, 20), value, np.int16) for value in (2000, 2100, 2200)])
    spot = flat.copy()
    spot[1, 3, 4] = -600
    path = write_store(tmp_path / "s", [flat, pixels(3, 20, 20), flat + 9, spot])
    options = {"keep": 0.9, "scope": scope, "device": "cpu", "reporter": Reporter()}
    with SliceStore(path) as store:
        lim_gpu.reduce(store, method, intensity=Intensity.parse(window="lung"), **options)
        assert "warning: 2 volumes of one grey in every slice, mapped to 0..255" in capsys.readouterr().err
        lim_gpu.reduce(store, method, intensity=Intensity.parse(hu_range="-1000:400"), **options)
        assert "Give another window or range" in capsys.readouterr().err
        lim_gpu.reduce(store, "every-n", **(options | {"scope": "volume"}))
        assert "grey" not in capsys.readouterr().err


@pytest.mark.parametrize("scope", ["volume", "dataset"])
def test_a_volume_too_small_for_ssim_is_listed_and_the_rest_goes_on(tmp_path, capsys, scope):
    shapes = ((4, 20, 20), (4, 10, 40), (3, 40, 7), (5, 11, 11))
    path = write_store(tmp_path / "s", [pixels(*shape, seed=i) for i, shape in enumerate(shapes)])
    options = {"scope": scope, "device": "cpu", "reporter": Reporter()}
    with SliceStore(path) as store:
        selection = lim_gpu.reduce(store, "ssim", keep=0.5, **options)
        whole = lim_gpu.reduce(store, "mi", keep=0.5, **options)
    small = [f"{i:016x}" for i in (1, 2)]
    assert [failure["volume"] for failure in selection.record["failures"]] == small
    assert not {volume.key for volume in selection.volumes} & set(small)
    assert len(selection.volumes) == 2
    assert "slices of 10 x 40 pixels: SSIM needs at least 11 x 11" in capsys.readouterr().err
    assert len(whole.volumes) == 4


@pytest.mark.parametrize("method", ["hash", "ssim"])
def test_where_no_two_slices_are_compared_nothing_is_selected(tmp_path, method):
    path = write_store(tmp_path / "s", [pixels(1, 20, 20 + i, seed=i) for i in range(3)])
    with SliceStore(path) as store:
        with pytest.raises(
            InputError, match=f"no volume has two slices that {method} can compare. Give --scope dataset"
        ):
            lim_gpu.reduce(store, method, keep=0.5, device="cpu")
        assert lim_gpu.reduce(store, "hash", keep=0.5, scope="dataset", device="cpu").record["counts"]["kept"] == 2
        with pytest.raises(InputError, match="no dataset has two slices that ssim can compare. Give --method hash"):
            lim_gpu.reduce(store, "ssim", keep=0.5, scope="dataset", device="cpu")
        assert lim_gpu.reduce(store, "random", keep=0.5).record["counts"]["kept"] == 3


def test_a_cut_volume_is_named_and_the_rest_goes_on(store_path, copied, tmp_path, capsys):
    with SliceStore(copied) as store:
        bad = cut_short(store, 1)
        selection = lim_gpu.reduce(
            store, "hash", keep=0.3, device="cpu", output=tmp_path / "s.csv", reporter=Reporter(quiet=True)
        )
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert bad in error
    assert [failure["volume"] for failure in selection.record["failures"]] == [bad]
    assert bad not in kept_of(Selection.load(tmp_path / "s.csv"))
    assert len(selection.volumes) == 3
    shutil.copy(store_path / "volumes" / f"{bad}.h5", copied / "volumes")
    with SliceStore(copied) as store:  # mended: the same command completes the selection
        assert len(lim_gpu.reduce(store, "hash", keep=0.3, device="cpu", output=tmp_path / "s.csv").volumes) == 4


def test_a_store_without_a_readable_volume_is_an_error(copied):
    for file in (copied / "volumes").glob("*.h5"):
        file.write_bytes(b"not hdf5")
    with SliceStore(copied) as store, pytest.raises(InputError, match="no volume can be read"):
        lim_gpu.reduce(store, "hash", keep=0.3, device="cpu")


def test_a_short_number_is_a_position_and_never_the_beginning_of_a_key(tmp_path):
    entries = [write_volume(tmp_path / "s" / "volumes", pixels(2, 12, 12), key) for key in ("2" * 16, "2a" * 8)]
    write_index(tmp_path / "s", entries, {"modality": "CT"}, {}, "origin")
    with SliceStore(tmp_path / "s") as store:
        assert find_volume(store, "1") == find_volume(store, "2a") == "2a" * 8
        assert find_volume(store, "2222") == "2" * 16
        with pytest.raises(InputError, match="'2' names no volume"):
            find_volume(store, "2")


def test_a_plan_counts_what_the_intensity_asks_for(tmp_path):
    with SliceStore(write_store(tmp_path / "s", [pixels(40, 64, 64)])) as store:
        seconds = {}
        for name, intensity in {"plain": Intensity(), "body": Intensity.parse(body=True)}.items():
            request = Request(Criterion("hash", intensity))
            plan = make_plan(units_of(store.volumes, "volume"), request, tmp_path / "none")
            seconds[name] = plan.seconds
            assert any("time: under a second" in line for line in plan.lines(request))
    assert 0 < seconds["plain"] < seconds["body"]
