"""Guards of a pre-training: what is wrong with a plan, and signs of collapse while it runs. Loads no torch.

The advice is that of the SwAV and MoCo maintainers in their issue trackers, gathered for small data sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.plan import Plan, world_size
from lim_gpu.pretrain.presets import TURNS
from lim_gpu.progress import Reporter

COLLAPSED_STD = 0.1  # of 1 / sqrt(d), the deviation of embeddings spread over the whole sphere
COLLAPSED_RANK = 2.0  # effective dimensions; a healthy start has tens
COLLAPSED_USAGE = 0.05  # share of the prototypes in use, by the perplexity of the choices
STUCK = 0.005  # of ln K: how near the loss must stay to chance
PATIENCE = 3  # epochs that a sign of collapse must last; a fresh network shows some of them
MIN_ACTIVE = 128  # kept positions of a masked batch that batch normalisation needs

SWAV_ADVICE = (
    "try --set swav.epsilon=0.03, a longer swav.freeze_epochs, fewer swav.prototypes, softer augmentation or a lower lr"
)
MOCO_ADVICE = "try a lower lr, a longer warm-up, or moco.temperature=0.2"
TURNS_ADVICE = "try another lr, or slices whose orientation shows"


def warnings_of(plan: Plan) -> list[str]:
    """What is worth a warning before the run begins, one line each."""
    found = [*filter(None, [plan.notice]), *_rate_warnings(plan), *_method_warnings(plan)]
    if plan.total_steps < 100:
        found.append(f"{plan.total_steps} steps are few: useful weights take thousands. Give more --epochs")
    return found


def _rate_warnings(plan: Plan) -> list[str]:
    config, rates = plan.config, plan.rates()
    found = []
    if config.warmup(plan.steps_per_epoch) >= plan.total_steps:
        found.append(f"the warm-up is longer than the run: lr ends at {rates['last']:.3g} and never reaches its peak")
    elif config.schedule == "oscillating":
        found.append(
            f"the learning rate swings between {config.lr:g} and {config.final_lr:g} every {config.cycle_steps} steps "
            "to the end, as the authors' code did; --set schedule=cosine decays once"
        )
    return found


def _swav_warnings(plan: Plan) -> list[str]:
    config, swav = plan.config, plan.config.swav
    found = []
    begins = config.queued_from(plan.steps_per_epoch)
    queue = config.queue_length(plan.slices) if begins < plan.total_steps else 0
    seen = config.batch_size + queue
    if seen < 2 * swav.prototypes:
        wanted = _multiple(4 * swav.prototypes, config.batch_size)
        longer = f"--set swav.queue={wanted}, " if wanted <= plan.slices else ""  # more would be cut
        found.append(
            f"batch {config.batch_size} + queue {queue} is less than twice the {swav.prototypes} prototypes: codes "
            f"smear over many of them. Give {longer}a larger batch, or --set swav.prototypes={max(2, seen // 2)}"
        )
    if swav.queue and not queue:
        found.append(
            f"the queue would begin at epoch {begins / plan.steps_per_epoch:g}, after the last. Lower "
            f"swav.{'queue_from_step' if swav.queue_from_step else 'queue_from_epoch'}"
        )
    if queue > plan.slices:
        found.append(
            f"the queue of {queue:,} embeddings reaches {queue / plan.slices:.1f} epochs back: give swav.queue_share=1"
        )
    if config.frozen(plan.steps_per_epoch) >= plan.total_steps:
        found.append("the prototypes stay frozen for the whole run. Lower swav.freeze_epochs or swav.freeze_iterations")
    return found


def _moco_warnings(plan: Plan) -> list[str]:
    config, moco = plan.config, plan.config.moco
    found = []
    if not moco.queue_share and moco.queue > plan.slices:
        found.append(
            f"the queue of {moco.queue:,} keys holds {moco.queue / plan.slices:.1f} epochs of {plan.slices:,} slices: "
            "every query meets old keys of its own slice as negatives. Give --set moco.queue_share=0.25"
        )
    if moco.bn_groups == 1:
        found.append("plain batch normalisation lets query and key recognise each other. Give --set moco.bn_groups=8")
    groups, here = config.bn_groups_of(world_size()), config.batch_size // world_size()
    if groups > 1 and here // groups < 4:
        of = " of a process" if world_size() > 1 else ""
        found.append(f"{groups} groups of {here} slices{of} are too small to normalise. Lower moco.bn_groups")
    if moco.mask_same_volume and plan.volumes == 1:
        found.append(
            "moco.mask_same_volume hides every negative where there is one volume: the loss is 0 and teaches nothing. "
            "Give more volumes, or --set moco.mask_same_volume=false"
        )
    return found


def _spark_warnings(plan: Plan) -> list[str]:
    config, spark = plan.config, plan.config.spark
    cells = (spark.size // 32) ** 2
    active = config.batch_size * round(cells * (1 - spark.mask_ratio))
    if active < MIN_ACTIVE:
        return [f"batch normalisation sees {active} positions a batch at the last stage. Give a larger --batch-size"]
    return []


_WARNINGS = {"swav": _swav_warnings, "moco": _moco_warnings, "spark": _spark_warnings}


def _method_warnings(plan: Plan) -> list[str]:
    """Those of a method's own settings; rotation and flip have none that could contradict the data."""
    return _WARNINGS[plan.config.method](plan) if plan.config.method in _WARNINGS else []


def _multiple(value: int, of: int) -> int:
    """The least multiple of `of` that is at least `value`."""
    return -(-value // of) * of


class CollapseWatch:
    """Looks at the mean meters of every epoch and warns of each kind of collapse once, when it has lasted."""

    def __init__(self, config: PretrainConfig, reporter: Reporter) -> None:
        self.config, self.reporter = config, reporter
        self._lasted: dict[str, int] = {}

    def look(self, epoch: int, means: Mapping[str, float]) -> None:
        """Judge the means over epoch `epoch` of the loss and the meters."""
        signs = collapse_signs(self.config, means)
        self._lasted = {kind: self._lasted.get(kind, 0) + 1 for kind in signs}
        for kind, text in signs.items():
            if self._lasted[kind] == PATIENCE:
                self.reporter.warn(f"epoch {epoch}: {text}, for {PATIENCE} epochs")


def collapse_signs(config: PretrainConfig, means: Mapping[str, float]) -> dict[str, str]:
    """Kind and text of every sign of collapse in mean meters; meters that a method does not give are left out."""
    if config.method == "spark":
        return {}
    if config.method in TURNS:
        return _turn_signs(TURNS[config.method], means)
    dimension, advice = (
        (config.swav.output, SWAV_ADVICE) if config.method == "swav" else (config.moco.output, MOCO_ADVICE)
    )
    signs = {}
    if "embedding_std" in means and means["embedding_std"] * math.sqrt(dimension) < COLLAPSED_STD:
        signs["std"] = f"embeddings become alike (std {means['embedding_std']:.2g}): {advice}"
    if "effective_rank" in means and means["effective_rank"] < COLLAPSED_RANK:
        signs["rank"] = f"embeddings use {means['effective_rank']:.1f} of {dimension} dimensions: {advice}"
    if means.get("negatives", 1) < 1:
        signs["alone"] = f"a query meets {means['negatives']:.2g} keys that are not hidden: nothing to tell it from"
    if config.method == "swav":
        signs |= _prototype_signs(config, means)
    return signs


def _turn_signs(turns: int, means: Mapping[str, float]) -> dict[str, str]:
    if "loss" not in means or abs(means["loss"] - math.log(turns)) >= STUCK * math.log(turns):
        return {}
    return {"stuck": f"the loss {means['loss']:.4f} stays at ln {turns}, which is chance: {TURNS_ADVICE}"}


def _prototype_signs(config: PretrainConfig, means: Mapping[str, float]) -> dict[str, str]:
    count, signs = config.swav.prototypes, {}
    if "usage_perplexity" in means and means["usage_perplexity"] < max(2.0, COLLAPSED_USAGE * count):
        signs["usage"] = f"{means['usage_perplexity']:.1f} of {count} prototypes are in use: {SWAV_ADVICE}"
    if "loss" in means and abs(means["loss"] - math.log(count)) < STUCK * math.log(count):
        signs["stuck"] = f"the loss {means['loss']:.4f} stays at ln {count}, which is chance: {SWAV_ADVICE}"
    return signs
