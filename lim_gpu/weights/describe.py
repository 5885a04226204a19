"""What a checkpoint holds, for a program and for a person; ours without torch."""

from __future__ import annotations

import math
from pathlib import Path
from textwrap import wrap
from typing import Any

from lim_gpu.errors import InputError
from lim_gpu.weights.file import CheckpointFile
from lim_gpu.weights.load import as_text, match, of_timm, own_name, told_beside, vote
from lim_gpu.weights.names import is_timm

COLUMNS = 80  # of a terminal


def describe_checkpoint(path: Path, *, trust: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Method, epoch, schedule state and configuration of a checkpoint: values for a program, lines for a person.

    Ours are told from the JSON beside them, without torch; others are read with torch.
    """
    if record := told_beside(path):
        if not path.is_file():
            raise InputError(f"{path}: does not exist, only the JSON beside it. Copy both")
        return {"kind": "checkpoint", "path": str(path)} | record, _own_lines(path, record)
    with CheckpointFile(path, trust=trust) as file:
        digest, content = file.sha256, file.read()
    name = own_name(path, content)
    layout, found, channels = of_timm(path, content, name) if is_timm(name) else (*vote(path, content), 0)
    values: dict[str, Any] = {"kind": "checkpoint", "path": str(path), "sha256": digest, "source": layout.source}
    lines = [f"checkpoint {path}: {layout.source}, backbone at {layout.prefix!r}", f"sha256 {digest}"]
    try:
        name, channels = (name, channels) if is_timm(name) else match(path, layout, found, None)
        values |= {"backbone": name, "channels": channels, "tensors": len(found), "complete": True}
        lines.append(f"backbone {name}, {channels} channels, {len(found)} of {len(found)} tensors")
    except InputError as error:
        values |= {"tensors": len(found), "complete": False, "cause": str(error)}
        lines.append(str(error).removeprefix(f"{path}: "))
    training = _training_state(content)
    values |= training
    lines += [line for key, value in training.items() for line in _told(key, value)]
    return values, lines


def _own_lines(path: Path, record: dict[str, Any]) -> list[str]:
    told = {key: value for key, value in record.items() if key not in ("format", "version")}
    head = " ".join(str(told.pop(key)) for key in ("method", "backbone") if key in told)
    place = ", ".join(f"{key} {told.pop(key)}" for key in ("epoch", "global_step") if key in told)
    lines = [f"checkpoint {path}: " + ", ".join(text for text in (head, place) if text)]
    return lines + [line for key, value in told.items() for line in _told(key, value)]


def _told(key: str, value: Any, indent: str = "") -> list[str]:
    """Lines of at most 80 columns, where words allow it; what is too long for one has a line for each mapping in it."""
    whole = f"{indent}{key} {as_text(value)}"
    if len(whole) <= COLUMNS:
        return [whole]
    inner = {k: v for k, v in value.items() if isinstance(v, dict)} if isinstance(value, dict) else {}
    flat = {k: v for k, v in value.items() if k not in inner} if inner else value
    below = f"{indent}  "
    lines = wrap(f"{indent}{key} {as_text(flat)}", COLUMNS, subsequent_indent=below, break_long_words=False)
    return lines + [line for k, v in inner.items() for line in _told(k, v, below)]


def _training_state(content: dict[str, Any]) -> dict[str, Any]:
    """What a foreign file tells of its training: what settles which schedule its weights really saw."""
    state: dict[str, Any] = {}
    for key in ("epoch", "global_step", "arch", "pytorch-lightning_version"):
        if isinstance(content.get(key), int | str):
            state[key] = content[key]
    schedulers, optimizers = content.get("lr_schedulers"), content.get("optimizer_states")
    if isinstance(schedulers, list) and schedulers and isinstance(schedulers[0], dict):
        state["schedule"] = {k: _plain(schedulers[0][k]) for k in ("last_epoch", "_last_lr") if k in schedulers[0]}
    first = optimizers[0] if isinstance(optimizers, list) and optimizers else content.get("optimizer")
    groups = first.get("param_groups") if isinstance(first, dict) else None
    if isinstance(groups, list):
        own = [{k: _plain(v) for k, v in group.items() if k != "params"} for group in groups if isinstance(group, dict)]
        state["optimizer"] = {str(place): group for place, group in enumerate(own)}
    hyper = content.get("hyper_parameters")
    hyper = hyper if isinstance(hyper, dict) else getattr(hyper, "__dict__", None)
    if hyper:
        state["configuration"] = {str(k): _plain(v) for k, v in hyper.items()}
    return state


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value)
