"""The greedy sequence of made hashes, by Ray's processes on this machine and by one process: equal, and at what cost.

    python -m bench.hashes_on_hosts 1000000

Volumes of 250 slices, of which one differs from the next by a bit or two: ties and chains as real slices have them.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from numpy.typing import NDArray

from bench.test_cluster_overhead import cpu_seconds
from lim_gpu.cluster import LOCAL, connect
from lim_gpu.pruning.hashes import Search, rank_hashes
from lim_gpu.pruning.rules import Ranking
from lim_gpu.reduction.search import SearchOnHosts

SLICES = 250  # of a volume


def made_hashes(n: int) -> NDArray[np.uint64]:
    """Walks of one or two flipped bits a step, each from a hash of its own; uint64 (n,)."""
    rng = np.random.default_rng(0)
    steps = np.bitwise_or(*(np.uint64(1) << rng.integers(0, 64, (2, n), dtype=np.uint64)))
    steps[::SLICES] = rng.integers(0, 2**64, len(steps[::SLICES]), dtype=np.uint64)
    return np.bitwise_xor.accumulate(steps)


def ranked(name: str, hashes: NDArray[np.uint64], search: Search) -> Ranking:
    """The sequence; prints seconds, and how long a pair took a CPU."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    ranking = rank_hashes(hashes, search)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    pairs = len(hashes) ** 2 / 2
    print(f"{name}: {wall:.0f} s, {cpu:.0f} CPU s, {1e9 * cpu / pairs:.2f} CPU ns for each of n² / 2 pairs", flush=True)
    return ranking


def main() -> None:
    """Compare and print."""
    hashes = made_hashes(int(sys.argv[1]))
    rank_hashes(hashes[:5000])  # compiles
    with connect(LOCAL) as there:
        print(f"{len(hashes):,} hashes; {there}", flush=True)
        shared = ranked("Ray", hashes, SearchOnHosts(1, 0))
    alone = ranked("one process", hashes, Search())
    for name in ("dropped", "similarity", "covered_by"):
        np.testing.assert_array_equal(getattr(shared, name), getattr(alone, name))
    print(f"equal: {len(alone.dropped):,} removals, {np.count_nonzero(alone.similarity >= 1 - 6 / 64):,} within 6 bits")


if __name__ == "__main__":
    main()
