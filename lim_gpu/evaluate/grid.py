"""What the paper's evaluations ask for, as jobs: reduce, pretrain, finetune, each in a folder of its own.

A job's folder follows from what it does, so evaluations that ask for the same job share it and nothing is done twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lim_gpu.errors import UsageError
from lim_gpu.evaluate.job import Job
from lim_gpu.evaluate.negatives import NEGATIVES
from lim_gpu.pretrain.strength import SCALED

CLAIM = "claim"  # is less more?
EVALUATIONS = ("0", "A", "B", "C", "D", "E", "F", CLAIM)
PAPER_STORE = "LIDC"  # the paper's evaluation E uses it alone
CONTROL = "random like hash 6"  # as many slices of every volume, chosen by chance
EVERY = "every-n like hash 6"  # as many, spread evenly
COMPARED = ("swav", "moco", "spark")
UNTRAINED = ("random", "calibrated")  # weights without pre-training


@dataclass(frozen=True)
class Task:
    """A labelled data set: how often it is fine-tuned, with its own split, or in folds, whatever its split.

    groups: a list of images that are alike, which no fold tears apart.
    """

    name: str
    data: Path
    folds: int | None = None
    groups: Path | None = None


@dataclass(frozen=True)
class Grid:
    """A configuration file, checked.

    stores     pre-training stores by name; tasks: downstream data
    weights    ResNet50 weights of the DeepNet reduction, which is left out without them
    budgets    "epochs": every pre-training has the same number; "steps": reduced sets get as many steps as ALL
    seeds      pre-trainings of every kind, each with a seed of its own
    pretrain, finetune   options of these verbs for all jobs; pretrain["spark"] and so on: of one method
    method     of the claim and of F
    strengths, keeps   of F: factors of the augmentation, and shares of the slices that HASH keeps, beside all
    """

    stores: dict[str, Path]
    tasks: tuple[Task, ...]
    weights: Path | None = None
    budgets: tuple[str, ...] = ("epochs",)
    seeds: int = 1
    pretrain: dict[str, Any] = field(default_factory=dict)
    finetune: dict[str, Any] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    method: str = "swav"
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5)
    keeps: tuple[float, ...] = (0.1, 0.3)

    @property
    def one_store(self) -> str:
        """The store of evaluations that take one alone: the paper's, else the first."""
        return PAPER_STORE if PAPER_STORE in self.stores else next(iter(self.stores))


@dataclass(frozen=True)
class Reduce(Job):
    """A selection of a store; `name` as in the paper's tables, such as "hash 6" or "every-n 0.1".

    seed  counts from that of the evaluation; not 0 of the random control alone, which each pre-training draws anew
    """

    store: str
    name: str
    seed: int = 0

    @property
    def folder(self) -> str:
        """Where it stands, below the output."""
        last = f"-seed-{self.seed}" if self.seed else ""
        return f"reduce/{self.store}/{self.name.replace(' ', '-')}{last}"

    @property
    def needs(self) -> list[Job]:
        """What a control is as large as."""
        return [Reduce(self.store, "hash 6")] if self.name in (CONTROL, EVERY) else []

    def options(self) -> dict[str, Any]:
        """Those of `lim_gpu.reduce`; without the budget where another selection gives it."""
        method, _, value = self.name.partition(" ")
        if self.name in (CONTROL, EVERY) or not value:
            return {"method": method}
        return {"method": method, ("threshold" if method == "hash" and float(value) >= 1 else "keep"): float(value)}


@dataclass(frozen=True)
class Pretrain(Job):
    """A pre-training on a selection, with as many epochs or as many steps as others.

    budget  "epochs", "steps", or "both": ALL, with which others are compared at equal steps as well
    seed    counts from that of the evaluation
    negatives  of moco: which of NEGATIVES are hidden or count less; "": all count
    strength  factor of the augmentation
    """

    reduce: Reduce
    method: str
    budget: str = "epochs"
    seed: int = 0
    negatives: str = ""
    strength: float = 1.0

    @property
    def folder(self) -> str:
        """Where it stands, below the output."""
        last = f"{self.method}-equal-steps" if self.budget == "steps" else self.method
        last = f"{last}-{self.negatives}" if self.negatives else last
        last = f"{last}-strength-{self.strength:g}" if self.strength != 1 else last
        last = f"{last}-seed-{self.seed}" if self.seed else last
        return f"pretrain/{replace(self.reduce, seed=0).folder.removeprefix('reduce/')}/{last}"

    def seeded(self, seed: int) -> Pretrain:
        """The same with another seed, and where chance chooses its slices, with others."""
        drawn = replace(self.reduce, seed=seed) if self.reduce.name == CONTROL else self.reduce
        return replace(self, reduce=drawn, seed=seed)

    @property
    def needs(self) -> list[Job]:
        """Its selection, and those that its steps and queue are counted by."""
        counted = ("all", "hash 6") if self.budget != "epochs" else ()
        first = [*self.reduce.needs, *(Reduce(self.reduce.store, name) for name in counted)]
        return [one for one in first if one != self.reduce] + [self.reduce]

    @property
    def root(self) -> Pretrain:
        """Itself."""
        return self


@dataclass(frozen=True)
class Finetune(Job):
    """A task from a pre-training, or without one from the weights `init`."""

    pretrain: Pretrain | None
    task: Task
    init: str = "random"

    @property
    def folder(self) -> str:
        """Where it stands, below the output."""
        none = "none" if self.init == "random" else f"none-{self.init}"
        start = self.pretrain.folder.removeprefix("pretrain/") if self.pretrain else none
        return f"finetune/{start}/{self.task.name}"

    @property
    def needs(self) -> list[Job]:
        """Its pre-training."""
        return [self.pretrain] if self.pretrain else []

    @property
    def root(self) -> Job:
        """Its pre-training; itself without one."""
        return self.pretrain or self


@dataclass(frozen=True)
class Analysis(Job):
    """One of the paper's analyses between two networks."""

    kind: str
    name: str
    first: Pretrain
    second: Pretrain | Finetune
    task: Task

    @property
    def folder(self) -> str:
        """Where it stands, below the output."""
        return f"analyse/{self.first.reduce.store}/{self.name}"

    @property
    def needs(self) -> list[Job]:
        """Both networks."""
        return [self.first, self.second]


def reductions(evaluation: str, weights: bool) -> list[str]:
    """The selections that an evaluation compares, in the order of the paper's table, controls last."""
    return {
        "0": [],
        "A": ["all", "every-n 0.2", "every-n 0.1"],
        "B": ["every-n 0.1", "ssim 0.1", "mi 0.1", *(["deepnet 0.1"] if weights else []), "hash 0.1", "random 0.1"],
        "C": ["hash 3", "hash 6", "hash 12", CONTROL],
        "D": ["all", "hash 6", CONTROL],
        "E": ["all", "hash 6"],
        CLAIM: ["all", "hash 6", CONTROL, EVERY],
    }[evaluation]


def pretrainings(evaluation: str, grid: Grid) -> list[Pretrain]:
    """The pre-trainings of an evaluation, a row of its table each."""
    if evaluation == CLAIM:  # seed after seed, so that those that are whole can be compared
        return [arm.seeded(seed) for seed in range(grid.seeds) for arm in claim_arms(grid)]
    if evaluation == "F":
        return [arm.seeded(seed) for arm in strength_arms(grid) for seed in range(grid.seeds)]
    stores = [grid.one_store] if evaluation == "E" else list(grid.stores)
    methods = ("swav", "moco", "spark") if evaluation == "E" else ("swav",)
    return [
        made
        for store in stores
        for method in methods
        for name in reductions(evaluation, grid.weights is not None)
        for budget in grid.budgets
        for made in seeded(grid, store, name, method, budget)
        if name != "all" or budget == grid.budgets[0]
    ]


def claim_arms(grid: Grid) -> list[Pretrain]:
    """What the claim compares, with the first seed: of one store, at equal steps and at equal epochs.

    Of moco also all slices with NEGATIVES: were false negatives the harm that many slices do, hiding them would gain as
    much as reducing.
    """
    whole, *others = (Reduce(grid.one_store, name) for name in reductions(CLAIM, weights=False))
    arms = [Pretrain(whole, grid.method, "both")]
    arms += [Pretrain(one, grid.method, budget) for budget in ("steps", "epochs") for one in others]
    hiding = NEGATIVES if grid.method == "moco" else ()
    return arms + [Pretrain(whole, grid.method, "both", negatives=name) for name in hiding]


def strength_arms(grid: Grid) -> list[Pretrain]:
    """Evaluation F with the first seed: all slices and what HASH keeps of them, of one store, at every strength.

    At equal steps, so that slices and strength alone differ. Raises UsageError for a method whose views have none.
    """
    if grid.method not in SCALED:
        raise UsageError(f"evaluation F scales views, of which {grid.method} has none. Give method = 'swav' or 'moco'")
    names = ("all", *(f"hash {keep:g}" for keep in sorted(grid.keeps, reverse=True)))
    return [
        Pretrain(Reduce(grid.one_store, name), grid.method, "both" if name == "all" else "steps", strength=strength)
        for strength in grid.strengths
        for name in names
    ]


def seeded(grid: Grid, store: str, name: str, method: str, budget: str) -> list[Pretrain]:
    """A pre-training with each seed. ALL is one for both budgets."""
    if name == "all":
        budget = "both" if "steps" in grid.budgets else "epochs"
    return [Pretrain(Reduce(store, name), method, budget).seeded(seed) for seed in range(grid.seeds)]


def finetunings(evaluation: str, grid: Grid) -> list[Finetune]:
    """The fine-tunings of an evaluation: every row with every task."""
    untrained = [Finetune(None, task, init) for init in UNTRAINED for task in grid.tasks]
    if evaluation == "0":
        return untrained
    return (untrained if evaluation == CLAIM else []) + [
        Finetune(start, task) for start in pretrainings(evaluation, grid) for task in grid.tasks
    ]


def analyses(grid: Grid) -> Iterator[Analysis]:
    """Those of evaluation D, on the first task that fixes a test part: ALL against HASH-6, and before against after."""
    for store in grid.stores:
        whole, reduced = (seeded(grid, store, name, "swav", grid.budgets[0])[0] for name in ("all", "hash 6"))
        task = next((task for task in grid.tasks if task.folds is None), grid.tasks[0])
        yield Analysis("cka", "cka-all-hash-6", whole, reduced, task)
        for start in (whole, reduced):
            label = start.reduce.name.replace(" ", "-")
            for kind in ("cka", "tsne", "gradcam"):
                yield Analysis(kind, f"{kind}-{label}-finetuned", start, Finetune(start, task), task)


def jobs(evaluations: tuple[str, ...], grid: Grid) -> list[Job]:
    """Everything to do, each once, in an order in which all that a job needs stands before it."""
    found: dict[Job, None] = {}
    for evaluation in evaluations:
        if evaluation != "0" and not grid.stores:
            raise UsageError(f"evaluation {evaluation} needs a store to pre-train on. Give [stores] in the --config")
        for finetune in finetunings(evaluation, grid):
            if finetune.pretrain is not None:
                for needed in finetune.pretrain.needs:
                    found[needed] = None
                found[finetune.pretrain] = None
            found[finetune] = None
        if evaluation == "D":
            found |= dict.fromkeys(analyses(grid))
    return list(found)
