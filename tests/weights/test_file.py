"""Checkpoint files: damaged ones are one line, and nothing that a pickle holds is run unless it is trusted."""

from __future__ import annotations

import hashlib
import os
import sys

import pytest
import torch
from safetensors.torch import save_file

from checkpoints import fails, under
from counted import count_loaded, count_opened
from lim_gpu.errors import InputError
from lim_gpu.weights.file import CheckpointFile
from lim_gpu.weights.load import load_backbone


def test_another_kind_of_file_is_told_in_few_words(tmp_path):
    (tmp_path / "s.csv").write_text("volume,slice\n")
    fails(tmp_path / "s.csv", "is no checkpoint, which torch.save or safetensors writes. Give one")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_truncated_file_is_one_line(tmp_path, state, share, suffix):
    path = tmp_path / f"c{suffix}"
    if suffix == ".ckpt":
        torch.save(state, path)
    else:
        save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    fails(path, "cannot be read as a checkpoint")


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}: cannot be read: Is a directory. Give a file in it$"):
        CheckpointFile(tmp_path)


def test_a_missing_file(tmp_path):
    fails(tmp_path / "none.ckpt", "cannot be read")


class Harmful:
    """Its unpickling makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_runs_something_is_named_and_not_run(tmp_path, state, zipped):
    path, made = tmp_path / "c.ckpt", tmp_path / "made"
    content = {"state_dict": under("model.", state), "callbacks": Harmful(made)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with CheckpointFile(path) as file:
        assert file.unsafe_globals() == ["posix.mkdir"]
    fails(path, "posix.mkdir", "--trust")
    assert not made.exists()
    assert load_backbone(path, trust=True).name == "resnet18"
    assert made.exists()


def test_a_trusted_file_of_a_library_that_is_not_here(tmp_path, state, monkeypatch):
    module = type(sys)("pl_bolts_of_old")
    module.Thing = type("Thing", (), {"__module__": "pl_bolts_of_old", "__qualname__": "Thing"})
    monkeypatch.setitem(sys.modules, "pl_bolts_of_old", module)
    torch.save({"state_dict": state, "thing": module.Thing()}, tmp_path / "c.ckpt")
    monkeypatch.delitem(sys.modules, "pl_bolts_of_old")
    fails(tmp_path / "c.ckpt", "pl_bolts_of_old.Thing")
    fails(tmp_path / "c.ckpt", "pl_bolts_of_old", "not installed", trust=True)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_file_is_opened_once_to_be_hashed_and_read(tmp_path, state, monkeypatch, suffix):
    path = tmp_path / f"c{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    opened, loaded = count_opened(monkeypatch), count_loaded(monkeypatch)
    backbone = load_backbone(path)
    assert opened[path] == 1
    assert len(loaded) == (suffix == ".ckpt")
    assert backbone.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_digest_is_of_what_is_read_though_another_file_takes_its_place(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 1}, path)
    first = hashlib.sha256(path.read_bytes()).hexdigest()
    with CheckpointFile(path) as file:
        torch.save({"epoch": 2}, tmp_path / "next")
        os.replace(tmp_path / "next", path)
        assert file.read() == {"epoch": 1}
        assert file.sha256 == first
