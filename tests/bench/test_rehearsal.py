"""The GPU half of the benchmark without a GPU: its parts run on tiny slices on the CPU, kernels emulated, and their
rows become tables, goals and plots. No time here means anything.
"""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from bench import ceilings, datasets, inputs, kernels, parts, peers, profiled, report
from bench.goals import GOALS
from bench.peers import hashes as hash_peers
from bench.peers import pairs as pair_peers
from emulation import EmulatedModule, emulate
from lim_gpu.intensity import cuda as intensity
from lim_gpu.pruning import cuda as prune
from lim_gpu.similarity.cuda import hash as cuda_hash
from lim_gpu.similarity.cuda import mi, ssim

pytestmark = pytest.mark.emulated
SIZE, SLICES, HASHES = 32, 40, 300
pairs, hashing, deepnet, growth, versions, data_sets = (
    import_module(f"bench.test_{name}_speed") for name in "pairs hash deepnet growth kernels datasets".split()
)


@pytest.fixture
def tiny(monkeypatch):
    """Volumes and hashes become few and small, the GPU the CPU, and kernels are emulated."""
    volume, hashes = inputs.volume, inputs.random_hashes
    for module in (inputs, datasets):
        monkeypatch.setattr(
            module,
            "volume",
            lambda n, device, seed=0, size=SIZE: volume(min(n, SLICES), "cpu", seed, SIZE),
            raising=False,
        )
    monkeypatch.setattr(datasets, "once", lambda function, device: 1 / (1 + len([function()])))
    monkeypatch.setattr(data_sets, "BUDGETS", {"SSIM": 0.1, "MI": 0.1, "HASH": 0.1, "DeepNet": 0.1})
    monkeypatch.setattr(versions, "N", 6)
    monkeypatch.setattr(inputs, "random_hashes", lambda n, device: hashes(min(n, HASHES), "cpu"))
    for module in (cuda_hash, intensity, mi, prune, ssim):
        monkeypatch.setattr(module, "load", emulate)


@pytest.fixture
def rows(tiny):
    """What a part has timed."""
    return []


@pytest.fixture
def timed(rows):
    def run(job, unit, peer, function, count, rounds=5, *, table="peers", warm_up=None, **fields):
        (warm_up or function)()
        function()
        row = parts.Row(table, job, peer, "cuda", unit, count, [0.2, 0.3, 0.5], memory=1 << 20, **fields)
        rows.append(parts.Row(**json.loads(json.dumps(row.__dict__))))  # as a file keeps it

    return run


def peers_of(table, *before):
    """The parameters of peers that are installed and run on a GPU and on tensors of the CPU as well."""
    both = (param.values for param in peers.params(table, *before) if find_spec(param.values[-2].needs))
    return [(*values[:-1], "cpu") for values in both if values[-1] == "cuda" and "cpu" in values[-2].devices]


def test_a_wrong_peer_is_not_timed(timed, rows):
    wrong = peers.Peer("wrong", "torch", lambda slices, which: 1.01 * pair_peers.SSIM[1].compute(slices, which))
    with pytest.raises(AssertionError):
        pairs.test_peer("ssim", wrong, "cpu", timed)
    assert rows == []


def everything(timed):
    """All rows of a run on a GPU, in the order of the parts."""
    for ceiling in ceilings.LOOPS:
        run, operations = ceilings.loop(ceiling, emulated_ceilings(), "cpu", blocks=1, rounds=2)
        timed("ceilings", "operation", ceiling.resource, run, operations, table="ceilings")
    for resource, (copy, size) in ceilings.copies("cpu", 1000).items():
        timed("ceilings", "byte", resource, copy, size, table="ceilings")
    for kernel in kernels.ALL:
        versions.test_kernel(kernel, timed)
    for values in (*peers_of(pair_peers.SSIM, "ssim"), *peers_of(pair_peers.MI, "mi")):
        pairs.test_peer(*values, timed)
    for method in pairs.JOBS:
        pairs.test_lim_gpu_on_gpu(method, 128, timed)
    for peer, device in peers_of(hash_peers.HASHES):
        hashing.test_peer(peer, device, timed)
    hashing.test_lim_gpu_on_gpu(timed)
    for peer, device in peers_of(hash_peers.DISTANCES):
        hashing.test_peer_distances(peer, device, timed)
    hashing.test_lim_gpu_distances_on_gpu(timed)
    for rule in hashing.RULES:
        hashing.test_data_set_on_gpu(rule, timed)
    for n in growth.SIZES:
        growth.test_growth_on_gpu("ssim", n, timed)


def emulated_ceilings():
    return EmulatedModule("ceilings", source=ceilings.text())


def test_all_parts_and_the_report(timed, rows, tmp_path):
    everything(timed)
    for data_set in data_sets.SHAPES:
        for method in data_sets.BUDGETS:
            data_sets.test_matrices(method, data_set, {method: len}, rows.append)
    lines = report.write([parts.Part("all", "key", {"machine": "none"}, rows)], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"RESULTS.md", "peers.png", "share.png", "growth.png"}
    missing = [goal.title for goal in GOALS if f"| {goal.title} | not measured |  |" in lines]
    for measured in (
        "60 % of the fp32 limit",
        "100x pytorch-msssim",
        "LIDC in 30 s",
        "greedy, in 10 s",
        "5,000 slices",
    ):
        assert not any(measured in title for title in missing)
    assert any("scikit-image" in title for title in missing)
    assert any("extrapolated from" in line for line in lines)


def test_results_that_tell_of_more_parts_stay(tmp_path):
    row = parts.Row("peers", "SSIM", "lim_gpu", "cpu", "pair", 1, [1.0])
    both = [parts.Part(name, "key", {"machine": name}, [row]) for name in ("gpu", "cpu")]
    report.write(both, tmp_path)
    standing = (tmp_path / "RESULTS.md").read_text()
    assert "stands tells of more" in report.write(both[1:], tmp_path)[-1]
    assert (tmp_path / "RESULTS.md").read_text() == standing
    assert "cpu" in (tmp_path / "parts" / "RESULTS.md").read_text()
    report.write([*both, parts.Part("new", "other", {"machine": "new"}, [row])], tmp_path)
    assert "new" in (tmp_path / "RESULTS.md").read_text()
    assert not (tmp_path / "parts" / "RESULTS.md").exists()


def test_a_profiler_sees_every_version(tiny, monkeypatch):
    monkeypatch.setattr(profiled, "N", 6)
    seen = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda.profiler, "start", lambda: seen.append("start"))
    monkeypatch.setattr(torch.cuda.profiler, "stop", lambda: seen.append("stop"))
    assert profiled.run(["mi_pairs"], "cpu") == ["mi_pairs"]
    names = profiled.run([], "cpu")
    assert {"ssim_pairs_tensor_4x16", "mi_pairs_every", "prune_rank", "intensity_minmax"} <= set(names)
    assert seen == ["start", "stop"] * (1 + len(names))
