// softmax(q kᵀ / √64) v of each sample and head, as ../attention.cu, by Hopper's means: tiles come by
// the copy engine and are multiplied straight from shared memory (wgmma), the exponentials straight
// from the registers that the first product left them in.
//
// A block of four warps computes 64 query rows of one head, walking over the keys and values 128 at a
// time. qkv is a matrix of 3·heads·64 columns a sample: queries, keys, values side by side, each head
// by head. The copy engine reads zeros beyond the sequence and writes nothing there.

#include "number.cuh"
#include "overlap.cuh"
#include "hopper.cuh"
#include "softmax.cuh"

constexpr int HEAD = 64, ROWS = 64, KEYS = 128;
constexpr unsigned BOX = ROWS * HEAD * 2, TILE = KEYS * HEAD * 2; // bytes

template <class T> DEVICE void flash(const TensorMap &qkv, const TensorMap &out, int seq_len, int heads) {
    __shared__ alignas(1024) unsigned char memory[BOX + 2 * TILE];
    __shared__ unsigned long long barriers[2];
    const unsigned queries = shared_address(memory), keys = queries + BOX, values = keys + TILE;
    const unsigned keys_there = shared_address(barriers), values_there = keys_there + 8;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int q_tiles = (seq_len + ROWS - 1) / ROWS, q0 = blockIdx.x % q_tiles * ROWS;
    const int head = blockIdx.x / q_tiles % heads, sample = blockIdx.x / q_tiles / heads;
    const int steps = (seq_len + KEYS - 1) / KEYS;

    let_next_start();
    auto fetch = [&](unsigned to, int which, int step, unsigned barrier) {
        const int column = (which * heads + head) * HEAD;
        copy_tile_in(to, &qkv, column, step * KEYS, sample, barrier);
        copy_tile_in(to + BOX, &qkv, column, step * KEYS + ROWS, sample, barrier);
    };
    if (threadIdx.x == 0) {
        barrier_init(keys_there, 1), barrier_init(values_there, 1);
        fence_barriers();
        wait_for_previous();
        barrier_expect(keys_there, BOX + TILE);
        copy_tile_in(queries, &qkv, head * HEAD, q0, sample, keys_there);
        fetch(keys, 1, 0, keys_there);
        barrier_expect(values_there, TILE);
        fetch(values, 2, 0, values_there);
    }
    __syncthreads();

    // exp(s / √64) = 2^(s · scale)
    const float scale = 0.125f * 1.44269504f;
    float sum[HEAD / 2];
    // Of this lane's two rows, lane / 4 and 8 below it; the maximum in units of the exponent.
    float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        const bool more = step + 1 < steps;
        float score[KEYS / 2];
        barrier_wait(keys_there, step % 2);
        const unsigned long long q = descriptor<128>(queries, 16, 1024);
        const unsigned long long k = descriptor<128>(keys, 16, 1024);
        wgmma_fence();
#pragma unroll
        for (int part = 0; part < HEAD / 16; ++part)
            Scores<T>::run(score, q + part * 2, k + part * 2, part);
        wgmma_commit();
        wgmma_wait<0>();
        if (more) {
            __syncthreads(); // all have read the keys
            if (threadIdx.x == 0) {
                barrier_expect(keys_there, TILE);
                fetch(keys, 1, step + 1, keys_there);
            }
        }

        if (!more) {
            const int left = seq_len - step * KEYS - lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    if (j * 8 + e % 2 >= left) score[j * 4 + e] = -INFINITY;
        }
        float shrink[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float largest = -INFINITY;
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j)
                largest = fmaxf(largest, fmaxf(score[j * 4 + 2 * r], score[j * 4 + 2 * r + 1]));
            // Finite: the first key of a step exists.
            const float now = fmaxf(maximum[r], quad_max(largest) * scale);
            shrink[r] = exp2_fast(maximum[r] - now);
            maximum[r] = now;
            total[r] *= shrink[r];
        }
        unsigned weight[KEYS / 4];
#pragma unroll
        for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const float low = exp2_fast(score[j * 4 + 2 * r] * scale - maximum[r]);
                const float high = exp2_fast(score[j * 4 + 2 * r + 1] * scale - maximum[r]);
                total[r] += low + high;
                weight[j * 2 + r] = pack<T>(low, high);
            }
        if (step > 0)
#pragma unroll
            for (int i = 0; i < HEAD / 2; ++i) sum[i] *= shrink[i / 2 % 2];

        barrier_wait(values_there, step % 2);
        const unsigned long long v = descriptor<128>(values, 16, 1024);
        wgmma_fence();
#pragma unroll
        for (int part = 0; part < KEYS / 16; ++part)
            Weighted<T>::run(sum, &weight[part * 4], v + part * 128, step + part);
        wgmma_commit();
        wgmma_wait<0>();
        if (more) {
            __syncthreads();
            if (threadIdx.x == 0) {
                barrier_expect(values_there, TILE);
                fetch(values, 2, step + 1, values_there);
            }
        }
    }

    // A warp's 16 rows leave through the place of its queries.
    const unsigned to = queries + warp * 16 * HEAD * 2;
    const float inverse[2] = {1.0f / quad_sum(total[0]), 1.0f / quad_sum(total[1])};
    __syncthreads(); // all have read the queries
#pragma unroll
    for (int j = 0; j < HEAD / 8; j += 2) {
        unsigned r[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float *s = &sum[(j + i / 2) * 4 + i % 2 * 2];
            r[i] = pack<T>(s[0] * inverse[i % 2], s[1] * inverse[i % 2]);
        }
        const int row = lane % 16;
        stmatrix(to + row * HEAD * 2 + (j + lane / 16 ^ row & 7) * 16, r[0], r[1], r[2], r[3]);
    }
    fence_for_copies();
    __syncwarp();
    if (lane == 0) {
        copy_tile_out(&out, head * HEAD, q0 + warp * 16, sample, to);
        copies_out_commit();
        copies_out_read<0>();
    }
}

extern "C" __global__ void __launch_bounds__(128, 4)
    ENTRY(flash)(const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap out, int seq_len,
                 int heads) {
    flash<NUMBER>(qkv, out, seq_len, heads);
}
