"""Reports of runs."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from lim_gpu.errors import InputError, UsageError
from lim_gpu.report import write_report


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "swav-run"
    folder.mkdir()
    config = {"method": "swav", "backbone": "resnet18"}
    record = {"format": "lim-gpu-pretraining", "version": 1, "config": config, "device": "cpu"}
    record |= {"plan": {"total_steps": 2000}, "versions": {"torch": "2"}}
    record["meters"] = {
        "loss": {"unit": "nat", "meaning": "cross-entropy <of codes>", "svg": "<script>alert(2)</script>"}
    }
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "plan.txt").write_text("swav <script>alert(1)</script>\n")
    rows = [{"epoch": i // 500, "step": i, "loss": 6 - i / 400, "lr": 0.1, "effective_rank": 9} for i in range(1500)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_shows_its_curves_and_escapes_its_texts(run, tmp_path):
    write_report([run], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert text.count("<svg") == 3
    assert "1,500 of 2,000 steps" in text
    assert "<script>alert" not in text
    assert "http" not in text
    assert len(text) < 400_000  # a long run is thinned


def test_numbers_are_told_as_the_run_explains_them(run, tmp_path):
    write_report([run], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "<b>loss</b>, last 2.252 (nat). cross-entropy &lt;of codes&gt;" in text
    assert "<b>lr</b>, last 0.1. <" in text  # not explained
    record = json.loads((run / "config.json").read_text())
    del record["meters"]  # a run of an earlier version
    (run / "config.json").write_text(json.dumps(record))
    write_report([run], tmp_path / "old.html")
    assert "<b>loss</b>, last 2.252. <" in (tmp_path / "old.html").read_text()


def test_scores_stand_below(run, tmp_path):
    scores = tmp_path / "covid"
    scores.mkdir()
    score = {"mean": 0.8123, "sd": 0.01, "runs": [0.8, 0.82]}
    about = {"classes": ["covid", "noncovid"], "positive": "noncovid"}
    (scores / "results.json").write_text(json.dumps({"auc": score, "f1": score, "acc": score | {"mean": None}} | about))
    write_report([run, scores], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "0.8123" in text
    assert text.count("positive: noncovid (finetune --positive covid for the other)") == 1


@pytest.mark.parametrize("name", ["roc.png", "overlays.png", "views.png"])
def test_a_new_picture_makes_the_page_anew(run, tmp_path, name):
    Image.new("L", (3, 3)).save(run / name)
    write_report([run], tmp_path / "r.html")
    assert write_report([run], tmp_path / "r.html").lines[0].startswith("unchanged")
    Image.new("L", (4, 3)).save(run / name)
    write_report([run], tmp_path / "r.html", overwrite=True)
    assert write_report([run], tmp_path / "r.html").lines[0].startswith("unchanged")
    Image.new("L", (5, 3)).save(run / name)
    with pytest.raises(UsageError, match="made otherwise"):
        write_report([run], tmp_path / "r.html")


def test_other_folders_are_refused(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.json").write_text("{}")
    with pytest.raises(InputError, match=r"store: is a store\. Give a selection"):
        write_report([tmp_path / "store"], tmp_path / "r.html")
    with pytest.raises(InputError, match="not a run"):
        write_report([tmp_path / "other"], tmp_path / "r.html")
    with pytest.raises(UsageError, match="Give the ones or the others"):
        write_report([run, tmp_path / "s.csv"], tmp_path / "r.html")
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="no numbers yet"):
        write_report([run], tmp_path / "r.html")
