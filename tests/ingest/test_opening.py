"""Where a header ends within the head of a file, that is read first, and where it does not."""

from __future__ import annotations

import pytest

pytest.importorskip("pydicom")

from dicom_files import ENCODINGS, ct, save, stored_slice
from lim_gpu.ingest import opening
from lim_gpu.ingest.elements import ELEMENTS
from lim_gpu.ingest.header import texts
from lim_gpu.ingest.opening import open_dicom
from lim_gpu.ingest.records import SourceError


def seen(path):
    with open_dicom(str(path)) as file:
        found = {name: texts(file.header, name) for name in ELEMENTS if not name.endswith("Sequence")}
        file.stream.seek(max(0, file.pixels.start))
        return file.syntax, file.media_class, file.pixels, found, file.stream.read()


@pytest.mark.parametrize("syntax", ENCODINGS, ids=lambda syntax: syntax.name[:30])
def test_the_head_may_end_anywhere(tmp_path, monkeypatch, syntax):
    path = save(ct(stored_slice(0)), tmp_path / "a.dcm", syntax)
    monkeypatch.setattr(opening, "HEAD", 0)
    whole = seen(path)
    assert whole[3]["Rows"]
    for head in range(1, whole[2].start + 40):
        monkeypatch.setattr(opening, "HEAD", head)
        assert seen(path) == whole


def test_a_cut_file_is_told_as_from_the_whole(tmp_path, monkeypatch):
    path = save(ct(stored_slice(0)), tmp_path / "a.dcm")
    data = path.read_bytes()
    for length in range(1, len(data), 97):
        path.write_bytes(data[:length])
        told = []
        for head in (0, 64 << 10):
            monkeypatch.setattr(opening, "HEAD", head)
            try:
                told.append(seen(path))
            except SourceError as error:
                told.append(str(error))
        assert told[0] == told[1]
