"""Children that answer, raise, crash, hang and exhaust memory."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import pytest

from lim_gpu.workers import run_in_children


def outcomes(function, tasks, **options):
    return {o.task: o for o in run_in_children(function, tasks, **{"workers": 2} | options)}


def test_every_task_is_answered_once():
    found = outcomes(math.factorial, [(n,) for n in range(40)])
    assert {task: outcome.value for task, outcome in found.items()} == {n: math.factorial(n) for n in range(40)}


def test_no_tasks_start_no_child():
    assert outcomes(math.factorial, []) == {}


def test_children_are_used_again_and_are_not_this_process():
    pids = {outcome.value for outcome in outcomes(os.getpid, [()] * 20).values()}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


def test_an_exception_is_one_line():
    found = outcomes(int, [("x\ny",), ("7",)])
    assert found[0].error.startswith("ValueError: ")
    assert "\n" not in found[0].error
    assert found[1].value == 7


def test_a_crash_costs_its_own_task_only():
    found = outcomes(os.kill, [(0, 0), (0, 0)])
    assert all(outcome.error is None for outcome in found.values())
    crashed = outcomes(os.abort, [()] * 3)
    assert all("SIGABRT" in outcome.error for outcome in crashed.values())
    assert len(crashed) == 3


def test_a_hanging_child_is_stopped():
    start = time.perf_counter()
    found = outcomes(time.sleep, [(60,), (0.01,), (0.01,)], timeout=1.0)
    assert "too long" in found[0].error
    assert found[1].error is None
    assert found[2].error is None
    assert time.perf_counter() - start < 20


def test_memory_is_limited():
    found = outcomes(bytearray, [(8 << 30,), (10,)], memory_limit=2 << 30)
    assert "memory" in found[0].error
    assert found[1].value == bytearray(10)


def test_stopping_early_kills_the_children():
    running = run_in_children(os.getpid, [()] * 50, workers=2)
    pid = next(running).value
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_children_never_import_torch_and_an_unguarded_script_works(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, sys\n"
        "print('once')\n"
        "from lim_gpu.workers import run_in_children\n"
        "for outcome in run_in_children(eval, [(\"'torch' in __import__('sys').modules\",)], workers=1):\n"
        "    print(outcome.value, outcome.error)\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert result.stdout == "once\nFalse None\n"


def test_ctrl_c_reaches_the_parent_alone(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from lim_gpu.workers import run_in_children\n"
        "try:\n"
        "    for outcome in run_in_children(time.sleep, [(0,), (30,)], workers=1): print('started', flush=True)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdout.readline() == "started\n"
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert out == "interrupted\n"
    assert err == ""
