"""The command line as a person meets it: exit codes, one line an error, JSON, configuration, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import interrupted
from command_line import fails, lim_gpu
from reductions import RESULTS
from stores import make_sources, make_store

VERBS = tuple(
    "demo doctor ingest info reduce similarity select apply "
    "pretrain finetune predict embed export leaks report compare analyse evaluate".split()
)


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


def test_a_reader_that_leaves_is_no_fault(folder):
    command = [sys.executable, "-m", "lim_gpu.cli", "info", str(folder / "slices")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(timeout=800) == 0


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
    while not child.ended() and len(list(parts.glob(RESULTS))) < 3:
        time.sleep(0.002)
    os.kill(child.pid, signal_sent)
    done = child.wait()
    assert done.returncode == code, done.stderr
    how = "interrupted" if code == 130 else "terminated"
    told = rf"^error: {how}, [0-4] of 5 volumes done by \S+\. Run the same command again to go on$"
    assert re.search(told, done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s.csv").exists()
    result = lim_gpu(*options)
    assert result.returncode == 0, result.stderr
    assert "done already" in result.stderr
