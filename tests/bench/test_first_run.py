"""The script for the first run on a GPU machine, around steps that are made up: what hangs, dies or is not there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench/first_run.sh"
PYTHON = r"""#!/usr/bin/env bash
# stands in for Python: notes what it is asked for, and does what a file of that name says
echo "$*" >>asked.txt
case "$*" in
  *"import sys, torch"*) [ -e gpu ] ;;
  *"pip install"*) [ ! -e no_pip ] ;;
  *file_by_file*) touch "${@: -1}/similarity-cuda-test_ssim.log"; [ ! -e tests_hang ] || sleep 600 ;;
  *"pytest bench"*)
    n=$(grep -c "pytest bench" asked.txt)
    [ ! -e "attempt_$n" ] || source "./attempt_$n" ;;
esac
"""
MEASURED = """echo '"skipped": ""' >bench/parts/{}.json; """
UNENDED = """echo '"skipped": "failed: the run ended within it"' >bench/parts/hangs.json; """


@pytest.fixture
def machine(tmp_path):
    """A checkout of the script alone, on a machine with a GPU and neither git nor nvidia-smi."""
    (tmp_path / "bench").mkdir()
    shutil.copy(SCRIPT, tmp_path / "bench")
    (tmp_path / "bench/RESULTS.md").write_text("results")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "gpu").touch()
    return tmp_path


def first_run(machine, *arguments, **variables):
    """The exit code, and what the stand-in for Python was asked for."""
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(machine / "python"), "OUT": str(machine / "out")}
    command = ["bash", str(machine / "bench/first_run.sh"), *arguments]
    code = subprocess.run(command, env=environment | variables, capture_output=True, cwd="/").returncode
    return code, (machine / "asked.txt").read_text()


def steps(machine):
    """What steps.txt says of each, without the seconds."""
    lines = (machine / "out/steps.txt").read_text().splitlines()
    return [re.sub(r"^\d+ s: |, in at most \d+ s$", "", line) for line in lines[:-1]]


def test_the_steps_and_what_comes_back(machine):
    code, asked = first_run(machine)
    assert code == 0
    names = ("environment", "tests", "profile", "benchmark")
    assert steps(machine) == [f"{name} ended with 0" for name in names]
    assert re.search(r"pip install .*--no-index --no-deps --no-build-isolation --editable \.", asked)
    assert re.search(r"pytest bench .*--seconds (2[0-9]{2}) ", asked)  # 9 of 10 of what is left of 330
    results = list((machine / "out").rglob("*"))
    assert len(results) <= 8
    assert all(path.is_file() and re.fullmatch(r"[\w.-]+", path.name) for path in results)
    with tarfile.open(machine / "out/logs.tgz") as logs:
        assert "tests/similarity-cuda-test_ssim.log" in logs.getnames()


def test_without_a_gpu_nothing_is_tried_but_a_rehearsal(machine):
    (machine / "gpu").unlink()
    code, asked = first_run(machine)
    assert code == 4
    assert "pytest" not in asked
    code, asked = first_run(machine, REHEARSE="1")
    assert code == 0
    assert "pytest bench" in asked


def test_a_step_that_hangs_is_stopped_and_the_others_go_on(machine):
    (machine / "tests_hang").touch()
    assert first_run(machine, TESTS="10")[0] == 1
    assert steps(machine)[1:] == ["tests ended with 124", "profile ended with 0", "benchmark ended with 0"]


def test_what_a_profiler_finds_comes_back(machine):
    tools = machine / "tools"
    tools.mkdir()
    (tools / "ncu").write_text(
        '#!/bin/sh\ncase "$*" in *--import*) echo "Issue Slots Busy";; *) echo "$*" >>asked.txt;; esac\n'
    )
    (tools / "ncu").chmod(0o755)
    code, asked = first_run(machine, PATH=f"{tools}:{os.environ['PATH']}")
    assert code == 0
    assert "-m bench.profiled" in asked
    with tarfile.open(machine / "out/logs.tgz") as logs:
        assert {"profile/details.txt", "profile/source.csv"} <= set(logs.getnames())


def test_nothing_begins_without_time(machine):
    code, asked = first_run(machine, LIMIT="5")
    assert code == 1
    names = ("environment", "tests", "profile", "benchmark")
    assert steps(machine) == [f"no time for {name}" for name in names]
    assert "pytest" not in asked


def test_the_benchmark_goes_on_while_it_gets_further(machine):
    (machine / "attempt_1").write_text(MEASURED.format("a") + "exit 2")  # a kernel cost it its GPU
    (machine / "attempt_2").write_text(MEASURED.format("b") + UNENDED + "exit 1")  # a part hung
    (machine / "attempt_3").write_text("exit 1")  # and hangs again
    code, asked = first_run(machine)
    assert code == 1
    assert asked.count("pytest bench") == 3


def test_failed_parts_alone_are_no_reason_to_go_on(machine):
    (machine / "attempt_1").write_text(MEASURED.format("a") + "exit 1")
    code, asked = first_run(machine)
    assert code == 1
    assert asked.count("pytest bench") == 1


def test_the_second_run_goes_on_from_the_parts_of_the_first(machine):
    (machine / "attempt_1").write_text(MEASURED.format("a"))
    first_run(machine)
    shutil.rmtree(machine / "bench/parts")
    _, asked = first_run(machine, "again", PARTS=str(machine / "out/parts.tgz"))
    assert (machine / "bench/parts/a.json").exists()
    assert asked.count("file_by_file") == 1  # not again
    assert re.search(r"pytest bench .*--seconds 3\d\d ", asked)


def test_wheels_are_installed_beside_the_environment(machine):
    (machine / ".whl").mkdir()
    (machine / ".whl/ImageHash-4.3.2-py2.py3-none-any.whl").touch()
    (machine / "no_pip").touch()  # and if that fails, the rest goes on
    code, asked = first_run(machine)
    assert re.search(r"pip install .*--target \S+/site .whl/ImageHash", asked)
    assert "pytest bench" in asked
    assert code == 0
