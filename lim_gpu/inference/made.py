"""An output that a network made of images: what it depends on, and whether it stands already. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lim_gpu.files import fingerprint
from lim_gpu.inference.images import Images, planned
from lim_gpu.intensity import Intensity
from lim_gpu.outputs import check_file, standing_record
from lim_gpu.progress import Outcome, counted
from lim_gpu.weights.file import CheckpointFile
from lim_gpu.weights.load import told_beside


@dataclass(frozen=True)
class Made:
    """`what` ("features") of `data` by `checkpoint`, into `paths`, of which the last is the record of the others."""

    what: str
    data: Path
    checkpoint: Path
    paths: Sequence[Path]
    intensity: Intensity | None
    digest: str

    @classmethod
    def of(
        cls, what: str, data: Path, checkpoint: Path, paths: Sequence[Path], intensity: Intensity | None, trust: bool
    ) -> Made:
        """Reads the checkpoint for its digest. Raises InputError where it cannot be read, else as `check_file`."""
        for path in paths:
            check_file(path)
        with CheckpointFile(checkpoint, trust=trust) as file:
            return cls(what, data, checkpoint, paths, intensity, file.sha256)

    def fingerprint(self, images: Images) -> str:
        """Of the images, the checkpoint, the mapping that is asked for and this program."""
        seen = self.intensity.describe() if self.intensity else told_beside(self.checkpoint).get("preprocess")
        made_of = [images.columns, images.fingerprint, self.digest, seen]
        return fingerprint([self.what, version("lim-gpu"), self.paths[0].suffix, *made_of])

    def standing(self, images: Images, overwrite: bool) -> Outcome | None:
        """What stands and was made of the same. UsageError for anything else there without `overwrite`."""
        record = standing_record(self.paths[-1], self.fingerprint(images), self.paths, overwrite)
        if record is None:
            return None
        return Outcome(record | {"unchanged": True}, [f"unchanged: {self.paths[0]}"], bool(record["failures"]))

    def plan(self, overwrite: bool) -> Outcome:
        """What would be done."""
        images = planned(self.data)
        standing = self.standing(images, overwrite) if images is not None else None
        count = "images not counted yet" if images is None else counted(len(images), "image")
        line = f"plan: {self.what} of {self.data} ({count}) by {self.checkpoint} -> {self.paths[0]}"
        values: dict[str, Any] = {"dry_run": True, "outputs": [str(path) for path in self.paths]}
        values |= {"images": None if images is None else len(images), "unchanged": standing is not None}
        return Outcome(values, standing.lines if standing else [line])
