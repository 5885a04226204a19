"""HASH by the kernels against imagehash, bit for bit."""

from __future__ import annotations

import time

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from hard_slices import STACKS, odd_sizes
from lim_gpu.pruning import hashes as hash_rules
from lim_gpu.pruning import rules as pruning
from lim_gpu.similarity.cuda.hash import Search, dhash, hamming_matrix, matrix_of_hashes
from lim_gpu.similarity.hash import matrix_of_hashes as matrix_on_cpu
from lim_gpu.similarity.lanczos import rows_first


def compute(engine, slices):
    hashes = dhash(engine.tensor(slices), module=engine.module("hash"))
    return [f"{value:016x}" for value in hashes.cpu().numpy().view(np.uint64)]


def reference(slices):
    imagehash = pytest.importorskip("imagehash")
    return [str(imagehash.dhash(Image.fromarray(pixels))) for pixels in slices]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", STACKS)
def test_equals_imagehash(engine, name):
    slices = STACKS[name]()[:9]
    assert compute(engine, slices) == reference(slices)


@pytest.mark.parametrize("slices", odd_sizes(), ids=lambda slices: "x".join(map(str, slices.shape[1:])))
def test_any_size_equals_imagehash(engine, slices):
    assert compute(engine, slices) == reference(slices)


@pytest.mark.parametrize("height", [1, 2, 7, 8, 9, 16, 23, 70])
def test_small_and_tall_sizes_equal_imagehash(engine, height):
    for width in (1, 2, 5, 8, 9, 10, 19, 40):
        slices = noise(3, height, width)
        assert compute(engine, slices) == reference(slices), (height, width)


def test_the_order_of_the_passes_matters():
    assert rows_first(512, 512)
    assert rows_first(100, 9) == (int(PIL.__version__.split(".")[0]) < 13)


@pytest.mark.parametrize("n", [1, 2, 33, 300])
def test_distances_are_counted_bits(engine, n):
    values = np.random.default_rng(n).integers(0, 2**64, n, dtype=np.uint64)
    values[-1] = values[0] ^ np.uint64(2**64 - 1)
    hashes = engine.tensor(values.view(np.int64))
    expected = np.array([[int(a ^ b).bit_count() for b in values] for a in values[: n // 2 + 1]])
    module = engine.module("hash")
    distances = hamming_matrix(hashes[: n // 2 + 1], hashes, module=module)
    assert (distances.cpu().numpy() == expected).all()
    assert (matrix_of_hashes(hashes[: n // 2 + 1], hashes, module=module).cpu().numpy() == 1 - expected / 64).all()
    assert (hamming_matrix(hashes, module=module).diagonal() == 0).all()


def test_no_slices(engine):
    none = dhash(engine.tensor(noise(0, 4, 4)), module=engine.module("hash"))
    assert none.shape == (0,)
    assert hamming_matrix(none, module=engine.module("hash")).shape == (0, 0)


def families(n):
    """Slices that differ from the one before by a few bits, as neighbours do."""
    rng = np.random.default_rng(n)
    values = rng.integers(0, 2**63, max(1, n // 50), dtype=np.uint64)[np.sort(rng.integers(0, max(1, n // 50), n))]
    for _ in range(3):
        values ^= np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64)
    return values


def gray_code(n):
    """Each differs from the one before by one bit: whether it goes depends on all before."""
    counted = np.arange(n, dtype=np.uint64)
    return counted ^ (counted >> np.uint64(1))


SETS = {
    "1": families(1),
    "2": families(2),
    "33": families(33),
    "1025": families(1025),
    "families": families(2100),
    "equal": np.full(2100, 7, dtype=np.uint64),
    "gray code": gray_code(2100),
    "few bits": np.random.default_rng(0).integers(0, 16, 1500).astype(np.uint64),
    "random": np.random.default_rng(0).integers(0, 2**64, 1100, dtype=np.uint64),
    "opposite": np.array([0, 2**64 - 1] * 20, dtype=np.uint64),
}


@pytest.fixture
def on_engine(engine, monkeypatch):
    """Hashes as a tensor, which the kernels take."""
    monkeypatch.setattr(hash_rules, "search_for", lambda hashes: Search(engine.module("hash")))
    return lambda values: engine.tensor(values.view(np.int64))


@pytest.mark.parametrize("name", SETS)
def test_rank_equals_the_rank_of_the_matrix(on_engine, name):
    values = SETS[name]
    ranking, expected = hash_rules.rank_hashes(on_engine(values)), pruning.rank(matrix_on_cpu(values))
    np.testing.assert_array_equal(ranking.dropped, expected.dropped)
    np.testing.assert_array_equal(ranking.covered_by, expected.covered_by)
    np.testing.assert_array_equal(ranking.similarity, expected.similarity)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("bits", [0, 2.5, 20, 64])
def test_leader_and_nearest_equal_those_of_the_matrix(on_engine, name, bits):
    values = SETS[name]
    matrix = matrix_on_cpu(values)
    kept = hash_rules.leader_hashes(on_engine(values), bits)
    np.testing.assert_array_equal(kept, pruning.leader(matrix, 1 - bits / 64))
    covered_by, distance = hash_rules.nearest_kept(on_engine(values), kept)
    expected, similarity = pruning.nearest_kept(matrix, kept)
    np.testing.assert_array_equal(covered_by, expected)
    np.testing.assert_array_equal(1 - distance / 64, similarity)


def test_sweep_equals_the_cpu(engine):
    """Some are dropped by others before it begins, and still learn of a lower leader."""
    values, rng = families(2400) & np.uint64(0xFFFF), np.random.default_rng(0)
    numbers = np.cumsum(rng.integers(1, 9, len(values))).astype(np.int32)
    by = (rng.random(len(values)) * (numbers - 1)).astype(np.int32)
    remover = np.where(rng.random(len(values)) < 0.3, by, hash_rules.NOBODY).astype(np.int32)
    found = engine.tensor(remover)
    Search(engine.module("hash")).sweep(engine.tensor(values.view(np.int64)), engine.tensor(numbers), found, 2)
    expected = torch.from_numpy(remover)
    hash_rules.Search().sweep(torch.from_numpy(values.view(np.int64)), torch.from_numpy(numbers), expected, 2)
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("blocks", [1, 3])
def test_nearest_of_a_shared_pool(engine, monkeypatch, blocks):
    monkeypatch.setattr("lim_gpu.similarity.cuda.hash.ENOUGH_BLOCKS", blocks)
    search, pool = Search(engine.module("hash")), families(3000)
    before = np.sort(np.random.default_rng(0).integers(0, 3001, 400))
    place, bits = search.nearest(*(engine.tensor(x) for x in (pool[:400].view(np.int64), pool.view(np.int64), before)))
    for query, (own, seen) in enumerate(zip(pool, before, strict=False)):
        apart = np.bitwise_count(pool[:seen] ^ own)
        assert bits[query] == (apart.min() if seen else 255)
        assert not seen or place[query] == apart.argmin()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["families", "random", "equal", "gray code"])
def test_a_million_hashes(kind):
    make = {"families": families, "gray code": gray_code, "equal": lambda n: np.full(n, 7, dtype=np.uint64)}
    n = 1_000_000
    values = make.get(kind, lambda n: np.random.default_rng(0).integers(0, 2**64, n, dtype=np.uint64))(n)
    there = torch.from_numpy(values.view(np.int64)).cuda()
    hash_rules.rank_hashes(there[:5000])
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = []
    for step in (hash_rules.rank_hashes, lambda hashes: hash_rules.leader_hashes(hashes, 6)):
        start = time.perf_counter()
        result = step(there)
        seconds.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() - before
    print(f"\na million hashes, {kind}: rank {seconds[0]:.2f} s, leader {seconds[1]:.2f} s, {memory / 1e6:.0f} MB")
    few = hash_rules.rank_hashes(values[:50_000])
    np.testing.assert_array_equal(hash_rules.rank_hashes(there[:50_000]).dropped, few.dropped)
    np.testing.assert_array_equal(hash_rules.leader_hashes(values[:50_000], 6), result[result < 50_000])
    assert max(seconds) < 10
    assert memory < 1 << 30


@pytest.mark.real
def test_real_ct(engine, headneck_grey):
    slices = headneck_grey[:4] if engine.device.type == "cpu" else headneck_grey
    assert compute(engine, slices) == reference(slices)
