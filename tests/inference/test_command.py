"""The verbs embed and predict on the command line: one JSON object, exit codes, and plans that load no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from volumes import pixels, write_store

PROGRAM = """
import sys
from lim_gpu.cli.program import cli
try:
    cli(sys.argv[1:], standalone_mode=False)
finally:
    print("loaded:", sorted({"torch", "numba"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(("verb", "name"), [("embed", "f.npy"), ("predict", "p.csv")])
def test_a_plan_is_one_object_and_loads_no_torch(verb, name, tmp_path):
    store = write_store(tmp_path / "s", [pixels(3)])
    (tmp_path / "c.ckpt").write_bytes(b"not read by a plan, but hashed")
    asked = [verb, store, "--checkpoint", tmp_path / "c.ckpt", "-o", tmp_path / name, "--dry-run", "--json"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, asked)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 3
    assert "loaded: []" in done.stderr
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("verb", "output", "code", "words"),
    [("embed", "f.txt", 2, ".npy or .parquet"), ("predict", "p.txt", 2, ".csv"), ("predict", "p.csv", 3, "no.ckpt")],
)
def test_what_cannot_be_is_one_line(verb, output, code, words, tmp_path):
    asked = [verb, tmp_path, "--checkpoint", tmp_path / "no.ckpt", "-o", tmp_path / output]
    done = subprocess.run([sys.executable, "-m", "lim_gpu.cli", *map(str, asked)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
