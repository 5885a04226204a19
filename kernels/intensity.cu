// How HU become 0..255, as lim_gpu/intensity/definition.py has it, bit for bit:
//
//     u8 = rint((v - low) / (high - low) * 255)   in float64, halves to even, v clipped to low..high
//
// low and high are the slice's own minimum and maximum (a constant slice gives 0) or given. And fletcher32 of a slice's
// bytes, as lim_gpu/store/fletcher.py has it, so that the CPU need not sum what goes to the GPU. N words,
// little-endian, an odd last byte being a word's lower half:
//
//     sum1 = w_0 + ... + w_(N-1),   sum2 = N w_0 + ... + w_(N-1),   both times 256 modulo 65,535
//
// A word's weight is known from its place, so the threads sum in any order, exact in 64 bits: the largest slice of a
// store, 4096 x 4096, has N = 2^24 and sum2 < 65,536 N^2 / 2 = 2^63. The block adds the threads' sums; the modulus is
// taken once.
//
//     intensity_minmax    by its own range; a block takes a slice
//     intensity_window    by a given range
//     intensity_summed    by either, and the checksum, in the pass that finds the range; a block takes a slice
//     intensity_sums_u8   the checksum alone, of pixels that stay as they are; a block takes a slice
//
// One version each, the plain one: they read 2 bytes of a pixel and write 1, intensity_minmax and intensity_summed the
// slice twice, the second time from the L2 cache; intensity_sums_u8 reads 1 byte and writes nothing of it. Floors on an
// H200: 4.8 TB/s, so 6e6 slices of 512 x 512 a second; 41 to 61 instructions a pixel, 2e6; the 12 of float64 among them
// run at half the rate there, and at 1/64 on a consumer GPU, where they allow some 2e5. Copying slices to the GPU (64
// GB/s, 1.2e5 a second) is slower than that, so nothing was gained by more. An H200 did 8.7e5 to 1.03e6 (256 slices,
// bench/NOTES.md).

constexpr int MODULUS = 65535;

__device__ inline u8 to_8_bits(double value, double low, double high) {
    return (u8)rint((clamped(value, low, high) - low) / (high - low) * 255);
}

// What a thread has seen of a slice; the sums in the order of the machine's bytes.
struct Seen {
    int low, high;
    u64 sum1, sum2;
};

template <class T>
__device__ inline Seen look_through(const T* in, i64 pixels) {
    constexpr int PER_WORD = 2 / sizeof(T);
    i64 words = (pixels + PER_WORD - 1) / PER_WORD;
    Seen seen = {in[0], in[0], 0, 0};
    for (i64 k = threadIdx.x; k < pixels; k += blockDim.x) {
        int pixel = in[k];
        u32 part = ((u32)pixel & 0xffff) << 8 * (k % PER_WORD);  // of its word
        seen.low = min(seen.low, pixel);
        seen.high = max(seen.high, pixel);
        seen.sum1 += part;
        seen.sum2 += (u64)part * (u32)(words - k / PER_WORD);
    }
    return seen;
}

// The range that the threads of the block have seen, in all of them; `lows` and `highs` hold a value for each warp.
__device__ inline void share_range(Seen& seen, int* lows, int* highs) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        seen.low = min(seen.low, __shfl_down_sync(ALL_LANES, seen.low, distance));
        seen.high = max(seen.high, __shfl_down_sync(ALL_LANES, seen.high, distance));
    }
    if (threadIdx.x % WARP == 0) {
        lows[threadIdx.x / WARP] = seen.low;
        highs[threadIdx.x / WARP] = seen.high;
    }
    __syncthreads();
    seen.low = lows[0], seen.high = highs[0];
    for (int warp = 1; warp < (int)blockDim.x / WARP; ++warp) {
        seen.low = min(seen.low, lows[warp]);
        seen.high = max(seen.high, highs[warp]);
    }
}

// By thread 0; each half in 0..65,534.
__device__ inline void store_checksum(const Seen& seen, u64* scratch, u32* checksum) {
    u64 sum1 = block_sum(seen.sum1, scratch) % MODULUS;
    u64 sum2 = block_sum(seen.sum2, scratch) % MODULUS;
    if (threadIdx.x == 0) {
        *checksum = (u32)(sum2 * 256 % MODULUS << 16 | sum1 * 256 % MODULUS);
    }
}

__device__ inline void map_slice(const i16* in, u8* out, i64 pixels, double low, double high) {
    for (i64 k = threadIdx.x; k < pixels; k += blockDim.x) {
        out[k] = low < high ? to_8_bits(in[k], low, high) : 0;
    }
}

extern "C" __global__ void intensity_minmax(const i16* __restrict__ slices,  // (n, pixels), HU
                                            u8* mapped,                      // (n, pixels)
                                            i64 pixels) {
    __shared__ int lows[WARP], highs[WARP];
    const i16* in = slices + blockIdx.x * pixels;
    Seen seen = look_through(in, pixels);
    share_range(seen, lows, highs);
    map_slice(in, mapped + blockIdx.x * pixels, pixels, seen.low, seen.high);
}

extern "C" __global__ void intensity_window(const i16* __restrict__ slices,  // (n, pixels), HU
                                            u8* mapped,                      // (n, pixels)
                                            i64 n, i64 pixels, double low, double high) {
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < n * pixels; k += (i64)gridDim.x * blockDim.x) {
        mapped[k] = to_8_bits(slices[k], low, high);
    }
}

// An empty range, low > high, stands for each slice's own.
extern "C" __global__ void intensity_summed(const i16* __restrict__ slices,  // (n, pixels), HU
                                            u8* mapped,                      // (n, pixels)
                                            u32* checksums,                  // (n)
                                            i64 pixels, double low, double high) {
    __shared__ int lows[WARP], highs[WARP];
    __shared__ u64 scratch[WARP];
    const i16* in = slices + blockIdx.x * pixels;
    Seen seen = look_through(in, pixels);
    store_checksum(seen, scratch, checksums + blockIdx.x);
    if (low > high) {
        share_range(seen, lows, highs);
        low = seen.low, high = seen.high;
    }
    map_slice(in, mapped + blockIdx.x * pixels, pixels, low, high);
}

extern "C" __global__ void intensity_sums_u8(const u8* __restrict__ slices,  // (n, pixels)
                                             u32* checksums,                 // (n)
                                             i64 pixels) {
    __shared__ u64 scratch[WARP];
    store_checksum(look_through(slices + blockIdx.x * pixels, pixels), scratch, checksums + blockIdx.x);
}
