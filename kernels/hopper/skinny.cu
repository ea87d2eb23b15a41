// out = activation(x · weight + bias + residual) as ../linear.cu, for few rows: what counts is to read
// the weight once and at full speed. ../thin.cu by Hopper's means.
//
// A block computes one tile of COLUMNS columns after another. One thread of a warp of its own keeps
// STAGES steps of 64 along k on their way, across the tiles' borders and ahead of the end of the kernel
// before; shared memory is so little that the next kernel's blocks fit beside these and do the
// same. Where there are few tiles, two blocks of a cluster share each, half of k for either, and the
// second hands its sums to the first. src/workload/cuda/thin.rs chooses.

#include "number.cuh"
#include "overlap.cuh"
#include "tile.cuh"
#include "hopper.cuh"
#include "few.cuh"

template <class T, int COLUMNS, int ROWS, int STAGES>
DEVICE void skinny(const TensorMap &x, const TensorMap &weight, const Epilogue<T> &epilogue, int m, int n, int k,
                   int blocks_a_tile) {
    using S = Shape<COLUMNS, ROWS>;
    constexpr unsigned STAGE = S::WEIGHT + S::X;
    extern __shared__ uint4 memory[];
    // The swizzle works on addresses: tiles begin at multiples of 1024.
    const unsigned shared = (shared_address(memory) + 1023) & ~1023u;
    const unsigned full = shared + STAGES * STAGE, empty = full + 8 * STAGES, arrived = empty + 8 * STAGES;
    const unsigned sums = arrived + 16; // of twice as many groups, a block's and its partner's
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    let_next_start();
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) barrier_init(full + 8 * s, 1), barrier_init(empty + 8 * s, WARPS);
        barrier_init(arrived, 1);
        fence_barriers();
    }
    const bool shares = blocks_a_tile == 2;
    if (shares) cluster_sync();
    else __syncthreads();
    const int rank = shares ? cluster_rank() : 0;
    // The other block's sums.
    if (shares && rank == 0 && threadIdx.x == 0) barrier_expect(arrived, GROUPS * ROWS * COLUMNS * 4);

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
                barrier_expect(full + 8 * stage, STAGE);
                copy_tile_in(shared + stage * STAGE, &weight, column, row, full + 8 * stage);
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
                copy_tile_in(shared + stage * STAGE + S::WEIGHT, &x, row, 0, full + 8 * stage);
                return true;
            });
        }
        return;
    }

    wait_for_previous();
    int stage = 0, parity = 0;
    for (int tile = first; tile < tiles; tile += stride) {
        Few<T, COLUMNS, ROWS> mine;
#pragma unroll 1
        for (int step = first_step; step < end_step; ++step) {
            // Also for another's: a parity tells one turn of a stage from the next, not from the one after that.
            barrier_wait(full + 8 * stage, parity);
            if ((step - first_step) % GROUPS == mine.group)
                mine.template add<1>(shared + stage * STAGE, shared + stage * STAGE + S::WEIGHT);
            __syncwarp();
            if (lane == 0) barrier_arrive(empty + 8 * stage);
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        named_sync(1, THREADS); // the last tile's sums have been read
        if (rank == 1) {
            const unsigned barrier = in_block(arrived, 0);
            mine.each(in_block(sums, 0), GROUPS + mine.group, false,
                      [&](unsigned to, const float *two) { store_remote(to, two, barrier); });
            return; // a cluster has one tile
        }
        mine.each(sums, mine.group, false, [](unsigned to, const float *two) { store_shared(to, two); });
        named_sync(1, THREADS);
        const float *all = (const float *)((const char *)memory + (sums - shared_address(memory)));
        if (shares) {
            barrier_acquire(arrived, 0);
            finish<T, ROWS, COLUMNS, 2 * GROUPS, S::PITCH, THREADS>(all, epilogue, 0, tile * COLUMNS, m, n);
        } else {
            finish<T, ROWS, COLUMNS, GROUPS, S::PITCH, THREADS>(all, epilogue, 0, tile * COLUMNS, m, n);
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
