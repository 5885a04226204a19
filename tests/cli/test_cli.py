"""The command line as a person meets it: exit codes, one line an error, JSON, configuration, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import interrupted
from stores import make_sources, make_store

VERBS = tuple(
    "demo doctor ingest info reduce similarity select apply "
    "pretrain finetune predict embed export leaks report compare analyse evaluate".split()
)


def lim_gpu(*arguments, cwd=None):
    command = [sys.executable, "-m", "lim_gpu.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=800)


def fails(result, code, *words):
    """One line on stderr that says what and the remedy; no traceback; nothing on stdout."""
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    make_store(folder)
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches_with_an_example(verb):
    result = lim_gpu(verb, "--help")
    assert result.returncode == 0
    assert f"lim-gpu {verb}" in result.stdout
    assert "Example" in result.stdout
    for option in ("--device", "--seed", "--quiet", "--verbose", "--json", "--config"):
        assert option in result.stdout


def test_the_verbs_stand_in_the_order_of_the_pipeline():
    text = lim_gpu("--help").stdout
    assert "Exit codes" in text
    places = [text.index(f"  {verb}  ") for verb in ("ingest", "info", "reduce", "similarity")]
    assert places == sorted(places)


def test_the_shortest_command_works_in_the_folder_of_the_store(folder):
    result = lim_gpu("reduce", "--method", "ssim", "--keep", "0.1", "--device", "cpu", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "kept 6 of 35 slices" in result.stdout
    assert (folder / "selection.csv").read_text().count("\n") == 36
    assert lim_gpu("info", "selection.csv", cwd=folder).stdout.startswith("selection selection.csv: ssim")
    again = lim_gpu("reduce", "--method", "ssim", "--keep", "0.1", "--device", "cpu", cwd=folder)
    assert again.returncode == 0
    assert "unchanged" in again.stderr
    fails(lim_gpu("reduce", "--method", "hash", cwd=folder), 2, "selection.csv", "--overwrite")


def test_a_selection_is_corrected_and_applied(folder, tmp_path):
    out, edited = tmp_path / "s.csv", tmp_path / "edited.csv"
    lim_gpu("reduce", folder / "slices", "--method", "every-n", "--keep-count", "2", "-o", out)
    key = out.read_text().splitlines()[1].split(",")[0]
    result = lim_gpu("select", out, "--add", f"{key[:6]}:3", "--drop", f"{key}:0", "-o", edited)
    assert result.returncode == 0, result.stderr
    assert f"add {key}:3" in result.stdout
    result = lim_gpu("apply", edited, f"--copy={tmp_path / 'kept'}", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["slices"] == 7
    assert (tmp_path / "kept" / "p00v00_3.png").is_file()
    fails(lim_gpu("apply", edited, "--copy", tmp_path / "a", "--list", tmp_path / "b"), 2, "--copy DIR, --link DIR")


@pytest.mark.parametrize("method", ["all", "every-n", "random", "mi", "hash"])
def test_every_method(folder, tmp_path, method):
    keep = [] if method == "all" else ["--keep", "0.2"]
    out = tmp_path / "s.csv"
    result = lim_gpu("reduce", folder / "slices", "--method", method, *keep, "-o", out, "--device", "cpu", "--json")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["method"] == method
    assert record["counts"]["kept"] == (35 if method == "all" else 9)


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


def test_doctor_tells_what_is_there():
    result = lim_gpu("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["python"]["state"] == "ok"
    assert {"torch", "gpu", "decoders"} <= set(checks)
    assert all(check["remedy"] for check in checks.values() if check["state"] != "ok")


def test_json_is_the_only_thing_on_stdout_even_for_errors(folder, tmp_path):
    result = lim_gpu("reduce", folder / "slices", "--method", "ssim", "--json")
    assert json.loads(result.stdout)["exit_code"] == 2
    assert result.returncode == 2
    result = lim_gpu("info", folder / "slices", "--json")
    assert json.loads(result.stdout)["slices"] == 35
    assert result.stderr == ""


def test_verbose_shows_the_traceback(folder):
    result = lim_gpu("reduce", "--method", "ssim", "-v", cwd=folder)
    assert "Traceback" in result.stderr
    assert result.returncode == 2


def test_dry_run_plans_and_writes_nothing(folder, tmp_path):
    arguments = (
        "reduce",
        folder / "slices",
        "--method",
        "ssim",
        "--keep",
        "0.2",
        "-o",
        tmp_path / "s.csv",
        "--dry-run",
    )
    result = lim_gpu(*arguments)
    assert result.returncode == 0, result.stderr
    assert "4 volumes" in result.stdout
    assert f"{14 * 13 // 2 + 9 * 8 // 2 + 11 * 10 // 2:,} pairs" in result.stdout
    assert list(tmp_path.iterdir()) == []
    assert json.loads(lim_gpu(*arguments, "--json").stdout)["pairs"] == 182


def test_config_file_and_the_command_line_wins(folder, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(f'device = "cpu"\n[reduce]\nmethod = "hash"\nkeep = 0.5\noutput = "{tmp_path / "s.csv"}"\n')
    result = lim_gpu("reduce", folder / "slices", "--config", config, "--keep", "0.2", "--json")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["method"] == "hash"
    assert record["parameters"]["keep"] == 0.2
    config.write_text("kepe = 0.5\n")
    fails(lim_gpu("reduce", folder / "slices", "--config", config, "--method", "ssim"), 2, "kepe")
    config.write_text("keep = = 0.5\n")
    fails(lim_gpu("reduce", folder / "slices", "--config", config, "--method", "ssim"), 3, "run.toml")


def test_similarity_writes_an_array_and_a_picture(folder, tmp_path):
    start = ("similarity", folder / "slices", "0", "--device", "cpu", "--method")
    result = lim_gpu(*start, "ssim", "-o", tmp_path / "m.npy")
    assert result.returncode == 0, result.stderr
    matrix = np.load(tmp_path / "m.npy")
    assert matrix.shape == (14, 14)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, matrix.T)
    result = lim_gpu(*start, "hash", "--keep", "0.2", "-o", tmp_path / "m.png")
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "m.png").size[0] > 800
    assert lim_gpu(*start, "ssim", "-o", tmp_path / "m.npy").stdout.startswith("unchanged")
    fails(lim_gpu(*start, "mi", "-o", tmp_path / "m.npy"), 2, "--overwrite")


def test_write_copies_the_kept_slices_into_a_new_store(folder, tmp_path):
    result = lim_gpu(
        "reduce", folder / "slices", "--method", "every-n", "--keep", "0.25",
        "-o", tmp_path / "s.csv", "--write", tmp_path / "reduced", "--kept-list", tmp_path / "kept.txt",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    kept = json.loads((tmp_path / "s.json").read_text())["counts"]["kept"]
    info = lim_gpu("info", tmp_path / "reduced", "--verify", "--json")
    assert info.returncode == 0, info.stderr
    assert json.loads(info.stdout)["slices"] == kept
    assert "kept.txt (private)" in result.stdout
    listed = (tmp_path / "kept.txt").read_text().splitlines()
    assert len(listed) == kept + 1
    assert (tmp_path / "kept.txt").stat().st_mode & 0o777 == 0o600
    assert all(os.path.exists(line.split("\t")[0]) for line in listed[1:])


def test_a_bad_source_is_named_and_the_rest_goes_on(tmp_path):
    make_sources(tmp_path / "in", (("chest", 4, 24, 24),))
    (tmp_path / "in" / "notes.txt").write_text("hello")
    (tmp_path / "in" / "broken").mkdir()
    (tmp_path / "in" / "broken" / "x_0.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    result = lim_gpu("ingest", tmp_path / "in", "-o", tmp_path / "slices")
    assert result.returncode == 5, result.stderr
    assert result.stderr.count("error: ") == 1
    assert "x_0.png" in result.stderr
    assert "Traceback" not in result.stderr
    fails(lim_gpu("ingest", tmp_path / "in" / "broken" / "none", "-o", tmp_path / "other"), 3, "none")


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


def test_options_of_a_configuration_count_for_errors_too(folder, tmp_path):
    (tmp_path / "run.toml").write_text('json = true\nkeep = 1.5\nmethod = "ssim"\n')
    result = lim_gpu("reduce", folder / "slices", "--config", tmp_path / "run.toml")
    assert json.loads(result.stdout)["exit_code"] == 2


@pytest.mark.parametrize(("signal_sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so_and_goes_on(folder, tmp_path, preloaded, signal_sent, code):
    many = make_store(tmp_path, (("chest", 4, 24, 24),) * 5)
    options = (
        "reduce",
        str(many),
        "--method",
        "ssim",
        "--keep",
        "0.2",
        "--device",
        "cpu",
        "-o",
        str(tmp_path / "s.csv"),
    )
    environment = {"WAITS_FROM": "4", "ENGINES": "1"}  # the last volume comes after the signal
    child = preloaded.start(interrupted.__file__, *options, env=environment)
    parts = tmp_path / "s.parts"
    while not child.ended() and len(list(parts.glob("[0-9a-f]*.json"))) < 3:
        time.sleep(0.002)
    os.kill(child.pid, signal_sent)
    done = child.wait()
    assert done.returncode == code, done.stderr
    assert "again to go on" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s.csv").exists()
    result = lim_gpu(*options)
    assert result.returncode == 0, result.stderr
    assert "done already" in result.stderr
