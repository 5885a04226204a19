"""What a fine-tuned network says of new images: the probability of each class, calibrated on its validation images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lim_gpu.errors import InputError, UsageError
from lim_gpu.files import csv_text, write_json, write_text
from lim_gpu.inference.images import Images, opened
from lim_gpu.inference.made import Made
from lim_gpu.intensity import Intensity
from lim_gpu.progress import Outcome, Reporter, counted

if TYPE_CHECKING:
    from torch import Tensor

    from lim_gpu.inference.apply import Applied
    from lim_gpu.network import Network


def predict(
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
    """Write the classes of every slice of a store, or of every picture, DICOM or NIfTI slice at or below `data`.

    OUTPUT (.csv): what names the image, the predicted class, p_CLASS of each; its .json says how they were made.
    Probabilities are softmax(logits / T), T from the checkpoint, where fine-tuning fitted it on validation images. An
    image is seen as in the training, or by `intensity`. What cannot be read is left out and listed. What stands and was
    made of the same is left. Raises UsageError for another output without `overwrite`, InputError for a checkpoint
    without a classifier or for what cannot be read at all, NoGpuError for a GPU that is not there.
    """
    if output.suffix != ".csv":
        raise UsageError(f"{output}: give a name that ends in .csv")
    made = Made.of("classes", data, checkpoint, [output, output.with_suffix(".json")], intensity, trust)
    if dry_run:
        return made.plan(overwrite)
    with opened(data, output.parent, reporter) as images:
        if (standing := made.standing(images, overwrite)) is not None:
            return standing
        from lim_gpu.inference.apply import View, applied
        from lim_gpu.network import load_network
        from lim_gpu.weights.backbone import training_device

        network = load_network(checkpoint, training_device(device), trust=trust)
        classes, fitted = _classes(network, checkpoint), _fitted_temperature(network, checkpoint, reporter)
        temperature = 1.0 if fitted is None else fitted

        def probabilities(inputs: Tensor) -> Tensor:
            return (network(inputs).double() / temperature).softmax(dim=1)

        view = View.of(network, intensity, reporter)
        found = applied(images, network, view, probabilities, reporter)
        write_text(output, _csv(images, found, classes), 0o600 if images.private else 0o644)
        record = found.record(made, images, network, view)
        record |= {"temperature": temperature, "calibrated": fitted is not None}
    counts = {name: int((found.values.argmax(axis=1) == place).sum()) for place, name in enumerate(classes)}
    record["predicted"] = counts
    write_json(made.paths[-1], record)  # last: it says that the other is whole
    told = ", ".join(f"{count:,} of class {name}" for name, count in counts.items())
    sure = "not calibrated" if fitted is None else f"calibrated by temperature {fitted:g}"
    line = f"{counted(len(found.rows), 'image')}: {told}; probabilities {sure} -> {output}"
    return Outcome(record, [line], bool(found.failures))


def _classes(network: Network, checkpoint: Path) -> list[str]:
    """The names of its classes, numbers where the checkpoint tells none. InputError where it has no classifier."""
    if network.head is None:
        example = "RUN/runs/0/candidate-0/best.ckpt"
        raise InputError(f"{checkpoint}: has no classifier. Give one of lim-gpu finetune, such as {example}")
    count = network.head.out_features
    names = network.about.get("classes")
    return list(names) if isinstance(names, list) and len(names) == count else [str(place) for place in range(count)]


def _fitted_temperature(network: Network, checkpoint: Path, reporter: Reporter) -> float | None:
    """Of the fine-tuning; None, which is said, where the checkpoint holds none."""
    temperature = network.about.get("temperature")
    if isinstance(temperature, int | float) and temperature > 0:
        return float(temperature)
    reporter.warn(f"{checkpoint}: holds no temperature: probabilities are not calibrated. Run lim-gpu finetune again")
    return None


def _csv(images: Images, found: Applied, classes: list[str]) -> str:
    columns = [*images.columns, "predicted", *(f"p_{name}" for name in classes)]
    pairs = zip(found.rows, found.values, strict=True)
    rows = ([*row, classes[int(values.argmax())], *(f"{value:.9g}" for value in values)] for row, values in pairs)
    return csv_text(columns, rows)
