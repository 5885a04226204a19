"""What the second paper's evaluations ask for, as jobs: pretext tasks trained, scored on other slices, put to use.

OUTPUT/pretrain/RUN                         a run of `lim-gpu pretrain` a task; masked twice: the curriculum, and one
                                            share of as many steps
OUTPUT/analyse/START                        `lim-gpu analyse pretext` of its checkpoint
OUTPUT/finetune/TASK/START/FRACTION         `lim-gpu finetune` from it
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError
from lim_gpu.evaluate.clock import seed_of
from lim_gpu.evaluate.equal import options_of
from lim_gpu.evaluate.job import Job
from lim_gpu.pretrain.config import PretrainConfig, resolve

NAMES = ("T2", "T3", "T4", "T5", "T6")
TRAIN, HELD_OUT = "train", "held-out"  # stores
CLASSIFICATION, SEGMENTATION, ATTRIBUTES = TASKS = ("classification", "segmentation", "attributes")
TASK_OF = {"T3": CLASSIFICATION, "T4": CLASSIFICATION, "T5": SEGMENTATION, "T6": ATTRIBUTES}
SHARES = (0.05, 0.1, 0.2, 0.33)
CONTROL = 0.2  # masked throughout, in as many steps as the curriculum takes; and the stage that stands for all
FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "next-slice": ("next-slice", {}),
    "masked": ("masked", {"reconstruct.shares": SHARES}),
    f"masked-{CONTROL:g}": ("masked", {"reconstruct.shares": (CONTROL,)}),
    "denoise": ("denoise", {}),
    "rotation": ("rotation", {}),
    "flip": ("flip", {}),
}  # of every training, the method and its settings


@dataclass(frozen=True)
class Task:
    """What a pre-training is good for: options of `lim_gpu.finetune`, by name, and over which fractions of patients.

    targets: columns of the table of labels, each a task of its own; one of "" is the table's own label.
    """

    options: dict[str, Any]
    targets: tuple[str, ...] = ("",)
    fractions: tuple[float, ...] = FRACTIONS


@dataclass(frozen=True)
class Study:
    """A configuration file, checked.

    stores       TRAIN, where pretext tasks are trained, and HELD_OUT, whose slices score them
    checkpoints  other pre-trainings, by name
    pretrain     options of that verb for all of RUNS; pretrain["masked"] and so on: of one method
    tasks        by name, of TASKS; baseline: what the options of classification are for the network of others
    seeds        pre-trainings of every kind, each with a seed of its own
    """

    stores: dict[str, Path]
    checkpoints: dict[str, Path] = field(default_factory=dict)
    pretrain: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    seeds: int = 1
    caveats: tuple[str, ...] = ()

    def trained(self, run: str, seed: int = 0) -> tuple[PretrainConfig, dict[str, Any], dict[str, Any]]:
        """The configuration of a run; options and overrides of `lim_gpu.pretrain` that make it."""
        method, settings = RUNS[run]
        options, overrides = options_of(self.pretrain, method)
        named = ("epochs", "batch_size", "backbone", "channels")
        overrides |= {name: options.pop(name) for name in named if name in options} | settings
        return resolve(method, options["preset"], overrides | {"seed": seed}), options, overrides


@dataclass(frozen=True)
class Start:
    """Weights of which something is made: of a run after so many epochs (None: the last), of a file, or untrained."""

    name: str
    run: str = ""
    epoch: int | None = None
    file: Path | None = None

    @property
    def folder(self) -> str:
        """Its part of a folder's name."""
        return self.name.replace(" ", "-")


RANDOM, BASELINE = Start("random"), Start("baseline")


@dataclass(frozen=True)
class Train(Job):
    """A pretext task trained; `seed` counts from that of the evaluation."""

    run: str
    seed: int = 0

    @property
    def folder(self) -> str:
        """Where it stands, below the output."""
        return f"pretrain/{self.run}{_of(self.seed)}"

    @property
    def root(self) -> Train:
        """Itself."""
        return self


@dataclass(frozen=True)
class Score(Job):
    """How well a checkpoint of the first seed does its pretext task on slices of other patients."""

    start: Start

    @property
    def folder(self) -> str:
        """Where it stands, below the output."""
        return f"analyse/{self.start.folder}"

    @property
    def root(self) -> Train:
        """The training."""
        return Train(self.start.run)

    @property
    def needs(self) -> list[Job]:
        """The training."""
        return [self.root]


@dataclass(frozen=True)
class Tune(Job):
    """A fine-tuning from a start; frozen: of the last layer alone."""

    task: str
    start: Start
    target: str = ""
    fraction: float = 1.0
    frozen: bool = False
    seed: int = 0

    @property
    def folder(self) -> str:
        """Where it stands, below the output."""
        task = "-".join(filter(None, (self.task, self.target)))
        start = f"{self.start.folder}{'-frozen' if self.frozen else ''}{_of(self.seed)}"
        return f"finetune/{task}/{start}/{self.fraction:g}"

    @property
    def root(self) -> Job:
        """Its pre-training; itself without one."""
        return Train(self.start.run, self.seed) if self.start.run else self

    @property
    def needs(self) -> list[Job]:
        """Its pre-training."""
        return [self.root] if self.start.run else []


def _of(seed: int) -> str:
    return f"-seed-{seed}" if seed else ""


def curriculum(study: Study) -> list[Start]:
    """Its stages, of growing shares."""
    stages = study.trained("masked")[0].stages
    return [Start(f"masked {share:g}", "masked", epoch) for epoch, share in stages.items()]


def starts(evaluation: str, study: Study) -> list[Start]:
    """What an evaluation compares, in the order of the paper's table or figure, controls last or untrained first."""
    files = [Start(name, file=path) for name, path in study.checkpoints.items()]
    if TRAIN not in study.stores:
        if evaluation in ("T2", "T4"):
            raise UsageError(f"evaluation {evaluation} trains pretext tasks. Give a store {TRAIN} in [stores]")
        return [*([BASELINE] if evaluation == "T3" else []), RANDOM, *files]
    stages = curriculum(study)
    control = Start(f"masked {CONTROL:g} alone", f"masked-{CONTROL:g}")
    others = [Start(name, name) for name in ("denoise", "rotation", "flip")]
    if evaluation == "T2":
        return [Start("next-slice", "next-slice"), *stages, control, *others]
    if evaluation == "T4":
        return [RANDOM, *stages, control]
    one_stage = [stage for stage in stages if stage.name == f"masked {CONTROL:g}"]
    untrained = [BASELINE, RANDOM] if evaluation == "T3" else [RANDOM]
    return [*untrained, Start("next-slice", "next-slice"), *one_stage, *others, *files]


def tunings(evaluation: str, study: Study) -> Iterator[Tune]:
    """The fine-tunings of an evaluation with the first seed, a point of its picture each.

    Attributes are read from frozen features; untrained weights train end to end, as the paper's, and stay frozen, too.
    """
    name = TASK_OF[evaluation]
    task = study.tasks[name]
    for start in starts(evaluation, study):
        for target in task.targets:
            for fraction in task.fractions:
                if name != ATTRIBUTES:
                    yield Tune(name, start, target, fraction)
                    continue
                yield Tune(name, start, target, fraction, frozen=start != RANDOM)
                if start == RANDOM:
                    yield Tune(name, start, target, fraction, frozen=True)


def seeded(job: Tune, study: Study) -> list[Tune]:
    """The same with each seed. Without a pre-training of ours there is one."""
    return [replace(job, seed=seed) for seed in range(study.seeds if job.start.run else 1)]


def jobs(evaluations: tuple[str, ...], study: Study) -> list[Job]:
    """Everything to do, each once, seed after seed; behind every training what is made of it."""
    asked: list[Job] = []
    for evaluation in evaluations:
        if evaluation == "T2":
            asked += [Score(start) for start in starts(evaluation, study)]
        else:
            asked += [one for job in tunings(evaluation, study) for one in seeded(job, study)]
    roots = sorted(dict.fromkeys(job.root for job in asked if job.root), key=seed_of)
    found = [job for root in roots for job in (root, *(one for one in asked if one.root == root))]
    return list(dict.fromkeys(found))
