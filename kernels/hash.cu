// HASH: the 64-bit difference hash (imagehash.dhash): a slice shrinks to 9 x 8 with Pillow's Lanczos filter, and a bit
// is set where a pixel is brighter than its left neighbour, rows from top to bottom, the first bit the most
// significant. Bit for bit.
//
// Pillow resamples 8-bit images in fixed point, along rows and down columns, each output
//
//     clip((2^21 + sum over its pixels of pixel * weight) >> 22, 0, 255)
//
// with whole weights that the host makes as Pillow does. Whole sums have no order, so that a warp may share a row.
// Which pass comes first is the host's to say, as Pillow has it.
//
// Versions of dhash: this one. The first pass reads every pixel about six times, from the L1 cache but once, and is
// what costs; the rest is small. Some 7 instructions each time, loop and sum included (SASS of sm_90), 42 a pixel: 3e6
// slices of 512 x 512 a second on an H200, which reads 1.8e7 from its memory and is sent 2.4e5 over the bus. It
// did 4.8e5 (256 slices, bench/NOTES.md), twice what the bus can send.
//
// n x n (hash_distances, hash_similarities): a thread keeps the hash of its column and goes down the rows, so that no
// pair needs a division to know its place. 21 and 25 instructions a pair (SASS of sm_90), 1.6e12 and 1.3e12 pairs a
// second on an H200; its memory takes 4.8e12 bytes, 1 and 4 a pair. It did 9.4e11 distances.
//
// Pruning needs no n x n: hash_nearest and the two kernels of a sweep stream over hashes (lim_gpu/pruning/hashes.py).
// A distance of hash_nearest is two XOR, two POPC of 32 bits and five more instructions, the loop's included (SASS of
// sm_90). POPC has 16 lanes in a multiprocessor from sm_75 on, so 8 distances a cycle are the floor: 1.9e12 a second
// with 132 of them at 1.8 GHz. The rest takes half the issue slots that POPC leaves; a whole warp reads one hash from
// shared memory.
//
// Predicted for a million hashes: ranking compares 1.3 times the 5e11 pairs, 0.35 s; sweeps are at most some 3,000
// launches, and settling 1,024 hashes takes up to 0.1 ms, so 0.8 s in all. The leader rule, when all stay: 0.26 s for
// the pairs and 0.1 s for settling. Memory: 150 MB, of which sorting a level takes the most. An H200 took 0.35 s, 0.12
// s for the leader rule, and 180 MB.

constexpr int ACROSS = 9;
constexpr int DOWN = 8;
constexpr int PRECISION = 22;  // bits of Pillow's weights

__device__ inline int clip8(int sum) { return min(max(sum >> PRECISION, 0), 255); }

extern "C" __global__ void hash_rows(const u8* __restrict__ slices,    // (n, H, W)
                                     const int* __restrict__ weights,  // (9, W)
                                     const int* __restrict__ first,    // (9): pixels first .. last have a weight
                                     const int* __restrict__ last,     // (9)
                                     u8* narrow,                       // (n, H, 9)
                                     int n, int H, int W) {
    // A warp takes a row at a time.
    int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    for (i64 row = (i64)blockIdx.x * warps + threadIdx.x / WARP; row < (i64)n * H; row += (i64)gridDim.x * warps) {
        for (int column = 0; column < ACROSS; ++column) {
            int sum = lane == 0 ? 1 << (PRECISION - 1) : 0;
            for (int k = first[column] + lane; k < last[column]; k += WARP) {
                sum += slices[row * W + k] * weights[column * W + k];
            }
            for (int distance = WARP / 2; distance > 0; distance /= 2) {
                sum += __shfl_down_sync(ALL_LANES, sum, distance);
            }
            if (lane == 0) {
                narrow[row * ACROSS + column] = clip8(sum);
            }
        }
    }
}

extern "C" __global__ void hash_columns(const u8* __restrict__ slices,    // (n, H, W)
                                        const int* __restrict__ weights,  // (8, H)
                                        const int* __restrict__ first,    // (8): rows first .. last have a weight
                                        const int* __restrict__ last,     // (8)
                                        u8* low,                          // (n, 8, W)
                                        int n, int H, int W) {
    // A thread takes a pixel of the result at a time.
    i64 pixels = (i64)n * DOWN * W;
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < pixels; k += (i64)gridDim.x * blockDim.x) {
        i64 slice = k / (DOWN * W);
        int row = k / W % DOWN, column = k % W;
        int sum = 1 << (PRECISION - 1);
        for (int r = first[row]; r < last[row]; ++r) {
            sum += slices[(slice * H + r) * W + column] * weights[row * H + r];
        }
        low[k] = clip8(sum);
    }
}

extern "C" __global__ void hash_bits(const u8* __restrict__ small,  // (n, 8, 9)
                                     u64* hashes,                   // (n)
                                     int n) {
    // A thread takes a slice.
    for (i64 slice = (i64)blockIdx.x * blockDim.x + threadIdx.x; slice < n; slice += (i64)gridDim.x * blockDim.x) {
        u64 bits = 0;
        for (int row = 0; row < DOWN; ++row) {
            const u8* pixels = small + (slice * DOWN + row) * ACROSS;
            for (int column = 1; column < ACROSS; ++column) {
                bits = bits << 1 | (pixels[column] > pixels[column - 1]);
            }
        }
        hashes[slice] = bits;
    }
}

extern "C" __global__ void hash_distances(const u64* __restrict__ x,  // (a)
                                          const u64* __restrict__ y,  // (b)
                                          u8* distances,              // (a, b): bits, 0..64
                                          i64 a, i64 b) {
    for (i64 column = (i64)blockIdx.x * blockDim.x + threadIdx.x; column < b; column += (i64)gridDim.x * blockDim.x) {
        u64 own = y[column];
        for (i64 row = blockIdx.y; row < a; row += gridDim.y) {
            distances[row * b + column] = __popcll(x[row] ^ own);
        }
    }
}

extern "C" __global__ void hash_similarities(const u64* __restrict__ x,  // (a)
                                             const u64* __restrict__ y,  // (b)
                                             float* similarities,        // (a, b): 1 - bits / 64, exact
                                             i64 a, i64 b) {
    for (i64 column = (i64)blockIdx.x * blockDim.x + threadIdx.x; column < b; column += (i64)gridDim.x * blockDim.x) {
        u64 own = y[column];
        for (i64 row = blockIdx.y; row < a; row += gridDim.y) {
            similarities[row * b + column] = 1 - __popcll(x[row] ^ own) / 64.0f;
        }
    }
}

// ------------------------------------------------------------------------------------------------ pruning

constexpr int TILE = 1024;          // hashes of the pool in shared memory
constexpr int PLACE_BITS = 25;      // of a chunk of the pool; a distance has the seven above
constexpr int SETTLED = 1024;       // hashes that are settled among themselves: a thread each
constexpr int NOBODY = 2147483647;  // who drops a hash that stays
constexpr u32 NONE = 0xffffffff;

__device__ inline int apart(u64 x, u64 y) { return __popcll(x ^ y); }

// For every query the nearest of the first before[query] of the pool, ties to the lowest place. A thread a query,
// blocks along y share the pool.
extern "C" __global__ void hash_nearest(const u64* __restrict__ queries,  // (a)
                                        const u64* __restrict__ pool,     // (b)
                                        const int* __restrict__ before,   // (a): ascending
                                        u64* nearest,                     // (a): bits << 32 | place; larger before
                                        int a, int b, int chunk) {
    __shared__ u64 tile[TILE];
    int query = blockIdx.x * blockDim.x + threadIdx.x;
    u64 own = query < a ? queries[query] : 0;
    i64 first = (i64)blockIdx.y * chunk, limit = query < a ? before[query] : 0;
    i64 farthest = before[min((int)((blockIdx.x + 1) * blockDim.x), a) - 1];
    i64 last = min(min(first + chunk, (i64)b), farthest);
    u32 best = NONE;
    for (i64 start = first; start < last; start += TILE) {
        __syncthreads();  // the tile before has been read
        for (int k = threadIdx.x; k < TILE && start + k < last; k += blockDim.x) {
            tile[k] = pool[start + k];
        }
        __syncthreads();
        int size = min(min(last, limit) - start, (i64)TILE);
        for (int k = 0; k < size; ++k) {
            best = min(best, ((u32)apart(own, tile[k]) << PLACE_BITS) + (u32)(start - first) + k);
        }
    }
    if (best != NONE) {
        u64 place = first + (best & ((1 << PLACE_BITS) - 1));
        atomicMin(&nearest[query], (u64)(best >> PLACE_BITS) << 32 | place);
    }
}

// A sweep walks hashes in order; each one left drops every later one within `reach` bits, and who drops one is the
// first that does. Some are dropped before it begins, by others. One block settles SETTLED of them among themselves,
// and then all blocks drop the later ones that the leaders reach.

extern "C" __global__ void __launch_bounds__(SETTLED)
    hash_settle(const u64* __restrict__ hashes,   // (n)
                const int* __restrict__ numbers,  // (n): ascending; what `remover` calls them
                int* remover,                     // (n): NOBODY while it is left
                u64* leaders,                     // (1024): those left, in order
                int* leader_numbers,              // (1024)
                int* count,                       // (1): of them
                int n, int first, int reach) {
    __shared__ u64 block[SETTLED];
    __shared__ int block_numbers[SETTLED];
    __shared__ u8 gone[SETTLED];
    int own = threadIdx.x, size = min(SETTLED, n - first), found = 0;
    int remover_of_own = NOBODY;
    if (own < size) {
        block[own] = hashes[first + own];
        block_numbers[own] = numbers[first + own];
        remover_of_own = remover[first + own];
        gone[own] = remover_of_own != NOBODY;
    }
    __syncthreads();
    for (int k = 0; k < size; ++k) {
        if (gone[k]) {
            continue;
        }
        if (own == k) {
            leaders[found] = block[k];
            leader_numbers[found] = block_numbers[k];
        }
        ++found;
        if (own > k && own < size && apart(block[k], block[own]) <= reach) {
            remover_of_own = min(remover_of_own, block_numbers[k]);
            gone[own] = 1;
        }
        __syncthreads();
    }
    if (own < size) {
        remover[first + own] = remover_of_own;
    }
    if (own == 0) {
        *count = found;
    }
}

extern "C" __global__ void hash_drop(const u64* __restrict__ hashes,          // (n)
                                     const u64* __restrict__ leaders,         // (1024)
                                     const int* __restrict__ leader_numbers,  // (1024)
                                     const int* __restrict__ count,           // (1)
                                     int* remover,                            // (n)
                                     int n, int first, int reach) {
    __shared__ u64 tile[SETTLED];
    int found = *count;
    for (int k = threadIdx.x; k < found; k += blockDim.x) {
        tile[k] = leaders[k];
    }
    __syncthreads();
    for (i64 j = first + (i64)blockIdx.x * blockDim.x + threadIdx.x; j < n; j += (i64)gridDim.x * blockDim.x) {
        u64 own = hashes[j];
        int by = remover[j], looked_at = found > 0 && leader_numbers[0] < by ? found : 0;
        for (int k = 0; k < looked_at; ++k) {
            if (apart(tile[k], own) <= reach) {
                by = min(by, leader_numbers[k]);  // later leaders have higher numbers
                break;
            }
        }
        remover[j] = by;
    }
}
