"""Children that answer, raise, crash, hang and exhaust memory."""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lim_gpu import workers
from lim_gpu.store.slices import read_index
from lim_gpu.workers import run_in_children


def outcomes(function, tasks, **options):
    return {o.task: o for o in run_in_children(function, tasks, **{"workers": 2} | options)}


def test_every_task_is_answered_once():
    found = outcomes(math.factorial, [(n,) for n in range(40)])
    assert {task: outcome.value for task, outcome in found.items()} == {n: math.factorial(n) for n in range(40)}


STEPS = ("[__import__('lim_gpu.workers').workers.tick() for _ in range(3)] and 7",)


@pytest.mark.parametrize(("pause", "counts"), [(0, [1, 2, 3]), (1e9, [])])
def test_a_task_tells_how_far_it_is(monkeypatch, pause, counts):
    monkeypatch.setattr(workers, "PAUSE", pause)
    told = []
    found = outcomes(eval, [STEPS, STEPS], workers=1, on_tick=lambda *one: told.append(one))
    assert told == [(task, count) for task in (0, 1) for count in counts]
    assert [found[task].value for task in (0, 1)] == [7, 7]
    assert outcomes(eval, [STEPS])[0].value == 7  # nobody wants to know


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


def test_what_cannot_be_sent_either_way_is_one_line():
    found = outcomes(eval, [("lambda: 0",), ("1 + 1",)])
    assert "ickle" in found[0].error
    assert "\n" not in found[0].error
    assert found[1].value == 2
    loaded = outcomes(str, [(Unloadable(),), (7,)])
    assert loaded[0].error == "ZeroDivisionError: division by zero"
    assert loaded[1].value == "7"


class Unloadable:
    def __reduce__(self):
        return eval, ("1 / 0",)


def test_expected_errors_keep_their_text():
    found = outcomes(read_index, [(Path("/nowhere"),)])
    assert found[0].error == "/nowhere: no such folder. Make a store with lim-gpu ingest SRC -o /nowhere"


@pytest.mark.parametrize(
    ("task", "error"),
    [
        (("__import__('ctypes').string_at(0)",), "the child process crashed (SIGSEGV)"),
        (("__import__('os').kill(__import__('os').getpid(), 9)",), "was killed (SIGKILL)"),
        (("__import__('os').kill(__import__('os').getpid(), 40)",), "crashed (signal 40)"),
        (("__import__('os')._exit(3)",), "ended (exit code 3)"),
        (("__import__('sys').exit('text')",), "ended (exit code 1)"),
        (("(lambda f: f(f))(lambda f: f(f))",), "RecursionError"),
        (("1 +",), "SyntaxError"),
    ],
)
def test_every_end_has_its_line_and_the_next_task_goes_on(task, error):
    found = outcomes(eval, [task, ("40 + 2",)], workers=1)
    assert error in found[0].error
    assert "\n" not in found[0].error
    assert found[1].value == 42


def test_no_child_leaves_a_core_dump():
    assert outcomes(resource.getrlimit, [(resource.RLIMIT_CORE,)])[0].value == (0, 0)


def test_the_memory_limit_yields_to_the_users_own(tmp_path):
    script = "import resource\nfrom lim_gpu.workers import run_in_children\n"
    script += "limit = (resource.RLIMIT_AS,)\n"
    script += "print(*run_in_children(resource.getrlimit, [limit], workers=1, memory_limit=1 << 40))"
    limited = ["bash", "-c", 'ulimit -v 4000000; exec "$0" -c "$1"', sys.executable, script]
    result = subprocess.run(limited, capture_output=True, text=True, check=True)
    assert result.stdout == f"TaskResult(task=0, value=({4_000_000 << 10}, {4_000_000 << 10}), error=None)\n"


KILLED_PARENT = """
import os, time
from lim_gpu.workers import run_in_children
for outcome in run_in_children(os.getpid, [()] * 2, workers=1):
    print(outcome.value, flush=True)
    time.sleep(60)
"""


def test_a_killed_parent_leaves_no_children():
    parent = subprocess.Popen(
        [sys.executable, "-c", KILLED_PARENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    parent.kill()
    _, err = parent.communicate(timeout=800)
    while Path(f"/proc/{child}").exists():  # until this test runs out of time
        time.sleep(0.05)
    assert err == ""


def test_a_crash_costs_its_own_task_only():
    found = outcomes(os.kill, [(0, 0), (0, 0)])
    assert all(outcome.error is None for outcome in found.values())
    crashed = outcomes(os.abort, [()] * 3)
    assert all("SIGABRT" in outcome.error for outcome in crashed.values())
    assert len(crashed) == 3


def test_a_hanging_child_is_stopped(monkeypatch):
    """It alone: on a busy machine the others, too, may take half a second to start."""
    give = workers._give

    def give_half_a_second_to_the_first(child, task, function, tasks, _timeout):
        give(child, task, function, tasks, 0.5 if task == 0 else None)

    monkeypatch.setattr(workers, "_give", give_half_a_second_to_the_first)
    found = outcomes(time.sleep, [(3600,), (0.01,), (0.01,)])
    assert "too long" in found[0].error
    assert found[1].error is None
    assert found[2].error is None


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
        "import signal, time\n"
        "from lim_gpu.workers import run_in_children\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where a shell began the tests with &
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
    out, err = child.communicate(timeout=800)
    assert out == "interrupted\n"
    assert err == ""


def test_no_child_ever_sees_an_interruption():
    """Not even one that is still importing: the terminal sends Ctrl-C to the whole group."""
    blocked = outcomes(eval, [("__import__('signal').pthread_sigmask(0, ())",)] * 4)
    assert all(signal.SIGINT in outcome.value for outcome in blocked.values())
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
