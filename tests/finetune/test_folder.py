"""What may stand in the folder of a fine-tuning, and what is done again."""

from __future__ import annotations

import json

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.finetune.folder import OWN, RunFolder, drop_networks, predictions_path
from lim_gpu.weights.load import sidecar


@pytest.fixture
def folder(tmp_path):
    """A run whose first training is done."""
    made = RunFolder(tmp_path / "run", {"seed": 0}, "data")
    made.write_config({"seeds": [0]})
    made.write_part(made.training(0, 0), {"epoch": 3})
    return made


def test_a_run_is_finished_when_its_results_stand(folder):
    assert folder.standing(overwrite=False) is False
    folder.results.write_text("{}")
    assert folder.standing(overwrite=False) is True
    assert json.loads(folder.config.read_text())["parameters"] == {"seed": 0}


@pytest.mark.parametrize(("parameters", "data"), [({"seed": 1}, "data"), ({"seed": 0}, "other")])
def test_another_request_is_refused_once_something_was_trained(folder, parameters, data):
    other = RunFolder(folder.path, parameters, data)
    with pytest.raises(UsageError, match="holds a run with other options or data. Give --overwrite"):
        other.standing(overwrite=False)
    assert other.standing(overwrite=True) is False
    folder.training(0, 0).unlink()
    assert other.standing(overwrite=False) is False


def test_parts_of_another_request_are_not_parts(folder):
    path = folder.training(0, 0)
    assert folder.part(path) == {"fingerprint": folder.asked, "epoch": 3}
    assert RunFolder(folder.path, {"seed": 1}, "data").part(path) is None
    assert folder.part(predictions_path(folder.path, 0)) is None


def test_clearing_removes_what_was_made_otherwise_and_nothing_else(folder):
    for name in set(OWN) - {"config.json", "runs"}:
        (folder.path / name).write_text("{}")
    (folder.path / "notes.txt").write_text("mine")
    folder.clear()
    assert folder.training(0, 0).exists()
    RunFolder(folder.path, {"seed": 1}, "data").clear()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("thesis.tex", "x", "holds other files"),
        ("config.json", '{"format": "lim-gpu-pretraining"}', "holds another program's run"),
        ("config.json", "[]", "holds another program's run"),
    ],
)
def test_what_is_no_run_stays(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        RunFolder(tmp_path, {}, "data").standing(overwrite=True)


def test_an_empty_folder_is_free(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".lock").touch()
    assert RunFolder(tmp_path / "empty", {}, "data").standing(overwrite=False) is False


def test_weights_that_were_not_chosen_go_with_their_json(folder):
    path = folder.checkpoint(0, 0)
    path.write_bytes(b"")
    path.with_name("best.ckpt.json").write_text("{}")
    folder.drop_checkpoint(0, 0)
    assert [one.name for one in path.parent.iterdir()] == ["training.json"]
    folder.drop_checkpoint(0, 1)  # gone before: a run that goes on


@pytest.mark.parametrize("keep", [0, 1, 10])
def test_networks_of_the_first_runs_stay(folder, keep):
    paths = [folder.checkpoint(run, 0) for run in range(11)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        sidecar(path).write_text("{}")
    drop_networks(folder.path, keep)
    stays = [run < keep for run in range(11)]
    assert [path.exists() for path in paths] == [sidecar(path).exists() for path in paths] == stays
    assert folder.training(0, 0).exists()
