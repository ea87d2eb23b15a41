// Each row of x + residual normalised to mean 0 and variance 1, times gamma plus beta.
//
// One warp a row, the row in registers: the variance is taken around the known mean (two passes
// without a second read), and `out` may be `x` or `residual`, since a warp has read its row before
// it writes it. fp32 throughout. `columns` is a multiple of 8 and at most 1024.

#include "number.cuh" // also in fp32
#include "overlap.cuh"

constexpr int CHUNKS = 4; // of 8 columns, a lane

DEVICE float warp_sum(float v) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) v += __shfl_xor_sync(0xffffffff, v, lane);
    return v;
}

template <class T>
DEVICE void add_norm(const T *x, const T *residual, const T *gamma, const T *beta, T *out, unsigned rows,
                     unsigned columns, float epsilon) {
    unsigned row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    let_next_start();
    if (row >= rows) return;
    unsigned long long start = (unsigned long long)row * columns;
    unsigned first = threadIdx.x % 32 * 8;

    // All loads first, so that a row costs one latency of the memory and not two; the parameters come
    // while the kernel before this one still runs.
    Raw8<T> raw_x[CHUNKS], raw_residual[CHUNKS] = {}, raw_gamma[CHUNKS], raw_beta[CHUNKS];
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        unsigned column = first + c * 256;
        if (column >= columns) continue;
        raw_gamma[c] = *(const Raw8<T> *)(gamma + column);
        raw_beta[c] = *(const Raw8<T> *)(beta + column);
    }
    wait_for_previous();
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        unsigned column = first + c * 256;
        if (column >= columns) continue;
        raw_x[c] = *(const Raw8<T> *)(x + start + column);
        if (residual) raw_residual[c] = *(const Raw8<T> *)(residual + start + column);
    }

    float v[CHUNKS][8];
    float sum = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        if (first + c * 256 >= columns) continue;
        float r[8];
        raw_x[c].unpack(v[c]);
        raw_residual[c].unpack(r); // zeros without a residual
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            v[c][j] += r[j];
            sum += v[c][j];
        }
    }
    float mean = warp_sum(sum) / columns;

    float squares = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        if (first + c * 256 >= columns) continue;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            v[c][j] -= mean;
            squares += v[c][j] * v[c][j];
        }
    }
    float scale = 1.0f / sqrtf(warp_sum(squares) / columns + epsilon);

#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        unsigned column = first + c * 256;
        if (column >= columns) continue;
        float g[8], b[8];
        raw_gamma[c].unpack(g);
        raw_beta[c].unpack(b);
#pragma unroll
        for (int j = 0; j < 8; ++j) v[c][j] = v[c][j] * scale * g[j] + b[j];
        store8(out + start + column, v[c]);
    }
}

// x, residual and out may be the same memory: no __restrict__.
extern "C" __global__ void __launch_bounds__(128)
    ENTRY(add_norm)(const NUMBER *x, const NUMBER *residual, const NUMBER *gamma, const NUMBER *beta,
                    NUMBER *out, unsigned rows, unsigned columns, float epsilon) {
    add_norm(x, residual, gamma, beta, out, rows, columns, epsilon);
}
