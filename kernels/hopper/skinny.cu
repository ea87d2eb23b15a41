// out = activation(x · weight + bias + residual) as ../linear.cu, for few rows: what counts is to read
// the weight once and at full speed. ../thin.cu by Hopper's means.
//
// A block computes one tile of COLUMNS columns after another. One thread of a warp of its own keeps
// STAGES steps of 64 along k on their way, across the tiles' borders and ahead of the end of the kernel
// before; shared memory is so little that the next kernel's blocks fit beside these and do the
// same. Where there are few tiles, two blocks of a cluster share each, half of k for either, and the
// second hands its sums to the first. The weight is the left operand of the tensor cores, whose 16 rows
// are columns of it; x the right one, whose 8 columns are rows of x. Groups of warps share each step's k.
// src/workload/cuda/thin.rs chooses.

#include "number.cuh"
#include "overlap.cuh"
#include "tile.cuh"
#include "hopper.cuh"

constexpr int STEP = 64, WARPS = 8, THREADS = WARPS * 32;

// Who computes what of a tile.
template <int COLUMNS, int ROWS> struct Shape {
    static constexpr int COLUMN_WARPS = COLUMNS / 16, ROW_WARPS = COLUMNS == 32 && ROWS >= 16 ? 2 : 1;
    static constexpr int SLICES = WARPS / COLUMN_WARPS / ROW_WARPS, STEPS = STEP / 16 / SLICES; // along k
    static constexpr int MY_ROWS = ROWS / ROW_WARPS;
    static constexpr int PITCH = COLUMNS + 8; // of the sums in shared memory
    static constexpr unsigned WEIGHT = STEP * COLUMNS * 2, STAGE = WEIGHT + ROWS * STEP * 2;
};

template <class T, int COLUMNS, int ROWS, int STAGES>
DEVICE void skinny(const TensorMap &x, const TensorMap &weight, const Epilogue<T> &epilogue, int m, int n, int k,
                   int blocks_a_tile) {
    using S = Shape<COLUMNS, ROWS>;
    extern __shared__ uint4 memory[];
    // The swizzle works on addresses: tiles begin at multiples of 1024.
    const unsigned shared = (shared_address(memory) + 1023) & ~1023u;
    const unsigned full = shared + STAGES * S::STAGE, empty = full + 8 * STAGES, arrived = empty + 8 * STAGES;
    const unsigned sums = arrived + 16; // of twice as many slices, a block's and its partner's
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    let_next_start();
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) barrier_init(full + 8 * s, 1), barrier_init(empty + 8 * s, WARPS);
        barrier_init(arrived, WARPS);
        fence_barriers();
    }
    const bool shares = blocks_a_tile == 2;
    if (shares) cluster_sync();
    else __syncthreads();
    const int rank = shares ? cluster_rank() : 0;

    const int tiles = (n + COLUMNS - 1) / COLUMNS, all_steps = (k + STEP - 1) / STEP;
    const int share = (all_steps + blocks_a_tile - 1) / blocks_a_tile;
    const int first_step = rank * share, end_step = min(first_step + share, all_steps);
    const int first = blockIdx.x / blocks_a_tile, stride = gridDim.x / blocks_a_tile;

    if (warp == WARPS) {
        if (lane == 0) {
            prefetch_map(&x), prefetch_map(&weight);
            auto each_step = [&](auto act) {
                int done = 0;
                for (int tile = first; tile < tiles; tile += stride)
                    for (int step = first_step; step < end_step; ++step, ++done)
                        if (!act(tile * COLUMNS, step * STEP, done)) return;
            };
            auto fetch_weight = [&](int column, int row, int stage) {
                barrier_expect(full + 8 * stage, S::STAGE);
                copy_tile_in(shared + stage * S::STAGE, &weight, column, row, full + 8 * stage);
            };
            // Weights do not depend on the kernel before this one: they come while it still runs.
            each_step([&](int column, int row, int done) {
                if (done < STAGES) fetch_weight(column, row, done);
                return done < STAGES;
            });
            wait_for_previous();
            each_step([&](int column, int row, int done) {
                const int stage = done % STAGES;
                if (done >= STAGES) {
                    barrier_wait(empty + 8 * stage, done / STAGES - 1 & 1);
                    fetch_weight(column, row, stage);
                }
                copy_tile_in(shared + stage * S::STAGE + S::WEIGHT, &x, row, 0, full + 8 * stage);
                return true;
            });
        }
        return;
    }

    wait_for_previous();
    const int column = warp % S::COLUMN_WARPS * 16, row = warp / S::COLUMN_WARPS % S::ROW_WARPS * S::MY_ROWS;
    const int slice = warp / S::COLUMN_WARPS / S::ROW_WARPS;
    int stage = 0, parity = 0;
    for (int tile = first; tile < tiles; tile += stride) {
        float sum[S::MY_ROWS / 8][4] = {};
#pragma unroll 1
        for (int step = first_step; step < end_step; ++step) {
            barrier_wait(full + 8 * stage, parity);
            const unsigned weights = shared + stage * S::STAGE, rows = weights + S::WEIGHT;
#pragma unroll
            for (int i = 0; i < S::STEPS; ++i) {
                const int k16 = (slice * S::STEPS + i) * 16, chunk = k16 / 8 + lane / 8 % 2;
                unsigned a[4];
                ldmatrix_transposed(a, weights + swizzle<COLUMNS / 8>(k16 + lane / 16 * 8 + lane % 8,
                                                                      column / 8 + lane / 8 % 2) * 16);
                if constexpr (S::MY_ROWS == 8) {
                    unsigned b0, b1;
                    ldmatrix_two(b0, b1, rows + swizzle<8>(row + lane % 8, chunk) * 16);
                    mma<T>(sum[0], a, b0, b1);
                } else {
#pragma unroll
                    for (int two = 0; two < S::MY_ROWS / 16; ++two) {
                        unsigned b[4];
                        ldmatrix(b, rows + swizzle<8>(row + two * 16 + lane / 16 * 8 + lane % 8, chunk) * 16);
                        mma<T>(sum[2 * two], a, b[0], b[1]);
                        mma<T>(sum[2 * two + 1], a, b[2], b[3]);
                    }
                }
            }
            __syncwarp();
            if (lane == 0) barrier_arrive(empty + 8 * stage);
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        named_sync(1, THREADS); // the last tile's sums have been read
        // To the first block of the cluster, which may be this one.
        const unsigned to = in_block(sums, 0) +
                            (((rank * S::SLICES + slice) * ROWS + row + lane % 4 * 2) * S::PITCH + column + lane / 4) * 4;
#pragma unroll
        for (int i = 0; i < S::MY_ROWS / 8; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e)
                store_remote(to + ((i * 8 + e % 2) * S::PITCH + e / 2 * 8) * 4, sum[i][e]);
        __syncwarp();
        if (rank == 1) {
            if (lane == 0) barrier_release_remote(in_block(arrived, 0));
            return; // a cluster has one tile
        }
        named_sync(1, THREADS);
        const float *all = (const float *)((const char *)memory + (sums - shared_address(memory)));
        if (shares) {
            barrier_acquire(arrived, 0);
            finish<T, ROWS, COLUMNS, 2 * S::SLICES, S::PITCH, THREADS>(all, epilogue, 0, tile * COLUMNS, m, n);
        } else {
            finish<T, ROWS, COLUMNS, S::SLICES, S::PITCH, THREADS>(all, epilogue, 0, tile * COLUMNS, m, n);
        }
    }
}

// A text for each.
#define TILE(name, COLUMNS, ROWS, STAGES)                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS + 32, 2)                                          \
        ENTRY(skinny_##name)(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight, \
                             const NUMBER *bias, const NUMBER *residual, NUMBER *out, int m, int n, int k, \
                             int activation, int blocks_a_tile) {                                          \
        skinny<NUMBER, COLUMNS, ROWS, STAGES>(x, weight, {bias, residual, out, activation}, m, n, k,       \
                                              blocks_a_tile);                                              \
    }

//   name, COLUMNS, ROWS, STAGES
TILE(64x8, 64, 8, 10)
TILE(64x16, 64, 16, 8)
TILE(64x32, 64, 32, 6)
TILE(32x8, 32, 8, 18)
TILE(32x16, 32, 16, 15)
TILE(32x32, 32, 32, 10)
