"""A run of the benchmark on a GPU: the order of the parts, and what a part leaves behind that took the GPU with it."""

from __future__ import annotations

import pytest
import torch

from bench import conftest, machine, parts, report

pytest_plugins = ["pytester"]
PARTS = """
    import pytest
    from bench import conftest, parts

    pytestmark = pytest.mark.gpu

    def test_a():
        assert parts.failure("kernels-a")  # should the process end here

    def test_b():
        conftest.lost.append(True)
        raise RuntimeError("an illegal memory access was encountered\\nand more")

    def test_c():
        pass
"""


def synchronize():
    if conftest.lost:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.fixture
def run(pytester, tmp_path, monkeypatch):
    """Runs PARTS as on a machine with a GPU, which the second one loses; each time as a new process would."""
    monkeypatch.setattr(parts, "FOLDER", tmp_path / "parts")
    monkeypatch.setattr(report, "write", lambda parts: [])
    monkeypatch.setattr(machine, "environment", lambda: {"GPU": "made up"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(conftest, "find_spec", lambda name: True)
    pytester.makepyfile(test_kernels_speed=PARTS)

    def go(*options):
        monkeypatch.setattr(conftest, "lost", [], raising=False)
        return pytester.runpytest_inprocess("-p", "bench.conftest", "-p", "no:hypothesispytest", "-v", *options)

    return go


def test_a_lost_gpu_ends_the_run_and_what_lost_it_comes_last_in_the_next(run):
    first = run()
    first.assert_outcomes(passed=1, failed=1)
    assert first.ret == pytest.ExitCode.INTERRUPTED
    assert parts.failure("kernels-a") == ""
    assert parts.failure("kernels-b") == "failed: RuntimeError: an illegal memory access was encountered"
    second = run()
    second.assert_outcomes(passed=1, failed=1, skipped=1)  # a was measured
    second.stdout.fnmatch_lines(["*test_a SKIPPED*", "*test_c PASSED*", "*test_b FAILED*"])


def test_no_part_begins_that_would_end_too_late(run):
    parts.save_skip("kernels-c", conftest.UNENDED)
    run("--seconds", "0.001").assert_outcomes(skipped=3)
    late, _, ended_within = parts.load()
    assert late.skipped == "not within 0.001 s: run it again, it goes on here"
    assert ended_within.skipped == conftest.UNENDED


def test_what_is_worth_most_comes_first():
    names = [
        "kernels-ceiling-fma", "kernels-kernel-ssim_plain", "datasets-matrices-SSIM-LIDC-shaped",
        "pretrain-step-lim_gpu-cuda", "pretrain-views-lim_gpu-cuda", "pairs-lim_gpu_on_gpu-ssim-128",
        "hash-lim_gpu_on_gpu", "growth-growth_on_gpu-ssim-5000", "deepnet-forward-cuda-float32",
        "reduce-reduce-ssim-cuda", "growth-growth_on_gpu-ssim-125", "datasets-matrices-SSIM-PET-CT-shaped",
    ]  # fmt: skip
    places = [conftest.place(name) for name in names]
    assert places == sorted(set(places))
