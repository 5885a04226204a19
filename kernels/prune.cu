// Which slices go, decided where the similarity matrix lies. The greedy ranking (Wolf et al. 2024, section 2.1): of all
// pairs i < j that are left, the most similar one, ties by (i, j) ascending, loses its j; until none is left.
//
// Floats are compared as whole numbers in the same order, so that the choice is the CPU's to the bit: with -ftz=true,
// which CuPy asks for, two subnormal floats would be equal. i and j are places in `order`, a permutation of the slices.
//
// Versions
//
//     prune_rank_plain   Every removal looks through all pairs that are left, n^3 / 6 in all: the specification.
//     prune_rank         Every row i keeps its best j. A removal takes the best of n rows, and looks again only
//                        through those whose j went: one to three on CT, where the like ones are neighbours.
//
// The floor is one latency after the other, not bytes: n - 1 removals, each a maximum over the block (some 1,500
// cycles) and a look through some rows (two loads, one after the other, and an atomic maximum: some 3,000). Predicted
// for n = 5,000: 15 ms, in one of 132 multiprocessors; the 50 MB of the upper triangle are read in 20 us before. Not
// measured. The worst matrix, of which every row has the same best column at every removal, is that of
// prune_rank_plain.

constexpr int SEGMENT = 256;  // columns of a row that a warp looks through at a time
constexpr int MAX_THREADS = 1024;
constexpr u32 MINUS = 0x80000000;
constexpr u32 INCOMPARABLE = 0x007fffff;  // the key of -inf

// Whole numbers in the order of the floats with these bits; -0 is 0, and 0 is no float's.
__device__ inline u32 key_of(u32 bits) {
    bits = bits == MINUS ? 0 : bits;
    return bits & MINUS ? ~bits : bits | MINUS;
}

// The larger key first, then the lower place.
__device__ inline u64 packed(u32 key, int place) { return (u64)key << 32 | ~(u32)place; }
__device__ inline u32 key(u64 pair) { return pair >> 32; }
__device__ inline int place(u64 pair) { return ~(u32)pair; }

__device__ inline u64 warp_max(u64 value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value = max(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

struct Pairs {
    const u32* matrix;  // (n, n)
    const int* order;   // (n)
    int n;

    __device__ u32 bits(int i, int j) const { return matrix[(i64)order[i] * n + order[j]]; }
};

// ------------------------------------------------------------------------------------------------ greedy

// Raises best[i] of `count` rows to their best j > i that is left. A warp takes a segment of a row at a time.
__device__ inline void look_through(const Pairs& pairs, const u8* gone, const int* rows, int count, u64* best) {
    int segments = (pairs.n + SEGMENT - 1) / SEGMENT, lane = threadIdx.x % WARP;
    for (i64 k = threadIdx.x / WARP; k < (i64)count * segments; k += blockDim.x / WARP) {
        int i = rows[k / segments], first = k % segments * SEGMENT;
        u64 found = 0;
        for (int j = max(first, i + 1) + lane; j < min(first + SEGMENT, pairs.n); j += WARP) {
            if (!gone[i] && !gone[j]) {
                found = max(found, packed(key_of(pairs.bits(i, j)), j));
            }
        }
        found = warp_max(found);
        if (lane == 0) {
            atomicMax(&best[i], found);
        }
    }
}

// The best row, packed with its key, in every thread. What the block wrote to `best` must have been seen by all of it.
__device__ inline u64 best_row(const u64* best, int n, u64* scratch) {
    u64 found = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        found = max(found, packed(key(best[i]), i));
    }
    found = warp_max(found);
    if (threadIdx.x % WARP == 0) {
        scratch[threadIdx.x / WARP] = found;
    }
    __syncthreads();
    return warp_max(threadIdx.x % WARP < blockDim.x / WARP ? scratch[threadIdx.x % WARP] : 0);
}

__device__ inline void record(const Pairs& pairs, int* removal, u8* gone, int i, int j) {
    removal[0] = j, removal[1] = i, removal[2] = pairs.bits(i, j);
    gone[j] = 1;
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS)
    prune_rank_plain(const u32* __restrict__ matrix,  // (n, n): bits of float32
                     const int* __restrict__ order,   // (n)
                     const int* __restrict__ rows,    // (n): 0, 1, 2, ...
                     u64* best,                       // (n)
                     u8* gone,                        // (n): 0
                     int* removals,                   // (n, 3): which place goes, which stays, bits of the similarity
                     int n) {
    __shared__ u64 scratch[WARP];
    Pairs pairs{matrix, order, n};
    for (int removal = 0; removal < n - 1; ++removal) {
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            best[i] = 0;
        }
        __syncthreads();
        look_through(pairs, gone, rows, n, best);
        __syncthreads();
        u64 row = best_row(best, n, scratch);
        if (key(row) <= INCOMPARABLE) {
            return;
        }
        int i = place(row), j = place(best[i]);
        if (threadIdx.x == 0) {
            record(pairs, removals + 3 * (i64)removal, gone, i, j);
        }
        __syncthreads();
    }
}

// A block a row: what prune_rank begins with.
extern "C" __global__ void prune_rows(const u32* __restrict__ matrix,  // (n, n): bits of float32
                                      const int* __restrict__ order,   // (n)
                                      const int* __restrict__ rows,    // (n): 0, 1, 2, ...
                                      const u8* __restrict__ gone,     // (n): 0
                                      u64* best,  // (n): 0, and then the best j, packed with its key
                                      int n) {
    look_through({matrix, order, n}, gone, rows + blockIdx.x, 1, best);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS)
    prune_rank(const u32* __restrict__ matrix,  // (n, n): bits of float32
               const int* __restrict__ order,   // (n)
               u64* best,                       // (n)
               u8* gone,                        // (n): 0
               int* again,                      // (n): rows to look through again
               int* removals,                   // (n, 3): which place goes, which stays, bits of the similarity
               int n) {
    __shared__ u64 scratch[WARP];
    __shared__ int count;  // of `again`
    Pairs pairs{matrix, order, n};
    for (int removal = 0; removal < n - 1; ++removal) {
        if (threadIdx.x == 0) {
            count = 0;
        }
        u64 row = best_row(best, n, scratch);
        if (key(row) <= INCOMPARABLE) {
            return;
        }
        int i = place(row), j = place(best[i]);
        __syncthreads();  // all have read best[i]
        for (int k = threadIdx.x; k < j; k += blockDim.x) {
            if (best[k] && place(best[k]) == j) {
                best[k] = 0;
                again[atomicAdd(&count, 1)] = k;
            }
        }
        if (threadIdx.x == 0) {
            record(pairs, removals + 3 * (i64)removal, gone, i, j);
            best[j] = 0;
        }
        __syncthreads();
        look_through(pairs, gone, again, count, best);
        __syncthreads();
    }
}

// ------------------------------------------------------------------------------------------------ leader rule

// The authors' rule: the places in order, each one left drops every later one whose key is at least `limit`.
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
    prune_leader(const u32* __restrict__ matrix,  // (n, n): bits of float32
                 const int* __restrict__ order,   // (n)
                 u8* gone,                        // (n): 0
                 int n, i64 limit) {
    Pairs pairs{matrix, order, n};
    for (int i = 0; i < n; ++i) {
        if (gone[i]) {
            continue;
        }
        for (int j = i + 1 + threadIdx.x; j < n; j += blockDim.x) {
            if (!gone[j] && key_of(pairs.bits(i, j)) >= limit) {
                gone[j] = 1;
            }
        }
        __syncthreads();
    }
}

// ------------------------------------------------------------------------------------------------ who stands for whom

// The most similar of the kept slices, ties to the first. A warp takes a slice at a time.
extern "C" __global__ void prune_nearest(const u32* __restrict__ matrix,  // (n, n): bits of float32
                                         const int* __restrict__ kept,    // (k)
                                         int* nearest,                    // (n): place in `kept`
                                         int n, int k) {
    int warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    for (i64 slice = (i64)blockIdx.x * warps + threadIdx.x / WARP; slice < n; slice += (i64)gridDim.x * warps) {
        u64 found = 0;
        for (int column = lane; column < k; column += WARP) {
            found = max(found, packed(key_of(matrix[slice * n + kept[column]]), column));
        }
        found = warp_max(found);
        if (lane == 0) {
            nearest[slice] = place(found);
        }
    }
}
