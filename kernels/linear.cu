// out = activation(x · weight + bias + residual): x is m x k with `x_stride` elements from row to row,
// weight k x n row-major. src/workload/cuda/tiles.rs lists the tiles below and chooses among them.

#include "number.cuh"
#include "overlap.cuh"
#include "tile.cuh"
#include "matrix.cuh"

#define TILE(name, BM, BN, BK, WM, WN, WK, STAGES)                                                       \
    extern "C" __global__ void __launch_bounds__(32 * WM * WN * WK)                                     \
        ENTRY(linear_##name)(const NUMBER *x, long long x_stride, const NUMBER *weight,                 \
                             const NUMBER *bias, const NUMBER *residual, NUMBER *out, int m, int n, int k, \
                             int activation) {                                                          \
        product<NUMBER, MatrixSource, Matrix<NUMBER>, BM, BN, BK, WM, WN, WK, STAGES>(                  \
            {x, x_stride}, weight, {bias, residual, out, activation}, m, n, k);                         \
    }

//           BM   BN   BK   WM WN WK STAGES
TILE(256x128, 256, 128, 64, 4, 2, 1, 3)
TILE(256x96, 256, 96, 64, 4, 2, 1, 3)
TILE(128x96, 128, 96, 32, 2, 2, 1, 4)
TILE(64x96, 64, 96, 64, 2, 2, 1, 3)
TILE(64x64, 64, 64, 64, 2, 2, 2, 4) // Hopper too
TILE(32x32, 32, 32, 128, 1, 1, 4, 4) // Hopper too
TILE(16x32, 16, 32, 128, 1, 1, 4, 4) // Hopper too
