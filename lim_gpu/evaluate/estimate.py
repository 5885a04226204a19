"""What the jobs would take: steps, and if wanted hours from training steps measured here and now, and disk.

Hours need torch, steps do not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lim_gpu.evaluate.disk import Networks, needed
from lim_gpu.evaluate.equal import configured
from lim_gpu.evaluate.grid import CONTROL, EVERY, PAPER_STORE, Pretrain, Reduce
from lim_gpu.evaluate.job import Job, JobWorker
from lim_gpu.evaluate.table import published
from lim_gpu.evaluate.work import Worker
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.progress import Reporter, counted
from lim_gpu.pruning.ranking import count_to_keep
from lim_gpu.selection.selected import SelectedSlices, open_selected
from lim_gpu.store.slices import SliceStore

STEPS = 3  # measured, after one to warm up


@dataclass(frozen=True)
class Planned:
    """A training: what of, how many slices (guessed where they are not known yet), epochs between two checkpoints."""

    config: PretrainConfig
    store: Path
    slices: int
    every: int
    guessed: bool = False


def estimate(
    todo: Sequence[Job],
    worker: JobWorker,
    planned: Callable[[Job], Planned | None],
    networks: Callable[[Job], Networks | None],
    *,
    timed: bool,
) -> tuple[dict[str, Any], list[str]]:
    """`values` for a program and `lines` for a person; nothing is written. refused: the jobs that cannot run.

    planned: the training that a job is, if it is one and its data are there; networks: those of a fine-tuning. timed:
    measure a training step of each method, which needs torch, for hours and bytes.
    """
    plans = [None if worker.done(job) else planned(job) for job in todo]
    rows: list[dict[str, Any]] = [
        {"job": job.folder, "done": worker.done(job)} | _about(plan) for job, plan in zip(todo, plans, strict=True)
    ]
    refused = [row["job"] for row in rows if "refused" in row]
    values: dict[str, Any] = {"dry_run": True, "jobs": rows, "refused": refused}
    totals: list[str] = []
    if timed:
        costs, totals = _costs(plans, rows, worker.device)
        most, kept = needed(filter(None, (networks(job) for job in todo if not worker.done(job))))
        values |= costs | {"network_bytes": most, "kept_network_bytes": kept}
        if most:
            totals.append(f"fine-tuning: {_gib(most)} of networks at a time; {_gib(kept)} stay, for analyses")
    done, kinds = sum(row["done"] for row in rows), Counter(type(job).__name__.lower() for job in todo)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    if not any("steps" in row for row in rows):
        totals.append("nothing is left to pre-train" if worker.has_stores() else "steps: once its data are made")
    if any(row.get("guessed") for row in rows):
        totals.append("what a threshold of HASH keeps is not known before it has run: taken from the paper's data")
    lines = [f"{'done' if row['done'] else 'to do':6s}{row['job']:<58s}{_told(row)}".rstrip() for row in rows]
    return values, [*lines, f"{counted(len(rows), 'job')} ({told}), {done} done", *totals]


def _about(plan: Planned | None) -> dict[str, Any]:
    """What is known of a training before anything is measured."""
    if plan is None:
        return {}
    if plan.slices < plan.config.batch_size and not plan.guessed:
        return {"refused": f"its {counted(plan.slices, 'slice')} are less than a batch of {plan.config.batch_size}"}
    return {"slices": plan.slices, "steps": plan.config.total_steps(plan.slices), "guessed": plan.guessed}


def planned(job: Job, worker: Worker) -> Planned | None:
    """The training that a job of a grid is."""
    if not isinstance(job, Pretrain) or not worker.has_stores():
        return None

    def slices_of(name: str) -> int:
        return _slices(Reduce(job.reduce.store, name), worker)[0]

    config, options, _ = configured(worker.grid, job, worker.seed + job.seed, slices_of)
    kept, guessed = _slices(job.reduce, worker)
    return Planned(config, worker.grid.stores[job.reduce.store], kept, options["checkpoint_every"], guessed)


def _costs(
    plans: Sequence[Planned | None], rows: Sequence[dict[str, Any]], device: str
) -> tuple[dict[str, Any], list[str]]:
    """Add hours and bytes to the rows that have steps, from a step measured here; those of all, as values and lines."""
    from lim_gpu.pretrain.checkpoints import kept_epochs
    from lim_gpu.weights.backbone import training_device

    measured: dict[str, tuple[float, int]] = {}
    for plan, row in zip(plans, rows, strict=True):
        if plan is not None and "steps" in row:
            if plan.config.method not in measured:
                measured[plan.config.method] = measure(plan.config, plan.store, device)
            seconds, size = measured[plan.config.method]
            checkpoints = len(kept_epochs(plan.config, plan.every)) + 1  # last.ckpt
            row |= {"hours": round(row["steps"] * seconds / 3600, 4), "bytes": checkpoints * size}
    hours, disk = (sum(row.get(name, 0) for row in rows) for name in ("hours", "bytes"))
    steps = {method: round(1e3 * seconds, 1) for method, (seconds, _) in measured.items()}
    values = {"pretrain_hours": round(hours, 3), "bytes": disk, "step_milliseconds": steps}
    if not measured:
        return values, []
    said = ", ".join(f"{method} {milliseconds:g} ms" for method, milliseconds in steps.items())
    place = f"{_hours(hours)} on {training_device(device)}, from steps measured there ({said})"
    return values, [f"pre-training: {place}, {_gib(disk)} of checkpoints; fine-tuning and reducing are not timed"]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _told(row: dict[str, Any]) -> str:
    if "refused" in row:
        return f"cannot run: {row['refused']}"
    hours = f" {row['hours']:>9.2f} h" if "hours" in row else ""
    return f"{row['steps']:>10,} steps{hours}" if "steps" in row else ""


def _slices(reduction: Reduce, worker: Worker) -> tuple[int, bool]:
    """Slices that it keeps, and whether the number is a guess."""
    with SliceStore(worker.grid.stores[reduction.store]) as store:
        sizes = [entry.shape[0] for entry in store.volumes]
    if reduction.name in (CONTROL, EVERY):
        reduction = Reduce(reduction.store, "hash 6")
    if worker.done(reduction):
        return worker.kept(reduction)[0], False
    share = _threshold_share(reduction)
    if share is not None:
        return max(len(sizes), int(sum(sizes) * share)), True
    return sum(count_to_keep(size, _share(reduction.name)) for size in sizes), False


def _share(name: str) -> float:
    """Of a reduction that names its budget, such as "ssim 0.1"."""
    return 1.0 if name == "all" else float(name.split()[1])


def _threshold_share(reduction: Reduce) -> float | None:
    """What a threshold of HASH kept of the paper's data, LIDC where the store is none of them; None for a budget."""
    counts = published()["slices"]
    own = counts.get(reduction.store, counts[PAPER_STORE])
    name = reduction.name
    return own[name] / own["all"] if name in own and name != "all" else None


def measure(config: PretrainConfig, store: Path, device: str) -> tuple[float, int]:
    """Seconds of a training step on slices of the store, and bytes of a checkpoint."""
    import numpy as np
    import torch

    from lim_gpu.pretrain.plan import Plan
    from lim_gpu.pretrain.resident import SliceBatch
    from lim_gpu.pretrain.training import build_method, resolve_precision
    from lim_gpu.weights.backbone import training_device

    place = training_device(device)
    precision = resolve_precision(config.precision, place, Reporter(quiet=True))
    plan = Plan(config, store, None, Intensity.parse(), 10 * config.batch_size, 1, {})
    module = build_method(plan, place)
    with open_selected(store) as slices, slices.store[0] as volume:
        few = min(config.batch_size, volume.entry.shape[0])
        block = plan.intensity.to_uint8(volume.read(0, few))
        module.prepare(SelectedSlices(slices.store, None, slices.places[:few]), plan.intensity, Reporter(quiet=True))
    module = module.to(place).train()
    pixels = torch.from_numpy(np.resize(block, (config.batch_size, *block.shape[1:]))).to(place)
    sizes = torch.tensor([block.shape[1:]]).repeat(config.batch_size, 1)
    ids = torch.arange(config.batch_size, device=place) % few
    following = pixels.roll(1, 0) if config.method == "next-slice" else None
    batch = SliceBatch(pixels, sizes, ids, torch.zeros_like(ids), following)
    optimizer = module.configure_optimizers()
    mixed = torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16-mixed")
    for step in range(STEPS + 1):
        if step == 1:
            _wait(place)
            start = time.perf_counter()
        with mixed:
            loss = module.training_step(batch, step)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    _wait(place)
    seconds = (time.perf_counter() - start) / STEPS
    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    moments = sum(
        value.numel() * 4 for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)
    )
    return seconds, weights + moments


def _wait(place: object) -> None:
    import torch

    if getattr(place, "type", "") == "cuda":
        torch.cuda.synchronize()
