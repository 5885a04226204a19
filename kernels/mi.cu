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
// Versions, with the instructions that a thread issues for a pixel of a pair (SASS of sm_90) and the pairs of 512 x 512
// a second that an H200 (3.35e13 instructions a second) could do with them. Shared memory takes an increment a bank and
// cycle, 8.4e12 a second, as long as no two lanes of a warp meet. How often they do, only a GPU can tell: not measured.
//
//     mi_pairs_plain   31   4.1e6   A block a pair; every pixel adds 1 to the joint histogram in shared memory. On CT
//                                   lanes meet at the fullest bins, one after the other.
//     mi_pairs         27   4.7e6   Four pixels a load, and the bin where the fullest bins of the two slices meet is
//                                   not counted: what the others lack is its count. On CT that is the air, a third to a
//                                   half of the pixels, and where most lanes would wait for each other.
//
// Where the histogram fits in shared memory as a whole, 16 pixels a load without a test of bounds, rows or the end; the
// fullest bin is
//     mi_pairs_every       4.1   3.1e7   counted as all others: by its name ATOMS.POPC.INC, which the increments
//                                        compile to, merges those of one address in a warp.
//     mi_pairs_redirected  6.5   2.0e7   counted beside the histogram, by each lane in another bank.
//     mi_pairs_skipped      12   1.0e7   not counted, at the price of a branch a pixel.
// Beside the pixels there are 10,000 bins to clear and to read. Which is fastest the benchmark tells
// (bench/kernels.py), and lim_gpu/similarity/cuda/mi.py takes it.
//
// Bin numbers and entropies of single slices are computed once (mi_bins, mi_marginals). CuPy compiles with -ftz=true:
// float32 values below 1.2e-38 count as 0.

constexpr int MAX_BINS = 256;
constexpr int TABLE = 256;  // values of a byte
constexpr int PIECE = 16;   // pixels of a load: bin numbers stand in rows of whole pieces
constexpr int SPREAD = 32;  // counters of one bin, one for each bank of shared memory

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

// Where a histogram fits as a whole: counters of (bins, bins), behind them what `spare_bin` needs, and SPREAD more. The
// ways to count differ in what they do where the fullest bins of the two slices meet.

struct EveryBin {
    __device__ EveryBin(u32, u32) {}

    __device__ void count(u32* counts, u32 at) const { atomicAdd(&counts[at], 1u); }
};

// Counted apart, each lane in a bank of its own; nobody reads it.
struct Redirected {
    u32 fullest, own;

    __device__ Redirected(u32 fullest, u32 end) : fullest(fullest), own(end + threadIdx.x % SPREAD) {}

    __device__ void count(u32* counts, u32 at) const { atomicAdd(&counts[at == fullest ? own : at], 1u); }
};

struct Skipped {
    u32 fullest;

    __device__ Skipped(u32 fullest, u32) : fullest(fullest) {}

    __device__ void count(u32* counts, u32 at) const {
        if (at != fullest) {
            atomicAdd(&counts[at], 1u);
        }
    }
};

// Four pixels. Bytes interleaved, x0 y0 x1 y1 and x2 y2 x3 y3, a product of two terms gives x bins + y. A digit of a
// selector of __byte_perm takes a byte of its two arguments, from the lowest on: 0 .. 3 of x, 4 .. 7 of y.
template <class Way>
__device__ inline void count_four(const Way& way, u32* counts, u32 x, u32 y, u32 bins_and_1) {
    u32 low = __byte_perm(x, y, 0x5140), high = __byte_perm(x, y, 0x7362);
    way.count(counts, __dp2a_lo(bins_and_1, low, 0u));
    way.count(counts, __dp2a_hi(bins_and_1, low, 0u));
    way.count(counts, __dp2a_lo(bins_and_1, high, 0u));
    way.count(counts, __dp2a_hi(bins_and_1, high, 0u));
}

// The joint histogram of two slices of `pieces` pieces, without what `way` does not count in it. The sums are whole in
// thread 0.
template <class Way>
__device__ Joint joint_at_once(const Way& way, const uint4* x, const uint4* y, int pieces, uint4* quads,
                               const i64* c_log_c, int bins, i64* scratch) {
    u32 *counts = (u32*)quads, bins_and_1 = 1 << 16 | bins;
    int count = (bins * bins + 3) / 4;  // the last reaches up to three counters behind the last bin, which stay 0
    for (int k = threadIdx.x; k < count; k += blockDim.x) {
        quads[k] = {0, 0, 0, 0};
    }
    __syncthreads();
    for (int k = threadIdx.x; k < pieces; k += blockDim.x) {
        uint4 of_x = x[k], of_y = y[k];
        count_four(way, counts, of_x.x, of_y.x, bins_and_1);
        count_four(way, counts, of_x.y, of_y.y, bins_and_1);
        count_four(way, counts, of_x.z, of_y.z, bins_and_1);
        count_four(way, counts, of_x.w, of_y.w, bins_and_1);
    }
    __syncthreads();
    Joint result = {0, 0};
    for (int k = threadIdx.x; k < count; k += blockDim.x) {
        uint4 quad = quads[k];
        u32 found[] = {quad.x, quad.y, quad.z, quad.w};
        for (u32 c : found) {
            if (c > 0) {  // on CT two of three are empty
                result.sum += c_log_c[c];
                result.count += c;
            }
        }
    }
    return {block_sum(result.sum, scratch), block_sum(result.count, scratch)};
}

template <class Way>
__device__ void compare(const u8* x_numbers, const i64* x_entropies, const int* x_modes, const u8* y_numbers,
                        const i64* y_entropies, const int* y_modes, const i64* c_log_c, float* matrix, int a, int b,
                        int n, i64 pitch, i64 pixels, int bins, int x_first, int y_first) {
    DYNAMIC_SHARED(uint4, quads);  // of counters
    __shared__ i64 scratch[WARP];
    Tile tile = tile_of(blockIdx.x, a, b);
    i64 i = tile.row, j = tile.column;
    if (x_first + i >= y_first + j) {
        return;
    }
    const uint4 *x = (const uint4*)(x_numbers + i * pitch), *y = (const uint4*)(y_numbers + j * pitch);
    Way way(x_modes[i] * bins + y_modes[j], bins * bins + bins + 1);
    Joint most = joint_at_once(way, x, y, pitch / PIECE, quads, c_log_c, bins, scratch);
    if (threadIdx.x == 0) {
        i64 sum = most.sum + c_log_c[pixels - most.count];
        store(matrix, n, x_first + i, y_first + j, x_entropies[i] + y_entropies[j], c_log_c[pixels] - sum);
    }
}

extern "C" __global__ void mi_pairs_every(const u8* __restrict__ x_numbers,     // (a, pitch): a multiple of 16
                                          const i64* __restrict__ x_entropies,  // (a)
                                          const int* __restrict__ x_modes,      // (a)
                                          const u8* __restrict__ y_numbers,     // (b, pitch)
                                          const i64* __restrict__ y_entropies,  // (b)
                                          const int* __restrict__ y_modes,      // (b)
                                          const i64* __restrict__ c_log_c,      // (pixels + 1)
                                          float* matrix,                        // (n, n)
                                          int a, int b, int n, i64 pitch, i64 pixels, int bins, int x_first,
                                          int y_first) {
    compare<EveryBin>(x_numbers, x_entropies, x_modes, y_numbers, y_entropies, y_modes, c_log_c, matrix, a, b, n, pitch,
                      pixels, bins, x_first, y_first);
}

extern "C" __global__ void mi_pairs_redirected(const u8* __restrict__ x_numbers,     // (a, pitch): a multiple of 16
                                               const i64* __restrict__ x_entropies,  // (a)
                                               const int* __restrict__ x_modes,      // (a)
                                               const u8* __restrict__ y_numbers,     // (b, pitch)
                                               const i64* __restrict__ y_entropies,  // (b)
                                               const int* __restrict__ y_modes,      // (b)
                                               const i64* __restrict__ c_log_c,      // (pixels + 1)
                                               float* matrix,                        // (n, n)
                                               int a, int b, int n, i64 pitch, i64 pixels, int bins, int x_first,
                                               int y_first) {
    compare<Redirected>(x_numbers, x_entropies, x_modes, y_numbers, y_entropies, y_modes, c_log_c, matrix, a, b, n,
                        pitch, pixels, bins, x_first, y_first);
}

extern "C" __global__ void mi_pairs_skipped(const u8* __restrict__ x_numbers,     // (a, pitch): a multiple of 16
                                            const i64* __restrict__ x_entropies,  // (a)
                                            const int* __restrict__ x_modes,      // (a)
                                            const u8* __restrict__ y_numbers,     // (b, pitch)
                                            const i64* __restrict__ y_entropies,  // (b)
                                            const int* __restrict__ y_modes,      // (b)
                                            const i64* __restrict__ c_log_c,      // (pixels + 1)
                                            float* matrix,                        // (n, n)
                                            int a, int b, int n, i64 pitch, i64 pixels, int bins, int x_first,
                                            int y_first) {
    compare<Skipped>(x_numbers, x_entropies, x_modes, y_numbers, y_entropies, y_modes, c_log_c, matrix, a, b, n, pitch,
                     pixels, bins, x_first, y_first);
}
