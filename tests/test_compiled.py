"""Where compiled code is kept: with the user, never in the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import pytest

import lim_gpu
from lim_gpu.compiled import cache_folder, compiled

PACKAGE = Path(lim_gpu.__file__).parent
MODULE = """
from lim_gpu.compiled import compiled

@compiled()
def double(value):
    return 2 * value
"""
KEPT = ("*.nbi", "*.nbc")  # Numba's index and code


@pytest.fixture
def package(tmp_path):
    """A copy, which a test may write to, with a small function to compile."""
    copy = tmp_path / "lim_gpu"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "similarity" / "double.py").write_text(MODULE)
    return copy


def run(package, **environment):
    result = subprocess.run(
        [sys.executable, "-c", "from lim_gpu.similarity import double; print(double.__file__, double.double(4))"],
        env={"PYTHONPATH": str(package.parent), "HOME": "/dev/null"} | environment,
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == f"{package / 'similarity' / 'double.py'} 8\n"


def kept_in(folder):
    return {path.suffix for pattern in KEPT for path in folder.rglob(pattern)}


@pytest.mark.parametrize(
    ("variable", "below"),
    [("XDG_CACHE_HOME", "lim-gpu/numba"), ("HOME", ".cache/lim-gpu/numba"), ("NUMBA_CACHE_DIR", "")],
)
def test_code_is_kept_in_the_users_folder(package, tmp_path, variable, below):
    run(package, **{variable: str(tmp_path / "own")})
    assert kept_in(tmp_path / "own" / below) == {".nbi", ".nbc"}
    assert not kept_in(package)


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "NUMBA_CACHE_DIR"])
def test_works_where_nothing_can_be_kept(package, tmp_path, variable):
    (tmp_path / "own").touch()  # a file, so that not even root can make a folder of it
    run(package, **{variable: str(tmp_path / "own")})
    assert not kept_in(tmp_path)


def test_a_relative_folder_is_none(monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/lim-gpu/numba")
    monkeypatch.setenv("HOME", "somebody")
    assert cache_folder() is None


def test_the_setting_of_other_code_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled()(lambda value: 2 * value)(4) == 8
    assert numba.config.CACHE_DIR == ""


def test_threads_that_compile_at_once_keep_to_the_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen, njit = [], numba.njit

    def slowly(**options):
        before = numba.config.CACHE_DIR
        time.sleep(0.02)
        seen.append((before, numba.config.CACHE_DIR))
        return njit(**options)

    monkeypatch.setattr(numba, "njit", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: compiled()(lambda value: value), range(12)))
    folder = str(tmp_path / "lim-gpu" / "numba")
    assert seen == [(folder, folder)] * 12
    assert numba.config.CACHE_DIR == ""


def test_everything_is_compiled_here():
    assert [path.name for path in PACKAGE.rglob("*.py") if "njit" in path.read_text()] == ["compiled.py"]
