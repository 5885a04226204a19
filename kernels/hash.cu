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
// The first pass reads every pixel about six times, from the L1 cache but once, and is what costs; the rest is small.

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
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < a * b; k += (i64)gridDim.x * blockDim.x) {
        distances[k] = __popcll(x[k / b] ^ y[k % b]);
    }
}

extern "C" __global__ void hash_similarities(const u64* __restrict__ x,  // (a)
                                             const u64* __restrict__ y,  // (b)
                                             float* similarities,        // (a, b): 1 - bits / 64, exact
                                             i64 a, i64 b) {
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < a * b; k += (i64)gridDim.x * blockDim.x) {
        similarities[k] = 1 - __popcll(x[k / b] ^ y[k % b]) / 64.0f;
    }
}
