"""Writing in one step, strict JSON, locks."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from lim_gpu import files
from lim_gpu.errors import InputError, LimGpuError
from lim_gpu.files import (
    canonical_json,
    fingerprint,
    locked,
    parse_json,
    read_json,
    remove_stale,
    replacing,
    temporary_of,
    write_json,
    write_text,
)
from lim_gpu.temporary import temporary_folder
from volumes import pixels, read_all


@dataclass
class Entry:
    key: str
    shape: tuple[int, ...]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(values)
def test_canonical_json_reads_back(value):
    assert parse_json(canonical_json(value), "x") == value
    assert fingerprint(value) == fingerprint(parse_json(canonical_json(value), "x"))


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "1e999", '{"a":1,"a":2}', "{", "", "[" * 100_000, '"\\ud800'])
def test_loose_json_is_refused(text, tmp_path):
    with pytest.raises(InputError, match="x\\.json"):
        parse_json(text, tmp_path / "x.json")


def test_json_that_is_no_text_or_missing_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    for name in ("a.json", "b.json"):
        with pytest.raises(InputError, match=name):
            read_json(tmp_path / name)


def test_json_that_could_not_be_read_back_is_an_error_when_it_is_written(tmp_path):
    write_json(tmp_path / "a.json", ["x" * 40], limit=100)
    for value in ["x" * 100, ["é" * 20]]:  # 6 bytes each
        with pytest.raises(LimGpuError, match=r"b\.json: would be larger than the 0 MiB that are read"):
            write_json(tmp_path / "b.json", value, limit=100)
    with pytest.raises(InputError, match=r"a\.json: larger than 0 MiB"):
        read_json(tmp_path / "a.json", limit=10)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_json_is_written_without_being_held(tmp_path):
    """Objects of a class become dictionaries when their turn comes."""
    many = [Entry("k" * 16, (i, 512, 512)) for i in range(20_000)]
    tracemalloc.start()
    try:
        write_json(tmp_path / "a.json", {"many": many})
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < (tmp_path / "a.json").stat().st_size / 3
    assert read_json(tmp_path / "a.json") == {
        "many": [{"key": "k" * 16, "shape": [i, 512, 512]} for i in range(20_000)]
    }
    with pytest.raises(TypeError):
        write_json(tmp_path / "b.json", {"many": {1, 2}})
    assert not (tmp_path / "b.json").exists()


def test_what_is_made_of_an_object_takes_its_place(tmp_path):
    (tmp_path / "a.json").write_text('{"many": [{"a": 1}, {"a": 2}]}')

    def make(values):
        return values.get("a", values)

    assert read_json(tmp_path / "a.json", make=make) == {"many": [1, 2]}

    def refuse(values):
        raise InputError("another text")

    with pytest.raises(InputError, match="^another text$"):
        read_json(tmp_path / "a.json", make=refuse)


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(TypeError), replacing(path) as temporary:
        temporary.write_text(temporary.write_text("half"))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_will_be_removed_is_not_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", synced.append)
    with temporary_folder(str(tmp_path)) as folder:
        write_text(folder / "a", "x")
        assert ((folder / "a").read_text(), synced) == ("x", [])
        write_text(tmp_path / "b", "x")
        write_text(folder.parent / "c", "x")
    folder.mkdir()
    write_text(folder / "a", "x")  # of somebody else by now
    assert [path for path in synced if path.is_dir()] == [tmp_path, tmp_path, folder]
    assert len(synced) == 6


def test_private_files_are_private(tmp_path):
    write_text(tmp_path / "key", "secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LimGpuError, match="file"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_stale_temporary_files_go_and_those_that_may_be_at_work_stay(tmp_path):
    own = temporary_of(tmp_path / "a.json").name
    ended = own.replace(f".{os.getpid()}.", f".{dead()}.")
    elsewhere = own.replace(".a.json.", ".a.json.another-host-")
    old, of_today = elsewhere.replace("a.json", "old"), elsewhere.replace("a.json", "new")
    stale = [ended, f".b.json.{dead()}.tmp", old]
    stay = [own, of_today, f".b.json.{os.getpid()}.tmp", ".mine.tmp", "c.json.5.tmp", "d.json"]
    for name in stale + stay:
        (tmp_path / name).write_text("")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / old, (long_ago, long_ago))
    remove_stale(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)


KILLED_IN_A_FOLDER = """
import os, signal, sys
from lim_gpu.temporary import temporary_folder
with temporary_folder(sys.argv[1]) as folder:
    (folder / "a" / "b").mkdir(parents=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_folders_of_killed_processes_go_when_the_next_is_made(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED_IN_A_FOLDER, tmp_path])
    [left] = tmp_path.iterdir()
    elsewhere = tmp_path / re.sub("-[0-9a-f]{8}", "-00000000", left.name)
    others = [elsewhere, tmp_path / "lim-gpu-aaaaaaaa", tmp_path / "mine"]
    for folder in others:
        folder.mkdir()
    with temporary_folder(str(tmp_path)) as first, temporary_folder(str(tmp_path)) as second:
        assert {*tmp_path.iterdir()} == {first, second, *others}
    assert {*tmp_path.iterdir()} == {*others}
    assert len(left.name) < 40  # of a socket below it Ray needs 63 of 107


def test_only_files_of_that_name_go(tmp_path):
    for name in (f".a.json.{dead()}.tmp", f".b.json.{dead()}.tmp"):
        (tmp_path / name).write_text("")
    remove_stale(tmp_path, re.compile(r"a\.json").fullmatch)
    assert [path.name[:7] for path in tmp_path.iterdir()] == [".b.json"]


def test_a_process_that_nobody_waited_for_has_ended(tmp_path):
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    (tmp_path / f".a.json.{child.pid}.tmp").write_text("")
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == []
    child.wait()


def dead():
    """The number of a process that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_no_two_temporary_names_are_equal(tmp_path):
    """Also where two processes have one number, on two hosts or in two containers of one."""
    names = [temporary_of(tmp_path / "a.json").name for _ in range(100)]
    assert len(set(names)) == 100
    assert all(str(os.stat("/proc/self/ns/pid").st_ino) in name for name in names)


IN_TWO_NAMESPACES = """
import sys
from volumes import pixels, write_volume
from pathlib import Path
for _ in range(20):
    write_volume(Path(sys.argv[1]), pixels(6, 60, 60))
"""


def test_two_pid_namespaces_write_one_volume(tmp_path):
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no PID namespaces for this user here")
    command = [*unshare, sys.executable, "-c", IN_TWO_NAMESPACES, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, complaints = process.communicate()
        assert process.returncode == 0, complaints
    assert [path.name for path in tmp_path.iterdir()] == ["0" * 16 + ".h5"]
    np.testing.assert_array_equal(read_all(tmp_path / ("0" * 16 + ".h5"))[0], pixels(6, 60, 60))


def test_two_runs_do_not_write_one_folder(tmp_path):
    with locked(tmp_path), pytest.raises(LimGpuError, match="another run"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_the_lock_is_one_that_cluster_file_systems_keep(tmp_path):
    """One of fcntl, as who asks for it in the older way sees; of a flock that knows nothing."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        pytest.skip("no OFD locks on this system")
    ask = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    command = [sys.executable, "-c", ask, str(tmp_path / ".lock")]
    with locked(tmp_path):
        assert "BlockingIOError" in subprocess.run(command, stderr=subprocess.PIPE, text=True).stderr
    subprocess.run(command, check=True)


def test_kill_leaves_the_old_or_the_new_file(tmp_path):
    path = tmp_path / "a.json"
    program = (
        "import json, sys; from pathlib import Path; from lim_gpu.files import write_text\n"
        "for i in range(10**9): write_text(Path(sys.argv[1]), json.dumps([i] * 20000))"
    )
    for attempt in range(6):
        path.unlink(missing_ok=True)
        child = subprocess.Popen([sys.executable, "-c", program, str(path)])
        while not path.exists():
            assert child.poll() is None
            time.sleep(0.001)
        time.sleep(0.013 * attempt)  # somewhere within a later write
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert len(set(json.loads(path.read_text()))) == 1
    remove_stale(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
