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
// Versions
//     ssim_plain    A thread a window, five sums of 121 products: the readable specification.
//     ssim_pairs    d and sxx belong to a slice and are computed once (ssim_fields). A pair costs the filtered product
//                   and the formula: 49 floating-point instructions a pixel, 86 with loads and addresses (sm_90), where
//                   ssim_plain has over 1,000. X_TILE x Y_TILE pairs in one block read X_TILE + Y_TILE slices. The
//                   block marches down the rows: the pass along columns is a filter in registers, the one along rows
//                   reads shared memory.
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
//     1  deviation: mean - pixel        1 and 2 stand at the centre of their window, and only where it lies in the
//     slice 2  spread: (sxx + C2 / 2) / 2

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

// Excess along a column, as a transposed filter: each step goes into the windows that hold it as it comes.
struct Vertical {
    float previous, partial[2 * RADIUS - 1];

    // Takes p[r]; returns the excess at row r - RADIUS.
    __device__ float next(float p, const float (&tail)[RADIUS]) {
        float step = p - previous;
        previous = p;
        float excess = fmaf(tail[RADIUS - 1], step, partial[0]);
#pragma unroll
        for (int k = 0; k < RADIUS - 1; ++k) {
            partial[k] = fmaf(tail[RADIUS - 2 - k], step, partial[k + 1]);
        }
#pragma unroll
        for (int k = 0; k < RADIUS - 1; ++k) {
            partial[RADIUS - 1 + k] = fmaf(-tail[k], step, partial[RADIUS + k]);
        }
        partial[2 * RADIUS - 2] = -tail[RADIUS - 1] * step;
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
    Vertical filter[PRODUCTS][COLUMNS] = {};
    float product[PRODUCTS][COLUMNS], excess[PRODUCTS][COLUMNS];
    int own = threadIdx.x * COLUMNS;
    __syncthreads();  // the strip before this one has been read
    for (int r = 0; r < H; ++r) {
        work.products(r, first_column + own, product);
        for (int p = 0; p < PRODUCTS; ++p) {
            for (int c = 0; c < COLUMNS; ++c) {
                excess[p][c] = filter[p][c].next(product[p][c], tail);
            }
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
    for (int p = 0; p < PAIRS; ++p) {
        work.total[p * MAX_THREADS] = 0;
    }
    for (int s = 0; s < X_TILE; ++s) {  // a tile that hangs over repeats the last slice
        int k = min(i + s, a - 1);
        work.x[s] = x + k * 3 * work.plane, work.x_offset[s] = x_offset[k];
    }
    for (int t = 0; t < Y_TILE; ++t) {
        int k = min(j + t, b - 1);
        work.y[t] = y + k * 3 * work.plane, work.y_offset[t] = y_offset[k];
    }
    for (work.first_column = 0; work.first_column < W - 2 * RADIUS;
         work.first_column += blockDim.x * COLUMNS - 2 * RADIUS) {
        march<PAIRS>(work, tail, H, work.first_column, rows);
    }
    work.flush();
    double windows = (double)(H - 2 * RADIUS) * (W - 2 * RADIUS);
    for (int p = 0; p < PAIRS; ++p) {
        double value = clamped(1 + block_sum(work.total[p * MAX_THREADS], scratch) / windows, -1, 1);
        int s = i + p / Y_TILE, u = j + p % Y_TILE;
        i64 row = x_first + s, column = y_first + u;
        if (threadIdx.x == 0 && s < a && u < b && row < column) {
            matrix[row * n + column] = matrix[column * n + row] = value;
        }
    }
}
