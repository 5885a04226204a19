"""A selection as a report shows it: with the results of its units, and its names in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lim_gpu.intensity import Intensity
from lim_gpu.reduction.parts import UnitResult, load_part
from lim_gpu.reduction.request import SCALES, in_own_unit
from lim_gpu.reduction.unit import in_words
from lim_gpu.report.figures import SERIES
from lim_gpu.selection import Selection, VolumeSelection, selection_paths


def in_a_word(value: Any) -> Any:
    """A parameter as one word; the intensity as its mapping, its limits, and "body" where that alone counts."""
    if not isinstance(value, dict):
        return value
    return " ".join(name if item is True else str(item) for name, item in value.items())


@dataclass(frozen=True)
class Shown:
    """A selection with the results of its units; `parts` is empty where NAME.parts is gone.

    title   how it was asked for, in a few words; with the name of the file where two would be the same
    colour  of everything that is drawn of it
    """

    path: Path
    selection: Selection
    parts: dict[str, UnitResult]  # by unit
    title: str
    colour: str

    @property
    def unit(self) -> str:
        """What was reduced together: a volume, a patient, or the data set."""
        return in_words(str(self.selection.record["parameters"]["scope"]))

    @property
    def compared_by(self) -> str:
        """The method that measured its similarities: of a selection corrected by hand, that of the first."""
        record = self.selection.record
        return str(record.get("made_by", record)["method"])

    @property
    def rule(self) -> str:
        """The rule that made it; "" of methods that compare nothing, and of a selection corrected by hand."""
        return str(self.selection.record["parameters"].get("rule", ""))

    @property
    def scale(self) -> str:
        """What its similarities are called."""
        return SCALES.get(self.compared_by, self.compared_by)

    @property
    def intensity(self) -> Intensity:
        """How it saw the slices."""
        return Intensity.described(self.selection.record["parameters"].get("intensity"))

    def in_own_unit(self, similarities: Any) -> Any:
        """Similarities, a number or an array, in the unit of the method's threshold: bits for HASH."""
        return in_own_unit(self.compared_by, similarities)

    def told(self, similarity: float) -> str:
        """A similarity with its unit."""
        value = self.in_own_unit(similarity)
        return f"{value:.0f} {self.scale}" if self.compared_by == "hash" else f"{self.scale} {value:.4f}"

    def of(self, key: str) -> VolumeSelection:
        """What it says of a volume."""
        return next(volume for volume in self.selection.volumes if volume.key == key)

    @property
    def curves(self) -> list[UnitResult]:
        """Units whose removal similarities only fall, so that a threshold is a place in their sequence."""
        return [part for part in self.parts.values() if self.only_falls(part)]

    def only_falls(self, part: UnitResult) -> bool:
        """Whether it is one of `curves`."""
        return part.ranked and self.rule != "facility"

    def curve(self, key: str) -> UnitResult | None:
        """The result of the unit that is this volume alone."""
        return next((part for part in self.parts.values() if [name for name, _ in part.volumes] == [key]), None)


def read_selections(paths: Sequence[Path]) -> list[Shown]:
    """Selections with their parts, each with a title and a colour of its own. Raises InputError for what is none."""
    csv_paths = [selection_paths(path)[0] for path in paths]
    selections = [Selection.load(path) for path in csv_paths]
    titles = [_asked(selection) for selection in selections]
    count = Counter(titles)
    return [
        Shown(
            path,
            selection,
            _parts(path, selection),
            title if count[title] == 1 else f"{title} ({path.name})",
            SERIES[place % len(SERIES)],
        )
        for place, (path, selection, title) in enumerate(zip(csv_paths, selections, titles, strict=True))
    ]


def _asked(selection: Selection) -> str:
    parameters = selection.record["parameters"]
    numbers = ("keep", "keep_count", "threshold")
    given = [(name, parameters[name]) for name in numbers if parameters.get(name) is not None]
    rule = [parameters["rule"]] if parameters.get("rule", "greedy") != "greedy" else []
    words = [f"{name.replace('_', ' ')} {value:g}" for name, value in given]
    return " ".join([selection.record["method"], *rule, *words])


def _parts(csv_path: Path, selection: Selection) -> dict[str, UnitResult]:
    folder = csv_path.with_suffix(".parts")
    parts = {}
    for unit in selection.record["units"]:
        result = load_part(folder, str(unit["unit"]))
        if result is not None and len(result.kept) == unit["kept"]:
            parts[result.unit] = result
    return parts
