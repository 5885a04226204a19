"""The claim: what is compared, what is said of it, and when another seed is begun. Its trainings are made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lim_gpu.errors import UsageError
from lim_gpu.evaluate import claim, clock, evaluate
from lim_gpu.evaluate.clock import Clock
from lim_gpu.evaluate.control import as_many_at_random, as_many_evenly
from lim_gpu.evaluate.evidence import detectable
from lim_gpu.evaluate.grid import CLAIM, CONTROL, EVERY, Finetune, Grid, Pretrain, Reduce, Task, claim_arms, jobs
from lim_gpu.evaluate.page import write_evaluation
from lim_gpu.evaluate.wolf2024 import Wolf2024
from lim_gpu.finetune.folder import predictions_path
from lim_gpu.reduction.run import reduce
from lim_gpu.selection import Selection
from lim_gpu.store.slices import SliceStore
from stores import make_store

IMAGES = 60
TASK = Task("T", Path("task"))
GRID = Grid({"S": Path("slices")}, (TASK,), seeds=7, pretrain={"backbone": "resnet18"}, method="moco")


def made(output: Path, skill, seeds: int = GRID.seeds) -> None:
    """Results of every arm and seed; `skill` of an arm says how well its network knows the label."""
    for arm in claim_arms(GRID):
        write(output / arm.reduce.folder / "job.json", {"kept": 96 if arm.reduce.name == "all" else 20})
        for seed in range(seeds):
            one = arm.seeded(seed)
            write(output / one.folder / "job.json", {"steps": 400})
            finetuned(output / Finetune(one, GRID.tasks[0]).folder, seed, skill(arm))


def finetuned(folder: Path, seed: int, skill: float) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(IMAGES) % 2
    score = 1 / (1 + np.exp(-(rng.normal(size=IMAGES) + skill * (2 * labels - 1))))
    places = list(range(IMAGES))
    found = {"places": places, "groups": places, "labels": labels.tolist()}
    write(predictions_path(folder, 0), found | {"probabilities": np.stack([1 - score, score], 1).tolist()})
    write(folder / "config.json", {"data": {"classes": ["clear", "spot"]}, "positive": "spot", "seeds": [0]})
    write(folder / "results.json", {"auc": {"mean": 0.5 + skill / 10}})


def write(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_arms_are_compared_at_equal_steps_and_at_equal_epochs_and_two_decide():
    arms = claim_arms(GRID)
    assert [claim.title(arm) for arm in arms] == [
        "all",
        *(f"{name}, equal {budget}" for budget in ("steps", "epochs") for name in ("hash 6", "random", "every-n")),
        "all, negatives of the volume hidden",
        "all, alike negatives hidden",
        "all, alike negatives softened",
    ]
    found = claim.comparisons(arms)
    assert [one.title for one in found if one.primary] == [
        "hash 6 less random, equal steps",
        "hash 6 less all, equal steps",
    ]
    assert [one.title for one in found[6:]] == [f"{claim.title(arm)} less all" for arm in arms[7:]]
    assert len({arm.folder for arm in arms}) == 10
    assert not any(arm.negatives for arm in claim_arms(replace(GRID, method="swav")))


def test_chance_chooses_anew_with_every_seed_and_nothing_else_does():
    one, two = ({start.reduce for start in (arm.seeded(seed) for arm in claim_arms(GRID))} for seed in (0, 1))
    assert {reduce.name for reduce in one - two} == {CONTROL}
    assert len({reduce.folder for reduce in one | two}) == 5
    assert len({arm.seeded(seed).folder for arm in claim_arms(GRID) for seed in (0, 1)}) == 2 * len(claim_arms(GRID))


def test_jobs_go_seed_by_seed_behind_what_all_need():
    todo = jobs((CLAIM,), replace(GRID, seeds=3))
    seeds = [clock.seed_of(job) for job in todo]
    assert seeds == sorted(seeds)
    order = {job: place for place, job in enumerate(todo)}
    assert order[Reduce("S", "hash 6")] < min(order[Reduce("S", CONTROL)], order[Reduce("S", EVERY)])
    assert sum(isinstance(job, Pretrain) for job in todo) == 10 * 3


def test_a_gain_over_both_is_shown(tmp_path):
    made(tmp_path, lambda arm: 1.2 if arm.reduce.name == "hash 6" else 0.3)
    told = claim.told(GRID, tmp_path, 0)
    (section,) = told.sections
    assert section.sentence.startswith("T: that less is more is shown (hash 6 less random, equal steps +0.")
    assert section.sentence.endswith("p = 0.016; moco, resnet18, 400 steps, 7 seeds)")
    assert [row["p_holm"] for row in told.values["rows"] if row["primary"]] == [2 / 2**7] * 2
    assert len(told.values["rows"][0]["seeds"]) == 7


@pytest.mark.parametrize(
    ("skills", "said"),
    [
        ({"hash 6": 0.5, CONTROL: 0.5, "all": 0.5}, "not shown"),
        ({"hash 6": 1.2, CONTROL: 1.2, "all": 0.3}, "not shown"),  # fewer slices gain, whichever they are
        ({"hash 6": 0.3, CONTROL: 1.2, "all": 1.2}, "not shown"),
    ],
)
def test_no_gain_is_not_shown(tmp_path, skills, said):
    made(tmp_path, lambda arm: skills.get(arm.reduce.name, 0.5))
    (section,) = claim.told(GRID, tmp_path, 0).sections
    assert section.sentence.startswith(f"T: that less is more is {said} (")


def test_only_whole_seeds_count(tmp_path):
    made(tmp_path, lambda arm: 0.5, seeds=3)
    arms = claim_arms(GRID)
    unfinished(tmp_path, arms[6], seed=2)
    assert claim.seeds_done(GRID, tmp_path, arms) == 2
    assert claim.told(GRID, tmp_path, 0).values["seeds"] == 2
    none = claim.told(GRID, tmp_path / "none", 0)
    assert none.sections == []
    assert "No seed is whole yet." in claim.markdown(none.sections)


def unfinished(output: Path, arm: Pretrain, seed: int) -> None:
    (output / Finetune(arm.seeded(seed), GRID.tasks[0]).folder / "results.json").unlink()


def test_negatives_that_are_not_tried_yet_leave_the_verdict_its_seeds(tmp_path):
    made(tmp_path, lambda arm: 0.5, seeds=3)
    *_, hidden, softened = claim_arms(GRID)
    unfinished(tmp_path, hidden, seed=2)
    for seed in range(3):
        unfinished(tmp_path, softened, seed)
    told = claim.told(GRID, tmp_path, 0)
    assert told.values["seeds"] == 3
    assert [len(row["seeds"]) for row in told.values["rows"]] == [3] * 7 + [2]
    arms, compared = told.sections[0].tables
    assert compared[-1][0] == "all, alike negatives hidden less all (2 seeds)"
    assert arms[-1][0] == "all, alike negatives hidden"
    assert arms[-1][3].endswith(" (2 seeds)")


def test_the_page_and_the_picture(tmp_path):
    made(tmp_path, lambda arm: 0.8)
    told = claim.told(GRID, tmp_path, 0)
    values = {"caveats": [], "failures": [], "versions": {}}
    write_evaluation(tmp_path, {}, GRID, [], values, told)
    page = (tmp_path / "evaluation.html").read_text()
    assert told.sections[0].sentence in page
    assert "<svg" in page
    assert (tmp_path / claim.PICTURE).stat().st_size > 10_000
    lines = claim.markdown(told.sections)
    assert sum(line.startswith("| hash 6 less") for line in lines) == 6


def test_a_plan_says_what_so_many_seeds_can_show():
    lines = claim.power_lines(GRID)
    assert lines[0] == "the smallest p of 7 seeds is 0.016 after Holm's correction for 2 tests"
    assert lines[4].split() == ["0.02", f"+{detectable(0.02, 7):.3f}", "6"]
    assert "give more --seeds" in claim.power_lines(replace(GRID, seeds=5))[1]


def test_a_seed_that_would_end_too_late_is_not_begun(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    seeds = [replace(claim_arms(GRID)[0], seed=seed) for seed in range(4)]
    watch = Clock(10)
    assert not watch.is_up(seeds[0])
    now[0] = 200
    assert not watch.is_up(seeds[1])
    assert not watch.is_up(Finetune(seeds[1], GRID.tasks[0]))
    now[0] = 405
    assert watch.is_up(seeds[2])  # 405 + 205 s
    assert not Clock(None).is_up(seeds[3])


def test_controls_keep_as_many_slices_of_every_volume(tmp_path):
    path = make_store(tmp_path)
    with SliceStore(path) as store:
        like = reduce(store, "hash", threshold=12, device="cpu")
    counts = [int(volume.kept.sum()) for volume in like.volumes]
    for control, method in ((as_many_at_random(like, 0), "random"), (as_many_evenly(like, 0), "every-n")):
        assert [int(volume.kept.sum()) for volume in control.volumes] == counts
        assert control.record["method"] == method
        control.save(tmp_path / f"{method}.csv")
        assert Selection.load(tmp_path / f"{method}.csv").kept() == control.kept()
    assert as_many_at_random(like, 0).kept() == as_many_at_random(like, 0).kept()
    assert as_many_at_random(like, 1).kept() != as_many_at_random(like, 0).kept()


def test_seeds_of_the_call_come_first(tmp_path):
    assert Wolf2024.of((CLAIM,), None, tmp_path, 4).grid.seeds == 4
    with pytest.raises(UsageError, match="--seeds 0 is no number of pre-trainings. Give 1 or more"):
        evaluate([CLAIM], tmp_path, smoke=True, seeds=0)
