"""The demonstration: procedural CT volumes, ingested, reduced with every method, and one matrix drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lim_gpu.files import replacing
from lim_gpu.ingest import ingest
from lim_gpu.intensity import Intensity
from lim_gpu.phantom import write_data_set
from lim_gpu.progress import Reporter
from lim_gpu.reduction import reduce
from lim_gpu.selection import Selection
from lim_gpu.store import SliceStore
from lim_gpu.stored_matrix import Criterion
from lim_gpu.verbs import write_matrix

KEEP = 0.1
RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("all", {}),
    ("every-n", {"keep": KEEP}),
    ("random", {"keep": KEEP}),
    ("ssim", {"keep": KEEP}),
    ("mi", {"keep": KEEP}),
    ("deepnet", {"keep": KEEP}),
    ("hash", {"keep": KEEP}),
    ("hash", {"threshold": 6}),
    ("hash", {"threshold": 6, "rule": "leader"}),
)
WEIGHTS = "resnet50-random-seed-{seed}-not-imagenet.pth"


@dataclass(frozen=True)
class DemoResult:
    """`values` for a program, `lines` for a person."""

    values: dict[str, Any]
    lines: list[str]


def run_demo(folder: Path, seed: int, device: str, reporter: Reporter) -> DemoResult:
    """Make, ingest and reduce the data set under `folder`; what stands there already is not made again."""
    write_data_set(folder / "sources", seed)
    weights = _seeded_weights(folder / WEIGHTS.format(seed=seed), seed)
    ingest([folder / "sources"], folder / "slices", keep_identifiers=True, overwrite=True, reporter=reporter)
    rows = []
    with SliceStore(folder / "slices") as store:
        for method, options in RUNS:
            extra: dict[str, Any] = {"weights": weights} if method == "deepnet" else {}
            name = "-".join([method, *(str(value) for key, value in options.items() if key != "keep")])
            output = folder / "selections" / f"{name}.csv"
            selection = reduce(
                store,
                method,
                **options,
                **extra,
                seed=seed,
                device=device,
                output=output,
                overwrite=True,
                reporter=reporter,
            )
            rows.append((method, options, selection, output))
        picture = folder / "matrix.png"
        chest = max(store.volumes, key=lambda entry: entry.shape[0]).key
        write_matrix(store, chest, Criterion("ssim", Intensity.parse()), device, KEEP, picture)
    values = {
        "picture": str(picture),
        "store": str(folder / "slices"),
        "selections": {str(output): selection.record["counts"] for _m, _o, selection, output in rows},
    }
    return DemoResult(
        values,
        [
            *_table(rows),
            "",
            f"store       {folder / 'slices'}",
            f"selections  {folder / 'selections'}",
            f"picture     {picture}",
        ],
    )


def _table(rows: list[tuple[str, dict[str, Any], Selection, Path]]) -> list[str]:
    """A line a run: the kept slices of each volume, in store order, and of all."""
    names = [volume.key[:8] for volume in rows[0][2].volumes]
    lines = [
        f"{'method':10s}{'asked':26s}" + "".join(f"{name:>10s}" for name in names) + f"{'all':>10s}{'seconds':>9s}"
    ]
    for method, options, selection, _output in rows:
        asked = " ".join(f"{key} {value}" for key, value in options.items())
        counts = [f"{volume.kept.sum()}/{len(volume.kept)}" for volume in selection.volumes]
        total = f"{selection.record['counts']['kept']}/{selection.record['counts']['slices']}"
        lines.append(
            f"{method:10s}{asked:26s}"
            + "".join(f"{c:>10s}" for c in [*counts, total])
            + f"{selection.record['seconds']:9.2f}"
        )
    lines.append("deepnet ran on seeded random weights, not ImageNet's: its choice shows that it works, not how well")
    return lines


def _seeded_weights(path: Path, seed: int) -> Path:
    """A ResNet50 of random weights, always the same, so that the demo needs no download."""
    if path.exists():
        return path
    import torch
    from torchvision.models import resnet50

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = resnet50(weights=None)
    with replacing(path) as temporary:
        torch.save(model.state_dict(), temporary)
    return path
