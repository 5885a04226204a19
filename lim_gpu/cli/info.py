"""What a store, a selection or a checkpoint holds; torch is loaded for checkpoints of other makers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lim_gpu.errors import InputError
from lim_gpu.ingest.defects import of_header
from lim_gpu.progress import Outcome, Reporter, counted, few, hosts_in_words
from lim_gpu.report.shown import in_a_word
from lim_gpu.selection import Selection
from lim_gpu.store.private import sources_folder
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.volume import Volume, VolumeEntry
from lim_gpu.weights.describe import describe_checkpoint
from lim_gpu.weights.file import checkpoint_in
from lim_gpu.weights.load import SUFFIXES


def describe(path: Path, verify: bool, reporter: Reporter, trust: bool = False) -> Outcome:
    """Describe the store folder, selection or checkpoint at `path`.

    verify: read every slice of a store and compare its SHA-256; trust: unpickle a checkpoint that is more than tensors.
    Raises InputError when it is none of them.
    """
    if path.is_dir() and not (path / "store.json").exists() and (checkpoint := checkpoint_in(path)):
        raise InputError(f"{path}: is a run. Give {checkpoint}")
    if path.is_dir():
        return _describe_store(path, verify, reporter)
    if path.suffix in (".csv", ".json"):
        return _describe_selection(path)
    if not path.exists():
        raise InputError(f"{path}: does not exist. Give a store, a selection or a checkpoint")
    if path.suffix in SUFFIXES:
        return Outcome(*describe_checkpoint(path, trust=trust))
    raise InputError(f"{path}: unknown. Give a store, a selection (.csv) or a checkpoint ({', '.join(SUFFIXES)})")


def _describe_store(path: Path, verify: bool, reporter: Reporter) -> Outcome:
    with SliceStore(path) as store:
        geometries = [_geometry(volume) for volume in store]
        values, lines = _store_values(store, geometries), _store_lines(store, geometries)
        failures = _verify(store, reporter) if verify else []
    if verify:
        verified = len(store) - len(failures)
        values |= {"verified": verified, "failures": [list(failure) for failure in failures]}
        lines.append(f"verified {verified} of {counted(len(store), 'volume')}: every slice has its SHA-256")
    return Outcome(values, lines, bool(failures))


def _store_values(store: SliceStore, geometries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kind": "store",
        "path": str(store.path),
        "fingerprint": store.fingerprint,
        "volumes": [_volume_values(*pair) for pair in zip(store.volumes, geometries, strict=True)],
        "slices": sum(entry.shape[0] for entry in store.volumes),
        "skipped": store.skipped,
        "parameters": store.parameters,
        "sources": str(sources) if (sources := sources_folder(store.path)) else None,
    }


def _volume_values(entry: VolumeEntry, geometry: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": entry.key,
        "name": entry.name,
        "patient": entry.patient,
        "shape": list(entry.shape),
        "dtype": entry.dtype,
        "modality": entry.modality,
    } | geometry


def _store_lines(store: SliceStore, geometries: Sequence[dict[str, Any]]) -> list[str]:
    entries = store.volumes
    modalities = Counter(entry.modality or "image" for entry in entries)
    kinds = ", ".join(f"{count} {name}" for name, count in modalities.items())
    slices = counted(sum(entry.shape[0] for entry in entries), "slice")
    patients = counted(len({entry.patient for entry in entries}), "patient")
    told = ["\n".join(_volume_lines(*pair)) for pair in zip(entries, geometries, strict=True)]
    lines = [
        f"store {store.path}: {counted(len(entries), 'volume')} ({kinds}), {slices}, {patients}",
        f"fingerprint {store.fingerprint}",
        *"\n".join(few(told, "volumes. --json lists all")).splitlines(),
    ]
    if sources := sources_folder(store.path):
        lines.append(f"source files of the slices: {sources}/KEY.jsonl, private; lim-gpu apply brings them")
    if store.skipped:
        lines.append("left out at ingest: " + ", ".join(f"{n} {what}" for what, n in store.skipped.items()))
    return lines


def _geometry(volume: Volume) -> dict[str, Any]:
    """What the header says beyond the index: spacing in mm between slices, rows, columns, None where unknown."""
    try:
        with volume:
            header = volume.header
    except InputError as error:
        return {"unreadable": str(error)}
    return {
        "unit": header.unit,
        "spacing": list(header.spacing) if header.spacing else None,
        "orientation": header.orientation,
        "defects": header.defects,
        "found": of_header(header),
    }


def _volume_lines(entry: VolumeEntry, geometry: dict[str, Any]) -> list[str]:
    n, height, width = entry.shape
    line = f"{entry.key}  {n:5d} x {height} x {width}  {entry.dtype:6s} {entry.modality or 'image':5s}"
    if "unreadable" in geometry:
        return [f"{line} {entry.name}", f"    {geometry['unreadable']}"]
    spacing = geometry["spacing"]
    words = [geometry["unit"], " x ".join(f"{mm:.3g}" for mm in spacing) + " mm" if spacing else "no spacing"]
    words += [word for word in (geometry["orientation"], entry.name) if word]
    return [f"{line} {'  '.join(words)}", *(f"    {text}" for text in geometry["found"])]


def _verify(store: SliceStore, reporter: Reporter) -> list[tuple[str, str]]:
    failures = []
    with reporter.track("verify", len(store), "volumes") as advance:
        for volume in store:
            try:
                with volume:
                    volume.verify()
            except InputError as error:
                reporter.error(error)
                failures.append((volume.key, str(error)))
            advance(1)
    return failures


def _unit_line(unit: dict[str, Any]) -> str:
    at = unit["resolved_threshold"]
    removed = f"  last removed at {at:.6g}" if at is not None else ""
    return f"{unit['unit']}  kept {unit['kept']:5d} of {unit['slices']:5d}{removed}"


def _describe_selection(path: Path) -> Outcome:
    selection = Selection.load(path)
    record = selection.record
    counts = record["counts"]
    parameters = ", ".join(
        f"{k} {in_a_word(v)}" for k, v in record["parameters"].items() if k != "method" and v is not None
    )
    lines = [
        f"selection {path}: {record['method']} ({parameters})",
        f"{counts['kept']:,} of {counted(counts['slices'], 'slice')} kept in {counted(counts['volumes'], 'volume')}, "
        f"{record['seconds']} s on {record['device']}",
        f"store {record['store']['path']} {record['store']['fingerprint']}",
    ]
    if parent := record.get("parent"):
        lines.append(f"edited from {parent['path']}: {parent['method']}")
    if "hosts" in record:
        lines.append(f"hosts: {hosts_in_words(record['hosts'])}")
    lines += few([_unit_line(unit) for unit in record["units"]], "units. --json lists all")
    lines += few(record.get("edits", []), "edits. --json lists all")
    lines += [f"left out: {failure['cause']}" for failure in record["failures"]]
    return Outcome({"kind": "selection", "path": str(path)} | record, lines)
