"""The pre-training stage: from a store and a selection to a RUN folder with checkpoints. Loads torch when it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lim_gpu.cuda.driver import check_gpu
from lim_gpu.errors import InputError, LimGpuError, UsageError
from lim_gpu.files import locked, remove_stale
from lim_gpu.intensity import Intensity
from lim_gpu.outputs import check_folder
from lim_gpu.pretrain.config import PretrainConfig
from lim_gpu.pretrain.folder import RunFolder
from lim_gpu.pretrain.monitor import warnings_of
from lim_gpu.pretrain.pairs import paired
from lim_gpu.pretrain.plan import Plan, make_plan, rank, world_size
from lim_gpu.pretrain.request import NO_WANDB, Request, configuration
from lim_gpu.progress import Outcome, Reporter
from lim_gpu.selection.selected import open_selected
from lim_gpu.store.slices import SliceStore
from lim_gpu.weights.names import is_timm


def pretrain(
    store: SliceStore | str | Path,
    method: str,
    *,
    selection: str | Path | None = None,
    preset: str = "recommended",
    epochs: int | None = None,
    batch_size: int | None = None,
    backbone: str | None = None,
    channels: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    intensity: Intensity | str | None = None,
    window: str | None = None,
    hu_range: str | None = None,
    body: bool = False,
    output: str | Path = "run",
    checkpoint_every: int = 50,
    log_every: int = 1,
    init: str | Path | None = None,
    probe: str | Path | None = None,
    wandb: str | None = None,
    compile: bool = False,
    stream: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Outcome:
    """Pre-train a backbone on the slices of `store` and write the run to the folder `output`.

    method            "swav", "moco", "spark", "masked", "next-slice", "denoise", "rotation" or "flip"
    selection         NAME.csv of `lim-gpu reduce` on that store; None: every slice
    preset            "recommended", "wolf2024-paper" or "wolf2024-code", "tariq2024-paper" or "tariq2024-code"; None
                      elsewhere takes the preset's value
    batch_size        slices of an optimizer step, over all processes
    overrides         any setting of `PretrainConfig` by name: {"lr": 0.1, "swav.queue": 3840}
    intensity, window, hu_range, body   how HU become 0..255, as `lim_gpu.reduce` takes them
    checkpoint_every  epochs between two epoch=N.ckpt; the last epoch has one always
    log_every         steps between two lines of metrics.jsonl
    init              "imagenet" or a checkpoint, a finished run's too, whose backbone is where this one begins
    probe             a labelled set for a nearest-neighbour score of every epoch (of short ones every 100 steps), see
                      `lim_gpu.pretrain.probe`
    wandb             a project of Weights & Biases to log to as well (extra "wandb")
    stream            read the slices from the store in every epoch, also where the device has room for them
    resume            go on with the unfinished run that `output` holds; begin where it holds none
    dry_run           only make the plan, without torch

    On one device, one seed gives the same losses however often the run is interrupted; on the CPU to the bit.
    Returns the plan and where the run stands. Raises UsageError for a contradictory call or a folder that holds
    something else, InputError for a store or selection that cannot be used, NoGpuError when `device` asks for a GPU
    that is not there, LimGpuError when the loss is no finite number or the disk refuses.
    """
    chosen = {"epochs": epochs, "batch_size": batch_size, "backbone": backbone, "channels": channels}
    request = Request(
        store=store,
        selection=Path(selection) if selection is not None else None,
        config=configuration(method, preset, chosen | {"compile": compile or None}, overrides, seed),
        intensity=Intensity.asked(intensity, window, hu_range, body),
        output=Path(output),
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        init=str(init) if init is not None else None,
        probe=Path(probe) if probe is not None else None,
        wandb=wandb,
        stream=stream,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        device=device,
    )
    return _run(request, reporter if reporter is not None and rank() == 0 else Reporter(quiet=True))


def _run(request: Request, reporter: Reporter) -> Outcome:
    check_folder(request.output)
    folder = RunFolder(request.output)
    with open_selected(request.store, request.selection) as chosen:
        slices = paired(chosen, request.config.reconstruct.max_mm) if request.config.method == "next-slice" else chosen
        plan = make_plan(request.config, slices, request.intensity, request.init)
        if is_timm(request.config.backbone):
            _check_timm(request.config)
        if request.dry_run:
            return _planned(request, plan, folder)
        with _together(request.device):
            _check_agreement(plan)
            standing = _decided(request, plan, folder)
            if standing == "finished":
                lines = [f"unchanged: {folder.path}"]
                return Outcome(plan.values() | {"run": str(folder.path), "unchanged": True}, lines)
            with locked(folder.path) if rank() == 0 else nullcontext():
                _say(plan, reporter)  # before torch, which takes long to import
                with reporter.wait("load torch"):
                    from lim_gpu.pretrain.training import train

                remove_stale(folder.path)
                values = train(request, plan, slices, folder, standing == "unfinished", reporter)
    return _trained(plan, folder, values)


def _check_timm(config: PretrainConfig) -> None:
    """Raise UsageError for a network that timm does not have, or that does not take the views of the method."""
    from lim_gpu.weights.timm_models import check_sides

    small = {config.swav.small_size} if config.method == "swav" and config.swav.small_crops else set()
    check_sides(config.backbone, config.channels, {config.view_size} | small)


def _planned(request: Request, plan: Plan, folder: RunFolder) -> Outcome:
    """The plan, after what the run itself would check."""
    if request.probe is not None and not request.probe.exists():
        raise InputError(f"{request.probe}: cannot be read: it is not there. Give --probe a labelled set")
    if request.wandb is not None and find_spec("wandb") is None:
        raise UsageError(NO_WANDB)
    check_gpu(request.device)
    standing = folder.standing(plan, request.resume, request.overwrite)
    values = plan.values() | {"config": plan.config.to_dict(), "run": str(folder.path), "standing": standing}
    return Outcome(values, [*plan.lines(), *(f"warning: {text}" for text in warnings_of(plan))])


def _say(plan: Plan, reporter: Reporter) -> None:
    for line in plan.lines():
        reporter.note(line)
    for text in warnings_of(plan):
        reporter.warn(text)


def _trained(plan: Plan, folder: RunFolder, values: dict[str, Any]) -> Outcome:
    loss = f", loss {values['loss']:.4f}" if values["loss"] is not None else ""
    took = f"{values['seconds']:.0f} s on {values['device']} -> {folder.last}"
    line = f"{plan.config.method}: {plan.total_steps:,} steps{loss}, {took}"
    return Outcome(plan.values() | values | {"run": str(folder.path), "unchanged": False}, [line])


@contextmanager
def _together(device: str) -> Iterator[None]:
    """The process group of torchrun, made before anything is decided; nothing for one process."""
    if world_size() == 1:
        yield
        return
    import torch.distributed as dist

    dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _check_agreement(plan: Plan) -> None:
    """Before the first step: are data and settings of all processes those of the first?"""
    if world_size() > 1:
        from lim_gpu.pretrain.agreement import check_agreement

        check_agreement(plan.data | {"setting": plan.config.to_dict(), "version of lim-gpu": plan.fingerprint})


def _decided(request: Request, plan: Plan, folder: RunFolder) -> str:
    """What stands in the folder, as the first process saw it before it wrote anything."""
    if world_size() == 1:
        return folder.standing(plan, request.resume, request.overwrite)
    import torch
    import torch.distributed as dist

    found: list[Any] = [None]
    if rank() == 0:
        try:
            found = [folder.standing(plan, request.resume, request.overwrite)]
        except LimGpuError as error:
            found = [error]
    dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
    if isinstance(found[0], LimGpuError):
        raise found[0]
    return str(found[0])
