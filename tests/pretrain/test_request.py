"""What is asked of a pre-training is one checked object, with every keyword of the public function in it."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.pretrain import run
from lim_gpu.pretrain.config import resolve
from lim_gpu.pretrain.request import Request, configuration

CONFIGURED = {"method", "preset", "epochs", "batch_size", "backbone", "channels", "overrides", "compile", "seed"}


def test_every_keyword_arrives_in_the_request(store, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(run, "_run", lambda request, reporter: found.append((request, reporter)))
    given = {
        "selection": "half.csv",
        "checkpoint_every": 7,
        "log_every": 3,
        "init": "imagenet",
        "probe": "probe",
        "wandb": "project",
        "stream": True,
        "resume": True,
        "overwrite": False,
        "dry_run": True,
        "device": "cuda:1",
        "output": tmp_path,
    }
    run.pretrain(store, "moco", epochs=5, batch_size=16, compile=True, seed=3, overrides={"lr": 0.2}, **given)
    (request, reporter) = found[0]
    assert {name: getattr(request, name) for name in given} == given | {
        name: type(getattr(request, name))(given[name]) for name in ("selection", "probe")
    }
    config = resolve("moco", overrides={"epochs": 5, "batch_size": 16, "compile": True, "seed": 3, "lr": 0.2})
    assert (request.store, request.config) == (store, config)
    assert reporter.quiet
    keywords = set(inspect.signature(run.pretrain).parameters)
    assert {field.name for field in fields(Request)} - {"config"} == keywords - CONFIGURED - {"reporter"}


def test_an_option_and_a_setting_of_one_name():
    with pytest.raises(UsageError, match="epochs is given twice, by its option and by --set"):
        configuration("swav", "recommended", {"epochs": 3}, {"epochs": "3"}, 0)
    assert configuration("swav", "recommended", {"epochs": None}, {"epochs": "3"}, 0).epochs == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_every": 0}, "--log-every 0 is too small"),
        ({"checkpoint_every": -1}, "--checkpoint-every -1 is too small"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite exclude each other"),
    ],
)
def test_contradictions_are_told_before_anything_is_opened(options, message):
    with pytest.raises(UsageError, match=message):
        run.pretrain("nowhere", "swav", **options)
