"""A selection as a report shows it: with the results of its units, and its names in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lim_gpu.reduction.parts import UnitResult, load_part
from lim_gpu.selection import Selection, VolumeSelection, selection_paths


@dataclass(frozen=True)
class Shown:
    """A selection with the results of its units; `parts` is empty where NAME.parts is gone."""

    path: Path
    selection: Selection
    parts: dict[str, UnitResult]  # by unit

    @property
    def title(self) -> str:
        """How it was asked for, in a few words."""
        parameters = self.selection.record["parameters"]
        asked = [
            f"{name.replace('_', ' ')} {parameters[name]:g}" for name in ("keep", "keep_count") if parameters.get(name)
        ]
        if parameters.get("threshold") is not None:
            asked.append(f"threshold {parameters['threshold']:g}")
        return " ".join([self.selection.record["method"], *asked])

    @property
    def unit(self) -> str:
        """What was reduced together: a volume, a patient, or the data set."""
        scope = str(self.selection.record["parameters"]["scope"])
        return {"dataset": "data set"}.get(scope, scope)

    @property
    def scale(self) -> str:
        """What its similarities are called."""
        method = str(self.selection.record["method"])
        return {"ssim": "SSIM", "mi": "NMI", "deepnet": "cosine", "hash": "bits apart"}.get(method, method)

    def of(self, key: str) -> VolumeSelection:
        """What it says of a volume."""
        return next(volume for volume in self.selection.volumes if volume.key == key)

    def curve(self, key: str) -> UnitResult | None:
        """The result of the unit that is this volume alone."""
        return next((part for part in self.parts.values() if [name for name, _ in part.volumes] == [key]), None)


def read_selection(path: Path) -> Shown:
    """A selection and its parts. Raises InputError for what is none."""
    csv_path, _ = selection_paths(path)
    selection = Selection.load(csv_path)
    folder = csv_path.with_suffix(".parts")
    parts = {}
    for unit in selection.record["units"]:
        result = load_part(folder, str(unit["unit"]))
        if result is not None and len(result.kept) == unit["kept"]:
            parts[result.unit] = result
    return Shown(csv_path, selection, parts)
