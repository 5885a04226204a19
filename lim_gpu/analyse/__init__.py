"""The paper's three analyses (Wolf et al. 2024, section 3.4) and probes, each a picture and a JSON beside it.

`pretext.py` is Tariq et al.'s, of one checkpoint and a store.
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lim_gpu.cuda.driver import check_gpu
from lim_gpu.errors import UsageError
from lim_gpu.files import fingerprint, replacing, write_json
from lim_gpu.labelled.table import read_table
from lim_gpu.outputs import check_file, standing_record
from lim_gpu.progress import Outcome, Reporter
from lim_gpu.spread import spread_evenly
from lim_gpu.weights.file import CheckpointFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lim_gpu.analyse.networks import Probe
    from lim_gpu.network import Network

Result = tuple[Any, dict[str, Any], list[str]]  # figure, values for a program, lines for a person


def analyse(
    kind: str,
    first: Path,
    second: Path,
    data: Path,
    output: Path | None = None,
    *,
    part: str = "test",
    images: int = 512,
    size: int = 224,
    batch_size: int = 64,
    layers: str = "blocks",
    threshold: float = 0.5,
    shown: int = 6,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    reporter: Reporter,
) -> Outcome:
    """Compare two checkpoints on the images of a labelled data set; write OUTPUT (.png) and OUTPUT's .json.

    kind       "cka": how alike their layers are; "tsne": maps of their outputs; "gradcam": where they look;
               "probe": how well simple classifiers tell classes from their features
    output     None: KIND.png
    images     at most so many of `part` ("train", "val", "test", "all"), spread evenly; a probe learns from as many of
               "train", of "all" by cross-validation over patients
    layers     of cka: "blocks" or "convolutions"
    threshold  of gradcam: where a heat map counts; shown: images in the picture
    dry_run    check what needs no torch, and name the output

    What stands at `output` and was made of the same is left. Raises UsageError for another existing output without
    `overwrite`, InputError for what cannot be read.
    """
    output = output or Path(f"{kind}.png")
    if output.suffix != ".png":
        raise UsageError(f"{output}: give a name that ends in .png")
    if kind == "probe" and part == "train":
        raise UsageError("a probe learns from train. Give --part val, test or all")
    check_gpu(device)
    check_file(output)
    options = [part, images, size, layers, threshold, shown, seed, version("lim-gpu")]
    with ExitStack() as opened:
        files = [opened.enter_context(CheckpointFile(path, trust=trust)) for path in (first, second)]
        asked = fingerprint([kind, [file.sha256 for file in files], read_table(data).fingerprint(), options])
        beside = output.with_suffix(".json")
        if (standing := standing_record(beside, asked, [output, beside], overwrite)) is not None:
            return Outcome(standing | {"unchanged": True}, [f"unchanged: {output}"])
        if dry_run:
            line = f"plan: {kind} of {first} and {second} on {data} -> {output}"
            return Outcome({"dry_run": True, "output": str(output)}, [line])
        from lim_gpu.analyse.networks import load_probe
        from lim_gpu.network import network_of
        from lim_gpu.weights.backbone import training_device

        place = training_device(device)
        networks = [network_of(file, place) for file in files]
    probe = load_probe(data, part, images, size, place, reporter)
    checkpoints = [
        {"path": str(path), "sha256": network.sha256} for path, network in zip((first, second), networks, strict=True)
    ]
    about: dict[str, Any] = {"analysis": kind, "checkpoints": checkpoints, "data": str(data), "part": part}
    about |= {"images": len(probe.labels), "size": size, "fingerprint": asked}
    titles = (_title(first), _title(second))
    learns = kind == "probe" and part != "all"
    learnt = load_probe(data, "train", images, size, place, reporter) if learns else None
    with reporter.wait(f"analyse {kind}"):
        if kind == "cka":
            result = _cka(networks, probe, batch_size, layers)
        elif kind == "probe":
            result = _probe(networks, learnt, probe, batch_size, seed, titles)
        elif kind == "tsne":
            result = _tsne(networks, probe, batch_size, seed, titles)
        else:
            result = _gradcam(networks, probe, batch_size, threshold, shown)
    return write_result(output, about, result)


def write_result(output: Path, about: dict[str, Any], result: Result) -> Outcome:
    """Write the picture, and what it shows as numbers beside it."""
    figure, values, lines = result
    beside = output.with_suffix(".json")
    with replacing(output) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    write_json(beside, about | values)
    return Outcome(about | values, [*lines, f"-> {output}, {beside.name}"])


def _title(checkpoint: Path) -> str:
    """Its folder and its name: most checkpoints are called last."""
    return f"{checkpoint.parent.name}/{checkpoint.stem}"


def _cka(networks: list[Network], probe: Probe, batch_size: int, layers: str) -> Result:
    from matplotlib.figure import Figure

    from lim_gpu.analyse.cka import LEAST, Cka, grams, layer_names

    names = [layer_names(network.name, network.encoder, layers) for network in networks]
    collected = Cka()
    for x, y in zip(*(probe.inputs(network, batch_size) for network in networks), strict=True):
        if len(x) >= LEAST:  # a last batch may be smaller
            pair = zip(networks, (x, y), names, strict=True)
            collected.add(*(grams(network.encoder, images, own) for network, images, own in pair))
    value = collected.value()
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(value, cmap="magma", vmin=0, vmax=1, origin="lower")
    figure.colorbar(drawn, ax=axes, label="linear CKA")
    axes.set(xlabel="layer of the second", ylabel="layer of the first", title="0: the first layer")
    matched = np.nanmean(np.diag(value)) if value.shape[0] == value.shape[1] else np.nan
    rows = [[None if np.isnan(cell) else round(float(cell), 6) for cell in row] for row in value]
    values = {"layers": names, "cka": rows, "mean_diagonal": None if np.isnan(matched) else round(float(matched), 6)}
    line = f"CKA of {len(names[0])} x {len(names[1])} layers on {len(probe.labels)} images"
    return figure, values, [line + ("" if np.isnan(matched) else f", mean of equal layers {matched:.3f}")]


def _tsne(networks: list[Network], probe: Probe, batch_size: int, seed: int, titles: tuple[str, str]) -> Result:
    from matplotlib.figure import Figure

    from lim_gpu.analyse.networks import outputs
    from lim_gpu.analyse.tsne import correlation, embed, silhouette

    figure = Figure(figsize=(10.5, 5), layout="constrained")
    found, lines = [], []
    for axes, network, title in zip(figure.subplots(1, 2), networks, titles, strict=True):
        points = embed(outputs(network, probe, batch_size), seed)
        apart = silhouette(points, probe.labels)
        related = correlation(points, probe.labels)
        what = "classifier outputs" if network.head is not None else "features: no classifier yet"
        for label, name in enumerate(probe.classes):
            own = points[probe.labels == label]
            axes.scatter(own[:, 0], own[:, 1], s=14, alpha=0.75, label=name)
        axes.set(title=f"{title} ({what})", xticks=[], yticks=[])
        axes.set_xlabel(f"correlation {related:.3f}" + (f", silhouette {apart:.3f}" if apart is not None else ""))
        found.append({"correlation": related, "silhouette": apart, "of": what, "points": points.round(4).tolist()})
        lines.append(f"{title}: correlation {related:.3f}, silhouette {'none' if apart is None else f'{apart:.3f}'}")
    axes.legend(frameon=False, fontsize=9)
    return figure, {"classes": list(probe.classes), "labels": probe.labels.tolist(), "maps": found}, lines


def _probe(
    networks: list[Network], learnt: Probe | None, probe: Probe, batch_size: int, seed: int, titles: tuple[str, str]
) -> Result:
    """learnt: the images to learn from; None: `probe` itself, in folds."""
    from lim_gpu.analyse.networks import features
    from lim_gpu.analyse.probe import PROBES, cross_validated, probabilities, scores

    found, lines, count = [], [], len(probe.classes)
    for network, title in zip(networks, titles, strict=True):
        own = features(network, probe, batch_size)
        train = features(network, learnt, batch_size) if learnt else None
        each = {}
        for name in PROBES:
            if learnt is None or train is None:
                said = cross_validated(name, own, probe.labels, probe.groups, count, seed)
            else:
                said = probabilities(name, train, learnt.labels, own, count)
            each[name] = scores(said, probe.labels)
        found.append(each)
        told = (f"{name} accuracy {s['accuracy']:.3f}" + _auc_in_words(s["auc"]) for name, s in each.items())
        lines.append(f"{title}: {', '.join(told)}")
    values = {"classes": list(probe.classes), "learnt_from": len(learnt.labels) if learnt else None, "probes": found}
    return _bars(found, titles), values, lines


def _auc_in_words(auc: float | None) -> str:
    return "" if auc is None else f" AUC {auc:.3f}"


def _bars(found: list[dict[str, Any]], titles: tuple[str, str]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    names = [(probe, score) for probe in found[0] for score in found[0][probe]]
    for place, (each, title) in enumerate(zip(found, titles, strict=True)):
        heights = [each[probe][score] or 0 for probe, score in names]
        bars = axes.bar(np.arange(len(names)) + 0.4 * place, heights, 0.38, label=title)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_xticks(np.arange(len(names)) + 0.2, [f"{probe}, {score}" for probe, score in names], fontsize=8)
    axes.set(ylim=(0, 1.1))
    axes.legend(frameon=False, fontsize=8)
    return figure


def _gradcam(networks: list[Network], probe: Probe, batch_size: int, threshold: float, shown: int) -> Result:
    from matplotlib.figure import Figure

    from lim_gpu.analyse.gradcam import as_grey, heat_maps, intersection_over_union, overlay

    maps: list[NDArray[np.float32]] = [heat_maps(network, probe, batch_size) for network in networks]
    overlap = intersection_over_union(maps[0], maps[1], threshold)
    grey = as_grey(probe.pixels)
    places = spread_evenly(len(grey), shown)
    figure = Figure(figsize=(2.3 * len(places), 7.2), layout="constrained")
    rows = figure.subplots(3, len(places), squeeze=False)
    for column, i in enumerate(places):
        pictures = (grey[i], overlay(grey[i], maps[0][i]), overlay(grey[i], maps[1][i]))
        for axes, picture in zip(rows[:, column], pictures, strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
        rows[0, column].set_title(probe.classes[probe.labels[i]], fontsize=9)
        rows[2, column].set_xlabel(f"IoU {overlap[i]:.2f}", fontsize=9)
    for axes, name in zip(rows[:, 0], ("image", "first", "second"), strict=True):
        axes.set_ylabel(name)
    mean = float(np.nanmean(overlap)) if np.isfinite(overlap).any() else None
    each = [None if np.isnan(value) else round(float(value), 6) for value in overlap]
    values = {"threshold": threshold, "mean_iou": mean, "iou": dict(zip(probe.files, each, strict=True))}
    text = "no map reaches the threshold" if mean is None else f"mean IoU {mean:.3f}"
    return figure, values, [f"{text} of {len(grey)} pairs of heat maps at threshold {threshold:g}"]
