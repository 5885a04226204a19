"""A checkpoint's network as safetensors under torchvision's names, with how to load it in three libraries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import file_sha256, read_json, replacing, write_json
from lim_gpu.outputs import check_file, made_otherwise
from lim_gpu.progress import Outcome
from lim_gpu.weights.file import CheckpointFile
from lim_gpu.weights.load import VERSION, WEIGHTS_FORMAT, Backbone, as_text, find_backbone, sidecar, told_beside
from lim_gpu.weights.names import TIMM, VQAES, is_timm


def export(path: Path, output: Path, *, trust: bool = False, overwrite: bool = False, dry_run: bool = False) -> Outcome:
    """Write the backbone of a checkpoint as safetensors with torchvision's names, and NAME.safetensors.json beside it.

    A fine-tuned network keeps its last layer, as `fc`; of other makers' it is left out and named.
    What stands at `output` and was made of the same file is left. Raises UsageError when something else stands there.
    """
    if output.suffix != ".safetensors":
        raise UsageError(f"{output}: give a name that ends in .safetensors")
    with CheckpointFile(path, trust=trust) as file:
        plan = {"checkpoint": str(path), "checkpoint_sha256": file.sha256, "output": str(output)}
        standing = _standing_export(output, file.sha256, overwrite)
        if dry_run:
            file.check_kind()
            line = f"plan: backbone of {path} -> {output}, {sidecar(output).name}"
            line = f"unchanged: {output}" if standing else line
            return Outcome(plan | {"dry_run": True, "unchanged": standing is not None}, [line])
        if standing is not None:
            lines = [f"unchanged: {output}", *loading_lines(standing, output)]
            return Outcome(standing | plan | {"unchanged": True}, lines)
        backbone = find_backbone(file, file.read())
    record = _write(backbone, path, output)
    after = f", after {backbone.prefix!r}" if backbone.prefix else ""
    first = f"{record['tensors']} tensors of {backbone.name} ({backbone.origin}{after}) -> {output}"
    lines = [first, *_of_head(backbone), f"preprocess: {as_text(backbone.preprocess)}", *loading_lines(record, output)]
    return Outcome(plan | record, lines)


def _of_head(backbone: Backbone) -> list[str]:
    """What became of the last layer."""
    if backbone.head:
        return [f"classifier: fc of {len(backbone.classes)} classes, {', '.join(backbone.classes)}"]
    return [f"left out, a classifier: {', '.join(backbone.left_out)}"] if backbone.left_out else []


def _named_head(backbone: Backbone) -> dict[str, Any]:
    """The last layer under the name that its network gives it."""
    if not backbone.head or not is_timm(backbone.name):
        return backbone.head
    from lim_gpu.weights.timm_models import timm_classifier

    return {key.replace("fc", timm_classifier(backbone.name), 1): value for key, value in backbone.head.items()}


def _write(backbone: Backbone, path: Path, output: Path) -> dict[str, Any]:
    """Write the weights and their record, which is returned."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(output) as temporary:
        mode = temporary.stat().st_mode
        try:
            save_file(backbone.state | _named_head(backbone), temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error).split("\n")[0]) from error
        temporary.chmod(mode)  # safetensors puts a file of its own there, for the owner alone
        record = _export_record(path, backbone, file_sha256(temporary))
        write_json(sidecar(output), record)
    return record


def _export_record(path: Path, backbone: Backbone, written: str) -> dict[str, Any]:
    import lim_gpu

    beside = told_beside(path)
    made = {"name": path.name, "sha256": backbone.sha256, "source": backbone.source}
    made |= {key: beside[key] for key in ("method", "epoch", "global_step") if key in beside}
    return {
        "format": WEIGHTS_FORMAT,
        "version": VERSION,
        "backbone": backbone.name,
        "channels": backbone.channels,
        "tensors": len(backbone.state) + len(backbone.head),
        "classes": list(backbone.classes),
        "preprocess": backbone.preprocess,
        "checkpoint": made,
        "sha256": written,
        "lim_gpu": lim_gpu.__version__,
    }


def _standing_export(output: Path, digest: str, overwrite: bool) -> dict[str, Any] | None:
    """The record of what stands at `output` when it is whole and of this checkpoint; UsageError for anything else."""
    try:
        record = read_json(sidecar(output)) if output.exists() else {}
        if record["checkpoint"]["sha256"] == digest and record["sha256"] == file_sha256(output):
            return dict(record)
    except (InputError, KeyError, TypeError):
        pass
    if output.exists() and not overwrite:
        raise made_otherwise(output)
    check_file(output, replaced=True)
    return None


def loading_lines(record: dict[str, Any], output: Path) -> list[str]:
    """How exported weights are loaded in torchvision, timm and MONAI, a line each; timm's there, vqae's here alone."""
    name, channels, classes = record["backbone"], record["channels"], len(record.get("classes", ()))
    lines = [f'state = safetensors.torch.load_file("{output.name}")']
    if name in VQAES:
        return [*lines, f'lim_gpu: lim_gpu.weights.backbone.network("{name}", {channels}).load_state_dict(state)']
    if is_timm(name):
        return [*lines, _timm_line(name.removeprefix(TIMM), channels, classes)]
    if channels == 3 and classes:
        lines.append(f"torchvision: {name}(num_classes={classes}).load_state_dict(state)")
    elif channels == 3:
        lines.append(
            f"torchvision: {name}().load_state_dict(state, strict=False)  # missing: fc.weight and fc.bias alone"
        )
    lines.append(_timm_line(name, channels, classes))
    if re.fullmatch(r"resnet\d+", name):
        lines.append(
            f"MONAI: monai.networks.nets.{name}(spatial_dims=2, n_input_channels={channels}, shortcut_type='B', "
            f"bias_downsample=False, {f'num_classes={classes}' if classes else 'feed_forward=False'}, conv1_t_stride=2)"
            ".load_state_dict(state)"
        )
        lines.append("MONAI's default conv1_t_stride=1 loads without an error and computes something else")
    return lines


def _timm_line(name: str, channels: int, classes: int) -> str:
    return f'timm: timm.create_model("{name}", num_classes={classes}, in_chans={channels}).load_state_dict(state)'
