// Ceilings: what each unit of a GPU does at the most, measured by loops of that one operation. Every loop has a result
// that can be foretold, so that it is checked before it is timed.
//
// CHAINS operations of a thread do not wait for each other; blocks fill every SM. Loops begin with what `out` holds,
// zeros, since a compiler that knows all lanes to be equal takes the one uniform unit that a warp has.

constexpr int CHAINS = 8;
constexpr int THREADS = 256;
constexpr i64 TWICE = (1ll << 32) + 1;

// x = x * factor + addend: CHAINS fp32 multiply-adds a round.
extern "C" __global__ void ceiling_fma(float* out,  // (threads)
                                       int rounds, float factor, float addend) {
    float x[CHAINS];
    for (int c = 0; c < CHAINS; ++c) {
        x[c] = out[blockIdx.x * blockDim.x + threadIdx.x];
    }
#pragma unroll 16
    for (int r = 0; r < rounds; ++r) {
#pragma unroll
        for (int c = 0; c < CHAINS; ++c) {
            x[c] = fmaf(x[c], factor, addend);
        }
    }
    float sum = 0;
    for (int c = 0; c < CHAINS; ++c) {
        sum += x[c];
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// CHAINS additions to shared memory a round; the lanes of a warp hit 32 different banks.
extern "C" __global__ void ceiling_atomics(u32* out,  // (threads)
                                           int rounds) {
    __shared__ u32 counts[CHAINS * THREADS];
    u32* own = counts + threadIdx.x;
    for (int c = 0; c < CHAINS; ++c) {
        own[c * THREADS] = 0;
    }
    __syncthreads();
#pragma unroll 4
    for (int r = 0; r < rounds; ++r) {
#pragma unroll
        for (int c = 0; c < CHAINS; ++c) {
            atomicAdd(&own[c * THREADS], 1u);
        }
    }
    __syncthreads();
    u32 sum = 0;
    for (int c = 0; c < CHAINS; ++c) {
        sum += own[c * THREADS];
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// CHAINS popcounts of 64 bits a round: of word ^ k * TWICE for k = 0, 1, ..., so that neither half can be shared.
extern "C" __global__ void ceiling_popcount(i64* out,  // (threads)
                                            int rounds, i64 word) {
    int sum[CHAINS] = {};
    word ^= out[blockIdx.x * blockDim.x + threadIdx.x];
#pragma unroll 4
    for (int r = 0; r < rounds; ++r) {
#pragma unroll
        for (int c = 0; c < CHAINS; ++c) {
            sum[c] += __popcll(word ^ (r * CHAINS + c) * TWICE);
        }
    }
    i64 total = 0;
    for (int c = 0; c < CHAINS; ++c) {
        total += sum[c];
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

// The tensor cores by mma.sync, as the kernels use them: CHAINS products of 16 x k and k x 8 a warp and round, k = 32
// for int8 and 16 for fp16. Every factor is 1, so that an element of the sum grows by k in each.
__device__ inline void mma_int8(int (&sum)[4], int ones) {
#ifdef __CUDA_ARCH__
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, {%4, %4}, "
        "{%0, %1, %2, %3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(ones));
#endif  // sm_75 has smaller tiles: the check of the result fails there, and the ceiling is not measured
#else
    for (int k = 0; k < 4; ++k) {
        sum[k] += 32 * (ones & 255);
    }
#endif
}

__device__ inline void mma_fp16(float (&sum)[4], int ones) {
#ifdef __CUDA_ARCH__
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, {%4, %4}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(ones));
#endif
#else
    for (int k = 0; k < 4; ++k) {
        sum[k] += 16 * (ones != 0);
    }
#endif
}

extern "C" __global__ void ceiling_mma_int8(int* out,  // (threads)
                                            int rounds, int ones) {
    int sum[CHAINS][4] = {};
#pragma unroll 4
    for (int r = 0; r < rounds; ++r) {
#pragma unroll
        for (int c = 0; c < CHAINS; ++c) {
            mma_int8(sum[c], ones);
        }
    }
    int total = 0;
    for (int c = 0; c < CHAINS; ++c) {
        total += sum[c][0] + sum[c][1] + sum[c][2] + sum[c][3];
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

extern "C" __global__ void ceiling_mma_fp16(float* out,  // (threads)
                                            int rounds, int ones) {
    float sum[CHAINS][4] = {};
#pragma unroll 4
    for (int r = 0; r < rounds; ++r) {
#pragma unroll
        for (int c = 0; c < CHAINS; ++c) {
            mma_fp16(sum[c], ones);
        }
    }
    float total = 0;
    for (int c = 0; c < CHAINS; ++c) {
        total += sum[c][0] + sum[c][1] + sum[c][2] + sum[c][3];
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}
