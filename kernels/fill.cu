// Random weights and inputs as a pure function of (key, index), generated in place.
//
// The other implementation of src/workload/model/random.rs and equal to it bit for bit: the same
// SplitMix64 hash, and a product and a sum that are rounded separately, never fused.

#include "number.cuh" // also in fp32

typedef unsigned long long u64;

DEVICE u64 mix(u64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}
DEVICE u64 bits(u64 key, u64 index) { return mix(key + index * 0x9E3779B97F4A7C15ull); }

// `count` elements of a tensor whose rows have `columns` of them; the first `wide_columns` of a
// row are scaled by `wide_scale`, the others by `scale`.
template <class T>
DEVICE void fill(T *out, u64 count, u64 key, unsigned columns, float mean, float scale,
                 unsigned wide_columns, float wide_scale) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        // An odd integer in (-2^24, 2^24): exact in fp32, symmetric and never zero.
        int k = (int)(bits(key, i) >> 40);
        float odd = (float)(2 * k + 1 - (1 << 24));
        float s = (unsigned)(i % columns) < wide_columns ? wide_scale : scale;
        narrow(out[i], __fadd_rn(__fmul_rn(odd, s), mean));
    }
}

extern "C" __global__ void ENTRY(fill)(NUMBER *out, u64 count, u64 key, unsigned columns, float mean,
                                       float scale, unsigned wide_columns, float wide_scale) {
    fill(out, count, key, columns, mean, scale, wide_columns, wide_scale);
}

// Token ids below `vocabulary`.
extern "C" __global__ void fill_tokens(unsigned *out, u64 count, u64 key, unsigned vocabulary) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        out[i] = (unsigned)(((bits(key, i) >> 32) * vocabulary) >> 32);
    }
}
