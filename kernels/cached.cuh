// What the kernels of a decode step share of attention over a cache, after number.cuh and softmax.cuh: the
// few heads of a kv head are the rows of a left operand of the tensor cores.
#pragma once

// What some keys contributed to the heads of a warp, D wide: the largest score, the sum of 2^(score - largest),
// and that sum weighted with the values. A lane has those elements of head lane / 4 that a fragment gives it
// (columns 8 j + lane % 4 * 2 and the next one), and the largest score; of the totals, a quarter.
template <class T, int D> struct Attended {
    float sum[D / 8][4] = {}, largest = -INFINITY, total = 0;

    // Adds 16 keys and their values, tiles in shared memory swizzled by rows of D numbers. Those at `end` and
    // beyond do not count; the first that was ever added does.
    DEVICE void add(const unsigned (&query)[D / 16][4], unsigned keys, unsigned values, int first, int end) {
        constexpr int CHUNKS = D / 8;
        // score = q · k / √d · log2 e
        const float scale = rsqrtf((float)D) * 1.44269504f;
        const int lane = threadIdx.x % 32, row = lane % 16, chunk = lane / 16; // where ldmatrix looks
        float score[2][4] = {};
#pragma unroll
        for (int i = 0; i < D / 16; ++i) {
            unsigned key[4];
            ldmatrix(key, keys + swizzle<CHUNKS>(row, i * 2 + chunk) * 16);
            mma<T>(score[0], query[i], key[0], key[2]);
            mma<T>(score[1], query[i], key[1], key[3]);
        }
        float most = largest;
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int key = first + j * 8 + lane % 4 * 2 + e;
                score[j][e] = key < end ? score[j][e] * scale : -INFINITY;
                most = fmaxf(most, score[j][e]);
            }
        most = quad_max(most);
        const float shrink = exp2_fast(largest - most);
        largest = most, total *= shrink;
#pragma unroll
        for (int j = 0; j < D / 8; ++j) sum[j][0] *= shrink, sum[j][1] *= shrink;
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                score[j][e] = exp2_fast(score[j][e] - most);
                total += score[j][e];
            }
        // Two neighbouring accumulators hold just the elements of a left operand's fragment.
        const unsigned weights[4] = {pack<T>(score[0][0], score[0][1]), 0, pack<T>(score[1][0], score[1][1]), 0};
#pragma unroll
        for (int j = 0; j < D / 16; ++j) {
            unsigned value[4];
            ldmatrix_transposed(value, values + swizzle<CHUNKS>(row, j * 2 + chunk) * 16);
            mma<T>(sum[2 * j], weights, value[0], value[1]);
            mma<T>(sum[2 * j + 1], weights, value[2], value[3]);
        }
    }
};
