// out = activation(x · weight + bias + residual) as linear.cu, for few rows: what counts is to read the
// weight once and at full speed. Several blocks share a tile, each a part of k, so that every
// multiprocessor reads; and the first steps of the weight are fetched while the kernel before this
// one still runs. src/workload/cuda/thin.rs chooses.

#include "number.cuh"
#include "tile.cuh"
#include "matrix.cuh"

#define ROWS(name, BM, BN, BK, WM, WN, WK, STAGES)                                                          \
    extern "C" __global__ void __launch_bounds__(32 * WM * WN * WK)                                        \
        ENTRY(thin_##name)(const NUMBER *x, long long x_stride, const NUMBER *weight, const NUMBER *bias,  \
                           const NUMBER *residual, NUMBER *out, unsigned *counters, float *parts, int m,   \
                           int n, int k, int activation, int splits) {                                     \
        product<NUMBER, MatrixSource, Matrix<NUMBER>, BM, BN, BK, WM, WN, WK, STAGES, true>(               \
            {x, x_stride}, weight, {bias, residual, out, activation}, m, n, k, {splits, counters, parts}); \
    }

//   rows     BM  BN  BK WM WN WK STAGES
ROWS(16, 16, 64, 64, 1, 2, 2, 4)
ROWS(32, 32, 64, 64, 1, 2, 2, 4)
