"""What the jobs would take: hours from training steps measured here and now, and disk from the network's size."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lim_gpu.evaluate.grid import CONTROL, PAPER_STORE, Grid, Job, Pretrain, Reduce, equal_steps
from lim_gpu.evaluate.table import published
from lim_gpu.evaluate.work import Worker, pretrain_options
from lim_gpu.intensity import Intensity
from lim_gpu.pretrain.config import PretrainConfig, resolve
from lim_gpu.progress import Reporter
from lim_gpu.store.slices import SliceStore

STEPS = 3  # measured, after one to warm up
CHECKPOINT_EVERY = 50  # epochs


def estimate(todo: Sequence[Job], grid: Grid, output: Path, device: str, seed: int) -> tuple[dict[str, Any], list[str]]:
    """`values` for a program and `lines` for a person; nothing is written."""
    from lim_gpu.weights.backbone import training_device

    worker = Worker(grid, output, device, seed, Reporter(quiet=True))
    measured: dict[str, tuple[float, int]] = {}
    rows, hours, disk, guessed = [], 0.0, 0, False
    for job in todo:
        row: dict[str, Any] = {"job": job.folder, "done": worker.done(job)}
        if isinstance(job, Pretrain) and not row["done"]:
            options, overrides = pretrain_options(grid, job.method)
            given = {name: options[name] for name in ("epochs", "batch_size", "backbone")} | {"seed": seed} | overrides
            config = resolve(job.method, options["preset"], given)
            if job.method not in measured:
                measured[job.method] = measure(config, grid.stores[job.reduce.store], device)
            seconds, size = measured[job.method]
            steps = _steps(job, worker, config)
            guessed |= _threshold_share(job.reduce) is not None and not worker.done(job.reduce)
            checkpoints = config.epochs // CHECKPOINT_EVERY + 2
            row |= {"steps": steps, "hours": round(steps * seconds / 3600, 4), "bytes": checkpoints * size}
            hours += row["hours"]
            disk += row["bytes"]
        rows.append(row)
    kinds = Counter(type(job).__name__.lower() for job in todo)
    steps_measured = {method: round(1e3 * seconds, 1) for method, (seconds, _) in measured.items()}
    values = {"jobs": rows, "pretrain_hours": round(hours, 3), "bytes": disk, "step_milliseconds": steps_measured}
    lines = [f"{'done' if row['done'] else 'to do':6s}{row['job']:<58s}{_cost(row)}".rstrip() for row in rows]
    done = sum(row["done"] for row in rows)
    lines.append(f"{len(rows)} jobs ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}), {done} done")
    if not measured:
        return values, [*lines, "nothing is left to pre-train"]
    said = ", ".join(f"{method} {milliseconds:g} ms" for method, milliseconds in steps_measured.items())
    place = training_device(device)
    lines.append(
        f"pre-training: {_hours(hours)} on {place}, from steps measured there ({said}), "
        f"{disk / 2**30:.1f} GiB of checkpoints; fine-tuning and reducing are not counted"
    )
    if guessed:
        lines.append("what a threshold of HASH keeps is not known before it has run: taken from the paper's data")
    return values, lines


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _cost(row: dict[str, Any]) -> str:
    return f"{row['steps']:>10,} steps {row['hours']:>9.2f} h" if "steps" in row else ""


def _steps(job: Pretrain, worker: Worker, config: PretrainConfig) -> int:
    with SliceStore(worker.grid.stores[job.reduce.store]) as store:
        slices = sum(entry.shape[0] for entry in store.volumes)
    if worker.done(job.reduce):
        kept, _ = worker.kept(job.reduce)
    else:
        share = _threshold_share(job.reduce)
        kept = int(slices * (_share(job.reduce.name) if share is None else share))
    epochs = config.epochs
    if job.budget == "steps":
        epochs = equal_steps(epochs, slices, kept, config.batch_size)
    return epochs * (kept // config.batch_size)


def _share(name: str) -> float:
    """Of a reduction that names its budget, such as "ssim 0.1"."""
    return 1.0 if name == "all" else float(name.split()[1])


def _threshold_share(reduction: Reduce) -> float | None:
    """What a threshold of HASH kept of the paper's data, LIDC where the store is none of them; None for a budget."""
    counts = published()["slices"]
    own = counts.get(reduction.store, counts[PAPER_STORE])
    name = "hash 6" if reduction.name == CONTROL else reduction.name
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
    with SliceStore(store) as opened, opened[0] as volume:
        block = Intensity.parse().to_uint8(volume.read(0, min(config.batch_size, volume.entry.shape[0])))
    pixels = torch.from_numpy(np.resize(block, (config.batch_size, *block.shape[1:]))).to(place)
    sizes = torch.tensor([block.shape[1:]]).repeat(config.batch_size, 1)
    ids = torch.arange(config.batch_size, device=place)
    batch = SliceBatch(pixels, sizes, ids, torch.zeros_like(ids))
    plan = Plan(config, store, None, Intensity.parse(), 10 * config.batch_size, 1, {})
    module = build_method(plan).to(place).train()
    optimizer = module.configure_optimizers()
    mixed = torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16-mixed")
    for step in range(STEPS + 1):
        if step == 1:
            _wait(place)
            start = time.perf_counter()
        with mixed:
            generator = torch.Generator().manual_seed(step)
            loss = module.loss(module.views(batch, generator), batch)["loss"]
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
