"""How runs go on after a kill, and what of a run that stands is kept, used or refused."""

from __future__ import annotations

import json
import signal

import pytest
import torch

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import fingerprint
from lim_gpu.pretrain.callbacks import Recorder
from lim_gpu.pretrain.plan import ALGORITHM
from lim_gpu.pretrain.run import pretrain
from pretrainings import STEPS, TOTAL, arguments, killed, losses, rows

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_finished_run_is_unchanged(finished, store):
    before = (finished / "swav" / "last.ckpt").stat().st_mtime_ns
    for resume in (False, True):
        outcome = pretrain(store, "swav", output=finished / "swav", resume=resume, **arguments("swav"))
        assert outcome.values["unchanged"]
    assert (finished / "swav" / "last.ckpt").stat().st_mtime_ns == before


def test_swav_repeats_itself_to_the_bit_after_five_kills(finished, store, tmp_path, preloaded):
    """Before the first checkpoint, within one, between two, in the middle of an epoch, and at the very end."""
    run = tmp_path / "run"
    points = [("batch", 3), ("torn", 4), ("between", 8), ("batch", 10), ("written", TOTAL)]
    for resume, (where, step) in enumerate(points):
        assert killed(preloaded, store, run, "swav", where, step, resume=bool(resume)) == -signal.SIGKILL
    pretrain(store, "swav", output=run, resume=True, **arguments("swav", checkpoint_every=1))
    assert losses(run) == losses(finished / "swav")
    last, expected = (torch.load(folder / "last.ckpt") for folder in (run, finished / "swav"))
    for name, value in expected["state_dict"].items():
        assert torch.equal(last["state_dict"][name], value), name
    assert not list(run.glob(".*.tmp"))
    assert json.loads((run / "last.ckpt.json").read_text())["finished"]


@pytest.mark.parametrize("method", ["moco", "spark", "rotation", "masked", "next-slice"])
def test_the_others_repeat_themselves_to_the_bit_after_three_kills(finished, store, tmp_path, preloaded, method):
    """Before the first checkpoint, in the middle of an epoch, and within a checkpoint."""
    run = tmp_path / "run"
    for resume, (where, step) in enumerate([("batch", 2), ("batch", 6), ("torn", 8)]):
        assert killed(preloaded, store, run, method, where, step, resume=bool(resume)) == -signal.SIGKILL
    pretrain(store, method, output=run, resume=True, **arguments(method, checkpoint_every=1))
    assert losses(run) == losses(finished / method)


def test_a_run_of_a_version_that_knew_less_goes_on(finished, store, tmp_path, preloaded):
    run = tmp_path / "run"
    killed(preloaded, store, run, "swav", "batch", 6)
    record = json.loads((run / "config.json").read_text())
    del record["config"]["strength"]
    record["fingerprint"] = fingerprint([ALGORITHM, record["config"], record["data"]])
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"made otherwise \(strength 1.0, not 0.5\)"):
        pretrain(store, "swav", output=run, resume=True, **arguments("swav", overrides={"strength": 0.5}))
    state = torch.load(run / "last.ckpt")
    state["lim_gpu"] |= {name: record[name] for name in ("config", "fingerprint")}
    torch.save(state, run / "last.ckpt")
    (run / "last.ckpt.json").unlink()  # its checksum is that of the file before
    pretrain(store, "swav", output=run, resume=True, **arguments("swav"))
    assert losses(run) == losses(finished / "swav")


def test_what_looks_alike_is_looked_up_again_and_recorded(store, tmp_path, monkeypatch):
    """Hashes are no part of a checkpoint: they are those of the store."""
    alike = {"overrides": {"moco.mask_hash_bits": 1, "moco.soft_hash_bits": 6.0}}
    pretrain(store, "moco", output=tmp_path / "whole", **arguments("moco", **alike))
    with monkeypatch.context() as interrupted:
        record = Recorder.on_train_batch_end

        def recorded(self, trainer, *args):
            record(self, trainer, *args)
            if trainer.global_step == 6:
                signal.raise_signal(signal.SIGINT)

        interrupted.setattr(Recorder, "on_train_batch_end", recorded)
        before = signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # ignored where a shell began the tests with &
        with pytest.raises(KeyboardInterrupt):
            pretrain(store, "moco", output=tmp_path / "run", **arguments("moco", **alike))
        signal.signal(signal.SIGINT, before)
    assert len(losses(tmp_path / "run")) == 6
    pretrain(store, "moco", output=tmp_path / "run", resume=True, **arguments("moco", **alike))
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert 0 < rows(tmp_path / "run")[-1]["negatives"] < 8  # the queue holds 8
    known = json.loads((tmp_path / "run" / "last.ckpt.json").read_text())["config"]["moco"]
    assert (known["mask_hash_bits"], known["soft_hash_bits"]) == (1, 6.0)


def test_a_run_that_stands_is_not_touched(store, tmp_path, preloaded):
    run = tmp_path / "run"
    killed(preloaded, store, run, "swav", "batch", 5)
    for options, message in (
        ({}, r"holds this run, saved at step 4 of 12. Give --resume to go on, or --overwrite"),
        ({"seed": 1}, r"made otherwise \(seed 0, not 1\). Give --overwrite, or another -o"),
        ({"resume": True, "epochs": 5}, r"made otherwise \(epochs 3, not 5\)"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
    ):
        with pytest.raises(UsageError, match=message):
            pretrain(store, "swav", output=run, **arguments("swav", **options))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds other files. Give --overwrite, or another -o"):
        pretrain(store, "swav", output=tmp_path / "mine", **arguments("swav"))


def test_a_run_that_saved_nothing_is_in_nobodys_way(store, tmp_path, preloaded):
    run = tmp_path / "run"
    killed(preloaded, store, run, "swav", "batch", 3)
    assert losses(run)
    pretrain(store, "swav", output=run, **arguments("swav", epochs=1, seed=1))
    assert json.loads((run / "config.json").read_text())["config"]["seed"] == 1
    assert [step for _, step, _ in losses(run)] == list(range(STEPS))


def test_later_checkpoints_stay_when_the_last_is_gone(store, tmp_path, preloaded):
    run = tmp_path / "run"
    killed(preloaded, store, run, "swav", "batch", 5)
    (run / "last.ckpt").unlink()
    for resume in (False, True):
        with pytest.raises(InputError, match=r"last.ckpt: is gone. Put an epoch=\*.ckpt"):
            pretrain(store, "swav", output=run, **arguments("swav", resume=resume))
    assert (run / "epoch=1.ckpt").exists()


def test_overwriting_leaves_nothing_of_the_run_before(store, tmp_path, preloaded):
    run = tmp_path / "run"
    killed(preloaded, store, run, "swav", "batch", 6)
    options = arguments("swav", epochs=1, overwrite=True, log_every=3)
    pretrain(store, "swav", output=run, **options)
    assert sorted(path.name for path in run.glob("*.ckpt")) == ["epoch=1.ckpt", "last.ckpt"]
    assert [row["step"] for row in rows(run)] == [2, 3]


def test_a_damaged_checkpoint_is_one_line(store, tmp_path, preloaded):
    run = tmp_path / "run"
    killed(preloaded, store, run, "swav", "batch", 5)
    whole = (run / "last.ckpt").read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], b"", whole[:middle] + bytes(4) + whole[middle + 4 :]):
        (run / "last.ckpt").write_bytes(damaged)
        with pytest.raises(InputError, match=r"last.ckpt: damaged.* Begin again with --overwrite") as caught:
            pretrain(store, "swav", output=run, resume=True, **arguments("swav"))
        assert "\n" not in str(caught.value)
