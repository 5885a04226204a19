"""What every verb promises, asked of the click commands themselves, so that none of them can lack it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch

pytest.importorskip("pydicom")

import lim_gpu
from dicom_files import series
from labelled_folders import picture
from lim_gpu.cli.command import Verb
from lim_gpu.cli.program import cli
from lim_gpu.ingest import ingest
from stores import make_store

READS_ALONE = {"doctor", "info"}
WRITING = sorted(set(cli.commands) - READS_ALONE)
EVERYWHERE = {"--device", "--seed", "--quiet", "-q", "--verbose", "-v", "--json", "--config"}
HEAVY = ("torch", "numba")

# Runs each command of a JSON object on stdin where a heavy module cannot be imported, and prints what became of it.
PROGRAM = """
import contextlib, importlib.abc, io, json, sys
asked = []

class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in %r:
            asked.append(name)
            raise ImportError(name)

sys.meta_path.insert(0, Refused())
from lim_gpu.cli.program import cli
from lim_gpu.errors import LimGpuError
results = {}
for name, arguments in json.load(sys.stdin).items():
    asked.clear()
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            cli.main(arguments, standalone_mode=False)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except LimGpuError as error:
        code = error.exit_code
        out.write(str(error))
    except ImportError as error:
        code = 1
    results[name] = [code, list(asked), out.getvalue()]
print(json.dumps(results))
"""


def options(command: click.Command) -> set[str]:
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("verb", cli.commands)
def test_every_verb_has_the_options_of_all(verb):
    assert options(cli.commands[verb]) >= EVERYWHERE


@pytest.mark.parametrize("verb", cli.commands)
def test_every_verb_tells_in_our_words_which_argument_is_too_many(verb):
    assert isinstance(cli.commands[verb], Verb)


@pytest.mark.parametrize("verb", WRITING)
def test_a_verb_that_writes_plans_and_replaces(verb):
    assert options(cli.commands[verb]) >= {"--dry-run", "--overwrite"}
    flags = {parameter.name: parameter for parameter in cli.commands[verb].params}
    assert flags["dry_run"].is_flag
    assert flags["overwrite"].is_flag


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """What became of each dry run, by the verb, and with --device cuda; in a folder that is compared afterwards."""
    folder = tmp_path_factory.mktemp("contract")
    verbs = dry_runs(folder)
    assert sorted(verbs) == WRITING
    before = sorted(folder.rglob("*"))
    runs = {f"{verb} {device}": [verb, *map(str, arguments), "--dry-run", "--device", device]
            for verb, arguments in verbs.items() for device in ("cpu", "cuda")}  # fmt: skip
    nowhere = {verb: [str(a).replace(str(folder / "new"), str(folder / "first.csv" / "new")) for a in arguments]
               for verb, arguments in verbs.items()}  # fmt: skip
    runs |= {f"{verb} nowhere": [verb, *arguments, "--dry-run"] for verb, arguments in nowhere.items()}
    runs |= {f"{verb} --help": [verb, "--help"] for verb in cli.commands}
    runs["info"] = ["info", str(folder / "slices")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM % (HEAVY,)], input=json.dumps(runs), capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert sorted(folder.rglob("*")) == before
    return json.loads(done.stdout)


def dry_runs(folder: Path) -> dict[str, list[object]]:
    """The arguments of a dry run of every verb that writes."""
    store = make_store(folder, (("chest", 5, 24, 24), ("head", 4, 24, 24)))
    first, second = folder / "first.csv", folder / "second.csv"
    for path, count in ((first, 2), (second, 3)):
        lim_gpu.reduce(store, "every-n", keep_count=count, output=path)
    key = first.read_text().splitlines()[1].split(",")[0]
    labelled, checkpoint, grid = make_labelled(folder / "labelled"), folder / "last.ckpt", folder / "grid.toml"
    torch.save({"state_dict": {}}, checkpoint)
    grid.write_text('[stores]\nS = "slices"\n[tasks]\nT = "labelled"\n[pretrain]\nbatch_size = 2\n')
    new = folder / "new"
    return {
        "demo": ["-o", new],
        "ingest": [folder / "sources", "-o", new],
        "reduce": [store, "--method", "ssim", "--keep", "0.5", "-o", f"{new}.csv"],
        "labels": ["attributes", folder / "dicom", make_scan(folder), "-o", new],
        "similarity": [store, "0", "--method", "ssim", "-o", f"{new}.npy"],
        "select": [first, "--add", f"{key}:1", "-o", f"{new}.csv"],
        "apply": [first, "--copy", new],
        "pretrain": [store, "--method", "swav", "--batch-size", "2", "-o", new],
        "finetune": [labelled, "--folds", "2", "-o", new],
        "embed": [store, "--checkpoint", checkpoint, "-o", f"{new}.npy"],
        "predict": [store, "--checkpoint", checkpoint, "-o", f"{new}.csv"],
        "export": [checkpoint, "-o", f"{new}.safetensors"],
        "leaks": [folder / "sources", labelled, "-o", f"{new}.csv"],
        "report": [first, "-o", f"{new}.html"],
        "compare": [first, second, "-o", f"{new}.csv"],
        "analyse": ["cka", checkpoint, checkpoint, "--data", labelled, "--part", "all", "-o", f"{new}.png"],
        "evaluate": ["A", "--config", grid, "-o", new],
    }


def make_scan(folder: Path) -> Path:
    """A store of the DICOM series that is then in "dicom"."""
    series(folder / "dicom", 3, PatientSex="F")
    ingest([folder / "dicom"], folder / "scan", workers=1)
    return folder / "scan"


def make_labelled(folder: Path) -> Path:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("disc", "none"):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(picture(rng, label)).save(folder / label / f"{i}.png")
    return folder


@pytest.mark.parametrize("verb", WRITING)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_dry_run_loads_nothing_heavy_and_writes_nothing(light, verb, device):
    code, asked, said = light[f"{verb} {device}"]
    assert asked == []
    assert code in ({0} if device == "cpu" else {0, 4}), said


@pytest.mark.parametrize("verb", WRITING)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(light, verb):
    code, _asked, said = light[f"{verb} nowhere"]
    assert code == 3, said
    assert "first.csv/new" in said
    assert "cannot be written: " in said


@pytest.mark.parametrize("what", [*(f"{verb} --help" for verb in cli.commands), "info"])
def test_help_and_info_load_nothing_heavy(light, what):
    code, asked, said = light[what]
    assert (code, asked) == (0, []), said
