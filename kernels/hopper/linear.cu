// out = activation(x · weight + bias), as ../linear.cu, by Hopper's means: tiles of x (m x k) and of
// the weight (k x n, row-major) come by the copy engine, four warps at a time multiply them straight
// from shared memory (wgmma, fp32 sums), and the result goes back by the copy engine.
//
// A block stays for as many tiles of the output as its share is. One thread of a warp of its own
// keeps STAGES steps of 64 along k on their way; the groups of four warps consume them. Either
// all groups share a tile, 64 rows each (COOPERATE), or they take turns: one multiplies a tile of
// 64 · BLOCKS rows while the other writes its own (then bias and activation cost no time). With
// PAIR, two blocks of a cluster compute tiles one above the other and each fetches half of the
// weight's tile for both.
//
// m is arbitrary, n and k are multiples of 8: the copy engine reads zeros beyond the edges and writes
// nothing there. The order of every sum is fixed. src/workload/cuda/tiles.rs lists the tiles below
// and chooses among them.

#include "number.cuh"
#include "overlap.cuh"
#include "activate.cuh"
#include "hopper.cuh"

constexpr int STEP = 64; // along k: rows of 128 bytes of x
enum Sharing { COOPERATE, TAKE_TURNS };
enum Cluster { ALONE = 1, PAIR = 2 };

template <int BLOCKS, int COLUMNS, int GROUPS, Sharing SHARING, Cluster CLUSTER, int STAGES> struct Shape {
    static constexpr int M = 64 * BLOCKS * (SHARING == COOPERATE ? GROUPS : 1), N = COLUMNS;
    // The weight and the result move in boxes of this many columns.
    static constexpr int BOX = N % 64 == 0 ? 64 : 32;
    static constexpr unsigned A_BYTES = M * STEP * 2, STAGE = A_BYTES + N * STEP * 2;
    static constexpr unsigned BOX_BYTES = BOX * STEP * 2;
    // What a warp writes goes out in pieces of 16 rows and BOX columns, up to three on their way.
    static constexpr int PIECES = BLOCKS * N / BOX, RING = PIECES < 3 ? PIECES : 3;
    static constexpr unsigned PIECE = 16 * BOX * 2;
    static constexpr unsigned SHARED = 1024 + STAGES * STAGE + GROUPS * 4 * RING * PIECE + 16 * STAGES;
    // With turns a group holds so many sums that the copying warps must give up registers.
    static constexpr bool MOVE_REGISTERS = SHARING == TAKE_TURNS;
    static constexpr int THREADS = 128 * GROUPS + (MOVE_REGISTERS ? 128 : 32);
};

// Of a tile in shared memory whose rows have BOX columns, the bytes to chunk `chunk` of row `row`.
template <int BOX> DEVICE unsigned place(int row, int chunk) {
    return row * BOX * 2 + (chunk ^ (BOX == 64 ? row & 7 : (row >> 1) & 3)) * 16;
}

struct Tile {
    int m, n;
};
// Tiles in the order of their computation: down 8 of them (or pairs), then to the right, so that
// those that run at once share both operands in the L2 cache.
DEVICE Tile nth_tile(int index, int m_tiles, int n_tiles) {
    constexpr int HEIGHT = 8;
    const int band = index / (HEIGHT * n_tiles), rest = index - band * HEIGHT * n_tiles;
    const int height = min(HEIGHT, m_tiles - band * HEIGHT);
    return {band * HEIGHT + rest % height, rest / height};
}

// Writes one group's sums: rows from `row` on, 16 a warp, columns from `column` on.
template <class T, class S, int activation>
DEVICE void write(const float (&sums)[S::N / 2], unsigned ring, int &piece, const TensorMap *map, const T *bias,
                  int row, int column, int m, int n) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int box = 0; box < S::N / S::BOX; ++box) {
        const unsigned to = ring + piece % S::RING * S::PIECE;
        if (lane == 0) copies_out_read<S::RING - 1>(); // what was last written from here is on its way
        __syncwarp();
        float b[S::BOX / 8][2];
#pragma unroll
        for (int j = 0; j < S::BOX / 8; ++j) {
            const int at = column + box * S::BOX + j * 8 + lane % 4 * 2;
            unsigned raw = 0;
            if (bias && at < n) raw = *(const unsigned *)(bias + at);
            unpack<T>(raw, b[j][0], b[j][1]);
        }
#pragma unroll
        for (int j = 0; j < S::BOX / 8; j += 2) {
            unsigned r[4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float *s = &sums[(box * S::BOX / 8 + j + i) * 4];
                r[2 * i] = pack<T>(activate<activation>(s[0] + b[j + i][0]), activate<activation>(s[1] + b[j + i][1]));
                r[2 * i + 1] =
                    pack<T>(activate<activation>(s[2] + b[j + i][0]), activate<activation>(s[3] + b[j + i][1]));
            }
            stmatrix(to + place<S::BOX>(lane % 16, j + lane / 16), r[0], r[1], r[2], r[3]);
        }
        fence_for_copies();
        __syncwarp();
        if (lane == 0) {
            if (row < m && column + box * S::BOX < n) copy_tile_out(map, column + box * S::BOX, row, to);
            copies_out_commit();
        }
        piece = piece + 1 == S::RING ? 0 : piece + 1;
    }
}

template <class T, int BLOCKS, int COLUMNS, int GROUPS, Sharing SHARING, Cluster CLUSTER, int STAGES>
DEVICE void linear(const TensorMap &x, const TensorMap &weight, const TensorMap &out, const T *bias, int m, int n,
                   int k, int activation) {
    using S = Shape<BLOCKS, COLUMNS, GROUPS, SHARING, CLUSTER, STAGES>;
    extern __shared__ uint4 memory[];
    // The swizzle works on addresses: tiles begin at multiples of 1024.
    const unsigned shared = (shared_address(memory) + 1023) & ~1023u;
    const unsigned rings = shared + STAGES * S::STAGE, full = rings + GROUPS * 4 * S::RING * S::PIECE;
    const unsigned empty = full + 8 * STAGES;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / 4;

    let_next_start();
    const int rank = CLUSTER == PAIR ? cluster_rank() : 0;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(full + 8 * s, 1);
            // Each warp that reads a stage says so, to both blocks of a pair: what one of them fetches
            // lands in both.
            barrier_init(empty + 8 * s, 4 * (SHARING == COOPERATE ? GROUPS : 1) * CLUSTER);
        }
        fence_barriers();
    }
    if (CLUSTER == PAIR) cluster_sync();
    else __syncthreads();

    const int m_tiles = (m + S::M * CLUSTER - 1) / (S::M * CLUSTER), n_tiles = (n + S::N - 1) / S::N;
    const int tiles = m_tiles * n_tiles, steps = (k + STEP - 1) / STEP;
    const int first = blockIdx.x / CLUSTER, stride = gridDim.x / CLUSTER;

    if (group == GROUPS) {
        if (S::MOVE_REGISTERS) give_registers<40>();
        if (warp == 4 * GROUPS && lane == 0) {
            prefetch_map(&x), prefetch_map(&weight), prefetch_map(&out);
            auto fetch_weight = [&](const Tile &tile, int step, int stage) {
                const unsigned to = shared + stage * S::STAGE + S::A_BYTES;
                constexpr int ROWS = STEP / CLUSTER;
#pragma unroll
                for (int box = 0; box < S::N / S::BOX; ++box) {
                    const int column = tile.n * S::N + box * S::BOX, row = step * STEP + rank * ROWS;
                    const unsigned at = to + box * S::BOX_BYTES + rank * ROWS * S::BOX * 2;
                    if (CLUSTER == PAIR) copy_tile_in(at, &weight, column, row, full + 8 * stage, 3);
                    else copy_tile_in(at, &weight, column, row, full + 8 * stage);
                }
            };
            auto fetch_x = [&](const Tile &tile, int step, int stage) {
                const int row = (tile.m * CLUSTER + rank) * S::M;
                copy_tile_in(shared + stage * S::STAGE, &x, step * STEP, row, full + 8 * stage);
            };
            // Weights do not depend on the kernel before this one: they come while it still runs.
            const int early = first < tiles ? min(STAGES, steps) : 0;
            const Tile first_tile = nth_tile(first, m_tiles, n_tiles);
            for (int step = 0; step < early; ++step) {
                barrier_expect(full + 8 * step, S::STAGE);
                fetch_weight(first_tile, step, step);
            }
            wait_for_previous();
            for (int step = 0; step < early; ++step) fetch_x(first_tile, step, step);
            int stage = early == STAGES ? 0 : early, parity = early == STAGES ? 0 : 1;
            for (int index = first; index < tiles; index += stride) {
                const Tile tile = nth_tile(index, m_tiles, n_tiles);
                for (int step = index == first ? early : 0; step < steps; ++step) {
                    barrier_wait(empty + 8 * stage, parity);
                    barrier_expect(full + 8 * stage, S::STAGE);
                    fetch_weight(tile, step, stage);
                    fetch_x(tile, step, stage);
                    if (++stage == STAGES) stage = 0, parity ^= 1;
                }
            }
        }
    } else {
        if (S::MOVE_REGISTERS) take_registers<232>();
        const unsigned ring = rings + warp * S::RING * S::PIECE;
        int piece = 0, turn = 0;
        int stage = 0, parity = 0;
        if (SHARING == TAKE_TURNS && group == 1) named_arrive(1, 256); // the first turn is group 0's
        for (int index = first; index < tiles; index += stride, ++turn) {
            if (SHARING == TAKE_TURNS) {
                if (turn % 2 != group) continue;
                const int before = turn * steps;
                stage = before % STAGES, parity = before / STAGES & 1;
                // Until the other group has seen all its steps, a stage's parity could be that of an
                // earlier round.
                named_sync(1 + group, 256);
            }
            const Tile tile = nth_tile(index, m_tiles, n_tiles);
            float sums[BLOCKS][S::N / 2];
            int last = 0;
#pragma unroll 1
            for (int step = 0; step < steps; ++step) {
                barrier_wait(full + 8 * stage, parity);
                const unsigned a_tile = shared + stage * S::STAGE + (SHARING == COOPERATE ? group * BLOCKS * 8192 : 0);
                const unsigned long long a = descriptor<128>(a_tile, 16, 1024);
                const unsigned long long b =
                    descriptor<S::BOX * 2>(shared + stage * S::STAGE + S::A_BYTES, S::BOX_BYTES, 8 * S::BOX * 2);
                wgmma_fence();
#pragma unroll
                for (int part = 0; part < STEP / 16; ++part)
#pragma unroll
                    for (int block = 0; block < BLOCKS; ++block)
                        // 16 of k are 32 bytes of a row of x, and 16 rows of the weight.
                        Wgmma<T, S::N>::run(sums[block], a + part * 2 + block * 512, b + part * 2 * S::BOX,
                                            step + part);
                wgmma_commit();
                if (step > 0) {
                    wgmma_wait<1>(); // the step before is computed: its stage is free
                    if (lane < CLUSTER) {
                        if (CLUSTER == PAIR) barrier_arrive(empty + 8 * last, lane);
                        else barrier_arrive(empty + 8 * last);
                    }
                }
                last = stage;
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
            if (SHARING == TAKE_TURNS) named_arrive(1 + (group ^ 1), 256);
            wgmma_wait<0>();
            if (lane < CLUSTER) {
                if (CLUSTER == PAIR) barrier_arrive(empty + 8 * last, lane);
                else barrier_arrive(empty + 8 * last);
            }
            const int row0 = (tile.m * CLUSTER + rank) * S::M +
                             (SHARING == COOPERATE ? group * BLOCKS * 64 : 0) + warp % 4 * 16;
#pragma unroll
            for (int block = 0; block < BLOCKS; ++block) {
                const int row = row0 + block * 64, column = tile.n * S::N;
                if (activation == NONE) write<T, S, NONE>(sums[block], ring, piece, &out, bias, row, column, m, n);
                if (activation == RELU) write<T, S, RELU>(sums[block], ring, piece, &out, bias, row, column, m, n);
                if (activation == GELU) write<T, S, GELU>(sums[block], ring, piece, &out, bias, row, column, m, n);
                if (activation == TANH) write<T, S, TANH>(sums[block], ring, piece, &out, bias, row, column, m, n);
            }
        }
        if (lane == 0) copies_out_done();
    }
    // A block whose partner may still fetch for it or report to it stays.
    if (CLUSTER == PAIR) cluster_sync();
}

#define TILE(name, BLOCKS, COLUMNS, GROUPS, SHARING, CLUSTER, STAGES)                                      \
    extern "C" __global__ void __launch_bounds__(                                                          \
        Shape<BLOCKS, COLUMNS, GROUPS, SHARING, CLUSTER, STAGES>::THREADS, 1)                              \
        ENTRY(linear_##name)(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight, \
                             const __grid_constant__ TensorMap out, const NUMBER *bias, int m, int n,      \
                             int k, int activation) {                                                      \
        linear<NUMBER, BLOCKS, COLUMNS, GROUPS, SHARING, CLUSTER, STAGES>(x, weight, out, bias, m, n, k,   \
                                                                          activation);                     \
    }

//   name, BLOCKS, COLUMNS, GROUPS, SHARING, CLUSTER, STAGES
TILE(t128x192, 2, 192, 2, TAKE_TURNS, PAIR, 4)
TILE(t128x128, 2, 128, 2, TAKE_TURNS, PAIR, 5)
TILE(c128x192, 1, 192, 2, COOPERATE, PAIR, 4)
TILE(c128x128, 1, 128, 2, COOPERATE, PAIR, 5)
TILE(c128x96, 1, 96, 2, COOPERATE, ALONE, 6)
TILE(c64x192, 1, 192, 1, COOPERATE, ALONE, 5)
TILE(c64x128, 1, 128, 1, COOPERATE, ALONE, 4)
TILE(c64x96, 1, 96, 1, COOPERATE, ALONE, 5)
TILE(c64x64, 1, 64, 1, COOPERATE, ALONE, 6)
TILE(c64x32, 1, 32, 1, COOPERATE, ALONE, 8)
