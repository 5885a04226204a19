// SSIM of every pair of slices (Wang et al. 2004, IEEE TIP 13:600-612), mean over the valid windows:
//
//     SSIM(x, y) = (2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sxx + syy + C2)),   C1 = (K1 L)^2, C2 = (K2 L)^2
//
// mx: Gaussian mean of x, sxy: Gaussian mean of (x - mx)(y - my), 11 x 11 windows, weights of sum 1, L: data range.
//
// Small differences of large numbers are avoided, so that float32 is enough (error < 1e-6 against float64). Along a row
// or a column,
//
//     mean(p)[c] - p[c] = sum over m = 1..5 of tail[m] (step[c+m-1] - step[c-m]),   step[c] = p[c+1] - p[c],
//                         tail[m] = w[m] + ... + w[5]
//
// is called the excess of p: it needs differences alone, and is exactly 0 where p is flat. With d = excess of x, e of
// y, and xc, yc the pixels at the centre of the window,
//
//     sxy = excess of (x y) - (xc e + yc d + d e).
//
// Pixels are multiplied by a power of two near 1 / L, so that C1 and C2 are near 1e-4 and 1e-3, and the middle of each
// slice's values is taken off (`offset`), which sxy does not see and the means get back.
//
// Versions, with the instructions that a thread issues for a pixel of a pair (counted in the SASS of sm_90, all units
// together), the pairs of 512 x 512 a second that an H200 could do if it issued nothing else (3.12e13 instructions a
// second under this load), and what it did with 256 slices, all that belongs to single slices included
// (bench/NOTES.md). The last two did so before they were made one template of the same steps, which has run emulated.
//
//   ssim_plain      1,900  6.3e4  5.6e4  A thread a window, five sums of 121 products: the readable specification.
//   ssim_pairs         86  1.4e6  8.2e5  d and sxx belong to a slice and are computed once (ssim_fields). A pair
//                                        costs the filtered product and the formula, 49 instructions in float32; the
//                                        others are loads, addresses and the exchange along rows in shared memory.
//                                        The pass along columns is a filter in registers, marching down the rows.
//                                        X_TILE x Y_TILE pairs in one block read X_TILE + Y_TILE slices.
//   ssim_pairs_tensor                    8-bit slices. The pass along rows is a product on the tensor cores, exact
//                                        in whole numbers: 11 multiply-adds and the exchange become 0.75
//                                        instructions and 6 to put the digits together.
//           _8x24      40  3.0e6  1.5e6  8 slices of x meet 24 of y in a block, one block to a multiprocessor.
//           _4x16      45  2.7e6  1.6e6  4 meet 16, three blocks to a multiprocessor: while one waits, the others
//                                        compute. One barrier a chunk, and more of the pairs of small volumes lie in
//                                        whole tiles; 214 kB of shared memory.
//
// 384 threads of 168 registers fill the registers of a multiprocessor. The tensor cores do 96 multiply-adds a pixel
// (2e7 pairs a second at 60 % of their peak); the L2 cache gives 688 / 48 (1 / X_BLOCK + 1 / Y_BLOCK) bytes a
// pixel, 2.4 of 8 x 24 and 4.5 of 4 x 16. lim_gpu/similarity/cuda/ssim.py chooses by the shared memory that a GPU has.
//
// The value of a pair depends on its two slices alone, in either order, bit for bit. Equal slices give exactly 1: the
// products and sums that this rests on are written as intrinsics, which the compiler must not contract.

#ifndef MAX_THREADS
#define MAX_THREADS 256
#endif
#ifndef X_TILE
#define X_TILE 2  // slices against Y_TILE others in a block
#endif
#ifndef Y_TILE
#define Y_TILE 1
#endif

constexpr int RADIUS = 5;
constexpr int WINDOW = 2 * RADIUS + 1;
constexpr int COLUMNS = 2;       // a thread; a float2
constexpr int PAD = RADIUS + 3;  // columns before and behind a row in shared memory, read and not used; even
constexpr int ROW = MAX_THREADS * COLUMNS + 2 * PAD;
constexpr int PAIRS = X_TILE * Y_TILE;
constexpr int FLUSH = 32;  // rows whose values are summed in float before they are added to a double

// ------------------------------------------------------------------------------------------------ plain

template <class Pixel>
__device__ float window_ssim(const Pixel* x, const Pixel* y, const float* weights, int W, float c1, float c2) {
    // x, y: the first pixel of the window. Values are taken from the centre, which no variance sees.
    float xc = x[RADIUS * W + RADIUS], yc = y[RADIUS * W + RADIUS];
    float d = 0, e = 0, xx = 0, yy = 0, xy = 0;
    for (int r = 0; r < WINDOW; ++r) {
        for (int c = 0; c < WINDOW; ++c) {
            float w = weights[r] * weights[c], u = x[r * W + c] - xc, v = y[r * W + c] - yc;
            d += w * u;
            e += w * v;
            xx += w * u * u;
            yy += w * v * v;
            xy += w * u * v;
        }
    }
    float mx = xc + d, my = yc + e, sxx = xx - d * d, syy = yy - e * e, sxy = xy - d * e;
    return (2 * mx * my + c1) * (2 * sxy + c2) / ((mx * mx + my * my + c1) * (sxx + syy + c2));
}

template <class Pixel>
__device__ void plain(const Pixel* slices, const float* weights, float* matrix, int n, int H, int W, float c1, float c2,
                      double* scratch) {
    int i = blockIdx.x / n, j = blockIdx.x % n;  // a block a pair
    if (i >= j) {
        return;
    }
    const Pixel *x = slices + (i64)i * H * W, *y = slices + (i64)j * H * W;
    int across = W - 2 * RADIUS, windows = (H - 2 * RADIUS) * across;
    double sum = 0;
    for (int k = threadIdx.x; k < windows; k += blockDim.x) {
        int first = k / across * W + k % across;
        sum += window_ssim(x + first, y + first, weights, W, c1, c2);
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        matrix[(i64)i * n + j] = matrix[(i64)j * n + i] = clamped(sum / windows, -1, 1);
    }
}

extern "C" __global__ void ssim_plain_u8(const u8* __restrict__ slices,      // (n, H, W)
                                         const float* __restrict__ weights,  // (11)
                                         float* matrix,                      // (n, n)
                                         int n, int H, int W, float c1, float c2) {
    __shared__ double scratch[WARP];
    plain(slices, weights, matrix, n, H, W, c1, c2, scratch);
}

extern "C" __global__ void ssim_plain_f32(const float* __restrict__ slices,   // (n, H, W)
                                          const float* __restrict__ weights,  // (11)
                                          float* matrix,                      // (n, n)
                                          int n, int H, int W, float c1, float c2) {
    __shared__ double scratch[WARP];
    plain(slices, weights, matrix, n, H, W, c1, c2, scratch);
}

// ------------------------------------------------------------------------------------------------ planes of a slice

// A slice becomes three planes (3, H, pitch), so that one offset serves all:
//     0  (pixel - offset) scale, and 0 behind the W-th column
//     1  deviation: mean - pixel      1 and 2 stand at the centre of their window, and only where it lies in the slice
//     2  spread: (sxx + C2 / 2) / 2

template <class Pixel>
__device__ void center(const Pixel* slices, const float* offset, float* planes, int H, int W, int pitch, float scale) {
    i64 slice = blockIdx.x;  // blocks along y share the rows of a slice
    for (int r = blockIdx.y; r < H; r += gridDim.y) {
        const Pixel* in = slices + (slice * H + r) * W;
        float* out = planes + (slice * 3 * H + r) * pitch;
        for (int c = threadIdx.x; c < pitch; c += blockDim.x) {
            out[c] = c < W ? ((float)in[c] - offset[slice]) * scale : 0;
        }
    }
}

extern "C" __global__ void ssim_center_u8(const u8* __restrict__ slices,     // (n, H, W)
                                          const float* __restrict__ offset,  // (n)
                                          float* planes,                     // (n, 3, H, pitch)
                                          int H, int W, int pitch, float scale) {
    center(slices, offset, planes, H, W, pitch, scale);
}

extern "C" __global__ void ssim_center_f32(const float* __restrict__ slices,  // (n, H, W)
                                           const float* __restrict__ offset,  // (n)
                                           float* planes,                     // (n, 3, H, pitch)
                                           int H, int W, int pitch, float scale) {
    center(slices, offset, planes, H, W, pitch, scale);
}

// ------------------------------------------------------------------------------------------------ the march

__device__ inline void load(const float* from, float* to) {
    float2 both = *(const float2*)from;
    to[0] = both.x;
    to[1] = both.y;
}

// a b + c of two neighbours, one instruction on Blackwell.
__device__ inline float2 multiply_add(float a, float2 b, float2 c) {
#if __CUDA_ARCH__ >= 1000
    float2 d;
    asm("{.reg .b64 a, b, c; mov.b64 a, {%2, %2}; mov.b64 b, {%3, %4}; mov.b64 c, {%5, %6};"
        "fma.rn.ftz.f32x2 c, a, b, c; mov.b64 {%0, %1}, c;}"
        : "=f"(d.x), "=f"(d.y)
        : "f"(a), "f"(b.x), "f"(b.y), "f"(c.x), "f"(c.y));
    return d;
#else
    return {fmaf(a, b.x, c.x), fmaf(a, b.y, c.y)};
#endif
}

// Excess along two columns, as a transposed filter: each step goes into the windows that hold it as it comes.
struct Vertical {
    float2 partial[2 * RADIUS - 1];

    // Takes step = p[r] - p[r-1]; returns `start` and the excess at row r - RADIUS. partial[RADIUS - 1] is row r's.
    __device__ float2 next(float2 step, const float (&tail)[RADIUS], float start = 0) {
        float2 excess = multiply_add(tail[RADIUS - 1], step, partial[0]);
#pragma unroll
        for (int k = 0; k < RADIUS - 1; ++k) {
            partial[k] = multiply_add(tail[RADIUS - 2 - k], step, partial[k + 1]);
        }
#pragma unroll
        for (int k = 0; k < RADIUS - 1; ++k) {
            partial[RADIUS - 1 + k] = multiply_add(-tail[k], step, partial[RADIUS + k]);
        }
        partial[2 * RADIUS - 2] = multiply_add(-tail[RADIUS - 1], step, {start, start});
        return excess;
    }
};

// Excess along a row in shared memory at the COLUMNS columns from `row[0]` on, added to `excess`.
__device__ inline void add_horizontal(const float* row, const float (&tail)[RADIUS], float (&excess)[COLUMNS]) {
    constexpr int BEFORE = RADIUS + 1;  // the loads of two columns begin at an even one
    float value[2 * BEFORE + COLUMNS], step[2 * BEFORE + COLUMNS - 1];
#pragma unroll
    for (int k = 0; k < 2 * BEFORE + COLUMNS; k += COLUMNS) {
        load(row - BEFORE + k, &value[k]);
    }
#pragma unroll
    for (int k = 0; k < 2 * BEFORE + COLUMNS - 1; ++k) {
        step[k] = value[k + 1] - value[k];
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
        for (int m = 1; m <= RADIUS; ++m) {
            excess[c] = fmaf(tail[m - 1], step[BEFORE + c + m - 1] - step[BEFORE + c - m], excess[c]);
        }
    }
}

// March a strip of columns down the rows. `work` gives the products of a row and takes their excesses:
//     work.products(r, c, product)   product[PRODUCTS][COLUMNS] at row r, columns c, c + 1
//     work.take(r, c, excess)        the same shape, for the window with centre (r, c); called in every thread
// `rows` is (2, PRODUCTS, ROW) in shared memory: one row is written while the one before is read.
template <int PRODUCTS, class Work>
__device__ void march(Work& work, const float* tails, int H, int first_column, float* rows) {
    float tail[RADIUS];
    for (int m = 0; m < RADIUS; ++m) {
        tail[m] = tails[m];
    }
    Vertical filter[PRODUCTS] = {};
    float product[PRODUCTS][COLUMNS], excess[PRODUCTS][COLUMNS], previous[PRODUCTS][COLUMNS] = {};
    int own = threadIdx.x * COLUMNS;
    __syncthreads();  // the strip before this one has been read
    for (int r = 0; r < H; ++r) {
        work.products(r, first_column + own, product);
        for (int p = 0; p < PRODUCTS; ++p) {
            float2 found = filter[p].next({product[p][0] - previous[p][0], product[p][1] - previous[p][1]}, tail);
            excess[p][0] = found.x, excess[p][1] = found.y;
            previous[p][0] = product[p][0], previous[p][1] = product[p][1];
        }
        if (r < 2 * RADIUS) {
            continue;
        }
        work.products(r - RADIUS, first_column + own, product);
        float* row = rows + r % 2 * PRODUCTS * ROW + PAD + own;
        for (int p = 0; p < PRODUCTS; ++p) {
            for (int c = 0; c < COLUMNS; ++c) {
                row[p * ROW + c] = product[p][c] + excess[p][c];
            }
        }
        __syncthreads();
        for (int p = 0; p < PRODUCTS; ++p) {
            add_horizontal(row + p * ROW, tail, excess[p]);
        }
        work.take(r - RADIUS, first_column + own, excess);
    }
}

// Whether column c is the centre of a window of this strip: the others belong to its neighbours, or hang over.
__device__ inline bool inside(int c, int first_column, int W) {
    int last = min(first_column + (int)blockDim.x * COLUMNS, W) - RADIUS;
    return c >= first_column + RADIUS && c < last;
}

__device__ inline float covariance(float excess, float xc, float d, float yc, float e) {
    float cross = __fadd_rn(__fmul_rn(xc, e), __fmul_rn(yc, d));  // not contracted: (x, y) and (y, x) are one
    return excess - fmaf(d, e, cross);
}

// ------------------------------------------------------------------------------------------------ fields of a slice

struct Fields {
    float* planes;  // (3, H, pitch)
    i64 plane;      // H pitch
    int first_column, W, pitch;
    float half_c2;

    __device__ void products(int r, int c, float (&product)[2][COLUMNS]) {
        load(planes + (i64)r * pitch + c, product[0]);
        for (int k = 0; k < COLUMNS; ++k) {
            product[1][k] = __fmul_rn(product[0][k], product[0][k]);
        }
    }

    __device__ void take(int r, int c, const float (&excess)[2][COLUMNS]) {
        for (int k = 0; k < COLUMNS; ++k) {
            if (inside(c + k, first_column, W)) {
                float* at = planes + (i64)r * pitch + c + k;
                float d = excess[0][k];
                at[plane] = d;
                at[2 * plane] = 0.5f * (covariance(excess[1][k], *at, d, *at, d) + half_c2);
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(MAX_THREADS)
    ssim_fields(float* planes,                   // (n, 3, H, pitch): 1 and 2 from 0
                const float* __restrict__ tail,  // (5)
                int H, int W, int pitch, float half_c2) {
    // A block takes a strip of columns of a slice.
    __shared__ __align__(8) float rows[2 * 2 * ROW];
    int first_column = blockIdx.y * (blockDim.x * COLUMNS - 2 * RADIUS);
    i64 plane = (i64)H * pitch;
    Fields work{planes + blockIdx.x * 3 * plane, plane, first_column, W, pitch, half_c2};
    march<2>(work, tail, H, first_column, rows);
}

// ------------------------------------------------------------------------------------------------ pairs

struct Pairs {
    const float *x[X_TILE], *y[Y_TILE];  // planes (3, H, pitch)
    float x_offset[X_TILE], y_offset[Y_TILE];
    i64 plane;
    int first_column, W, pitch;
    float half_c1, half_c2;
    float x_pixel[X_TILE][COLUMNS], y_pixel[Y_TILE][COLUMNS];
    float sum[PAIRS];  // of SSIM - 1, which loses nothing where slices are alike
    double* total;     // [PAIRS] of this thread in shared memory, MAX_THREADS apart

    __device__ void products(int r, int c, float (&product)[PAIRS][COLUMNS]) {
        i64 at = (i64)r * pitch + c;
        for (int s = 0; s < X_TILE; ++s) {
            load(x[s] + at, x_pixel[s]);
        }
        for (int t = 0; t < Y_TILE; ++t) {
            load(y[t] + at, y_pixel[t]);
        }
        for (int p = 0; p < PAIRS; ++p) {
            for (int k = 0; k < COLUMNS; ++k) {
                product[p][k] = __fmul_rn(x_pixel[p / Y_TILE][k], y_pixel[p % Y_TILE][k]);
            }
        }
    }

    __device__ void take(int r, int c, const float (&excess)[PAIRS][COLUMNS]) {
        i64 at = (i64)r * pitch + c;
        float d[X_TILE][COLUMNS], e[Y_TILE][COLUMNS], x_spread[X_TILE][COLUMNS], y_spread[Y_TILE][COLUMNS];
        for (int s = 0; s < X_TILE; ++s) {
            load(x[s] + plane + at, d[s]);
            load(x[s] + 2 * plane + at, x_spread[s]);
        }
        for (int t = 0; t < Y_TILE; ++t) {
            load(y[t] + plane + at, e[t]);
            load(y[t] + 2 * plane + at, y_spread[t]);
        }
        for (int p = 0; p < PAIRS; ++p) {
            int s = p / Y_TILE, t = p % Y_TILE;
            for (int k = 0; k < COLUMNS; ++k) {
                float mx = x_offset[s] + x_pixel[s][k] + d[s][k], my = y_offset[t] + y_pixel[t][k] + e[t][k];
                float luminance = fmaf(mx, my, half_c1), apart = mx - my;
                float sxy = covariance(excess[p][k], x_pixel[s][k], d[s][k], y_pixel[t][k], e[t][k]);
                float above = __fmul_rn(luminance, sxy + half_c2);
                float below = __fmul_rn(fmaf(0.5f * apart, apart, luminance), x_spread[s][k] + y_spread[t][k]);
                sum[p] += inside(c + k, first_column, W) ? __fdividef(above - below, below) : 0;
            }
        }
        if (r % FLUSH == 0) {
            flush();
        }
    }

    __device__ void flush() {
        for (int p = 0; p < PAIRS; ++p) {
            total[p * MAX_THREADS] += sum[p];
            sum[p] = 0;
        }
    }

    // Begins with slices i.. of `a` and j.. of `b`; a tile that hangs over repeats the last slice.
    __device__ void begin(const float* xs, const float* x_offsets, int i, int a, const float* ys,
                          const float* y_offsets, int j, int b) {
        for (int p = 0; p < PAIRS; ++p) {
            total[p * MAX_THREADS] = 0;
        }
        for (int s = 0; s < X_TILE; ++s) {
            int k = min(i + s, a - 1);
            x[s] = xs + k * 3 * plane, x_offset[s] = x_offsets[k];
        }
        for (int t = 0; t < Y_TILE; ++t) {
            int k = min(j + t, b - 1);
            y[t] = ys + k * 3 * plane, y_offset[t] = y_offsets[k];
        }
    }
};

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 2)
    ssim_pairs(const float* __restrict__ x,         // (a, 3, H, pitch)
               const float* __restrict__ x_offset,  // (a): scaled
               const float* __restrict__ y,         // (b, 3, H, pitch)
               const float* __restrict__ y_offset,  // (b): scaled
               const float* __restrict__ tail,      // (5)
               float* matrix,                       // (n, n)
               int a, int b, int n, int H, int W, int pitch, int x_first, int y_first, float half_c1, float half_c2) {
    // A block takes X_TILE slices of x against Y_TILE of y; slice k of x is slice x_first + k of the matrix.
    __shared__ __align__(8) float rows[2 * PAIRS * ROW];
    __shared__ double totals[PAIRS * MAX_THREADS], scratch[WARP];
    Tile tile = tile_of(blockIdx.x, (a + X_TILE - 1) / X_TILE, (b + Y_TILE - 1) / Y_TILE);
    int i = tile.row * X_TILE, j = tile.column * Y_TILE;
    if (x_first + i >= y_first + min(j + Y_TILE, b) - 1) {
        return;  // on or below the diagonal
    }
    Pairs work{};
    work.plane = (i64)H * pitch, work.W = W, work.pitch = pitch, work.half_c1 = half_c1, work.half_c2 = half_c2;
    work.total = totals + threadIdx.x;
    work.begin(x, x_offset, i, a, y, y_offset, j, b);
    for (work.first_column = 0; work.first_column < W - 2 * RADIUS;
         work.first_column += blockDim.x * COLUMNS - 2 * RADIUS) {
        march<PAIRS>(work, tail, H, work.first_column, rows);
    }
    work.flush();
    double windows = (double)(H - 2 * RADIUS) * (W - 2 * RADIUS);
    for (int p = 0; p < PAIRS; ++p) {
        double value = clamped(1 + block_sum(work.total[p * MAX_THREADS], scratch) / windows, -1, 1);
        int of_x = i + p / Y_TILE, of_y = j + p % Y_TILE;
        i64 row = x_first + of_x, column = y_first + of_y;
        if (threadIdx.x == 0 && of_x < a && of_y < b && row < column) {
            matrix[row * n + column] = matrix[column * n + row] = value;
        }
    }
}

// ------------------------------------------------------------------------------------------------ tensor cores

// The filter along a row is a matrix product of bytes. For a row of a slice x and the same row of 8 slices y,
//
//     h[window, y] = sum over k of (w[k - window] x[k]) y[k],   16 windows, by their first columns; 32 columns k, 26
//     used
//
// so x is folded into the band of weights (16 x 32) and no product of two pixels is ever formed. Pixels are 8 bits
// (pixel - offset), weights whole numbers of sum 217802, w x is split into three digits of 8 bits, and h is exact:
//
//     h = (D0 + 2^8 D1 + 2^16 D2) / 4, rounded down    in units of 4 / 217802, |h| < 2^30, |h[r] - h[r-1]| < 2^31
//
// Down the columns the steps of h, exact too, go through the filter of ssim_pairs. What it needs at the centre is
// h - mx my, taken there in 32 bits from means of 32 bits, so that nothing is lost between two numbers of 30 bits; no
// number is rounded before it is small. Whole numbers have no order: (x, y) and (y, x) are one, bit for bit.
//
// Of all sums that 24 bits of w x allow, the Gaussian rounded to this one errs least in its frequency response
// (1.2e-6). Along columns the weights are float32. On the slices of tests/hard_slices.py SSIM moves by less than 6e-7;
// the best weights with a sum of 2^16 move it by 1e-4. All moments are taken with the same.

constexpr int STRIP = 16;       // windows
constexpr int DEPTH = 32;       // columns that they are made of, of which the last 6 have no weight
constexpr int DIGITS = 3;       // of w x
constexpr int CHUNK = 3;        // rows between two barriers
constexpr int STAGE = 11;       // chunks whose values are summed in float before they are added in fixed point
constexpr int X_WARP = 2;       // slices of x that a warp takes
constexpr int Y_WARP = 8;       // and of y
constexpr int Y_LANE = 2;       // of which a lane has two, in two windows
constexpr int LANE_PIXELS = 4;  // that it has of a product of 16 windows and 8 slices
constexpr int RECORD = 224;     // bytes
constexpr int SLAB = 688;       // bytes
constexpr int WEIGHT_SUM = 217802;

static_assert(WARP * LANE_PIXELS == STRIP * Y_WARP && LANE_PIXELS == 2 * Y_LANE, "as mma.m16n8k32 has it");
static_assert(X_WARP * Y_LANE <= WARP / 4, "of each pair that a lane has, another group sums up one");

// A row of a strip of a slice. What lies in it has addresses known when the kernel is compiled.
struct Record {
    u8 pixels[DEPTH];     // pixel - offset, two's complement; 0 behind the W-th column
    int mean[STRIP];      // of pixel - offset, for the windows whose centres are in this row, times MEAN_SCALE
    float2 field[STRIP];  // of the windows that end with this row: mean; spread: (sxx + C2 / 2) / 2 in units of h
};

// CHUNK rows of a strip of a slice. The slabs of all slices lie side by side, so that those of a tile are one piece.
struct Slab {
    Record rows[CHUNK];
    uint4 unused;  // neighbouring slices stand in different banks of shared memory
};
static_assert(sizeof(Record) == RECORD && sizeof(Slab) == SLAB, "as the host has them");

constexpr double MEAN_SCALE = 32768 * 466.6926183260241;  // sqrt(2^32 WEIGHT_SUM / 4)

__device__ constexpr int weight(int k) {
    k = k < 0 ? -k : k;
    return k == 0 ? 57938 : k == 1 ? 46393 : k == 2 ? 23819 : k == 3 ? 7841 : k == 4 ? 1655 : k == 5 ? 224 : 0;
}

// What two windows have of their pair: from h of every row and the products of means, sxy + C2 / 2 in units of h.
struct Covariance {
    Vertical filter;
    int2 previous;

    // Takes h and the means at row r; returns the values at the centre r - RADIUS.
    __device__ float2 next(int2 h, int2 x_mean, int2 y_mean, float half_c2) {
        // tail[1] .. tail[5] of the formula at the top, for the Gaussian of sigma 1.5 and sum 1
        // (lim_gpu/similarity/ssim.py): 0.367 is w[1] + ... + w[5]. Along columns nothing need be exact.
        constexpr float tail[RADIUS] = {0.36699414f, 0.1539886f, 0.04462791f, 0.008627138f, 0.0010283801f};
        float2 value = filter.next({(float)(h.x - previous.x), (float)(h.y - previous.y)}, tail, half_c2);
        previous = h;  // and what the windows with centre r have beside their excess:
        filter.partial[RADIUS - 1].x += (float)(h.x - __mulhi(x_mean.x, y_mean.x));
        filter.partial[RADIUS - 1].y += (float)(h.y - __mulhi(x_mean.y, y_mean.y));
        return value;
    }
};

// What the 11 pixels of a window in one row come to, weighted.
struct RowSums {
    int sum;
    u32 squares;  // less than 2^32

    __device__ explicit RowSums(const int (&pixels)[WINDOW]) : sum(0), squares(0) {
#pragma unroll
        for (int k = 0; k < WINDOW; ++k) {
            int weighted = weight(k - RADIUS) * pixels[k];
            sum += weighted, squares += weighted * pixels[k];
        }
    }
};

// The mean of a window down its rows, as a transposed filter.
struct Mean {
    double partial[WINDOW];

    // Takes the sum of a row; returns the mean, times WEIGHT_SUM, of the window that ends with it.
    __device__ double next(int sum, const double* vertical) {
#pragma unroll
        for (int k = 0; k < WINDOW; ++k) {
            partial[k] = (k < WINDOW - 1 ? partial[k + 1] : 0) + vertical[k] * sum;
        }
        return partial[0];
    }
};

// Gives back what it took RADIUS rows ago.
struct Delay {
    int value[RADIUS];  // the oldest first

    __device__ int next(int taken) {
        int oldest = value[0];
#pragma unroll
        for (int k = 0; k < RADIUS; ++k) {
            value[k] = k < RADIUS - 1 ? value[k + 1] : taken;
        }
        return oldest;
    }
};

extern "C" __global__ void ssim_slabs(const u8* __restrict__ slices,        // (n, H, W)
                                      const int* __restrict__ offset,       // (n)
                                      const double* __restrict__ vertical,  // (11): weights
                                      u8* slabs,                            // (strips, chunks, n, 688)
                                      int n, int H, int W, int strips, int chunks, int segment, float half_c2) {
    // A thread takes a window down the rows of a segment, from as many before as its windows reach back. One that hangs
    // over behind the W-th column has means of 0 and a spread of C2 / 4, and no h in ssim_pairs_tensor: its SSIM is
    // exactly 1.
    int window = blockIdx.y * blockDim.x + threadIdx.x, own = window % STRIP;  // it begins with that column
    int first = blockIdx.z * segment, last = min(first + segment, chunks * CHUNK);
    if (window >= strips * STRIP) {
        return;
    }
    bool valid = window + WINDOW <= W;
    int middle = offset[blockIdx.x];
    const u8* in = slices + (i64)blockIdx.x * H * W;
    Slab* out = (Slab*)slabs + (i64)(window / STRIP) * chunks * n + blockIdx.x;
    auto row = [=](int r) -> Record& { return out[(i64)(r / CHUNK) * n].rows[r % CHUNK]; };
    auto inside = [=](int r) { return first <= r && r < last; };
    auto read = [=](int r, int (&pixels)[WINDOW]) {
#pragma unroll
        for (int k = 0; k < WINDOW; ++k) {
            pixels[k] = valid && r < H ? in[(i64)r * W + window + k] - middle : 0;
        }
    };
    Mean mean{};
    Covariance variance{};  // which needs a mean at the centre of its window, so that it goes RADIUS rows behind
    Delay delayed{};
    int r = max(0, first - 2 * RADIUS), next[WINDOW];
    for (read(r, next); r < last + RADIUS; ++r) {
        RowSums row_sums(next);
        read(r + 1, next);  // on its way while this one is computed
        for (int k = 2 * own; k < 2 * own + 2 && inside(r); ++k) {
            int c = window - own + k;
            row(r).pixels[k] = r < H && c < W ? in[(i64)r * W + c] - middle : 0;
        }
        double found = mean.next(row_sums.sum, vertical);
        if (inside(r)) {
            row(r).field[own].x = valid ? (float)(found * (1.0 / WEIGHT_SUM) + middle) : 0;
        }
        int centre = r - RADIUS, h = delayed.next(row_sums.squares >> 2);
        int at_centre = centre >= RADIUS && centre < H - RADIUS ? (int)rint(found * (MEAN_SCALE / WEIGHT_SUM)) : 0;
        float value = variance.next({h, h}, {at_centre, at_centre}, {at_centre, at_centre}, half_c2).x;
        if (inside(centre)) {
            row(centre).mean[own] = at_centre;
            row(centre).field[own].y = 0.5f * value;
        }
    }
}

// d (16 x 8) += a (16 x 32) b (32 x 8), a: unsigned bytes or signed, b: signed. Lane 4 group + member of the warp holds
//     a   rows group (a.x, a.z) and group + 8 (a.y, a.w),
//         columns 4 member .. 4 member + 3 (a.x, a.y) and 16 + 4 member .. (a.z, a.w)
//     b   column group, rows 4 member .. 4 member + 3 (b.x) and 16 + 4 member .. (b.y)
//     d   rows group (d[0], d[1]) and group + 8 (d[2], d[3]), columns 2 member (d[0], d[2]) and 2 member + 1
#define MMA(type)                                                                 \
    asm("mma.sync.aligned.m16n8k32.row.col.s32." type                             \
        ".s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                          \
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y))

template <class Byte>
__device__ inline void multiply_add(int (&d)[LANE_PIXELS], const uint4& a, const uint2& b) {
#if __CUDA_ARCH__ >= 800
    if (Byte(-1) < 0) {
        MMA("s8");
    } else {
        MMA("u8");
    }
#else
    int group = threadIdx.x % WARP / 4, member = threadIdx.x % 4;
    for (int other = 0; other < 4; ++other) {
        for (int half = 0; half < 2; ++half) {
            u64 rows = half ? (u64)a.w << 32 | a.z : (u64)a.y << 32 | a.x;
            rows = __shfl_sync(ALL_LANES, rows, 4 * group + other);
            for (int column = 0; column < 2; ++column) {
                u32 bytes = __shfl_sync(ALL_LANES, half ? b.y : b.x, 4 * (2 * member + column) + other);
                for (int k = 0; k < 4; ++k) {
                    int factor = (signed char)(bytes >> 8 * k);
                    d[column] += (Byte)(rows >> 8 * k) * factor;
                    d[2 + column] += (Byte)(rows >> (32 + 8 * k)) * factor;
                }
            }
        }
    }
#endif
}

// A row of a strip, of one slice of x and 8 of y, is one product for each digit. Rows and columns are numbered so that
// what a lane holds are neighbours: row m < 8 of a fragment is window 2 m, and row m + 8 is window 2 m + 1; its columns
// 4 member .. and 16 + 4 member .. are the columns 8 member .. 8 member + 7 of the strip. In lane 4 group + member:
//
//                                                  slice of y           group
//                                    column 8 member .. 8 member + 3    b.x
//                                       8 member + 4 .. 8 member + 7    b.y
//
//     fragment           columns of b.x   of b.y        h      slice of y  2 member  2 member + 1
//     window 2 group          a.x          a.z          window 2 group       d[0]        d[1]
//            2 group + 1      a.y          a.w               2 group + 1     d[2]        d[3]

// w of the 16 entries of a fragment that a lane holds, in its order; 0 for windows from `valid` on, whose h is then 0.
__device__ inline void set_band(int4* band, int valid) {
    int lane = threadIdx.x % WARP, group = lane / 4, member = lane % 4;
    for (int part = 0; part < 4; ++part) {  // a.x, a.y, a.z, a.w
        int window = 2 * group + part % 2, k = 8 * member + part / 2 * 4 - window - RADIUS;
        bool used = window < valid;
        band[part * WARP + lane] = {used ? weight(k) : 0, used ? weight(k + 1) : 0, used ? weight(k + 2) : 0,
                                    used ? weight(k + 3) : 0};
    }
}

// The digits of four products of 24 bits, gathered. Bytes from the lowest on; each digit of a selector of __byte_perm,
// from the lowest on, takes a byte of its two arguments: 0 .. 3 of the first, 4 .. 7 of the second.
//
//     p0 = a0 a1 a2 .    0x5140: 0 4 1 5    low  = a0 b0 a1 b1    0x5410: 0 1 4 5    digit[0] = a0 b0 c0 d0
//     p1 = b0 b1 b2 .                       high = c0 d0 c1 d1    0x7632: 2 3 6 7    digit[1] = a1 b1 c1 d1
//     p2 = c0 c1 c2 .
//     p3 = d0 d1 d2 .    0x0062: 2 6        a2 b2 and c2 d2       0x5410: 0 1 4 5    digit[2] = a2 b2 c2 d2
__device__ inline void split(int p0, int p1, int p2, int p3, u32 (&digit)[DIGITS]) {
    u32 low = __byte_perm(p0, p1, 0x5140), high = __byte_perm(p2, p3, 0x5140);
    digit[0] = __byte_perm(low, high, 0x5410);
    digit[1] = __byte_perm(low, high, 0x7632);
    digit[2] = __byte_perm(__byte_perm(p0, p1, 0x0062), __byte_perm(p2, p3, 0x0062), 0x5410);
}

// A row of a slice of x folded into the band: a fragment for each digit of w x.
struct Fragments {
    uint4 digit[DIGITS][WARP];  // what the lanes hold as a
};

// What a lane needs of the band, from shared memory.
struct Weights {
    int4 part[4];  // of a.x, a.y, a.z, a.w

    __device__ void load(const int4* band) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            part[k] = band[k * WARP + threadIdx.x % WARP];
        }
    }
};

// Of a row of pixels, those that a lane folds.
__device__ inline uint2 of_lane(const u8* pixels) { return *(const uint2*)(pixels + 8 * (threadIdx.x % 4)); }

__device__ inline void fold(uint2 eight, const Weights& weights, Fragments& fragments) {
    u32 digit[4][DIGITS];
#pragma unroll
    for (int part = 0; part < 4; ++part) {
        int4 w = weights.part[part];
        int four = part < 2 ? eight.x : eight.y;
        split(w.x * (four << 24 >> 24), w.y * (four << 16 >> 24), w.z * (four << 8 >> 24), w.w * (four >> 24),
              digit[part]);
    }
#pragma unroll
    for (int d = 0; d < DIGITS; ++d) {
        fragments.digit[d][threadIdx.x % WARP] = {digit[0][d], digit[1][d], digit[2][d], digit[3][d]};
    }
}

// h from the products of the digits.
__device__ inline int joined(int d0, int d1, int d2) { return (d0 >> 2) + (d1 << 6) + (d2 << 14); }

// h of a lane's two windows with each of its slices of y, from a row of a slice of x and what the lane holds as b.
__device__ inline void multiply(const Fragments& x, uint2 pixels, int2 (&h)[Y_LANE]) {
    int lane = threadIdx.x % WARP, d0[LANE_PIXELS] = {}, d1[LANE_PIXELS] = {}, d2[LANE_PIXELS] = {};
    multiply_add<u8>(d0, x.digit[0][lane], pixels);
    multiply_add<u8>(d1, x.digit[1][lane], pixels);
    multiply_add<signed char>(d2, x.digit[2][lane], pixels);  // which has the sign of w x
#pragma unroll
    for (int y = 0; y < Y_LANE; ++y) {
        h[y] = {joined(d0[y], d1[y], d2[y]), joined(d0[y + Y_LANE], d1[y + Y_LANE], d2[y + Y_LANE])};
    }
}

// sum + SSIM - 1 of a window. Luminance and spreads have no small difference to lose; SSIM - 1 loses nothing near 1.
__device__ inline float add_ssim(float sum, float mx, float my, float spread, float covariance, float c1) {
    float luminance = fmaf(2 * mx, my, c1), apart = mx - my;
    float above = __fmul_rn(luminance, covariance), below = __fmul_rn(fmaf(apart, apart, luminance), spread);
    return fmaf(above - below, __fdividef(1, below), sum);
}

// The pairs of a lane, X_WARP slices of x with Y_LANE of y, in two neighbouring windows of a strip.
struct LanePairs {
    int group, member, window;          // window: the first of the two
    const Slab *x[X_WARP], *y[Y_LANE];  // of a chunk
    const u8* y_pixels;                 // in its first row, of the slice of y and the columns that the lane holds as b
    float c1, half_c2;
    Covariance covariance[X_WARP][Y_LANE];
    float sum[X_WARP][Y_LANE];  // of SSIM - 1

    __device__ LanePairs(float c1, float half_c2)
        : group(threadIdx.x % WARP / 4),
          member(threadIdx.x % 4),
          window(2 * group),
          c1(c1),
          half_c2(half_c2),
          covariance(),
          sum() {}

    // Looks at a chunk: the warp's slices are i and those behind it of xs, and j and those behind it of ys.
    __device__ void look(const Slab* xs, const Slab* ys, int i, int j) {
        for (int k = 0; k < X_WARP; ++k) {
            x[k] = &xs[i + k];
        }
        for (int k = 0; k < Y_LANE; ++k) {
            y[k] = &ys[j + Y_LANE * member + k];
        }
        y_pixels = ys[j + group].rows->pixels + 8 * member;
    }

    // Takes row k of the chunk into the filters, and adds the windows that end with it where `ends` says that some do.
    // No branch: the rows of a chunk are one block to the compiler, which moves the loads of one into the sums of
    // another.
    __device__ void row(int k, const Fragments* fragments, bool ends) {
        uint2 pixels = *(const uint2*)(y_pixels + k * RECORD);
#pragma unroll
        for (int i = 0; i < X_WARP; ++i) {
            int2 h[Y_LANE], x_mean = *(const int2*)&x[i]->rows[k].mean[window];
            multiply(fragments[i], pixels, h);
            float4 of_x = *(const float4*)&x[i]->rows[k].field[window];  // mean, spread; mean, spread
#pragma unroll
            for (int j = 0; j < Y_LANE; ++j) {
                int2 y_mean = *(const int2*)&y[j]->rows[k].mean[window];
                float2 value = covariance[i][j].next(h[j], x_mean, y_mean, half_c2);
                float4 of_y = *(const float4*)&y[j]->rows[k].field[window];
                float one = add_ssim(sum[i][j], of_x.x, of_y.x, of_x.y + of_y.y, value.x, c1);
                float both = add_ssim(one, of_x.z, of_y.z, of_x.w + of_y.w, value.y, c1);
                sum[i][j] = ends ? both : sum[i][j];
            }
        }
    }

    // Sums over the windows of the strip, that is over the lanes with this member, and begins anew. Each of the four
    // pairs of such a lane is the result in one of the first four groups.
    __device__ float flush() {
        float found = 0;
        for (int pair = 0; pair < X_WARP * Y_LANE; ++pair) {
            float& part = sum[pair / Y_LANE][pair % Y_LANE];
            for (int distance = WARP / 2; distance >= 4; distance /= 2) {
                part += __shfl_xor_sync(ALL_LANES, part, distance);
            }
            found = group == pair ? part : found;
            part = 0;
        }
        return found;
    }
};

// A row of windows ends with each row of a slice from 2 RADIUS on. One comparison: the rows before have differences
// below 0, which as u32 are larger than any height.
__device__ inline bool ends_windows(int row, int H) { return (u32)(row - 2 * RADIUS) < (u32)(H - 2 * RADIUS); }

// A chunk that begins with row `first`; the slices of x of this warp are x_warp and those behind it of the block's.
template <int X_BLOCK>
__device__ inline void add_chunk(LanePairs& pairs, const Fragments (&fragments)[CHUNK][X_BLOCK], int x_warp, int first,
                                 int H) {
#pragma unroll
    for (int k = 0; k < CHUNK; ++k) {
        pairs.row(k, fragments[k] + x_warp, ends_windows(first + k, H));
    }
}

// A pair and its sum over a strip, one a lane, in shared memory: between the stages nothing of it takes a register.
struct Total {
    i64 sum;  // of SSIM - 1, times 2^32
    int row, column;

    __device__ void add(float part) { sum += __float2ll_rn(part * 4294967296.0f); }
};

// What a block and its warps take: a strip of X_BLOCK slices of x against Y_BLOCK of y, X_WARPS x Y_WARPS warps, each 2
// against 8. Slices are counted from the first of the block; those behind the last are not copied: what is computed
// of what lies there is not stored.
template <int X_WARPS, int Y_WARPS>
struct Share {
    static constexpr int X_BLOCK = X_WARPS * X_WARP, Y_BLOCK = Y_WARPS * Y_WARP;
    static constexpr int FOLDED = CHUNK * X_WARP / Y_WARPS;  // rows of slices of x that a warp folds for a chunk
    static constexpr int THREADS = X_WARPS * Y_WARPS * WARP;
    static_assert(FOLDED * Y_WARPS == CHUNK * X_WARP, "each warp as many");

    int a, b, x_first, y_first;
    int x_block, y_block;  // the first slices of the block
    int x_warp, y_warp;    // and of the warp, after those
    int folded;            // the first that the warp folds of the rows of its slices: row folded / X_WARP of a chunk

    __device__ Share(int a, int b, int x_first, int y_first) : a(a), b(b), x_first(x_first), y_first(y_first) {
        Tile tile = tile_of(blockIdx.x, (a + X_BLOCK - 1) / X_BLOCK, (b + Y_BLOCK - 1) / Y_BLOCK);
        int warp = __shfl_sync(ALL_LANES, threadIdx.x / WARP, 0);
        x_block = tile.row * X_BLOCK;
        y_block = max(0, x_first + x_block + 1 - y_first) + tile.column * Y_BLOCK;  // nothing before the diagonal
        x_warp = warp % X_WARPS * X_WARP, y_warp = warp / X_WARPS * Y_WARP, folded = warp / X_WARPS * FOLDED;
    }

    // Row row(k) of a chunk of slice(k) of the block is the k-th that the warp folds, k < FOLDED.
    __device__ int slice(int k) const { return x_warp + (folded + k) % X_WARP; }

    __device__ int row(int k) const { return (folded + k) / X_WARP; }

    __device__ bool has_pairs() const { return y_block < b; }

    __device__ bool warp_has_pairs() const {
        int i = x_block + x_warp, j = y_block + y_warp;
        return i < a && j < b && x_first + i < y_first + min(j + Y_WARP, b) - 1;
    }

    // Of the X_WARP Y_LANE pairs of lanes with the same member, each of the first lanes sums up one.
    __device__ Total total(const LanePairs& lane) const {
        int i = lane.group < X_WARP * Y_LANE ? x_block + x_warp + lane.group / Y_LANE : a;
        return {0, i, y_block + y_warp + Y_LANE * lane.member + lane.group % Y_LANE};
    }

    __device__ void store(const Total& total, u64* sums) const {
        if (total.row < a && total.column < b && x_first + total.row < y_first + total.column) {
            atomicAdd(&sums[(i64)total.row * b + total.column], (u64)total.sum);
        }
    }
};

// Calls chunk(first) for every chunk, `first` being its first row, and moves what a stage of them has added to `total`.
template <class Chunk>
__device__ inline void over_chunks(int rows, LanePairs& pairs, bool busy, Total& total, const Chunk& chunk) {
    for (int first = 0; first < rows;) {
#pragma unroll 1
        for (int end = min(first + STAGE * CHUNK, rows); first < end; first += CHUNK) {
            chunk(first);
        }
        if (busy) {
            total.add(pairs.flush());
        }
    }
}

#ifndef COPY_LATER  // macros, so that on the CPU (tests/emulation) a copy can come as late as it may
#if __CUDA_ARCH__ >= 800
#define COPY_LATER(to, from)                                                                                     \
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from) \
                 : "memory")
#define WAIT_FOR_COPIES() asm volatile("cp.async.wait_all;" ::: "memory")  // of this thread
#else
#define COPY_LATER(to, from) (*(to) = *(from))
#define WAIT_FOR_COPIES()
#endif
#endif

constexpr int PIECES = 43;  // of 16 bytes, in a slab
static_assert(PIECES * sizeof(uint4) == SLAB, "whole pieces");

// Of up to MOST slabs side by side in each chunk, the pieces that this thread of THREADS copies.
template <int MOST, int THREADS>
struct Copies {
    const uint4* from;
    int pieces;   // that are there from the first of this thread on
    i64 advance;  // to the next chunk

    __device__ Copies(const Slab* slabs, int first, int count)
        : from((const uint4*)(slabs + first) + threadIdx.x),
          pieces(min(MOST, count - first) * PIECES - threadIdx.x),
          advance((i64)count * PIECES) {}

    __device__ void start(Slab* to) {
        uint4* own = (uint4*)to + threadIdx.x;
#pragma unroll
        for (int k = 0; k < MOST * PIECES; k += THREADS) {
            if (k < pieces) {
                COPY_LATER(own + k, from + k);
            }
        }
        from += advance;
    }
};

// The shared memory of a block.
template <class Block, int AHEAD>
struct Memory {
    Slab x[2 + AHEAD][Block::X_BLOCK];  // of a chunk and of those behind it
    Slab y[2][Block::Y_BLOCK];
    Fragments fragments[1 + AHEAD][CHUNK][Block::X_BLOCK];
    int4 band[4 * WARP];
    Total totals[Block::THREADS];
};

// What a block does. While a chunk is computed, the slabs of the next are on their way into shared memory, so that no
// lane waits for the L2 cache. With AHEAD its rows of x are folded meanwhile, too: one barrier a chunk for two, and
// more memory. It is one long function since what is on its way between two barriers is understood only side by side;
// and with `read` and `fold_into` as functions of a struct, NVRTC 13.0 spills 30 bytes on sm_90 (bench/sass.py).
template <int X_WARPS, int Y_WARPS, int AHEAD>
__device__ void pairs_of_block(const u8* x, const u8* y, u64* sums, int a, int b, int chunks, int H, int W, int x_first,
                               int y_first, float c1, float half_c2) {
    using Block = Share<X_WARPS, Y_WARPS>;
    DYNAMIC_SHARED(uint4, memory);
    auto& shared = *(Memory<Block, AHEAD>*)memory;
    Block share(a, b, x_first, y_first);
    if (!share.has_pairs()) {
        return;
    }
    if (threadIdx.x < WARP) {
        set_band(shared.band, W - 2 * RADIUS - blockIdx.y * STRIP);
    }
    Copies<Block::X_BLOCK, Block::THREADS> of_x((const Slab*)x + (i64)blockIdx.y * chunks * a, share.x_block, a);
    Copies<Block::Y_BLOCK, Block::THREADS> of_y((const Slab*)y + (i64)blockIdx.y * chunks * b, share.y_block, b);
    Weights weights;
    uint2 pixels[Block::FOLDED];
    auto read = [&](const Slab* slabs) {
#pragma unroll
        for (int k = 0; k < Block::FOLDED; ++k) {
            pixels[k] = of_lane(slabs[share.slice(k)].rows[share.row(k)].pixels);
        }
    };
    auto fold_into = [&](Fragments(&fragments)[CHUNK][Block::X_BLOCK]) {
#pragma unroll
        for (int k = 0; k < Block::FOLDED; ++k) {
            fold(pixels[k], weights, fragments[share.row(k)][share.slice(k)]);
        }
    };
    int rows = chunks * CHUNK, now = 0;
    Slab *xs = shared.x[0], *next = shared.x[1], *behind = shared.x[1 + AHEAD];
    of_x.start(xs), of_y.start(shared.y[0]);
    if (AHEAD) {
        of_x.start(next);  // there are four chunks at the least: of 11 rows
    }
    WAIT_FOR_COPIES();
    __syncthreads();  // those of all threads have come, and the band
    if (AHEAD) {
        weights.load(shared.band);
        read(xs);
        fold_into(shared.fragments[0]);
    }
    LanePairs pairs(c1, half_c2);
    bool busy = share.warp_has_pairs();
    Total& total = shared.totals[threadIdx.x];
    total = share.total(pairs);
    over_chunks(rows, pairs, busy, total, [&](int first) {
        bool last = first + CHUNK >= rows;
        weights.load(shared.band);  // while it waits
        WAIT_FOR_COPIES();
        __syncthreads();  // copies and fragments of all threads are there; and the chunk before has been read
        read(AHEAD ? next : xs);
        if (first + (1 + AHEAD) * CHUNK < rows) {
            of_x.start(behind);
        }
        if (!last) {
            of_y.start(shared.y[now ^ 1]);
        }
        if (!AHEAD || !last) {
            fold_into(shared.fragments[AHEAD ? now ^ 1 : 0]);
        }
        if (!AHEAD) {
            __syncthreads();
        }
        if (busy) {
            pairs.look(xs, shared.y[now], share.x_warp, share.y_warp);
            add_chunk(pairs, shared.fragments[AHEAD ? now : 0], share.x_warp, first, H);
        }
        Slab* read_now = xs;
        xs = next, next = AHEAD ? behind : read_now, behind = read_now;
        now ^= 1;
    });
    share.store(total, sums);
}

extern "C" __global__ void __launch_bounds__(Share<2, 2>::THREADS, 3)
    ssim_pairs_tensor_4x16(const u8* x,  // (strips, chunks, a, 688)
                           const u8* y,  // (strips, chunks, b, 688)
                           u64* sums,    // (a, b): of SSIM - 1, times 2^32
                           int a, int b, int strips, int chunks, int H, int W, int x_first, int y_first, float c1,
                           float half_c2) {
    pairs_of_block<2, 2, 1>(x, y, sums, a, b, chunks, H, W, x_first, y_first, c1, half_c2);
}

extern "C" __global__ void __launch_bounds__(Share<4, 3>::THREADS, 1)
    ssim_pairs_tensor_8x24(const u8* x,  // (strips, chunks, a, 688)
                           const u8* y,  // (strips, chunks, b, 688)
                           u64* sums,    // (a, b): of SSIM - 1, times 2^32
                           int a, int b, int strips, int chunks, int H, int W, int x_first, int y_first, float c1,
                           float half_c2) {
    pairs_of_block<4, 3, 0>(x, y, sums, a, b, chunks, H, W, x_first, y_first, c1, half_c2);
}

extern "C" __global__ void ssim_means(const u64* __restrict__ sums,  // (a, b)
                                      float* matrix,                 // (n, n)
                                      int a, int b, int n, int x_first, int y_first, double windows) {
    i64 row = (i64)x_first + blockIdx.x;
    for (int k = blockIdx.y * blockDim.x + threadIdx.x; k < b; k += gridDim.y * blockDim.x) {
        i64 column = (i64)y_first + k;
        if (row < column) {
            double sum = (double)(i64)sums[(i64)blockIdx.x * b + k] / 4294967296.0;
            matrix[row * n + column] = matrix[column * n + row] = clamped(1 + sum / windows, -1, 1);
        }
    }
}
