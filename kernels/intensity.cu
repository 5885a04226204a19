// How HU become 0..255, as lim_gpu/intensity/definition.py has it, bit for bit:
//
//     u8 = rint((v - low) / (high - low) * 255)   in float64, halves to even, v clipped to low..high
//
// low and high are the slice's own minimum and maximum (intensity_minmax; a constant slice gives 0) or given
// (intensity_window). One version each, the plain one: both read 2 bytes of a pixel and write 1, intensity_minmax reads
// a slice twice, the second time from the L2 cache. Floors on an H200: 4.8 TB/s, so 6e6 slices of 512 x 512 a second;
// 41 to 58 instructions a pixel, 2e6; the 12 of float64 among them run at half the rate there, and at 1/64 on a
// consumer GPU, where they allow some 2e5. Copying slices to the GPU (64 GB/s, 1.2e5 a second) is slower than that, so
// nothing was gained by more. Not measured.

__device__ inline u8 to_8_bits(double value, double low, double high) {
    return (u8)rint((clamped(value, low, high) - low) / (high - low) * 255);
}

extern "C" __global__ void intensity_minmax(const i16* __restrict__ slices,  // (n, pixels), HU
                                            u8* mapped,                      // (n, pixels)
                                            i64 pixels) {
    // A block takes a slice.
    __shared__ int lows[WARP], highs[WARP];
    const i16* in = slices + blockIdx.x * pixels;
    u8* out = mapped + blockIdx.x * pixels;
    int low = in[0], high = in[0], warps = blockDim.x / WARP;
    for (i64 k = threadIdx.x; k < pixels; k += blockDim.x) {
        low = min(low, (int)in[k]);
        high = max(high, (int)in[k]);
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        low = min(low, __shfl_down_sync(ALL_LANES, low, distance));
        high = max(high, __shfl_down_sync(ALL_LANES, high, distance));
    }
    if (threadIdx.x % WARP == 0) {
        lows[threadIdx.x / WARP] = low;
        highs[threadIdx.x / WARP] = high;
    }
    __syncthreads();
    low = lows[0], high = highs[0];
    for (int warp = 1; warp < warps; ++warp) {
        low = min(low, lows[warp]);
        high = max(high, highs[warp]);
    }
    for (i64 k = threadIdx.x; k < pixels; k += blockDim.x) {
        out[k] = low < high ? to_8_bits(in[k], low, high) : 0;
    }
}

extern "C" __global__ void intensity_window(const i16* __restrict__ slices,  // (n, pixels), HU
                                            u8* mapped,                      // (n, pixels)
                                            i64 n, i64 pixels, double low, double high) {
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < n * pixels; k += (i64)gridDim.x * blockDim.x) {
        mapped[k] = to_8_bits(slices[k], low, high);
    }
}
