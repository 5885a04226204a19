"""Predictions on new images: those of the fine-tuning itself on its test part, and what cannot be predicted."""

from __future__ import annotations

import csv
import json
import stat

import numpy as np
import pytest
import torch

pytest.importorskip("nibabel")

import nibabel
from PIL import Image

from lim_gpu.errors import InputError, UsageError
from lim_gpu.inference.predict import predict
from lim_gpu.progress import Reporter
from lim_gpu.weights.load import sidecar

QUIET = Reporter(quiet=True)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(run):
    return run / "runs" / "0" / "candidate-0" / "best.ckpt"


def predicted(data, run, output, **how):
    return predict(data, checkpoint(run), output, device="cpu", reporter=QUIET, **how)


def test_probabilities_are_the_fine_tunings_own_at_its_temperature(finetuned, tmp_path):
    data, run = finetuned
    outcome = predicted(data, run, tmp_path / "p.csv")
    own = {row["file"]: row for row in table(run / "predictions.csv")}
    new = {row["file"]: row for row in table(tmp_path / "p.csv")}
    temperature = json.loads(sidecar(checkpoint(run)).read_text())["temperature"]
    assert outcome.values["temperature"] == temperature != 1
    assert outcome.values["calibrated"] is True
    assert f"; probabilities calibrated by temperature {temperature:g} -> " in outcome.lines[0]
    assert len(new) == outcome.values["images"] == 36
    for file, row in own.items():  # softmax(l / T) is softmax(l) to the power 1 / T, rescaled
        powers = [float(row[name]) ** (1 / temperature) for name in ("p_disc", "p_none")]
        found = [float(new[file][name]) for name in ("p_disc", "p_none")]
        np.testing.assert_allclose(found, np.array(powers) / sum(powers), rtol=1e-5)
        assert new[file]["predicted"] == row["predicted"]


def test_again_it_is_unchanged_and_a_plan_writes_nothing(finetuned, tmp_path):
    data, run = finetuned
    plan = predicted(data, run, tmp_path / "p.csv", dry_run=True)
    assert (plan.values["images"], plan.values["unchanged"], list(tmp_path.iterdir())) == (36, False, [])
    picture = data / "i00.png"
    predicted(picture, run, tmp_path / "p.csv")
    assert [row["file"] for row in table(tmp_path / "p.csv")] == ["i00.png"]
    assert predicted(picture, run, tmp_path / "p.csv").values["unchanged"]
    assert predicted(picture, run, tmp_path / "p.csv", dry_run=True).lines[0].startswith("unchanged")
    with pytest.raises(UsageError, match="--overwrite"):
        predicted(data, run, tmp_path / "p.csv")


def test_what_cannot_be_read_is_left_out_and_listed(finetuned, tmp_path):
    data, run = finetuned
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("i00.png", "i01.png"):
        (folder / name).write_bytes((data / name).read_bytes())
    (folder / "i02.png").write_text("no picture")
    outcome = predicted(folder, run, tmp_path / "p.csv")
    assert outcome.skipped
    assert [row["file"] for row in table(tmp_path / "p.csv")] == ["i00.png", "i01.png"]
    assert [failure["images"] for failure in outcome.values["failures"]] == ["i02.png"]
    (folder / "i00.png").unlink(), (folder / "i01.png").unlink()
    with pytest.raises(InputError, match=r"no image can be read.*i02\.png"):
        predicted(folder, run, tmp_path / "q.csv")


def test_a_nifti_is_predicted_slice_by_slice_as_its_pictures_are(finetuned, tmp_path):
    """What it is ingested into goes; the table names files, so it is private."""
    data, run = finetuned
    volume = np.stack([np.asarray(Image.open(data / f"i{n:02d}.png")) for n in range(3)]).astype(np.int16)
    affine = np.diag([-1, -1, 2.0, 1])  # a NIfTI's x and y run against those of a picture
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine), tmp_path / "in" / "a.nii.gz")
    predicted(tmp_path / "in", run, tmp_path / "p.csv", overwrite=True)
    rows = table(tmp_path / "p.csv")
    assert [(row["file"], row["slice"], float(row["z_mm"])) for row in rows] == [
        ("a.nii.gz", "0", 0.0), ("a.nii.gz", "1", 2.0), ("a.nii.gz", "2", 4.0)
    ]  # fmt: skip
    assert stat.S_IMODE((tmp_path / "p.csv").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "p.csv", "p.json"]
    for n, row in enumerate(rows):  # the slice's own range, as a 16-bit picture has it
        grey = volume[n].astype(float)
        scaled = np.rint((grey - grey.min()) / np.ptp(grey) * 255).astype(np.uint8)
        Image.fromarray(scaled).save(tmp_path / "in" / "one.jpg.png")
        predicted(tmp_path / "in" / "one.jpg.png", run, tmp_path / "one.csv", overwrite=True)
        expected = table(tmp_path / "one.csv")[0]
        assert float(row["p_disc"]) == pytest.approx(float(expected["p_disc"]), rel=1e-5)
    assert predicted(tmp_path / "in" / "a.nii.gz", run, tmp_path / "p2.csv", dry_run=True).values["images"] is None


def test_a_network_that_classifies_nothing_or_is_not_calibrated_says_so(finetuned, pretrained, tmp_path, capsys):
    data, run = finetuned
    backbone, _network = pretrained()
    with pytest.raises(InputError, match=r"has no classifier.*lim-gpu finetune"):
        predict(data, backbone, tmp_path / "p.csv", device="cpu", reporter=QUIET)
    content = torch.load(checkpoint(run), weights_only=True)
    del content["lim_gpu"]["temperature"]
    torch.save(content, tmp_path / "old.ckpt")
    outcome = predict(data / "i00.png", tmp_path / "old.ckpt", tmp_path / "p.csv", device="cpu", reporter=Reporter())
    assert (outcome.values["temperature"], outcome.values["calibrated"]) == (1, False)
    assert "; probabilities not calibrated -> " in outcome.lines[0]
    assert "not calibrated" in capsys.readouterr().err
