"""The features that the backbone of a checkpoint gives for a store or for images, with what names each row."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import csv_text, replacing, write_json, write_text
from lim_gpu.inference.images import Images, opened
from lim_gpu.inference.made import Made
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Outcome, Reporter, counted

if TYPE_CHECKING:
    from lim_gpu.inference.apply import Applied


def embed(
    data: Path,
    checkpoint: Path,
    output: Path,
    *,
    intensity: Intensity | None = None,
    device: str = "auto",
    trust: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    reporter: Reporter,
) -> Outcome:
    """Write the pooled features of every slice of a store, or of every picture, DICOM or NIfTI slice below a folder.

    OUTPUT.npy is float32 (n, d), with OUTPUT.csv beside it that names the rows; OUTPUT.parquet holds both. OUTPUT.json
    says how they were made. A slice is seen as in the training of the network, or by `intensity`. What cannot be read
    is left out and listed. What stands and was made of the same is left. Raises UsageError for another output without
    `overwrite`, InputError for what cannot be read at all, NoGpuError for a GPU that is not there.
    """
    paths = _outputs(output)
    made = Made.of("features", data, checkpoint, paths, intensity, trust)
    if dry_run:
        return made.plan(overwrite)
    with opened(data, output.parent, reporter) as images:
        if (standing := made.standing(images, overwrite)) is not None:
            return standing
        from lim_gpu.inference.apply import View, applied
        from lim_gpu.network import load_network
        from lim_gpu.weights.backbone import training_device

        network = load_network(checkpoint, training_device(device), trust=trust)
        view = View.of(network, intensity, reporter)
        found = applied(images, network, view, network.encoder, reporter)
        record = found.record(made, images, network, view) | {"features": found.values.shape[1]}
        _write(paths, images, found)
    write_json(paths[-1], record)  # last: it says that the others are whole
    line = f"{counted(len(found.rows), 'image')}, {found.values.shape[1]} features each -> {', '.join(map(str, paths))}"
    return Outcome(record, [line], bool(found.failures))


def _outputs(output: Path) -> list[Path]:
    """What is written, the record last. Raises UsageError for another ending, InputError for a library not there."""
    beside = output.with_suffix(".json")
    if output.suffix == ".npy":
        return [output, output.with_suffix(".csv"), beside]
    if output.suffix != ".parquet":
        raise UsageError(f"{output}: give a name that ends in .npy or .parquet")
    if find_spec("pyarrow") is None:
        raise InputError(f"{output}: needs pyarrow. Run pip install 'lim-gpu[parquet]', or give a .npy")
    return [output, beside]


def _write(paths: list[Path], images: Images, found: Applied) -> None:
    mode = 0o600 if images.private else 0o644
    if paths[0].suffix == ".parquet":
        _write_parquet(paths[0], mode, images, found)
        return
    import numpy as np

    with replacing(paths[0]) as temporary, open(temporary, "wb") as handle:
        np.save(handle, found.values, allow_pickle=False)
    write_text(paths[1], csv_text(images.columns, found.rows), mode)


def _write_parquet(path: Path, mode: int, images: Images, found: Applied) -> None:
    """A column for each name of an image, and `features`, a list of float32 of fixed length."""
    import pyarrow
    from pyarrow.parquet import write_table

    columns = {name: list(values) for name, values in zip(images.columns, zip(*found.rows, strict=True), strict=True)}
    flat = pyarrow.array(found.values.ravel())
    columns["features"] = pyarrow.FixedSizeListArray.from_arrays(flat, found.values.shape[1])
    with replacing(path, mode) as temporary:
        write_table(pyarrow.table(columns), temporary)
