"""What a selection remembers of how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from lim_gpu.files import fingerprint
from lim_gpu.reduction.parts import UnitResult
from lim_gpu.reduction.request import ALGORITHM, SIMILARITIES, Request
from lim_gpu.selection import FORMAT, VERSION
from lim_gpu.store.slices import SliceStore
from lim_gpu.store.units import intensities


def run_fingerprint(store: SliceStore, request: Request) -> str:
    """Of the store, the parameters and the algorithm: equal for runs whose selections are equal."""
    return fingerprint([ALGORITHM, store.fingerprint, request.parameters()])


def record_of(
    store: SliceStore,
    request: Request,
    results: Sequence[UnitResult],
    failures: list[dict[str, str]],
    seconds: float,
) -> dict[str, Any]:
    """The JSON of a selection, without its CSV's checksum and the path of the store as seen from there."""
    record = {
        "format": FORMAT,
        "version": VERSION,
        "method": request.method,
        "parameters": request.parameters(),
        "fingerprint": run_fingerprint(store, request),
        "store": {"path": str(store.path), "fingerprint": store.fingerprint},
        "counts": {
            "volumes": sum(len(result.volumes) for result in results),
            "slices": sum(len(result.z) for result in results),
            "kept": sum(len(result.kept) for result in results),
            "failed_volumes": len(failures),
        },
        **({"network": network} if (network := request.criterion.network()) else {}),
        "borderline": sum(result.borderline for result in results),
        "resolved_threshold": _loosest([result.resolved_threshold for result in results], request.method),
        "units": [_of_unit(result) for result in results],
        "failures": failures,
        "device": ", ".join(sorted({result.device for result in results})),
        "versions": _versions(request.method in SIMILARITIES),
        "seconds": round(seconds, 3),
    }
    compares = request.method in SIMILARITIES
    seen = intensities(store.volumes, request.criterion.intensity) if compares else []
    return record | ({"intensities": seen} if seen else {})


def _of_unit(result: UnitResult) -> dict[str, Any]:
    return {
        "unit": result.unit,
        "volumes": [key for key, _n in result.volumes],
        "slices": len(result.z),
        "kept": len(result.kept),
        "resolved_threshold": result.resolved_threshold,
        "borderline": result.borderline,
        "device": result.device,
        "seconds": result.seconds,
    }


def _loosest(resolved: Sequence[float | None], method: str) -> float | None:
    """The threshold beyond which no unit went: the most bits, or the lowest similarity."""
    values = [value for value in resolved if value is not None]
    return (max(values) if method == "hash" else min(values)) if values else None


def _versions(with_torch: bool) -> dict[str, str]:
    names = ["lim-gpu", "numpy", "h5py"] + (["torch", "torchvision", "numba", "pillow"] if with_torch else [])
    return {name: version(name) for name in names}
