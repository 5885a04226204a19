"""The training itself: data, method and Lightning's Trainer put together for a plan."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from lim_gpu.errors import LimGpuError, UsageError
from lim_gpu.files import fingerprint
from lim_gpu.pretrain import callbacks, probe
from lim_gpu.pretrain.callbacks import Keeper, Recorder, Stopper, Writer
from lim_gpu.pretrain.checkpoints import load_state, save_checkpoint
from lim_gpu.pretrain.datamodule import SlicesDataModule
from lim_gpu.pretrain.folder import RunFolder
from lim_gpu.pretrain.method import Pretraining, laid_out
from lim_gpu.pretrain.picture import save_views
from lim_gpu.pretrain.plan import Plan, rank, world_size
from lim_gpu.pretrain.presets import TURNS
from lim_gpu.pretrain.request import NO_WANDB, Request
from lim_gpu.pretrain.start import begin
from lim_gpu.pretrain.synchronised import SynchronisedBatchNorm
from lim_gpu.progress import Reporter, counted
from lim_gpu.selection.selected import SelectedSlices
from lim_gpu.weights.backbone import has_bfloat16, training_device


def train(
    request: Request, plan: Plan, slices: SelectedSlices, folder: RunFolder, resume: bool, reporter: Reporter
) -> dict[str, Any]:
    """Train to the end of `plan`, from the state that `folder` holds when `resume`, and return what came out.

    On SIGTERM and SIGINT the state is saved first; then the signal is delivered to who handled it before.
    """
    place = training_device(request.device, int(os.environ["LOCAL_RANK"]) if world_size() > 1 else None)
    precision = resolve_precision(plan.config.precision, place, reporter)
    state = load_state(folder.last, plan) if resume and folder.last.exists() else None
    begun = time.perf_counter()
    with _quiet_lightning():
        module = build_method(plan, place)
        module.prepare(slices, plan.intensity, reporter)
        if state is None and plan.init is not None:
            begin(module, plan)
        data = _data(request, plan, slices, state, reporter)
        score = probe.load_probe(request.probe, plan, place) if request.probe is not None else None
        if rank() == 0:
            record = {"device": str(place), "precision": precision, "processes": world_size()}
            record |= {"versions": _versions()} | _meters(module)
            _begin(plan, folder, state, record, reporter)
            if state is None:
                save_views(module, data.streamed, folder.path / "views.png")
        if state is not None and state["global_step"] >= plan.total_steps:  # killed before the last sidecar was written
            if rank() == 0:
                save_checkpoint(folder.last, state, plan)
            return {"loss": None, "seconds": 0.0, "device": str(place)}
        writers = _writers(plan, folder, request.wandb, state) if rank() == 0 else []
        recorder = Recorder(plan, folder, reporter, [write for write, _ in writers], score, request.log_every)
        keeper = Keeper(plan, folder, request.checkpoint_every, state)
        stopper = Stopper(recorder, keeper)
        trainer = build_trainer(plan, place, precision, [keeper, recorder, stopper])
        try:
            _fit(trainer, module, data, place)
        finally:
            stopper.release()
            recorder.close()
            for _, close in writers:
                close()
    if stopper.caught is not None:
        reporter.note(f"saved after {counted(trainer.global_step, 'step')}: {folder.last}. Go on with --resume")
        signal.raise_signal(stopper.caught)
    return {"loss": recorder.loss, "seconds": round(time.perf_counter() - begun, 3), "device": str(place)}


def _data(
    request: Request, plan: Plan, slices: SelectedSlices, state: dict[str, Any] | None, reporter: Reporter
) -> SlicesDataModule:
    return SlicesDataModule(
        slices,
        plan.config.batch_size,
        plan.config.seed,
        intensity=plan.intensity,
        budget=0 if request.stream else None,
        position=state["global_step"] if state else 0,
        reporter=reporter,
    )


def _fit(trainer: Trainer, module: Pretraining, data: SlicesDataModule, place: torch.device) -> None:
    """Lightning's training, with its ways to end told as ours."""
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    except torch.OutOfMemoryError:
        step = f"a step of {data.batch_size} slices does not fit in its memory"
        raise LimGpuError(f"{place}: {step}. Give a smaller --batch-size, or --stream") from None


def build_method(plan: Plan, place: torch.device | None = None) -> Pretraining:
    """The method of the plan with initial weights that depend on the seed alone, laid out for `place`."""
    torch.manual_seed(plan.config.seed)
    method = method_class(plan.config.method)(plan.config, plan.slices)
    return laid_out(method, place) if place is not None else method


def method_class(name: str) -> type[Pretraining]:
    """The class of a method."""
    from lim_gpu.pretrain.moco import MoCo
    from lim_gpu.pretrain.orientation import Orientation
    from lim_gpu.pretrain.reconstruct import Denoise, Masked, NextSlice
    from lim_gpu.pretrain.spark import SparK
    from lim_gpu.pretrain.swav import SwAV

    methods: dict[str, type[Pretraining]] = {"swav": SwAV, "moco": MoCo, "spark": SparK}
    methods |= {"masked": Masked, "next-slice": NextSlice, "denoise": Denoise} | dict.fromkeys(TURNS, Orientation)
    return methods[name]


def build_trainer(plan: Plan, place: torch.device, precision: str, callbacks: list[Callback]) -> Trainer:
    """Lightning's Trainer without checkpoints, loggers, bars and sanity checks of its own."""
    config = plan.config
    on_gpu = place.type == "cuda"
    values: dict[str, Any] = {"strategy": "auto", "devices": [place.index or 0] if on_gpu else 1}
    values["plugins"] = [LightningEnvironment()]  # what a cluster's variables say is not asked
    if world_size() > 1:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        values = {"devices": local, "num_nodes": world_size() // local, "plugins": [TorchElasticEnvironment()]}
        backend = "nccl" if on_gpu else "gloo"
        # queues are equal everywhere as it is, and of running statistics those of the first process are saved
        values["strategy"] = DDPStrategy(process_group_backend=backend, broadcast_buffers=False)
        if on_gpu and config.method == "swav":  # as published; MoCo's must stay apart
            values["plugins"].append(SynchronisedBatchNorm())
    return Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        precision=precision,  # type: ignore[arg-type]
        max_epochs=config.epochs,
        gradient_clip_val=config.clip_grad_norm or None if config.optimizer != "lamb" else None,
        callbacks=callbacks,
        benchmark=on_gpu,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **values,
    )


def resolve_precision(precision: str, place: torch.device, reporter: Reporter) -> str:
    """Lightning's name of `precision` on a device: "auto" is bf16-mixed on GPUs that have it, else 32.

    16-mixed, which the CPU has not, becomes 32 there and is said. Raises UsageError for a GPU without bfloat16.
    """
    has_bf16 = has_bfloat16(place)
    if precision == "bf16-mixed" and place.type == "cuda" and not has_bf16:
        raise UsageError(f"precision bf16-mixed: {place} has no bfloat16. Give --set precision=16-mixed or 32")
    if precision == "16-mixed" and place.type == "cpu":
        reporter.note("precision 16-mixed needs a GPU: 32 on the CPU")
        return "32-true"
    if precision == "auto":
        return "bf16-mixed" if has_bf16 else "32-true"
    return "32-true" if precision == "32" else precision


def _begin(
    plan: Plan, folder: RunFolder, state: dict[str, Any] | None, values: dict[str, Any], reporter: Reporter
) -> None:
    """Write what a run begins with, or cut what a killed one wrote after its checkpoint; say where it goes on."""
    if state is None:
        folder.begin(plan, values)
    else:
        folder.cut_metrics(state["global_step"])
        before = folder.record()
        for name in ("device", "precision"):
            if before.get(name) != values[name]:
                reporter.warn(
                    f"began with {name} {before.get(name)}, goes on with {values[name]}: its losses will differ"
                )
        _warn_of_processes(plan, before.get("processes", world_size()), reporter)
    if state is not None:
        reporter.note(f"goes on after {state['global_step']:,} of {plan.total_steps:,} steps")


def _warn_of_processes(plan: Plan, before: int, reporter: Reporter) -> None:
    """Say what changes when a run goes on among another number of processes than it began with."""
    if before == world_size():
        return
    batch = plan.config.batch_size
    reporter.warn(
        f"began with {before} processes, goes on with {world_size()}: every step has the same slices, but other crops, "
        f"and batch norm sees {batch // world_size()} of them at once, not {batch // before}: its losses will differ"
    )


def _meters(module: Pretraining) -> dict[str, Any]:
    """What the numbers of metrics.jsonl are, for who reads them; a probe may be given at any --resume."""
    explained = {**module.meters, **callbacks.METERS, **probe.METERS}
    return {"meters": {name: meter._asdict() for name, meter in explained.items()}}


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("lim-gpu", "torch", "torchvision", "lightning", "timm")}


def _writers(
    plan: Plan, folder: RunFolder, project: str | None, state: dict[str, Any] | None
) -> list[tuple[Writer, Callable[[], None]]]:
    """Where the numbers go beside metrics.jsonl: a function that writes them, and one that closes it."""
    from torch.utils.tensorboard import SummaryWriter

    step = state["global_step"] if state else 0
    board = SummaryWriter(folder.path / "tensorboard", purge_step=step)

    def to_board(row: dict[str, float], step: int) -> None:
        for name in row.keys() - {"epoch", "step"}:
            board.add_scalar(name, row[name], step)

    writers: list[tuple[Writer, Callable[[], None]]] = [(to_board, board.close)]
    if project is not None:
        try:
            import wandb
        except ImportError:
            raise UsageError(NO_WANDB) from None
        name = fingerprint([plan.fingerprint, str(folder.path.resolve())])[:16]
        run = wandb.init(project=project, dir=folder.path, id=name, resume="allow", config=plan.config.to_dict())
        writers.append((lambda row, step: run.log(row, step=step), run.finish))
    return writers


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's notes and advice kept from the terminal; its errors come through."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
