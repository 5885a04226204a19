"""The source files of slices, by the private list beside their store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lim_gpu.errors import InputError
from lim_gpu.store.private import read_sources
from lim_gpu.store.slices import SliceStore

if TYPE_CHECKING:
    from lim_gpu.selection import Selection

LIST_COLUMNS = ("path", "sop_instance_uid", "frame", "volume", "slice", "z_mm")


def source_rows(selection: Selection, store: Path, kept: bool | None = True) -> list[dict[str, Any]]:
    """A dictionary for every slice that is kept (False: dropped, None: any): `lim_gpu.Selection.files` says what in it.

    Raises InputError when the store is not the selection's, or has no private list.
    """
    with SliceStore(store) as opened:
        selection.check_store(opened)
    rows = []
    for volume in selection.volumes:
        sources = read_sources(store, volume.key)
        if len(sources) != len(volume.kept):
            what = f"lists {len(sources)} slices of volume {volume.key}, not its own"
            raise InputError(f"{store}.private: {what}. Run lim-gpu ingest again")
        for i, source in enumerate(sources):
            if kept is None or kept == bool(volume.kept[i]):
                rows.append(_row(volume.key, i, float(volume.z[i]), source))
    return rows


def _row(key: str, i: int, z: float, source: dict[str, Any]) -> dict[str, Any]:
    more = {"sop_uid": str(source.get("sop_uid", "")), "frame": int(source.get("frame", 0))}
    return {"image": source["path"], "volume": key, "slice": i, "z": z} | more


def kept_list(rows: Sequence[dict[str, Any]]) -> str:
    """The text of kept.txt, tab-separated, a line for each of `source_rows`. Private: it names files."""
    lines = ["\t".join(LIST_COLUMNS)]
    for row in rows:
        texts = (row["image"], row["sop_uid"], row["frame"], row["volume"], row["slice"], repr(row["z"]))
        lines.append("\t".join(map(str, texts)))
    return "\n".join(lines) + "\n"
