// Normalized mutual information of every pair of slices (Studholme et al. 1999, Pattern Recognition 32:71):
//
//     NMI(x, y) = (H(X) + H(Y)) / H(X, Y),   N H = N log N - sum over the bins of c log c
//
// c: count of a bin, N: pixels.
//
// Counts are exact whole numbers. c log c comes from a table in fixed point that the host makes, so that sums of it
// have no order: a value depends on the counts alone, equals the CPU's bit for bit, and one full bin has an entropy of
// exactly 0. Two slices of one bin each: 2 by definition.
//
// Versions, with the instructions that a thread issues for a pixel of a pair (SASS of sm_90), and the pairs of 512 x
// 512 a second that an H200 did with 256 slices (bench/NOTES.md). Shared memory takes an increment a bank and cycle,
// 3.1e7 pairs a second, as long as no two lanes of a warp meet in a bank.
//
//   mi_pairs_plain  31  1.9e6  A block a pair; every pixel adds 1 to the joint histogram in shared memory. On CT lanes
//                              meet at the fullest bins, one after the other.
//   mi_pairs        27  3.1e6  Any number of bins, in passes over rows of the histogram. Four pixels a load, and the
//                              bin where the fullest bins of the two slices meet is not counted: what the others lack
//                              is its count.
//   mi_pairs_every   4  7.0e6  Where the histogram fits in shared memory as a whole: 16 pixels a load without a test of
//                              bounds, rows or the end, every pixel counted. ATOMS.POPC.INC, which the increments
//                              compile to, merges those of one address in a warp: ways around the fullest bin were
//                              slower (6.2e6 redirected to counters of its own, 5.5e6 skipped). What is left are lanes
//                              that meet in a bank.
// Beside the pixels there are 10,000 bins to clear and to read.
//
// Bin numbers and entropies of single slices are computed once (mi_bins, mi_marginals). CuPy compiles with -ftz=true:
// float32 values below 1.2e-38 count as 0.

constexpr int MAX_BINS = 256;
constexpr int TABLE = 256;  // values of a byte
constexpr int PIECE = 16;   // pixels of a load: bin numbers stand in rows of whole pieces

// ------------------------------------------------------------------------------------------------ a slice, once

// The number of pixels behind the last one, up to a whole piece. The counter of a pair of them lies behind the others.
__device__ inline u8 spare_bin(int bins) { return min(bins, MAX_BINS - 1); }

// The bin of a value as numpy.histogramdd places it: half-open, the last one closed.
__device__ inline int bin_of(double value, const double* edges, int bins) {
    int low = 0, high = bins + 1;  // edges[low] <= value < edges[high]
    while (high - low > 1) {
        int middle = (low + high) / 2;
        (edges[middle] <= value ? low : high) = middle;
    }
    return min(low, bins - 1);
}

extern "C" __global__ void mi_bins_u8(const u8* __restrict__ slices,     // (n, pixels)
                                      const double* __restrict__ edges,  // (n, bins + 1)
                                      u8* numbers,                       // (n, pitch)
                                      int bins, i64 pixels, i64 pitch) {
    __shared__ u8 table[TABLE];
    i64 slice = blockIdx.x;  // blocks along y share the pixels of a slice
    for (int value = threadIdx.x; value < TABLE; value += blockDim.x) {
        table[value] = bin_of(value, edges + slice * (bins + 1), bins);
    }
    __syncthreads();
    for (i64 k = blockIdx.y * blockDim.x + threadIdx.x; k < pitch; k += gridDim.y * blockDim.x) {
        numbers[slice * pitch + k] = k < pixels ? table[slices[slice * pixels + k]] : spare_bin(bins);
    }
}

extern "C" __global__ void mi_bins_f32(const float* __restrict__ slices,  // (n, pixels)
                                       const double* __restrict__ edges,  // (n, bins + 1)
                                       u8* numbers,                       // (n, pitch)
                                       int bins, i64 pixels, i64 pitch) {
    i64 slice = blockIdx.x;
    for (i64 k = blockIdx.y * blockDim.x + threadIdx.x; k < pitch; k += gridDim.y * blockDim.x) {
        double value = slices[slice * pixels + min(k, pixels - 1)];
        numbers[slice * pitch + k] = k < pixels ? bin_of(value, edges + slice * (bins + 1), bins) : spare_bin(bins);
    }
}

extern "C" __global__ void mi_marginals(const u8* __restrict__ numbers,   // (n, pitch)
                                        const i64* __restrict__ c_log_c,  // (pixels + 1)
                                        i64* entropies,                   // (n): N H
                                        int* modes,                       // (n): the fullest bin
                                        i64 pitch, i64 pixels) {
    __shared__ u32 counts[MAX_BINS];
    i64 slice = blockIdx.x;
    for (int bin = threadIdx.x; bin < MAX_BINS; bin += blockDim.x) {
        counts[bin] = 0;
    }
    __syncthreads();
    for (i64 k = threadIdx.x; k < pixels; k += blockDim.x) {
        atomicAdd(&counts[numbers[slice * pitch + k]], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        i64 sum = 0;
        int mode = 0;
        for (int bin = 0; bin < MAX_BINS; ++bin) {
            sum += c_log_c[counts[bin]];
            mode = counts[bin] > counts[mode] ? bin : mode;
        }
        entropies[slice] = c_log_c[pixels] - sum;
        modes[slice] = mode;
    }
}

// ------------------------------------------------------------------------------------------------ pairs, in passes

// Rows first .. first + rows of a joint histogram in shared memory.
struct Rows {
    u32* counts;  // (rows, bins)
    int first, rows, bins;

    __device__ void add(int x, int y) const {
        if (x >= first && x < first + rows) {
            atomicAdd(&counts[(x - first) * bins + y], 1u);
        }
    }
};

struct EveryPixel {
    const u8 *x, *y;  // (pixels)
    i64 pixels;

    __device__ void count(const Rows& histogram) const {
        for (i64 k = threadIdx.x; k < pixels; k += blockDim.x) {
            histogram.add(x[k], y[k]);
        }
    }
};

struct AllButOneBin {
    const u32 *x, *y;  // (pixels), four at a time
    i64 pixels;
    int x_left_out, y_left_out;

    __device__ void count(const Rows& histogram) const {
        for (i64 k = 4 * threadIdx.x; k < pixels; k += 4 * blockDim.x) {
            u32 four_x = x[k / 4], four_y = y[k / 4];
            for (int byte = 0; byte < 4; ++byte) {
                int x_bin = four_x >> 8 * byte & 255, y_bin = four_y >> 8 * byte & 255;
                if (k + byte < pixels && !(x_bin == x_left_out && y_bin == y_left_out)) {
                    histogram.add(x_bin, y_bin);
                }
            }
        }
    }
};

struct Joint {
    i64 sum;    // of c log c over the bins
    i64 count;  // of the pixels in them
};

// The joint histogram of `pixels`, rows_per_pass rows at a time. The sums are whole in thread 0.
template <class Pixels>
__device__ Joint joint(const Pixels& pixels, u32* counts, const i64* c_log_c, int bins, int rows_per_pass,
                       i64* scratch) {
    Joint result = {0, 0};
    for (int first = 0; first < bins; first += rows_per_pass) {
        int rows = min(rows_per_pass, bins - first);
        for (int k = threadIdx.x; k < rows * bins; k += blockDim.x) {
            counts[k] = 0;
        }
        __syncthreads();
        pixels.count({counts, first, rows, bins});
        __syncthreads();
        for (int k = threadIdx.x; k < rows * bins; k += blockDim.x) {
            result.sum += c_log_c[counts[k]];  // a thread clears in the next pass what it has read here
            result.count += counts[k];
        }
    }
    return {block_sum(result.sum, scratch), block_sum(result.count, scratch)};
}

__device__ inline void store(float* matrix, int n, i64 i, i64 j, i64 both, i64 entropy) {
    double value = entropy > 0 ? (double)both / (double)entropy : 2;
    matrix[i * n + j] = matrix[j * n + i] = clamped(value, 1, 2);
}

extern "C" __global__ void mi_pairs_plain(const u8* __restrict__ numbers,     // (n, pitch)
                                          const i64* __restrict__ entropies,  // (n)
                                          const i64* __restrict__ c_log_c,    // (pixels + 1)
                                          float* matrix,                      // (n, n)
                                          int n, i64 pitch, i64 pixels, int bins, int rows_per_pass) {
    DYNAMIC_SHARED(u32, counts);  // (rows_per_pass, bins)
    __shared__ i64 scratch[WARP];
    i64 i = blockIdx.x / n, j = blockIdx.x % n;
    if (i >= j) {
        return;
    }
    EveryPixel pair{numbers + i * pitch, numbers + j * pitch, pixels};
    Joint all = joint(pair, counts, c_log_c, bins, rows_per_pass, scratch);
    if (threadIdx.x == 0) {
        store(matrix, n, i, j, entropies[i] + entropies[j], c_log_c[pixels] - all.sum);
    }
}

extern "C" __global__ void mi_pairs(const u8* __restrict__ x_numbers,     // (a, pitch): a multiple of 4
                                    const i64* __restrict__ x_entropies,  // (a)
                                    const int* __restrict__ x_modes,      // (a)
                                    const u8* __restrict__ y_numbers,     // (b, pitch)
                                    const i64* __restrict__ y_entropies,  // (b)
                                    const int* __restrict__ y_modes,      // (b)
                                    const i64* __restrict__ c_log_c,      // (pixels + 1)
                                    float* matrix,                        // (n, n)
                                    int a, int b, int n, i64 pitch, i64 pixels, int bins, int rows_per_pass,
                                    int x_first, int y_first) {
    DYNAMIC_SHARED(u32, counts);  // (rows_per_pass, bins)
    __shared__ i64 scratch[WARP];
    Tile tile = tile_of(blockIdx.x, a, b);
    i64 i = tile.row, j = tile.column;
    if (x_first + i >= y_first + j) {
        return;
    }
    const u32 *x = (const u32*)(x_numbers + i * pitch), *y = (const u32*)(y_numbers + j * pitch);
    AllButOneBin pair{x, y, pixels, x_modes[i], y_modes[j]};
    Joint others = joint(pair, counts, c_log_c, bins, rows_per_pass, scratch);
    if (threadIdx.x == 0) {
        i64 sum = others.sum + c_log_c[pixels - others.count];
        store(matrix, n, x_first + i, y_first + j, x_entropies[i] + y_entropies[j], c_log_c[pixels] - sum);
    }
}

// ------------------------------------------------------------------------------------------------ pairs, in one pass

// Where a histogram fits as a whole: counters of (bins, bins), and behind them what `spare_bin` needs.

// Four pixels. Bytes interleaved, x0 y0 x1 y1 and x2 y2 x3 y3, a product of two terms gives x bins + y. A digit of a
// selector of __byte_perm takes a byte of its two arguments, from the lowest on: 0 .. 3 of x, 4 .. 7 of y.
__device__ inline void count_four(u32* counts, u32 x, u32 y, u32 bins_and_1) {
    u32 low = __byte_perm(x, y, 0x5140), high = __byte_perm(x, y, 0x7362);
    atomicAdd(&counts[__dp2a_lo(bins_and_1, low, 0u)], 1u);
    atomicAdd(&counts[__dp2a_hi(bins_and_1, low, 0u)], 1u);
    atomicAdd(&counts[__dp2a_lo(bins_and_1, high, 0u)], 1u);
    atomicAdd(&counts[__dp2a_hi(bins_and_1, high, 0u)], 1u);
}

// The sum of c log c over the joint histogram of two slices of `pieces` pieces, whole in thread 0.
__device__ inline i64 joint_at_once(const uint4* x, const uint4* y, int pieces, uint4* quads, const i64* c_log_c,
                                    int bins, i64* scratch) {
    u32 *counts = (u32*)quads, bins_and_1 = 1 << 16 | bins;
    int count = (bins * bins + 3) / 4;  // the last reaches up to three counters behind the last bin, which stay 0
    for (int k = threadIdx.x; k < count; k += blockDim.x) {
        quads[k] = {0, 0, 0, 0};
    }
    __syncthreads();
    for (int k = threadIdx.x; k < pieces; k += blockDim.x) {
        uint4 of_x = x[k], of_y = y[k];
        count_four(counts, of_x.x, of_y.x, bins_and_1);
        count_four(counts, of_x.y, of_y.y, bins_and_1);
        count_four(counts, of_x.z, of_y.z, bins_and_1);
        count_four(counts, of_x.w, of_y.w, bins_and_1);
    }
    __syncthreads();
    i64 sum = 0;
    for (int k = threadIdx.x; k < count; k += blockDim.x) {
        uint4 quad = quads[k];
        for (u32 c : {quad.x, quad.y, quad.z, quad.w}) {
            sum += c > 0 ? c_log_c[c] : 0;  // on CT two of three are empty
        }
    }
    return block_sum(sum, scratch);
}

extern "C" __global__ void mi_pairs_every(const u8* __restrict__ x_numbers,     // (a, pitch): a multiple of 16
                                          const i64* __restrict__ x_entropies,  // (a)
                                          const u8* __restrict__ y_numbers,     // (b, pitch)
                                          const i64* __restrict__ y_entropies,  // (b)
                                          const i64* __restrict__ c_log_c,      // (pixels + 1)
                                          float* matrix,                        // (n, n)
                                          int a, int b, int n, i64 pitch, i64 pixels, int bins, int x_first,
                                          int y_first) {
    DYNAMIC_SHARED(uint4, quads);  // of counters
    __shared__ i64 scratch[WARP];
    Tile tile = tile_of(blockIdx.x, a, b);
    i64 i = tile.row, j = tile.column;
    if (x_first + i >= y_first + j) {
        return;
    }
    const uint4 *x = (const uint4*)(x_numbers + i * pitch), *y = (const uint4*)(y_numbers + j * pitch);
    i64 sum = joint_at_once(x, y, pitch / PIECE, quads, c_log_c, bins, scratch);
    if (threadIdx.x == 0) {
        store(matrix, n, x_first + i, y_first + j, x_entropies[i] + y_entropies[j], c_log_c[pixels] - sum);
    }
}
