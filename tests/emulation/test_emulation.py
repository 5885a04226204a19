"""The emulation itself: what is right on a GPU is right here, and what is wrong is seen."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from emulation import EmulatedModule, EmulationError

pytestmark = pytest.mark.emulated

REVERSE = "copy[threadIdx.x] = values[k]; __syncthreads(); values[k] = copy[blockDim.x - 1 - threadIdx.x];"
SHARED = "__shared__ int copy[64]; int k = blockIdx.x * blockDim.x + threadIdx.x; "
LANE = "int lane = threadIdx.x % 32; values[threadIdx.x] = "
SHUFFLES = {
    "shuffle": ("__shfl_sync(ALL, lane, 5)", lambda lane: 5),
    "shuffle_xor": ("__shfl_xor_sync(ALL, lane, 3)", lambda lane: lane ^ 3),
    "shuffle_down": ("__shfl_down_sync(ALL, lane, 30)", lambda lane: lane + 30 if lane < 2 else lane),
    "shuffle_up": ("__shfl_up_sync(ALL, lane, 30)", lambda lane: lane - 30 if lane >= 30 else lane),
    "shuffle_8_bytes": ("__shfl_xor_sync(ALL, (long long)lane << 32, 1) >> 32", lambda lane: lane ^ 1),
    "shuffle_twice": (
        "__shfl_xor_sync(ALL, lane, 1) * 100 + __shfl_xor_sync(ALL, lane, 2)",
        lambda lane: (lane ^ 1) * 100 + (lane ^ 2),
    ),
}
WRONG = {
    "barrier_of_some": ("if (threadIdx.x < 7)\n__syncthreads();", "waits at line 4 for threads that do not come"),
    "two_barriers": (
        "if (threadIdx.x < 7)\n__syncthreads();\nelse\n__syncthreads();",
        "waits at line [46] for threads that do not come",
    ),
    "lane_gone": ("if (threadIdx.x == 3) return;\n__shfl_xor_sync(ALL, n, 1);", "waits at line 4 for threads"),
    "half_a_warp": ("if (threadIdx.x % 32 < 16)\n__shfl_xor_sync(ALL, n, 1);\n__syncthreads();", "waits at line [45]"),
    "partial_mask": ("__shfl_xor_sync(0xffff, n, 1);", "only shuffles of the whole warp"),
    "write_behind": ("values[n + threadIdx.x] = 1;", "touches memory outside its arrays"),
    "write_before": ("values[-1 - (int)threadIdx.x] = 1;", "touches memory outside its arrays"),
    "read_far": ("values[0] = values[1ll << 44];", "touches memory outside its arrays"),  # no process has so much
    "zero": ("values[0] = n / (n - 40);", "divides by 0"),
    "no_such_lane": ("values[0] = __shfl_sync(ALL, n, 9);", "shuffles from lane 9, which is not there"),
}
KERNELS = {
    "reverse": SHARED + REVERSE,
    "reverse_without_barrier": SHARED + REVERSE.replace("__syncthreads();", ""),
    "first_block_writes": "__shared__ int s; if (k() == 0) s = 7; __syncthreads(); values[blockIdx.x] = s;",
    "last_block_writes": "__shared__ int s; if (k() == 32) s = 7; __syncthreads(); values[blockIdx.x] = s;",
    "dynamic": "DYNAMIC_SHARED(int, a); a[k()] = k(); __syncthreads(); values[k()] = a[n - 1 - k()];",
    "copies": "DYNAMIC_SHARED(int, a); COPY_LATER(a + k(), values + k()); WAIT_FOR_COPIES(); values[k()] = a[k()] + 1;",
    "copies_not_waited_for": "DYNAMIC_SHARED(int, a); COPY_LATER(a + k(), values + k()); values[k()] = a[k()] + 1;",
    "first_warp": "if (threadIdx.x < 32) values[threadIdx.x] = __shfl_xor_sync(ALL, threadIdx.x, 1);",
    "atomics": "atomicAdd(&values[threadIdx.z], (int)(blockIdx.y + threadIdx.x * threadIdx.y));",
    **{name: f"{LANE}{shuffle};" for name, (shuffle, _) in SHUFFLES.items()},
    **{name: body for name, (body, _) in WRONG.items()},
}
COMMON = """constexpr unsigned ALL = 0xffffffff;
static int k() { return blockIdx.x * blockDim.x + threadIdx.x; }
"""
SOURCE = COMMON + "".join(
    f'#line 1 "test.cu"\nextern "C" __global__ void {name}(int *values,  // (n)\nint n) {{\n{body}\n}}\n'
    for name, body in KERNELS.items()
)


@cache
def module(seed):
    return EmulatedModule("test", seed, SOURCE)


def run(name, grid, block, size, seed=0, shared=0):
    values = torch.arange(size, dtype=torch.int32)
    module(seed).launch(name, grid, block, shared=shared, values=values)
    return values.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_barrier_and_shared_memory(seed):
    right = [40 * block + k for block in range(3) for k in reversed(range(40))]
    assert run("reverse", 3, 40, 120, seed) == right
    assert run("reverse_without_barrier", 3, 40, 120, seed) != right


def test_shared_memory_is_not_left_from_the_block_before():
    for seed in range(4):  # either block comes first
        first, second = run("first_block_writes", 2, 32, 2, seed), run("last_block_writes", 2, 32, 2, seed)
        assert first[0] == second[1] == 7
        assert 7 not in (first[1], second[0])


def test_dynamic_shared_memory():
    assert run("dynamic", 1, 64, 64, shared=256) == list(reversed(range(64)))


def test_copies_may_come_at_once_and_as_late_as_they_are_waited_for():
    assert run("copies", 1, 64, 64, shared=256) == list(range(1, 65))
    waited_for = [value == k + 1 for k, value in enumerate(run("copies_not_waited_for", 1, 64, 64, shared=256))]
    assert waited_for == [False, True] * 32


@pytest.mark.parametrize("name", SHUFFLES)
def test_shuffles(name):
    expected = [SHUFFLES[name][1](k % 32) for k in range(96)]
    assert all(run(name, 1, 96, 96, seed) == expected for seed in range(4))


def test_a_warp_that_shuffles_while_others_are_done():
    assert run("first_warp", 1, 96, 32) == [k ^ 1 for k in range(32)]


def test_atomics_and_three_dimensions():
    assert run("atomics", (1, 3), (4, 5, 2), 2) == [3 * 20 + 3 * 60, 1 + 3 * 20 + 3 * 60]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_reported(name):
    threads = 8 if name == "no_such_lane" else 40
    seed = 1 if name == "write_before" else 0  # arrays lie against a page behind them, or before them
    with pytest.raises(EmulationError, match=rf"{name}: thread \d+ of block \(\d, 0, 0\).*{WRONG[name][1]}"):
        run(name, 2, threads, 40, seed)


def test_more_shared_memory_than_a_block_has():
    with pytest.raises(EmulationError, match="120000 bytes of shared memory"):
        run("dynamic", 1, 32, 32, shared=120_000)


def test_it_goes_on_after_an_error():
    with pytest.raises(EmulationError):
        run("read_far", 1, 32, 32)
    assert run("reverse", 1, 32, 32) == list(reversed(range(32)))
