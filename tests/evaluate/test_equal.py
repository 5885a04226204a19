"""At equal steps pre-trainings differ in their slices alone; the control has HASH's number of slices in each volume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lim_gpu
from lim_gpu.evaluate.control import as_many_at_random
from lim_gpu.evaluate.equal import REFERENCE, configured, equal_steps
from lim_gpu.evaluate.grid import Finetune, Grid, Pretrain, Reduce, Task, seeded
from lim_gpu.evaluate.negatives import NEGATIVES
from lim_gpu.evaluate.table import cells, table
from lim_gpu.evaluate.wolf2024 import PRETRAIN
from lim_gpu.pretrain.config import resolve
from stores import make_store

SLICES = {"all": 244_527, "hash 6": 22_672, "hash 12": 9_000}  # LIDC


def grid(preset: str, budgets=("epochs", "steps"), **pretrain) -> Grid:
    options = PRETRAIN | {"preset": preset} | pretrain
    return Grid({"LIDC": Path("l")}, (Task("COVID-19", Path("c")),), None, budgets, 1, options)


def made(preset: str, method: str, name: str, budget: str, **pretrain):
    return configured(grid(preset, **pretrain), Pretrain(Reduce("LIDC", name), method, budget), 0, SLICES.__getitem__)


@pytest.mark.parametrize("preset", ["recommended", "wolf2024-paper"])
@pytest.mark.parametrize("method", ["swav", "moco", "spark"])
@pytest.mark.parametrize("name", ["hash 6", "hash 12"])
def test_what_counts_epochs_or_slices_is_equal_in_steps(preset, method, name):
    """In epochs HASH-6 warmed up in 1,770 steps where ALL took 19,100, and had 5,632 keys where ALL had 61,056."""
    whole, _, _ = made(preset, method, "all", "both")
    reduced, _, _ = made(preset, method, name, "steps")
    for what in ("warmup", "queued_from", "frozen") if method == "swav" else ("warmup",):
        in_steps = [getattr(c, what)(c.steps_per_epoch(SLICES[n])) for c, n in ((whole, "all"), (reduced, name))]
        assert in_steps[0] == in_steps[1], what
    assert whole.queue_length(SLICES["all"]) == reduced.queue_length(SLICES[name])
    steps = whole.total_steps(SLICES["all"])
    assert steps <= reduced.total_steps(SLICES[name]) < steps + reduced.steps_per_epoch(SLICES[name])


def test_the_numbers_of_lidc():
    config, options, _ = made("wolf2024-paper", "swav", "hash 6", "steps")
    assert (config.warmup_steps, config.epochs) == (19_100, 8633)
    assert 8633 // options["checkpoint_every"] == pytest.approx(800 // 50, abs=1)  # not 172 checkpoints, 39 GB
    config, _, _ = made("recommended", "swav", "hash 6", "steps")
    assert (config.swav.queue_from_step, config.swav.freeze_iterations) == (28_650, 1910)
    config, _, _ = made("recommended", "moco", "all", "both")
    assert config.queue_length(SLICES["all"]) == 5632


def test_arms_of_hidden_negatives_differ_from_all_in_nothing_else():
    whole = Pretrain(Reduce("LIDC", "all"), "moco", "both")
    arms = [configured(grid("recommended"), one, 0, SLICES.__getitem__)[0] for one in hiding(whole)]
    found = [(one.moco.mask_same_volume, one.moco.mask_hash_bits, one.moco.soft_hash_bits) for one in arms]
    assert found == [(False, None, 0.0), (True, None, 0.0), (False, 6, 0.0), (False, None, 6.0)]
    assert f"hash {arms[2].moco.mask_hash_bits}" == REFERENCE  # what one arm drops, the other hides
    free = {"mask_same_volume": False, "mask_hash_bits": None, "soft_hash_bits": 0.0}
    assert len({replace(one, moco=replace(one.moco, **free)) for one in arms}) == 1


def hiding(whole: Pretrain) -> list[Pretrain]:
    return [whole, *(replace(whole, negatives=name) for name in NEGATIVES)]


def test_at_equal_epochs_presets_stay_as_they_are():
    config, options, _ = made("recommended", "swav", "hash 6", "epochs")
    assert config == resolve("swav", "recommended")
    assert options["checkpoint_every"] == 50


def test_every_method_has_its_own_batch_and_epochs():
    """SparK with SwAV's batch of 128 and 800 epochs had an eighth of its steps, at its own learning rate."""
    found = {method: made("wolf2024-paper", method, "all", "both")[0] for method in ("swav", "moco", "spark")}
    assert {m: (c.batch_size, c.epochs) for m, c in found.items()} == {
        "swav": (128, 800),
        "moco": (64, 800),
        "spark": (32, 1600),
    }
    config, _, _ = made("wolf2024-paper", "spark", "all", "both", epochs=3, spark={"batch_size": 16})
    assert (config.epochs, config.batch_size) == (3, 16)
    assert made("wolf2024-paper", "swav", "all", "both", epochs=3, spark={"batch_size": 16})[0].batch_size == 128


def test_equal_steps_are_the_fewest_epochs_that_reach_them():
    epochs = equal_steps(800, 244_527, 22_672, 128)
    asked, each = 800 * (244_527 // 128), 22_672 // 128
    assert asked <= epochs * each < asked + each
    assert equal_steps(2, 8, 3, 4) == 4


def test_the_control_has_as_many_slices_of_every_volume(tmp_path):
    with lim_gpu.SliceStore(make_store(tmp_path)) as store:
        selection = lim_gpu.reduce(store, method="hash", threshold=6, output=tmp_path / "hash.csv")
    found = [as_many_at_random(lim_gpu.Selection.load(selection.path), seed) for seed in (0, 0, 1)]
    counts = [int(volume.kept.sum()) for volume in selection.volumes]
    assert len(set(counts)) > 1
    for control in found:
        assert [int(volume.kept.sum()) for volume in control.volumes] == counts
    assert found[0].kept() == found[1].kept()
    assert found[0].kept() != found[2].kept()
    found[2].save(tmp_path / "control.csv")
    again = lim_gpu.Selection.load(tmp_path / "control.csv")
    assert again.kept() == found[2].kept()
    for volume in again.volumes:
        assert all(volume.kept[i] for _, i in volume.covered_by)


def test_several_seeds_have_an_interval_of_their_difference_to_all(tmp_path):
    several = Grid({"LIDC": Path("l")}, (Task("COVID-19", Path("c")),), None, ("epochs",), 3, dict(PRETRAIN))
    assert len({one.folder for one in seeded(several, "LIDC", "all", "swav", "epochs")}) == 3
    scores = {"all": (0.8, 0.7, 0.9), "hash 6": (0.83, 0.72, 0.93)}
    for name, values in scores.items():
        for start, auc in zip(seeded(several, "LIDC", name, "swav", "epochs"), values, strict=True):
            folder = tmp_path / Finetune(start, several.tasks[0]).folder
            folder.mkdir(parents=True)
            results = {score: {"mean": auc, "sd": 0.01} for score in ("auc", "f1", "acc")}
            (folder / "results.json").write_text(json.dumps(results))
    rows = {row["reduction"]: row["tasks"]["COVID-19"] for row in table("D", several, tmp_path)}
    assert rows["all"]["ours"]["auc"]["mean"] == pytest.approx(0.8)
    assert rows["all"]["ours"]["auc"]["sd"] == pytest.approx(0.1)
    assert rows["all"]["less_all"] is None
    found = rows["hash 6"]["less_all"]
    half = 4.302653 * np.std([0.03, 0.02, 0.03], ddof=1) / 3**0.5
    assert found["mean"] == pytest.approx(0.08 / 3)
    assert found["interval"] == pytest.approx([0.08 / 3 - half, 0.08 / 3 + half], abs=1e-6)
    text = cells(table("D", several, tmp_path), several)
    assert "+0.027 [+0.012, +0.041]" in text[2]
