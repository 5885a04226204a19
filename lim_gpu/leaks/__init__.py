"""Near-duplicates within and between data sets: what makes a test score too good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lim_gpu.errors import UsageError
from lim_gpu.files import csv_text, fingerprint, write_json, write_text
from lim_gpu.labelled.listed import read_list
from lim_gpu.leaks.clusters import clusters_csv, find_clusters, keep_list
from lim_gpu.leaks.images import Images, Item, identity, larger_pictures, read_images
from lim_gpu.leaks.rejected import check_rejected, names_of, read_rejected
from lim_gpu.leaks.search import Pair, Rule, find_pairs, flat_images, leaking, relation, split_patients
from lim_gpu.outputs import check_file, standing_record
from lim_gpu.progress import Outcome, Reporter, counted
from lim_gpu.report.page import made_with, write_page
from lim_gpu.strip import image_uri

COLUMNS = "a b collection_a collection_b split_a split_b label_a label_b same_patient relation bits value evidence"
SHOWN = 200  # pairs in the gallery
SIDE = 256  # pixels of its pictures
ORDER = ("across collections", "across splits", "within")


class _Outputs(NamedTuple):
    """Where results go, None where they are not asked for."""

    pairs: Path
    groups: Path | None
    keep: Path | None
    split: Path | None

    @property
    def record(self) -> Path:
        """What was asked and found, as JSON."""
        return self.pairs.with_suffix(".json")

    @property
    def page(self) -> Path:
        """The gallery."""
        return self.pairs.with_suffix(".html")

    @property
    def paths(self) -> list[Path]:
        """All that is written."""
        lists = (self.groups, self.keep, self.split)
        return [self.pairs, self.record, self.page, *(path for path in lists if path is not None)]


class _Found(NamedTuple):
    """Near-duplicates and what follows from them; images by their places.

    clusters  groups of near-duplicates, in each first the one that stays
    shared    splits by patient, of patients in several
    leaking   what --write-split leaves out
    """

    images: Images
    pairs: list[Pair]
    clusters: list[list[int]]
    shared: dict[str, list[str]]
    leaking: set[int]


def leaks(
    sources: Sequence[Path],
    output: Path,
    rule: Rule,
    *,
    across: bool = False,
    patients: str = "patient",
    write_split: Path | None = None,
    reject: Path | None = None,
    groups: Path | None = None,
    keep: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    reporter: Reporter,
) -> Outcome:
    """Search `sources` (stores, folders of pictures, lists) and write OUTPUT (.csv), and .json and .html beside it.

    across       leave out pairs within one split of one source
    patients     the column of a list that names the patient
    write_split  a new list without the images that leak from one split into another
    reject       a CSV with columns a and b, as OUTPUT has them: pairs that a person found to be none
    groups       a table of groups instead of pairs (.csv), see `lim_gpu.leaks.clusters`
    keep         a list of the images to keep: all but those for which another of their group stands
    """
    sources = _each_once(sources, reporter)
    outputs = _Outputs(output, groups, keep, write_split)
    _check(outputs, sources)
    paths = outputs.paths
    rejected = read_rejected(reject) if reject else set()
    options = [asdict(rule), across, patients, sorted(map(sorted, rejected)), list(map(str, paths))]
    asked = fingerprint([made_with("leaks.html"), options, [[str(one), identity(one, patients)] for one in sources]])
    if (standing := standing_record(outputs.record, asked, paths, overwrite)) is not None:
        return _outcome(standing | {"unchanged": True}, outputs)
    if dry_run:
        line = f"plan: {', '.join(map(str, sources))} -> {', '.join(map(str, paths))}"
        return Outcome({"dry_run": True, "outputs": [str(path) for path in paths]}, [line])
    images = Images.joined([read_images(source, patients, reporter) for source in sources])
    if reject:
        check_rejected(reject, rejected, images, rule, across)
    with reporter.wait(f"compare {counted(len(images.items), 'image')}"):
        pairs = [pair for pair in find_pairs(images, rule, across) if names_of(pair, images.items) not in rejected]
    found = _consequences(images, pairs)
    values = _values(sources, rule, across, found, {"fingerprint": asked, "rejected": len(rejected)})
    _write_lists(outputs, sources[0], found)
    _write_gallery(outputs.page, images, pairs, rule, values, reporter)
    write_text(outputs.pairs, _csv(images.items, pairs))
    write_json(outputs.record, values)  # last: it says that the others are whole
    return _outcome(values, outputs)


def _each_once(sources: Sequence[Path], reporter: Reporter) -> list[Path]:
    """Without a source that stands there twice: each of its images would be a duplicate."""
    found: dict[Path, Path] = {}
    for source in sources:
        if found.setdefault(source.resolve(), source) is not source:
            reporter.warn(f"{source}: given twice, read once")
    return list(found.values())


def _outcome(values: dict[str, Any], outputs: _Outputs) -> Outcome:
    found = values["pairs"] or values["patients_in_several_splits"] or values["failures"]
    where = f"{outputs.pairs}, {outputs.record.name}, {outputs.page.name}"
    told = [*_lines(values), *_list_lines(values, outputs)]
    lines = [f"unchanged: {where}", *told] if values.get("unchanged") else [*told, f"-> {where}"]
    return Outcome(values, lines, bool(found))


def _consequences(images: Images, pairs: list[Pair]) -> _Found:
    shared = split_patients(images.items)
    clusters = find_clusters(images.items, pairs)
    return _Found(images, pairs, clusters, shared, leaking(images.items, pairs, shared))


def _values(sources: Sequence[Path], rule: Rule, across: bool, found: _Found, asked: dict[str, Any]) -> dict[str, Any]:
    """What the JSON holds, in the order of docs/files.md."""
    images, pairs = found.images, found.pairs
    relations = Counter(relation(images.items[p.a], images.items[p.b]) for p in pairs)
    return {
        "format": "lim-gpu-leaks",
        "version": 1,
        "sources": [str(source) for source in sources],
        "images": len(images.items),
        "flat_images": flat_images(images),
        "rule": asdict(rule) | {"across": across},
        "pairs": len(pairs),
        "relations": {name: relations[name] for name in ORDER if relations[name]},
        "different_labels": _different_labels(images.items, pairs),
        "failures": [list(failure) for failure in images.failures],
        "versions": {"lim-gpu": version("lim-gpu")},
        **asked,
        "clusters": [len(cluster) for cluster in found.clusters],
        "patients_in_several_splits": found.shared,
        "leaking_images": len(found.leaking),
        "clusters_of_several_labels": _of_several_labels(images.items, found.clusters),
    }


def _check(outputs: _Outputs, sources: Sequence[Path]) -> None:
    if outputs.pairs.suffix != ".csv":
        raise UsageError(f"{outputs.pairs}: give a name that ends in .csv")
    if outputs.split is not None and outputs.split.resolve() == _list_of(sources[0]).resolve():
        raise UsageError(f"{outputs.split}: is the list that is read. Choose another --write-split")
    for path in outputs.paths:
        check_file(path)
    if len({path.resolve() for path in outputs.paths}) < len(outputs.paths):
        raise UsageError("two outputs have one name. Give each its own")


def _list_of(source: Path) -> Path:
    path = source / "split.csv" if source.is_dir() else source
    if path.suffix != ".csv" or not path.is_file() or "split" not in read_list(path, ["file"])[0]:
        raise UsageError(f"{source}: has no split.csv with a column split. Add it, or leave --write-split out")
    return path


def _write_lists(outputs: _Outputs, source: Path, found: _Found) -> None:
    items = found.images.items
    if outputs.split is not None:
        _write_split(_list_of(source), outputs.split, {items[i].name for i in found.leaking})
    if outputs.groups is not None:
        write_text(outputs.groups, clusters_csv(items, found.clusters))
    if outputs.keep is not None:
        write_text(outputs.keep, keep_list(items, found.clusters))


def _write_split(source: Path, target: Path, leave_out: set[str]) -> None:
    rows = [row for row in read_list(source, ["file"]) if row["file"] not in leave_out]
    write_text(target, csv_text(rows[0], (row.values() for row in rows)))


def _csv(items: Sequence[Item], pairs: Sequence[Pair]) -> str:
    rows = []
    for pair in pairs:
        a, b = items[pair.a], items[pair.b]
        same = str(int(a.patient == b.patient)) if a.patient and b.patient else ""
        texts = (a.name, b.name, a.collection, b.collection, a.split, b.split, a.label, b.label, same, relation(a, b))
        rows.append([*texts, pair.bits, pair.value, pair.evidence])
    return csv_text(COLUMNS.split(), rows)


def _different_labels(items: Sequence[Item], pairs: Sequence[Pair]) -> int:
    return sum(_differ(items[pair.a], items[pair.b]) for pair in pairs)


def _differ(a: Item, b: Item) -> bool:
    """Whether both have a label, and not the same."""
    return bool(a.label and b.label and a.label != b.label)


def _lines(values: dict[str, Any]) -> list[str]:
    relations = ", ".join(f"{count:,} {name}" for name, count in values["relations"].items())
    found = f"{counted(values['pairs'], 'near-duplicate pair')} among {counted(values['images'], 'image')}"
    lines = [found + (relations and f": {relations}")]
    if values["rejected"]:
        lines.append(f"left out as no duplicates: {counted(values['rejected'], 'pair')}")
    if values["different_labels"]:
        lines.append(f"with different labels: {counted(values['different_labels'], 'pair')}")
    if shared := values["patients_in_several_splits"]:
        lines.append(f"in several splits: {counted(len(shared), 'patient')}")
    if values["flat_images"]:
        lines.append(f"blank and not compared: {counted(values['flat_images'], 'image')}")
    return lines


def _of_several_labels(items: Sequence[Item], clusters: Sequence[Sequence[int]]) -> int:
    return sum(len({items[i].label for i in cluster if items[i].label}) > 1 for cluster in clusters)


def _list_lines(values: dict[str, Any], outputs: _Outputs) -> list[str]:
    sizes = values["clusters"]
    lines = []
    if outputs.split is not None:
        lines.append(f"left out: {counted(values['leaking_images'], 'image')} -> {outputs.split}")
    if outputs.groups is not None:
        lines.append(f"groups: {len(sizes):,}, the largest of {max(sizes, default=0)} images -> {outputs.groups}")
    if (outputs.groups or outputs.keep) and (several := values["clusters_of_several_labels"]):
        chained = "a chain of pairs may join what differs. Give a lower --bits, or --reject pairs"
        lines.append(f"with several labels: {counted(several, 'group')}; {chained}")
    if outputs.keep is not None:
        left = values["images"] - sum(sizes) + len(sizes)
        lines.append(f"to keep: {left:,} of {values['images']:,} images -> {outputs.keep}")
    return lines


def _write_gallery(
    path: Path, images: Images, pairs: Sequence[Pair], rule: Rule, values: dict[str, Any], reporter: Reporter
) -> None:
    items = images.items

    def interest(pair: Pair) -> tuple[int, float, int]:
        return ORDER.index(relation(items[pair.a], items[pair.b])), -pair.value, pair.bits

    shown = sorted(pairs, key=interest)[:SHOWN]
    places = sorted({i for pair in shown for i in (pair.a, pair.b)})
    pictures = larger_pictures(images, places, SIDE, reporter)
    name = rule.confirm.upper()
    text = (
        f"A pair counts at {rule.bits} bits or less between the hashes, or at {rule.candidates} or less "
        f"and {name} of at least {rule.threshold} on copies of 64 x 64 pixels."
    )
    write_page(
        path,
        "leaks.html",
        pairs=len(pairs),
        images=len(items),
        collections=values["sources"],
        rule=text,
        relations=list(values["relations"].items()),
        different_labels=values["different_labels"],
        patients=len(values["patients_in_several_splits"]),
        cards=[_card(pair, items, pictures) for pair in shown],
        confirm=name,
        version=values["versions"]["lim-gpu"],
    )


def _card(pair: Pair, items: Sequence[Item], pictures: Mapping[int, NDArray[np.uint8]]) -> dict[str, Any]:
    """What the gallery shows of a pair; `pictures` of both by their places among `items`."""
    a, b = items[pair.a], items[pair.b]
    return asdict(pair) | {
        "a": a.name,
        "b": b.name,
        "a_more": " ".join(filter(None, (a.split, a.label))),
        "b_more": " ".join(filter(None, (b.split, b.label))),
        "a_image": image_uri(pictures[pair.a]),
        "b_image": image_uri(pictures[pair.b]),
        "labels_differ": _differ(a, b),
    }
