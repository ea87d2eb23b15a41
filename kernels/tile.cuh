// Matrix products by the tensor cores (mma.sync m16n8k16, fp32 sums), wherever the left operand comes
// from: linear.cu reads a matrix, conv.cu the windows of an image.
//
// A block of threads computes one BM x BN tile of the output in steps of BK along k. Steps are
// copied to shared memory STAGES - 1 ahead of their use (cp.async), and fragments to registers one
// 16-step ahead. WM x WN warps share the tile; with WK > 1, WK such groups share each step's k and
// their sums are added at the end, in a fixed order: results do not depend on timing.
//
// m is arbitrary, n and k are multiples of 8: whatever reaches beyond is read as zero and not
// written.
#pragma once

#include "number.cuh"
#include "overlap.cuh"
#include "activate.cuh"

// What follows the products: activation(sums + bias + residual). No bias and no residual are null;
// residual may be out. With SWIGLU, out has half the columns and there is no residual.
template <class T> struct Epilogue {
    const T *bias, *residual;
    T *out;
    int activation;
};

// Finishes and writes a BM x BN tile that begins at m0, n0, whose sums are the sum of WK arrays of BM
// rows of PITCH numbers in shared memory.
template <class T, int BM, int BN, int WK, int PITCH, int THREADS>
DEVICE void finish(const float *sums, const Epilogue<T> &epilogue, int m0, int n0, int m, int n) {
    // Every thread keeps to one group of 4 columns.
    constexpr int GROUPS = BN / 4, ROWS = THREADS / GROUPS;
    const int first_row = threadIdx.x / GROUPS, column = threadIdx.x % GROUPS * 4;
    if (first_row >= ROWS || n0 + column >= n) return;
    auto four = [](const T *from) {
        float4 v;
        const uint2 raw = *(const uint2 *)from;
        unpack<T>(raw.x, v.x, v.y);
        unpack<T>(raw.y, v.z, v.w);
        return v;
    };
    float4 bias = make_float4(0, 0, 0, 0);
    if (epilogue.bias) bias = four(epilogue.bias + n0 + column);
    const int rows = min(BM, m - m0);
    const long long start = (long long)m0 * n + n0 + column;
    const T *residual = epilogue.residual ? epilogue.residual + start : nullptr;
    auto each = [&](auto write) {
#pragma unroll 4
        for (int row = first_row; row < rows; row += ROWS) {
            float4 v = bias;
#pragma unroll
            for (int slice = 0; slice < WK; ++slice) {
                float4 part = *(const float4 *)&sums[(slice * BM + row) * PITCH + column];
                v.x += part.x, v.y += part.y, v.z += part.z, v.w += part.w;
            }
            if (residual) {
                float4 r = four(residual + (long long)row * n);
                v.x += r.x, v.y += r.y, v.z += r.z, v.w += r.w;
            }
            write(row, v);
        }
    };
    T *to = epilogue.out + start;
    auto all = [&](auto apply) {
        each([&](int row, float4 v) {
            float four[4] = {v.x, v.y, v.z, v.w};
            apply(four);
            *(uint2 *)(to + (long long)row * n) =
                make_uint2(pack<T>(four[0], four[1]), pack<T>(four[2], four[3]));
        });
    };
    // A loop for each, so that the loop itself has no branches.
    if (epilogue.activation == NONE) all(activate<NONE, 4>);
    if (epilogue.activation == RELU) all(activate<RELU, 4>);
    if (epilogue.activation == GELU) all(activate<GELU, 4>);
    if (epilogue.activation == TANH) all(activate<TANH, 4>);
    if (epilogue.activation == SWIGLU) {
        T *half = epilogue.out + start / 2;
        each([&](int row, float4 v) {
            *(unsigned *)(half + (long long)row * n / 2) = pack<T>(gate(v.x, v.y), gate(v.z, v.w));
        });
    }
}

// Blocks that share a tile, and what they need for it: a counter for each tile, zero before and after,
// and room for BM x BN sums for each block.
struct Split {
    int count;
    unsigned *counters;
    float *parts;
};

// Puts this block's sums aside. In the last block of its tile, leaves the sums of all in the first slice
// and returns true.
template <int BM, int BN, int WK, int PITCH, int THREADS>
DEVICE bool gather(float *sums, const Split &split, int tile, int part, int tiles, int rows) {
    __shared__ bool last;
    const long long size = BM * BN, stride = tiles * size;
    float *parts = split.parts + tile * size;
    for (int i = threadIdx.x * 4; i < rows * BN; i += THREADS * 4) {
        const int place = i / BN * PITCH + i % BN;
        float4 v = *(const float4 *)&sums[place];
#pragma unroll
        for (int slice = 1; slice < WK; ++slice) {
            const float4 other = *(const float4 *)&sums[slice * BM * PITCH + place];
            v.x += other.x, v.y += other.y, v.z += other.z, v.w += other.w;
        }
        *(float4 *)(parts + part * stride + i) = v;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(split.counters + tile, 1) + 1 == (unsigned)split.count;
    __syncthreads();
    if (!last) return false;
    __threadfence();
    for (int i = threadIdx.x * 4; i < rows * BN; i += THREADS * 4) {
        float4 v = make_float4(0, 0, 0, 0);
#pragma unroll 8
        for (int other = 0; other < split.count; ++other) {
            const float4 one = __ldcg((const float4 *)(parts + other * stride + i));
            v.x += one.x, v.y += one.y, v.z += one.z, v.w += one.w;
        }
        *(float4 *)&sums[i / BN * PITCH + i % BN] = v;
    }
    if (threadIdx.x == 0) split.counters[tile] = 0;
    __syncthreads();
    return true;
}

// The product of a left operand, which `Source<BM, BK, THREADS>` copies, and the weight, k x n. A source
// is made from `left`, the tile's first row and this thread's place in a step, and copies the next step
// each time it is called: the rows of the tile that this thread is to copy, A_ROWS apart.
//
// With SPLIT, `split.count` blocks share a tile, each a part of k; the one that ends last adds the parts in
// their order, so that results do not depend on timing.
template <class T, template <class, int, int, int> class Source, class Left, int BM, int BN, int BK, int WM,
          int WN, int WK, int STAGES, bool SPLIT = false>
DEVICE void product(const Left &left, const T *__restrict__ weight, const Epilogue<T> &epilogue, int m, int n,
                    int k, Split split = {}) {
    constexpr int THREADS = 32 * WM * WN * WK;
    constexpr int TM = BM / WM / 16, TN = BN / WN / 16; // 16 x 16 blocks of a warp
    constexpr int K_STEPS = BK / WK / 16;               // a warp's, in one stage
    constexpr int A_CHUNKS = BK / 8, B_CHUNKS = BN / 8; // of 8 numbers, in a row of a tile
    constexpr unsigned A_BYTES = BM * BK * 2, STAGE = A_BYTES + BK * BN * 2;
    // The threads copy A_ROWS rows of x and B_ROWS rows of B_COLUMNS chunks of the weight at a time.
    constexpr int A_ROWS = THREADS / A_CHUNKS;
    constexpr int B_COLUMNS = THREADS % B_CHUNKS == 0 ? B_CHUNKS : 4, B_ROWS = THREADS / B_COLUMNS;
    static_assert(A_ROWS % 8 == 0 && B_ROWS % 8 == 0, "the swizzle is the same in every copied part");
    static_assert(BM % A_ROWS == 0 && BK % B_ROWS == 0 && B_CHUNKS % B_COLUMNS == 0, "no remainder");
    static_assert(K_STEPS % 2 == 0, "the two sets of fragments take turns within a stage");

    extern __shared__ uint4 memory[];
    const unsigned shared = shared_address(memory);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int n_tiles = (n + BN - 1) / BN;
    const int tiles = SPLIT ? gridDim.x / split.count : gridDim.x;
    const int tile = SPLIT ? blockIdx.x % tiles : blockIdx.x, part = SPLIT ? blockIdx.x / tiles : 0;
    const int m0 = tile / n_tiles * BM, n0 = tile % n_tiles * BN;
    // Of k, this block's part.
    const int share = SPLIT ? ((k + BK - 1) / BK + split.count - 1) / split.count * BK : k;
    const int k_first = part * share, k_end = min(k_first + share, k);
    const int steps = (k_end - k_first + BK - 1) / BK;

    // What this thread copies: where from, where to within a stage, and how much is left before the
    // edges of the matrices.
    const int a_row = thread / A_CHUNKS, a_column = thread % A_CHUNKS;
    Source<T, BM, BK, A_ROWS> source(left, m0 + a_row, k_first + a_column * 8, m, k_end);
    const int b_row = thread / B_COLUMNS, b_column = thread % B_COLUMNS;
    const T *b_from = weight + (long long)(k_first + b_row) * n + n0 + b_column * 8;
    const unsigned a_to = shared + swizzle<A_CHUNKS>(a_row, a_column) * 16;
    const unsigned b_to = shared + A_BYTES + swizzle<B_CHUNKS>(b_row, b_column) * 16;
    const int n_left = n - n0 - b_column * 8;
    int b_k_left = k_end - k_first - b_row;

    // Copy the next step of each, one after the other.
    auto copy_x = [&](int stage) { source.copy(a_to + stage * STAGE); };
    auto copy_weight = [&](int stage) {
#pragma unroll
        for (int row = 0; row < BK; row += B_ROWS)
#pragma unroll
            for (int column = 0; column < B_CHUNKS; column += B_COLUMNS)
                copy_async(b_to + stage * STAGE + (row * B_CHUNKS + column) * 16,
                           b_from + (long long)row * n + column * 8,
                           b_k_left > row && n_left > column * 8);
        b_from += (long long)BK * n, b_k_left -= BK;
    };

    // What this warp multiplies, of each step.
    const int warp_m = warp % WM * TM * 16, warp_n = warp / WM % WN * TN * 16;
    const int warp_k = warp / (WM * WN) * K_STEPS * 16;
    unsigned a[2][TM][4], b[2][TN][4];
    auto load_fragments = [&](int set, int stage, int k_step) {
        const unsigned a_tile = shared + stage * STAGE, b_tile = a_tile + A_BYTES;
        const int k16 = warp_k + k_step * 16;
#pragma unroll
        for (int i = 0; i < TM; ++i)
            ldmatrix(a[set][i], a_tile + swizzle<A_CHUNKS>(warp_m + i * 16 + lane % 16,
                                                           k16 / 8 + lane / 16) * 16);
#pragma unroll
        for (int i = 0; i < TN; ++i)
            ldmatrix_transposed(b[set][i], b_tile + swizzle<B_CHUNKS>(k16 + lane % 16,
                                                                      warp_n / 8 + i * 2 + lane / 16) * 16);
    };

    float sum[TM][2 * TN][4] = {};
    // Weights do not depend on the kernel before this one: they come while it still runs.
    let_next_start();
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage)
        if (stage < steps) copy_weight(stage);
    wait_for_previous();
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) {
        if (stage < steps) copy_x(stage);
        copy_async_commit();
    }
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    load_fragments(0, 0, 0);

    int stage = 0, free_stage = STAGES - 1;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        // Every warp has taken the fragments of the previous step before the barrier that ended it.
        if (step + STAGES - 1 < steps) copy_x(free_stage), copy_weight(free_stage);
        copy_async_commit();
        free_stage = stage;
        const int next_stage = stage + 1 == STAGES ? 0 : stage + 1;
#pragma unroll
        for (int k_step = 0; k_step < K_STEPS; ++k_step) {
            if (k_step + 1 < K_STEPS) {
                load_fragments((k_step + 1) % 2, stage, k_step + 1);
            } else {
                copy_async_wait<STAGES - 2>();
                __syncthreads();
                load_fragments(0, next_stage, 0); // after the last step: never used
            }
#pragma unroll
            for (int i = 0; i < TM; ++i)
#pragma unroll
                for (int j = 0; j < 2 * TN; ++j)
                    mma<T>(sum[i][j], a[k_step % 2][i], b[k_step % 2][j / 2][j % 2 * 2],
                           b[k_step % 2][j / 2][j % 2 * 2 + 1]);
        }
        stage = next_stage;
    }

    // The sums go through shared memory, so that each row is written in one piece. The padding
    // spreads the 8 rows of a fragment over the banks.
    constexpr int PITCH = BN + 8;
    float *sums = (float *)memory;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < 2 * TN; ++j) {
            int row = warp / (WM * WN) * BM + warp_m + i * 16 + lane / 4;
            int column = warp_n + j * 8 + lane % 4 * 2;
            *(float2 *)&sums[row * PITCH + column] = make_float2(sum[i][j][0], sum[i][j][1]);
            *(float2 *)&sums[(row + 8) * PITCH + column] = make_float2(sum[i][j][2], sum[i][j][3]);
        }
    __syncthreads();
    if (SPLIT && split.count > 1) {
        if (!gather<BM, BN, WK, PITCH, THREADS>(sums, split, tile, part, tiles, min(BM, m - m0))) return;
        finish<T, BM, BN, 1, PITCH, THREADS>(sums, epilogue, m0, n0, m, n);
        return;
    }
    finish<T, BM, BN, WK, PITCH, THREADS>(sums, epilogue, m0, n0, m, n);
}
