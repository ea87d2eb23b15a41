// out = activation(x · weight + bias + residual), as ../linear.cu, by Hopper's means: tiles of x (m x k)
// and of the weight (k x n, row-major) come by the copy engine, four warps at a time multiply them
// straight from shared memory (wgmma, fp32 sums), and the result goes back by the copy engine.
//
// A block stays for as many tiles of the output as its share is. One thread of a warp of its own
// keeps STAGES steps of 64 along k on their way; the groups of four warps consume them. Either
// all groups share a tile, 64 rows each (COOPERATE), or they take turns: one multiplies a tile of
// 64 · BLOCKS rows while the other writes its own (then bias and activation cost no time). With
// SPLIT, two blocks of a cluster compute the same tile, each with half of k, and each adds and writes
// half of its rows.
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
enum Cluster { ALONE, SPLIT };

template <int BLOCKS, int COLUMNS, int GROUPS, Sharing SHARING, Cluster CLUSTER, int STAGES> struct Shape {
    static constexpr int M = 64 * BLOCKS * (SHARING == COOPERATE ? GROUPS : 1), N = COLUMNS;
    // The weight and the result move in boxes of this many columns.
    static constexpr int BOX = N % 64 == 0 ? 64 : 32;
    static constexpr unsigned A_BYTES = M * STEP * 2, STAGE = A_BYTES + N * STEP * 2;
    static constexpr unsigned BOX_BYTES = BOX * STEP * 2;
    // What a warp writes goes out in pieces of 16 rows and BOX columns, up to three on their way; each
    // tile begins with the same one.
    static constexpr int PIECES = BLOCKS * N / BOX, RING = PIECES % 3 == 0 ? 3 : PIECES % 2 == 0 ? 2 : 1;
    static constexpr unsigned PIECE = 16 * BOX * 2;
    // Sums of two warps from the other block.
    static constexpr unsigned RECEIVED = CLUSTER == SPLIT ? 64 * N / 2 * 4 : 0;
    static constexpr int CLUSTER_BLOCKS = CLUSTER == ALONE ? 1 : 2;
    // Are there registers for a residual or tanh too, and is half a box as wide as the copy engine wants
    // it? src/workload/cuda/tiles.rs asks for no more.
    static constexpr bool ROOM = BLOCKS * COLUMNS <= 256, GATES = BOX == 64;
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
// Tiles in the order of their computation: down 16 of them, then to the right, so that
// those that run at once share both operands in the L2 cache.
DEVICE Tile nth_tile(int index, int m_tiles, int n_tiles) {
    constexpr int HEIGHT = 16;
    const int band = index / (HEIGHT * n_tiles), rest = index - band * HEIGHT * n_tiles;
    const int height = min(HEIGHT, m_tiles - band * HEIGHT);
    return {band * HEIGHT + rest % height, rest / height};
}

// Two neighbouring results of a gate, each of which one lane holds: of columns `lane % 4` of a group of
// four and (`next`) of the group after it, to the fragment of eight columns.
template <class T> DEVICE unsigned gather_pair(float one, float next) {
    const int lane = threadIdx.x % 32;
    const float other = __shfl_xor_sync(0xffffffff, lane % 2 ? one : next, 1);
    const unsigned two = lane % 2 ? pack<T>(other, next) : pack<T>(one, other);
    // Lanes 0 and 2 hold the first group's pairs, 1 and 3 the next one's.
    return __shfl_sync(0xffffffff, two, (lane & ~3) | (lane & 1) << 1 | (lane >> 1 & 1));
}

// Writes one group's sums: blocks of 64 rows of which this warp's 16 begin at `row`, columns from
// `column` on. The tile's bias is in shared memory; RESIDUAL, which may be the output, in device memory.
// SWIGLU makes one column of two.
template <class T, class S, int activation, bool RESIDUAL, int BLOCKS>
DEVICE void write(const float (&sums)[BLOCKS][S::N / 2], unsigned ring, const TensorMap *map,
                  unsigned bias, const T *residual, int row, int column, int m, int n) {
    constexpr bool GATED = activation == SWIGLU;
    constexpr int CHUNKS = S::BOX / 8; // of 8 columns
    // Columns of a piece, and how many chunks become the two of one stmatrix.
    constexpr int BOX = GATED ? S::BOX / 2 : S::BOX, TAKEN = GATED ? 4 : 2;
    // As many chunks at once as there are registers for.
    constexpr int AT_ONCE = BLOCKS == 1 ? 2 : 1, LOADED = BLOCKS == 1 ? CHUNKS : AT_ONCE;
    const int lane = threadIdx.x % 32;
    // Where this lane's part of the residual begins, and what is left of the matrix from there.
    const int rows_left = m - row - lane / 4, columns_left = n - column - lane % 4 * 2;
    const T *mine = residual + (long long)(m - rows_left) * n + n - columns_left;
#pragma unroll
    for (int box = 0; box < S::N / S::BOX; ++box) {
        const int left = column + box * S::BOX;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
            const unsigned to = ring + (box * BLOCKS + block) % S::RING * S::PIECE;
            unsigned added[2 * LOADED];
            auto load_residual = [&](int chunk, int index) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int down = block * 64 + half * 8, right = box * S::BOX + chunk * 8;
                    added[2 * index + half] =
                        down < rows_left && right < columns_left ? *(const unsigned *)(mine + down * n + right) : 0;
                }
            };
            if (RESIDUAL && LOADED == CHUNKS)
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; ++chunk) load_residual(chunk, chunk);
            if (lane == 0) copies_out_read<S::RING - 1>(); // what was last written from here is on its way
            __syncwarp();
#pragma unroll
            for (int j = 0; j < CHUNKS; j += TAKEN) {
                unsigned r[4];
                float before[2];
#pragma unroll
                for (int first = 0; first < TAKEN; first += AT_ONCE) {
                    if (RESIDUAL && LOADED != CHUNKS)
#pragma unroll
                        for (int i = 0; i < AT_ONCE; ++i) load_residual(j + first + i, i);
                    float v[4 * AT_ONCE];
#pragma unroll
                    for (int i = 0; i < AT_ONCE; ++i) {
                        const int chunk = j + first + i;
                        const float *s = &sums[block][(box * CHUNKS + chunk) * 4];
                        unsigned two;
                        float low, high;
                        asm volatile("ld.shared.b32 %0, [%1];"
                                     : "=r"(two)
                                     : "r"(bias + (box * S::BOX + chunk * 8 + lane % 4 * 2) * 2));
                        unpack<T>(two, low, high);
                        v[4 * i] = s[0] + low, v[4 * i + 1] = s[1] + high;
                        v[4 * i + 2] = s[2] + low, v[4 * i + 3] = s[3] + high;
                        if constexpr (RESIDUAL) {
#pragma unroll
                            for (int half = 0; half < 2; ++half) {
                                unpack<T>(added[2 * (chunk % LOADED) + half], low, high);
                                v[4 * i + 2 * half] += low, v[4 * i + 2 * half + 1] += high;
                            }
                        }
                    }
                    activate<activation>(v);
                    if constexpr (GATED) {
#pragma unroll
                        for (int i = 0; i < AT_ONCE; ++i)
#pragma unroll
                            for (int half = 0; half < 2; ++half) {
                                const float gated = gate(v[4 * i + 2 * half], v[4 * i + 2 * half + 1]);
                                if ((first + i) % 2 == 0) before[half] = gated;
                                else r[(first + i) / 2 * 2 + half] = gather_pair<T>(before[half], gated);
                            }
                    } else {
#pragma unroll
                        for (int i = 0; i < 2 * AT_ONCE; ++i) r[2 * first + i] = pack<T>(v[2 * i], v[2 * i + 1]);
                    }
                }
                stmatrix(to + place<BOX>(lane % 16, (GATED ? j / 2 : j) + lane / 16), r[0], r[1], r[2], r[3]);
            }
            fence_for_copies();
            __syncwarp();
            if (lane == 0) {
                if (row + block * 64 < m && left < n) copy_tile_out(map, GATED ? left / 2 : left, row + block * 64, to);
                copies_out_commit();
            }
        }
    }
}

template <class T, int BLOCKS, int COLUMNS, int GROUPS, Sharing SHARING, Cluster CLUSTER, int STAGES>
DEVICE void linear(const TensorMap &x, const TensorMap &weight, const TensorMap &out, const T *bias,
                   const T *residual, int m, int n, int k, int activation) {
    using S = Shape<BLOCKS, COLUMNS, GROUPS, SHARING, CLUSTER, STAGES>;
    extern __shared__ uint4 memory[];
    // The swizzle works on addresses: tiles begin at multiples of 1024.
    const unsigned shared = (shared_address(memory) + 1023) & ~1023u;
    const unsigned rings = shared + STAGES * S::STAGE, full = rings + GROUPS * 4 * S::RING * S::PIECE;
    const unsigned empty = full + 8 * STAGES, arrived = empty + 8 * STAGES;
    const unsigned all_biases = arrived + 16, received = all_biases + GROUPS * S::N * 2;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / 4;

    let_next_start();
    const int rank = CLUSTER != ALONE ? cluster_rank() : 0;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(full + 8 * s, 1);
            // Each warp that reads a stage says so.
            barrier_init(empty + 8 * s, 4 * (SHARING == COOPERATE ? GROUPS : 1));
        }
        // The sums of two of the other block's warps.
        if (CLUSTER == SPLIT) barrier_init(arrived, 1), barrier_expect(arrived, 64 * S::N / 2 * 4);
        fence_barriers();
    }
    if (CLUSTER != ALONE) cluster_sync();
    else __syncthreads();

    const int m_tiles = (m + S::M - 1) / S::M, n_tiles = (n + S::N - 1) / S::N;
    const int tiles = m_tiles * n_tiles, all_steps = (k + STEP - 1) / STEP;
    const int first = blockIdx.x / S::CLUSTER_BLOCKS, stride = gridDim.x / S::CLUSTER_BLOCKS;
    // This block's steps along k.
    const int half = (all_steps + 1) / 2, first_step = CLUSTER == SPLIT ? rank * half : 0;
    const int steps = CLUSTER == SPLIT ? (rank == 0 ? half : all_steps - half) : all_steps;

    if (group == GROUPS) {
        if (S::MOVE_REGISTERS) give_registers<40>();
        if (warp == 4 * GROUPS && lane == 0) {
            prefetch_map(&x), prefetch_map(&weight), prefetch_map(&out);
            auto fetch_weight = [&](const Tile &tile, int step, int stage) {
                const unsigned to = shared + stage * S::STAGE + S::A_BYTES;
#pragma unroll
                for (int box = 0; box < S::N / S::BOX; ++box) {
                    const int column = tile.n * S::N + box * S::BOX, row = (first_step + step) * STEP;
                    copy_tile_in(to + box * S::BOX_BYTES, &weight, column, row, full + 8 * stage);
                }
            };
            auto fetch_x = [&](const Tile &tile, int step, int stage) {
                copy_tile_in(shared + stage * S::STAGE, &x, (first_step + step) * STEP, tile.m * S::M,
                             full + 8 * stage);
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
        const unsigned ring = rings + warp * S::RING * S::PIECE, biases = all_biases + group * S::N * 2;
        // Of this warp, that it has read what lies in a stage.
        auto leave = [&](int stage) {
            if (lane == 0) barrier_arrive(empty + 8 * stage);
        };
        if (S::ROOM && residual) wait_for_previous();
        int turn = 0;
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
            // The bias of the tile, for this group: there long before it is needed.
            if (SHARING == COOPERATE) named_sync(3 + group, 128); // the last one has been read
            for (int i = threadIdx.x % 128; i < S::N / 2; i += 128) {
                const int at = tile.n * S::N + 2 * i;
                const unsigned two = bias && at < n ? *(const unsigned *)(bias + at) : 0;
                asm volatile("st.shared.b32 [%0], %1;" ::"r"(biases + 4 * i), "r"(two) : "memory");
            }
            float sums[BLOCKS][S::N / 2];
            if (CLUSTER == SPLIT) // one of the two may have no steps
#pragma unroll
                for (int i = 0; i < S::N / 2; ++i) sums[0][i] = 0;
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
                                            CLUSTER == SPLIT ? 1 : step + part);
                wgmma_commit();
                if (step > 0) {
                    wgmma_wait<1>(); // the step before is computed: its stage is free
                    leave(last);
                }
                last = stage;
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
            if (SHARING == TAKE_TURNS) named_arrive(1 + (group ^ 1), 256);
            wgmma_wait<0>();
            if (steps > 0) leave(last);
            named_sync(3 + group, 128);
            if (CLUSTER == SPLIT) {
                // Block 0 keeps the rows of warps 0 and 1, block 1 those of warps 2 and 3.
                static_assert(CLUSTER != SPLIT || (BLOCKS == 1 && GROUPS == 1), "two warps a block");
                const unsigned mine = received + threadIdx.x % 64 * 8;
                if (warp / 2 != rank) {
                    const unsigned theirs = in_block(mine, rank ^ 1), barrier = in_block(arrived, rank ^ 1);
#pragma unroll
                    for (int i = 0; i < S::N / 2; i += 2) store_remote(theirs + i * 256, &sums[0][i], barrier);
                    break; // a cluster has one tile
                }
                barrier_acquire(arrived, 0);
#pragma unroll
                for (int i = 0; i < S::N / 2; i += 2) {
                    const float2 other = load_shared_two(mine + i * 256);
                    sums[0][i] += other.x, sums[0][i + 1] += other.y;
                }
            }
            const int row = tile.m * S::M +
                             (SHARING == COOPERATE ? group * BLOCKS * 64 : 0) + warp % 4 * 16;
            auto write_as = [&](auto write) {
                write(sums, ring, &out, biases, residual, row, tile.n * S::N, m, n);
            };
            if constexpr (S::ROOM)
                if (residual) {
                    if (activation == NONE) write_as(write<T, S, NONE, true, BLOCKS>);
                    if (activation == RELU) write_as(write<T, S, RELU, true, BLOCKS>);
                    continue;
                }
            if (activation == NONE) write_as(write<T, S, NONE, false, BLOCKS>);
            if (activation == RELU) write_as(write<T, S, RELU, false, BLOCKS>);
            if (activation == GELU) write_as(write<T, S, GELU, false, BLOCKS>);
            if constexpr (S::ROOM)
                if (activation == TANH) write_as(write<T, S, TANH, false, BLOCKS>);
            if constexpr (S::GATES)
                if (activation == SWIGLU) write_as(write<T, S, SWIGLU, false, BLOCKS>);
        }
        if (lane == 0) copies_out_read<0>();
    }
    // A block to which its partner may still write stays.
    __syncwarp();
    if (CLUSTER != ALONE) cluster_sync();
}

#define TILE(name, BLOCKS, COLUMNS, GROUPS, SHARING, CLUSTER, STAGES)                                      \
    extern "C" __global__ void __launch_bounds__(                                                          \
        Shape<BLOCKS, COLUMNS, GROUPS, SHARING, CLUSTER, STAGES>::THREADS, 1)                              \
        ENTRY(linear_##name)(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight, \
                             const __grid_constant__ TensorMap out, const NUMBER *bias,                    \
                             const NUMBER *residual, int m, int n, int k, int activation) {                \
        linear<NUMBER, BLOCKS, COLUMNS, GROUPS, SHARING, CLUSTER, STAGES>(x, weight, out, bias, residual,  \
                                                                          m, n, k, activation);            \
    }

//   name, BLOCKS, COLUMNS, GROUPS, SHARING, CLUSTER, STAGES
TILE(t128x192, 2, 192, 2, TAKE_TURNS, ALONE, 4)
TILE(t128x128, 2, 128, 2, TAKE_TURNS, ALONE, 5)
TILE(c128x192, 1, 192, 2, COOPERATE, ALONE, 4)
TILE(c128x128, 1, 128, 2, COOPERATE, ALONE, 5)
TILE(c128x96, 1, 96, 2, COOPERATE, ALONE, 6)
TILE(c64x192, 1, 192, 1, COOPERATE, ALONE, 5)
TILE(c64x128, 1, 128, 1, COOPERATE, ALONE, 4)
TILE(c64x96, 1, 96, 1, COOPERATE, ALONE, 5)
TILE(c64x64, 1, 64, 1, COOPERATE, ALONE, 6)
TILE(c64x32, 1, 32, 1, COOPERATE, ALONE, 8)
TILE(s64x192, 1, 192, 1, COOPERATE, SPLIT, 5)
TILE(s64x64, 1, 64, 1, COOPERATE, SPLIT, 6)
TILE(s64x32, 1, 32, 1, COOPERATE, SPLIT, 7)
