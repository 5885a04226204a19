"""A large compressed series: decoded by several children, it becomes the same file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("pydicom")

from pydicom.uid import RLELossless

from dicom_files import ct, save, series, stored_slice
from lim_gpu.ingest import convert_all, ingest
from lim_gpu.ingest.shares import LEAST, decode_share
from lim_gpu.workers import TaskResult

N = 2 * LEAST + 5


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compressed")
    for i in range(N):
        save(ct(stored_slice(i), z=2.0 * i), folder / f"slice{i}.dcm", RLELossless)
    return folder


def ingested(source: Path, store: Path, **options):
    """The report and the bytes of the volumes, by name."""
    report = ingest([source], store, keep_identifiers=True, **options)
    assert not list((store / "volumes").glob(".*"))
    return report, {path.name: path.read_bytes() for path in (store / "volumes").glob("*.h5")}


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """How many slices each child decodes as a share."""
    real, found = convert_all.run_in_children, []

    def told(function, tasks, **options):
        if function is decode_share:
            found.extend(len(share.plan.slices) for share, *_ in tasks)
        return real(function, tasks, **options)

    monkeypatch.setattr(convert_all, "run_in_children", told)
    return found


def test_shares_make_the_file_that_one_child_makes(tmp_path, sources, decoded):
    _, alone = ingested(sources, tmp_path / "a", workers=1)
    assert not decoded
    report, shared = ingested(sources, tmp_path / "b", workers=2)
    assert decoded == [N // 2, N - N // 2]
    assert report.slices == N
    assert shared == alone
    assert len(shared) == 1


def test_uncompressed_and_short_series_are_not_shared(tmp_path, decoded):
    series(tmp_path / "in" / "plain", N)
    for i in range(LEAST):
        save(ct(stored_slice(i), z=2.0 * i, series="short"), tmp_path / "in" / "short" / f"{i}.dcm", RLELossless)
    report, _ = ingested(tmp_path / "in", tmp_path / "out", workers=2)
    assert report.slices == N + LEAST
    assert not decoded


def test_a_bad_slice_is_what_it_is_without_shares(tmp_path, sources, decoded):
    folder = shutil.copytree(sources, tmp_path / "in")
    path = folder / f"slice{N - 3}.dcm"
    data = path.read_bytes()
    path.write_bytes(data[:-1200] + b"\x07" * 1192 + data[-8:])
    one, alone = ingested(folder, tmp_path / "a", workers=1, skip_bad_slices=True)
    several, shared = ingested(folder, tmp_path / "b", workers=2, skip_bad_slices=True)
    assert decoded
    assert one.slices == several.slices == N - 1
    assert [str(f) for f in several.failures] == [str(f) for f in one.failures]
    assert len(one.failures) == 1
    assert shared == alone


def test_a_child_that_dies_at_a_share_costs_that_volume(tmp_path, sources, monkeypatch):
    real = convert_all.run_in_children

    def crashing(function, tasks, **options):
        if function is not decode_share:
            return real(function, tasks, **options)
        return iter([TaskResult(1, error="the child process crashed (SIGSEGV)")])

    series(tmp_path / "plain", 3, series="other")
    monkeypatch.setattr(convert_all, "run_in_children", crashing)
    report = ingest([sources, tmp_path / "plain"], tmp_path / "out", workers=2)
    assert report.written == 1
    assert [str(failure) for failure in report.failures] == [
        f"{sources}: the child process crashed (SIGSEGV) (at a volume of {N} slices)"
    ]
    assert not list((tmp_path / "out" / "volumes").glob(".*"))
