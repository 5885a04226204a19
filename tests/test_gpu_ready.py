"""A bare GPU machine runs the tests marked gpu: with few packages, and though one of them loses its GPU or hangs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import file_by_file

ROOT = Path(__file__).parents[1]
BARE = ROOT / "tests/bare"  # on PYTHONPATH: packages that such a machine may lack are hidden
IMPORTS = re.compile(r"(?m)^ +(import|from) (pydicom|nibabel|imagehash|lightly|pytorch_msssim|hypothesis)\b")
NAMED = re.compile(r"could not import '[\w.]+'|\S+ is not installed$|the real CT of \S+ is not on this machine$")


def bare(*command):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(BARE)},
        capture_output=True,
        text=True,
    )


def bare_tests(tmp_path, *options):
    """Every test marked gpu, and every file that is skipped or cannot be collected, as a testcase of JUnit's."""
    report = tmp_path / "report.xml"
    done = bare("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}", *options)
    assert report.exists(), done.stdout + done.stderr
    return list(ElementTree.parse(report).iter("testcase"))


def reasons(cases):
    """Why each one is skipped that is. AssertionError for an error or a failure."""
    for case in cases:
        for outcome in case:
            assert outcome.tag == "skipped", f"{case.get('classname')} {case.get('name')}: {outcome.text}"
            yield outcome.text


def test_every_test_is_collected_and_set_up_or_names_what_it_misses(tmp_path):
    cases = bare_tests(tmp_path, "-p", "set_up_without_gpu", "--setup-only", "tests")
    assert [reason for reason in reasons(cases) if not NAMED.search(reason)] == []
    set_up = {case.get("classname") for case in cases if not list(case)}
    assert {"tests.similarity.cuda.test_ssim", "tests.reduction.test_engine", "tests.reduction.test_choice"} <= set_up
    assert set_up <= {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in file_by_file.files()}


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_without_a_gpu_that_is_the_reason(tmp_path):
    found = list(reasons(bare_tests(tmp_path, "tests/intensity/test_cuda.py")))
    assert len(found) > 10
    assert all(reason.endswith("no NVIDIA GPU") for reason in found)


def test_no_test_imports_while_it_runs_what_may_be_missing():
    for path in file_by_file.files():
        assert not IMPORTS.search(path.read_text()), f"{path}: pytest.importorskip says what is missing"


def test_the_benchmark_is_collected():
    done = bare("-m", "pytest", "bench", "-q", "-m", "gpu", "--collect-only", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_kernel[ssim_pairs_tensor]" in done.stdout


def test_the_doctor_tells_that_pydicom_is_missing():
    done = bare("-m", "lim_gpu.cli", "doctor")
    assert done.returncode == 0, done.stderr
    assert "pydicom is not installed" in done.stdout


FILES = {
    "test_well.py": "def test_a(): pass\n\ndef test_b(): pytest.skip('a reason')",
    "test_without.py": "",
    "test_fails.py": "def test_a(): pass\n\ndef test_b(): assert False",
    "test_dies.py": "def test_a(): os.abort()",
    "test_hangs.py": "def test_a(): time.sleep(600)",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(f"import os, time, pytest\n\n{text}\n")
    monkeypatch.setattr(file_by_file, "TESTS", tmp_path)
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-c", "none.ini")
    monkeypatch.setattr(file_by_file, "OPTIONS", options)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.chdir(tmp_path)
    Path("none.ini").touch()
    return [tmp_path / name for name in FILES]


def test_every_file_has_a_process_of_its_own_and_the_end_counts_them_all(files, tmp_path, capsys):
    well, without, fails, dies, _ = files
    assert file_by_file.main([well, without], 2, 600, tmp_path / "logs") == 0
    assert file_by_file.main([fails, dies, well], 1, 600, tmp_path / "logs") == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "3 files: 1 failed, 2 passed, 1 skipped; NOT WELL: test_fails.py, test_dies.py"


def test_a_file_that_hangs_is_killed_and_the_next_not_begun(files, tmp_path, capsys):
    well, *_, hangs = files
    assert file_by_file.main([hangs, well], 1, 3, tmp_path / "logs") == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [f"test_{name}.py: killed or not begun: no time left" for name in ("hangs", "well")]
    assert printed[-1] == "2 files: no test; NOT WELL: test_hangs.py, test_well.py"


def test_the_kernels_come_first():
    names = [path.parent.name for path in file_by_file.files()]
    assert names == sorted(names, key=lambda name: name != "cuda")
    assert names[0] == "cuda" != names[-1]
