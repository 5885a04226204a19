"""HASH: the hashes of slices, the distances of all pairs, and whole data sets of hashes without a matrix."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from bench import inputs, peers
from lim_gpu.pruning.hashes import leader_hashes, rank_hashes
from lim_gpu.similarity.hash import BITS, dhash, hamming_matrix

HASHES, DISTANCES, DATA_SET = "HASH, hashes", "HASH, distances", "HASH, a data set without a matrix"
N = {"cpu": 5000, "cuda": 20_000}  # of which the distances fill no cache
MANY = {"cpu": 20_000, "cuda": 1_000_000}
RULES = {"greedy": lambda hashes: rank_hashes(hashes).dropped, "leader": lambda hashes: leader_hashes(hashes, 6)}
THREADS = sorted({1, os.cpu_count()})


def named(threads: int) -> str:
    return f"lim_gpu, {threads} thread{'s' * (threads > 1)}"


def differing_bits(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of 64, on average."""
    bits = torch.arange(BITS, device=a.device)
    return float(((a[:, None] ^ b[:, None]) >> bits & 1).sum(1).float().mean())


@pytest.mark.parametrize(("peer", "device"), peers.params(peers.HASHES))
def test_peer(peer, device, timed):
    slices = inputs.volume(40, device)
    error = differing_bits(peer.compute(slices).cpu(), peers.imagehash_hashes(slices.cpu()))
    assert error <= peer.tolerance
    timed(HASHES, "slice", peer.name, lambda: peer.compute(slices), len(slices), n=len(slices), error=error)


@pytest.mark.parametrize("threads", THREADS)
def test_lim_gpu(threads, slices, timed):
    torch.set_num_threads(threads)
    assert (torch.from_numpy(dhash(slices).view("int64")) == peers.imagehash_hashes(torch.from_numpy(slices))).all()
    timed(HASHES, "slice", named(threads), lambda: dhash(slices), len(slices), n=len(slices), error=0)


@pytest.mark.gpu
def test_lim_gpu_on_gpu(timed):
    from lim_gpu.similarity.cuda.hash import dhash as on_gpu

    slices = inputs.volume(512, "cuda")
    assert (on_gpu(slices[:40]).cpu() == peers.imagehash_hashes(slices[:40].cpu())).all()
    timed(HASHES, "slice", "lim_gpu", lambda: on_gpu(slices), len(slices), n=len(slices), error=0)


@pytest.mark.parametrize(("peer", "device"), peers.params(peers.DISTANCES))
def test_peer_distances(peer, device, timed):
    few = inputs.random_hashes(20, device)
    assert (peer.compute(few).cpu() == peers.imagehash_distances(few.cpu())).all()
    n = peers.FEW if peer.compute in peers.SLOW else N[device]
    hashes = inputs.random_hashes(n, device)
    timed(DISTANCES, "pair", peer.name, lambda: peer.compute(hashes), n * n, n=n, error=0)


@pytest.mark.parametrize("threads", THREADS)
def test_lim_gpu_distances(threads, timed):
    torch.set_num_threads(threads)
    n = N["cpu"]
    hashes = inputs.random_hashes(n, "cpu")
    distances = torch.from_numpy(hamming_matrix(hashes.numpy().view("uint64")))
    assert (distances == peers.torch_distances(hashes)).all()
    timed(DISTANCES, "pair", named(threads), lambda: hamming_matrix(hashes.numpy().view("uint64")), n * n, n=n, error=0)


@pytest.mark.gpu
def test_lim_gpu_distances_on_gpu(timed):
    from lim_gpu.similarity.cuda.hash import hamming_matrix as on_gpu

    n = N["cuda"]
    hashes = inputs.random_hashes(n, "cuda")
    assert (on_gpu(hashes) == peers.torch_distances(hashes)).all()
    timed(DISTANCES, "pair", "lim_gpu", lambda: on_gpu(hashes), n * n, n=n, error=0)


@pytest.mark.budget(20)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("rule", RULES)
def test_data_set(rule, threads, timed):
    torch.set_num_threads(threads)
    hashes = inputs.random_hashes(MANY["cpu"], "cpu").numpy().view("uint64")
    timed(f"{DATA_SET}, {rule}", "slice", named(threads), lambda: RULES[rule](hashes), len(hashes), 3, n=len(hashes))


@pytest.mark.budget(20)
@pytest.mark.parametrize("threads", THREADS)
def test_faiss_data_set(threads, timed):
    pytest.importorskip("faiss", reason="FAISS is not installed")
    torch.set_num_threads(threads)
    few, many = (inputs.random_hashes(n, "cpu") for n in (2000, MANY["cpu"]))
    np.testing.assert_array_equal(peers.faiss_leader(few, 6), RULES["leader"](few.numpy().view("uint64")))
    peer = named(threads).replace("lim_gpu", "FAISS")
    timed(f"{DATA_SET}, leader", "slice", peer, lambda: peers.faiss_leader(many, 6), len(many), 3, n=len(many))


@pytest.mark.gpu
@pytest.mark.budget(30)
@pytest.mark.parametrize("rule", RULES)
def test_data_set_on_gpu(rule, timed):
    few = inputs.random_hashes(2000, "cuda")
    np.testing.assert_array_equal(RULES[rule](few), RULES[rule](few.cpu()))
    hashes = inputs.random_hashes(MANY["cuda"], "cuda")
    timed(f"{DATA_SET}, {rule}", "slice", "lim_gpu", lambda: RULES[rule](hashes), len(hashes), 3, n=len(hashes))
