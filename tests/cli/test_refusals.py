"""What the command line refuses: one line that names the option and the remedy, and nothing is written."""

from __future__ import annotations

import shutil

import pytest

from command_line import fails, lim_gpu
from stores import make_store

USAGE = (
    (["--keep", "0"], "is not a fraction"),
    (["--keep", "1"], "--keep-count"),
    (["--keep", "3"], "or --keep-count 3"),
    (["--keep", "1.5"], "keep"),
    (["--keep", "a"], "--keep"),
    (["--keep-count", "0"], "--keep-count 0 is not"),
    (["--keep", "0.1", "--keep-count", "3"], "keep"),
    (["--threshold", "3"], "threshold"),
    (["--keep", "0.1", "--rule", "leader"], "leader"),
    (["--keep", "0.1", "--scope", "study"], "volume, patient, dataset"),
    ([], "Give --keep, --keep-count or --threshold"),
    (["--keep", "0.1", "--bins", "32"], "--bins belongs to mi, not to ssim"),
    (["--keep", "0.1", "--weights", "w.pth"], "--weights belongs to deepnet"),
    (["--keep", "0.1", "--rule", "greedi"], "Did you mean greedy?"),
    (["--keep", "0.1", "--hu-range", "400:-1000"], "--hu-range 400:-1000 shows nothing: 400 is not below -1000"),
    (["--keep", "0.1", "--window", "elbow"], "elbow"),
    (["--keep", "0.1", "--window", "lung", "--hu-range", "0:100"], "hu-range"),
    (["--keep", "0.1", "--nonsense"], "--help"),
    (["--keep", "0.1", "-o", "selection.txt"], "selection.txt"),
)


@pytest.mark.parametrize(
    ("arguments", "word"), USAGE, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_usage_errors(folder, arguments, word):
    fails(lim_gpu("reduce", "--method", "ssim", *arguments, "--device", "cpu", cwd=folder), 2, word)


def test_unknown_names(folder, tmp_path):
    fails(lim_gpu("reduce", "--method", "hsah", "--keep", "0.1", cwd=folder), 2, "hsah", "Did you mean hash?", "ssim")
    fails(lim_gpu("ingest", folder / "sources", tmp_path / "s2"), 3, f"Did you mean -o {tmp_path / 's2'}?")
    fails(lim_gpu("prune"), 2, "prune")
    fails(lim_gpu("reduce", "--rite", "x"), 2, "Did you mean --write or --overwrite?")  # the nearest first
    fails(lim_gpu("reduce", tmp_path, "--method", "hash"), 3, str(tmp_path))
    fails(lim_gpu("reduce", tmp_path / "none", "--method", "hash"), 3, "none")
    fails(lim_gpu("info", tmp_path / "none.csv"), 3, "none")
    fails(lim_gpu("similarity", folder / "slices", "zzz", "--method", "ssim", "-o", tmp_path / "m.npy"), 3, "zzz")


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_cuda_asked_for_where_there_is_none(folder, tmp_path):
    arguments = ("--method", "hash", "--device", "cuda", "-o", tmp_path / "s.csv")
    fails(lim_gpu("reduce", folder / "slices", *arguments), 4, "cuda", "cpu")
    doctor = lim_gpu("doctor", "--device", "cuda")
    assert doctor.returncode == 4
    assert "absent" in doctor.stdout


def test_the_device_is_missed_before_the_output(folder, tmp_path):
    (tmp_path / "s.csv").write_text("mine")
    arguments = ("--method", "hash", "--device", "cuda:7", "-o", tmp_path / "s.csv")
    for more in ((), ("--dry-run",)):
        fails(lim_gpu("reduce", folder / "slices", *arguments, *more), 4, "cuda:7")


def test_targets_are_checked_before_anything_is_computed(folder, tmp_path):
    start = ("reduce", folder / "slices", "--method", "every-n", "--keep", "0.25", "-o", tmp_path / "s.csv")
    (tmp_path / "mine.txt").write_text("precious")
    fails(lim_gpu(*start, "--kept-list", tmp_path / "mine.txt"), 2, "mine.txt", "--overwrite")
    fails(lim_gpu(*start, "--kept-list", tmp_path / "s.csv"), 2, "s.csv")
    fails(lim_gpu(*start, "--write", folder / "slices"), 2, "slices")
    fails(lim_gpu(*start, "--write", make_store(tmp_path / "other", (("chest", 3, 24, 24),))), 2, "--overwrite")
    assert (tmp_path / "mine.txt").read_text() == "precious"
    assert not (tmp_path / "s.csv").exists()
    again = [lim_gpu(*start, "--kept-list", tmp_path / "kept.txt") for _ in range(2)]
    assert [result.returncode for result in again] == [0, 0], again[1].stderr


def test_a_demo_never_takes_a_folder_with_other_files(folder, tmp_path):
    before = (folder / "slices" / "store.json").read_bytes()
    fails(lim_gpu("demo", "-o", folder), 2, "other files")
    assert (folder / "slices" / "store.json").read_bytes() == before
    result = lim_gpu("demo", "-o", tmp_path / "new", "--dry-run")
    assert result.returncode == 0
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("reduce", "slices", "--method", "random", "--keep", "0.1", "--seed", "-1"), 2, "seed"),
        (("reduce", "slices", "--method", "all", "-o", "/dev/null/x.csv"), 3, "/dev/null"),
        (("reduce", "slices", "--method", "all", "--device", "gpu"), 2, "gpu"),
        (("doctor", "--device", "cuda:x"), 2, "cuda:x"),
    ],
)
def test_what_cannot_be_is_one_line(folder, arguments, code, word):
    fails(lim_gpu(*arguments, cwd=folder), code, word)
