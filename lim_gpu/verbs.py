"""What the verbs `reduce` and `similarity` do with their options: plan or run, write, and say what came out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import read_json, replacing, write_text
from lim_gpu.intensity import Intensity
from lim_gpu.plan import make_plan
from lim_gpu.progress import Reporter
from lim_gpu.reduction import reduce, standing_selection
from lim_gpu.request import SIMILARITIES, THRESHOLD_RANGE, Request, units_of
from lim_gpu.selection import Selection, kept_list, selection_paths
from lim_gpu.store import SliceStore, read_sources, write_selected
from lim_gpu.stored_matrix import Criterion

AUTO = "auto"  # --threshold: found from the data


@dataclass(frozen=True)
class Outcome:
    """`values` for a program, `lines` for a person; `skipped` when something was left out and listed."""

    values: dict[str, Any]
    lines: list[str]
    skipped: bool = False


def parse_keep(text: str | None) -> float | None:
    """A fraction from the command line. UsageError for a whole number: 1 could mean all slices or one."""
    if text is None:
        return None
    if re.fullmatch(r"\s*[+-]?\d+\s*", text):
        other = f", or --keep-count {int(text)}" if int(text) > 0 else ""
        raise UsageError(f"--keep {text} is ambiguous. Give a fraction such as 0.1 (1.0 for all){other}")
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--keep {text!r} is not a fraction. Give 0 < F <= 1, such as 0.1") from None


def _parse_threshold(text: str | None, method: str) -> float | None:
    """A threshold from the command line; for "auto", which needs the data, the lowest that the method takes."""
    if text is None:
        return None
    if text == AUTO:
        if method not in SIMILARITIES:
            raise UsageError(f"method {method} compares nothing and takes no threshold")
        return THRESHOLD_RANGE[method][0]
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--threshold {text!r} is no number. Give one in the method's own unit, or auto") from None


def store_or_selections(paths: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Selections among the arguments, and the store when the one argument is a folder."""
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise UsageError(f"{folders[0]}: give one store, or selections alone")
    return ([], folders[0]) if folders else (list(paths), None)


def reduce_from_options(
    store_path: Path,
    options: dict[str, Any],
    output: Path,
    write_to: Path | None,
    private_list: Path | None,
    dry_run: bool,
    overwrite: bool,
    reporter: Reporter,
) -> Outcome:
    """Run or plan `lim_gpu.reduce` with the options of the command line."""
    device = options.pop("device")
    automatic = options["threshold"] == AUTO
    options["threshold"] = _parse_threshold(options["threshold"], options["method"])
    request = _request(options)
    csv_path, json_path = selection_paths(output)
    with SliceStore(store_path) as store:
        if automatic and not dry_run:
            from lim_gpu.auto_threshold import auto_threshold

            found = auto_threshold(store, request.criterion, options["seed"], device, reporter)
            reporter.note(found.line(options["method"]))
            options |= {"threshold": found.threshold, "threshold_rule": found.record()}
            request = replace(request, threshold=found.threshold)
        unknown = automatic and dry_run  # the threshold is not known yet
        standing = None if unknown else standing_selection(store, request, csv_path, overwrite)
        _check_targets(store, standing, csv_path, write_to, private_list, overwrite)
        if dry_run:
            plan = make_plan(units_of(store.volumes, request.scope), request, csv_path.with_suffix(".parts"))
            lines = plan.lines(request) + ([f"unchanged: {csv_path}"] if standing else [])
            lines += ["threshold: from the data, when it runs"] if unknown else []
            return Outcome(plan.values() | {"unchanged": standing is not None}, lines)
        selection = reduce(store, **options, device=device, output=csv_path, overwrite=overwrite, reporter=reporter)
        unread: list[str] = []
        if write_to is not None:
            unread = write_selected(store, selection.volumes, write_to, overwrite=overwrite, reporter=reporter)
        if private_list is not None:
            write_text(private_list, _kept_text(store, selection), mode=0o600)
    values = {"csv": str(csv_path), "json": str(json_path)} | selection.record
    return Outcome(values, _summary(selection, csv_path, write_to), bool(selection.record["failures"] or unread))


def _check_targets(
    store: SliceStore,
    standing: Selection | None,
    csv_path: Path,
    write_to: Path | None,
    private_list: Path | None,
    overwrite: bool,
) -> None:
    """Raise before anything is computed when --write or --kept-list could not be written afterwards."""
    own = {path.resolve() for path in (store.path, *selection_paths(csv_path), csv_path.with_suffix(".parts"))}
    for path in (write_to, private_list):
        if path is not None and path.resolve() in own:
            raise UsageError(f"{path}: is another output or input of this command. Choose another name")
    if write_to is not None and (write_to / "store.json").exists() and standing is None and not overwrite:
        raise UsageError(f"{write_to}: holds a store. Give --overwrite, or another --write")
    if private_list is not None:
        read_sources(store.path, store.volumes[0].key)  # the private folder must be there
        if private_list.exists() and not overwrite:
            before = private_list.read_text(encoding="utf-8", errors="replace")
            if standing is None or before != _kept_text(store, standing):
                raise UsageError(f"{private_list}: exists. Give --overwrite, or another --kept-list")


def _kept_text(store: SliceStore, selection: Selection) -> str:
    return kept_list(selection, ((volume.key, read_sources(store.path, volume.key)) for volume in selection.volumes))


def _request(options: dict[str, Any]) -> Request:
    """Turn the command line's texts in `options` into values, and check them before anything is opened."""
    options["keep"] = parse_keep(options["keep"])
    intensity = Intensity.parse(
        intensity=options["intensity"], window=options.pop("window"), hu_range=options.pop("hu_range")
    )
    options["intensity"] = intensity
    criterion = _criterion(options, intensity)
    names = ("keep", "keep_count", "threshold", "scope", "rule", "order", "seed")
    return Request(criterion, **{name: options[name] for name in names})


def _criterion(options: dict[str, Any], intensity: Intensity) -> Criterion:
    names = ("bins", "features", "weights", "precision")
    return Criterion(options["method"], intensity, **{name: options[name] for name in names})


def _summary(selection: Selection, csv_path: Path, write_to: Path | None) -> list[str]:
    record = selection.record
    counts = record["counts"]
    lines = [
        f"{record['method']}: kept {counts['kept']:,} of {counts['slices']:,} slices "
        f"({100 * counts['kept'] / counts['slices']:.1f} %) in {counts['volumes']} volumes, "
        f"{record['seconds']:.1f} s on {record['device']} -> {csv_path}"
    ]
    if counts["failed_volumes"]:
        lines.append(f"left out: {counts['failed_volumes']} volumes that cannot be read")
    if write_to is not None:
        lines.append(f"kept slices copied to {write_to}")
    return lines


def similarity_from_options(
    store_path: Path, volume: str, options: dict[str, Any], output: Path, reporter: Reporter
) -> Outcome:
    """Compute the matrix of one volume and write it as .npy or draw it as .png."""
    if output.suffix not in (".npy", ".png"):
        raise UsageError(f"{output}: give a name that ends in .npy or .png")
    method = options["method"]
    if method not in SIMILARITIES:
        raise UsageError(f"method {method!r} has no matrix. Give one of {', '.join(SIMILARITIES)}")
    keep = parse_keep(options["keep"])
    intensity = Intensity.parse(intensity=options["intensity"], window=options["window"], hu_range=options["hu_range"])
    criterion = _criterion(options, intensity)
    with SliceStore(store_path) as store:
        key = find_volume(store, volume)
        entry = store[key].entry
        n, height, width = entry.shape
        record = {"format": "lim-gpu-matrix", "method": method, "volume": key, "digest": entry.digest, "keep": keep}
        record |= {"parameters": criterion.parameters(), "shape": [n, n], "output": output.name}
        if options["dry_run"]:
            line = f"plan: {method}, {n} x {n} slices of {height} x {width} -> {output}"
            return Outcome(record | {"dry_run": True}, [line])
        if _standing_matrix(output, record, options["overwrite"]):
            return Outcome(record | {"unchanged": True}, [f"unchanged: {output}"])
        matrix = write_matrix(store, key, criterion, options["device"], keep, output)
        sidecar = {"sha256": hashlib.sha256(output.read_bytes()).hexdigest(), "record": record}
        write_text(_sidecar(output), json.dumps(sidecar, indent=1) + "\n")
    low, high = float(matrix.min()), float(matrix.max())
    return Outcome(record, [f"{method}: {n} x {n}, {low:.4f} to {high:.4f} -> {output}"])


def _sidecar(output: Path) -> Path:
    """How a matrix was made stands beside it, in NAME.npy.json or NAME.png.json."""
    return output.with_name(output.name + ".json")


def _standing_matrix(output: Path, record: dict[str, Any], overwrite: bool) -> bool:
    """Whether `output` is whole and was made so. UsageError when it is something else and may not be replaced."""
    if not output.exists():
        return False
    try:
        beside = read_json(_sidecar(output))
        digest = hashlib.sha256(output.read_bytes()).hexdigest()
        if beside == {"sha256": digest, "record": json.loads(json.dumps(record))}:
            return True
    except InputError:
        pass
    if not overwrite:
        raise UsageError(f"{output}: exists and was made otherwise. Give --overwrite, or another -o")
    return False


def write_matrix(
    store: SliceStore, key: str, criterion: Criterion, device: str, keep: float | None, output: Path
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Write the matrix (n, n) of a volume as .npy, or draw it as .png, the slices that `keep` keeps beside it."""
    from lim_gpu.picture import save_matrix_picture
    from lim_gpu.pruning import prune
    from lim_gpu.similarity import resolve_device
    from lim_gpu.stored_matrix import StoredMatrix

    engine = StoredMatrix(criterion, resolve_device(device))
    with store[key] as volume:
        matrix = engine.compute([volume])[0].cpu().numpy()
        if output.suffix == ".npy":
            with replacing(output) as temporary, open(temporary, "wb") as handle:
                np.save(handle, matrix, allow_pickle=False)
            return matrix
        kept = prune(matrix, keep=keep) if keep is not None else None
        images = engine.images(volume, kept.tolist()) if kept is not None else None
    scale = {"ssim": "SSIM", "mi": "normalized mutual information", "deepnet": "cosine", "hash": "1 - bits / 64"}
    title = f"{criterion.method.upper()} of {len(matrix)} slices" + (f", {len(kept)} kept" if kept is not None else "")
    save_matrix_picture(output, matrix, title, scale[criterion.method], kept, images)
    return matrix


def find_volume(store: SliceStore, wanted: str) -> str:
    """The key of the volume called `wanted`: its key, the beginning of one, its name, or its position.

    Raises InputError when there is none, or several.
    """
    entries = store.volumes
    exact = [entry.key for entry in entries if wanted in (entry.key, entry.name)]
    if not exact and wanted.isdigit() and int(wanted) < len(entries):
        exact = [entries[int(wanted)].key]
    found = exact or [entry.key for entry in entries if entry.key.startswith(wanted)]
    if len(found) != 1:
        what = f"{len(found)} volumes" if found else "no volume"
        raise InputError(f"{store.path}: {wanted!r} names {what}. See lim-gpu info {store.path}")
    return found[0]
