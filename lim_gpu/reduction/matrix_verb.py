"""What the verb `similarity` does: the matrix of one volume as an array or a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lim_gpu.cuda.driver import check_gpu
from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import file_sha256, read_json, replacing, write_json
from lim_gpu.outputs import check_file, made_otherwise
from lim_gpu.progress import Outcome, Reporter, counted
from lim_gpu.reduction.criterion import Criterion
from lim_gpu.reduction.request import SCALES, SIMILARITIES, in_own_unit
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.units import check_limits, intensities_in_words

LEAST = 4  # characters of a key that may stand for it where they are a number


def similarity_verb(
    store_path: Path,
    volume: str,
    criterion: Criterion,
    output: Path,
    *,
    keep: float | None,
    device: str,
    dry_run: bool,
    overwrite: bool,
    reporter: Reporter,
) -> Outcome:
    """Compute the matrix of one volume and write it as .npy or draw it as .png, where it does not stand already."""
    method = criterion.method
    if output.suffix not in (".npy", ".png"):
        raise UsageError(f"{output}: give a name that ends in .npy or .png")
    if method not in SIMILARITIES:
        raise UsageError(f"`method` {method!r} has no matrix. Give one of {', '.join(SIMILARITIES)}")
    if keep is not None and output.suffix != ".png":
        raise UsageError("--keep marks slices in a picture. Give -o NAME.png, or leave it out")
    check_gpu(device)
    with SliceStore(store_path) as store:
        key = find_volume(store, volume)
        entry = store[key].entry
        check_limits(store_path, [entry], criterion.intensity)
        n, height, width = entry.shape
        record: dict[str, Any] = {"format": "lim-gpu-matrix", "method": method, "volume": key, "digest": entry.digest}
        record |= {"keep": keep, "parameters": criterion.parameters(), "shape": [n, n], "output": output.name}
        if output.suffix == ".png":
            record["scale"] = SCALES[method]
        if _standing_matrix(output, record, overwrite):
            return Outcome(record | {"unchanged": True}, [f"unchanged: {output}"])
        if dry_run:
            line = f"plan: {method}, {n} x {n} slices of {height} x {width} -> {output}"
            return Outcome(record | {"dry_run": True}, [line])
        with reporter.wait(f"{method} of {counted(n, 'slice')}"):
            matrix = write_matrix(store, key, criterion, device, keep, output)
        write_json(_sidecar(output), {"sha256": file_sha256(output), "record": record})
    return Outcome(record, [f"{method}: {n} x {n}, {_range(matrix, method, output)} -> {output}"])


def _range(matrix: NDArray[np.float32], method: str, output: Path) -> str:
    """The lowest and the highest value, in the unit of the output."""
    if method == "hash" and output.suffix == ".png":
        bits = in_own_unit(method, matrix)
        return f"{bits.min():.0f} to {bits.max():.0f} {SCALES[method]}"
    return f"{matrix.min():.4f} to {matrix.max():.4f}"


def _sidecar(output: Path) -> Path:
    """How a matrix was made stands beside it, in NAME.npy.json or NAME.png.json."""
    return output.with_name(output.name + ".json")


def _standing_matrix(output: Path, record: dict[str, Any], overwrite: bool) -> bool:
    """Whether `output` is whole and was made so. UsageError when it is something else and may not be replaced."""
    try:
        beside = read_json(_sidecar(output)) if output.exists() else None
        if beside is not None and beside == {"sha256": file_sha256(output), "record": json.loads(json.dumps(record))}:
            return True
    except InputError:
        pass
    if output.exists() and not overwrite:
        raise made_otherwise(output)
    check_file(output, replaced=True)
    return False


def write_matrix(
    store: SliceStore, key: str, criterion: Criterion, device: str, keep: float | None, output: Path
) -> NDArray[np.float32]:
    """Write the matrix (n, n) of a volume as .npy, or draw it as .png, the slices that `keep` keeps beside it."""
    from lim_gpu.pruning.rules import prune
    from lim_gpu.reduction.engine import StoredMatrix
    from lim_gpu.reduction.picture import save_matrix_picture
    from lim_gpu.similarity import resolve_device

    engine = StoredMatrix(criterion, resolve_device(device))
    with store[key] as volume:
        matrix = engine.compute([volume]).cpu().numpy()
        if output.suffix == ".npy":
            with replacing(output) as temporary, open(temporary, "wb") as handle:
                np.save(handle, matrix, allow_pickle=False)
            return matrix
        kept = prune(matrix, keep=keep) if keep is not None else None
        images = engine.images(volume, kept.tolist()) if kept is not None else None
    title = f"{criterion.method.upper()} of {len(matrix)} slices" + (f", {len(kept)} kept" if kept is not None else "")
    title += f"\n{intensities_in_words([volume.entry], criterion.intensity)}"
    shown, bits = in_own_unit(criterion.method, matrix), criterion.method == "hash"
    save_matrix_picture(output, shown, title, SCALES[criterion.method], kept, images, distances=bits)
    return matrix


def find_volume(store: SliceStore, wanted: str) -> str:
    """The key of the volume called `wanted`: its key, the beginning of one, its name, or its position.

    Raises InputError when there is none, or several.
    """
    entries = store.volumes
    exact = [entry.key for entry in entries if wanted in (entry.key, entry.name)]
    if not exact and wanted.isdigit() and int(wanted) < len(entries):
        exact = [entries[int(wanted)].key]
    begins = not wanted.isdigit() or len(wanted) >= LEAST  # a short number is a position, and no beginning of a key
    found = exact or [entry.key for entry in entries if begins and entry.key.startswith(wanted)]
    if len(found) != 1:
        what = f"{len(found)} volumes" if found else "no volume"
        raise InputError(f"{store.path}: {wanted!r} names {what}. See lim-gpu info {store.path}")
    return found[0]
