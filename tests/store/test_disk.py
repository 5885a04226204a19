"""The disk is told to begin while a volume is still made."""

from __future__ import annotations

from lim_gpu.store import disk


def test_what_is_written_goes_to_the_disk_in_parts(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(disk, "AT_ONCE", 10_000)
    monkeypatch.setattr(disk, "_begin_writing", lambda handle: begun.append(handle))
    written = disk.Disk(tmp_path / "file", [])
    for _ in range(10):
        written.write(bytes(4000))
    assert begun == [written.fileno()] * 3
    written.close()
    assert (tmp_path / "file").read_bytes() == bytes(40_000)


def test_the_system_takes_the_call(tmp_path):
    with disk.Disk(tmp_path / "file", []) as written:
        written.write(bytes(disk.AT_ONCE))
        disk._begin_writing(written.fileno())
    assert (tmp_path / "file").stat().st_size == disk.AT_ONCE
