// What every kernel file shares. Pasted before each .cu by the loader, since CuPy's cache does not see included files.
// No header is needed: NVRTC knows the mathematics and the intrinsics by itself.
//
// Parameters of a kernel: an array has a line of its own and its shape in the comment beside it. Both are parsed, and
// every launch is checked against them (lim_gpu/cuda/signature.py).

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;
using i16 = short;
using i64 = long long;

// Shared memory whose size the launch gives. A macro, so that the kernels also compile for the CPU (tests/emulation).
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xffffffff;

// NaN stays NaN, where fmin and fmax would hide it.
__device__ inline double clamped(double value, double low, double high) {
    return value < low ? low : value > high ? high : value;
}

// ------------------------------------------------------------------------------------------------ tiles of a matrix

#ifndef BAND
#define BAND 16
#endif

struct Tile {
    int row, column;
};

// Tile number `block` of rows x columns tiles, walked down bands of BAND rows, so that the blocks that run together
// need few slices and find them in the L2 cache.
__device__ inline Tile tile_of(int block, int rows, int columns) {
    int first = block / (BAND * columns) * BAND;
    int height = min(BAND, rows - first);
    int within = block - first * columns;
    return {first + within % height, within / height};
}

// ------------------------------------------------------------------------------------------------ sums over a block

// The sum of `value` over the block in thread 0, in an order that is the same every time. blockDim.x is a multiple of
// 32; `scratch` holds a value for each warp.
template <class T>
__device__ inline T block_sum(T value, T* scratch) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_down_sync(ALL_LANES, value, distance);
    }
    __syncthreads();  // the sum before this one has been read
    if (threadIdx.x % WARP == 0) {
        scratch[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    T total = 0;
    if (threadIdx.x == 0) {
        for (int warp = 0; warp < (int)blockDim.x / WARP; ++warp) {
            total += scratch[warp];
        }
    }
    return total;
}
