// softmax(q kᵀ / √64) v of each sample and head, without ever storing the scores.
//
// A block of 4 warps computes 64 query rows of one head, 16 a warp, walking over the keys and
// values 64 at a time with a running maximum and sum (Milakov and Gimelshein, arXiv:1805.02867;
// Dao et al., arXiv:2205.14135). The next keys and values are copied while these are used. Scores,
// exponentials and sums are fp32; the exponentials are rounded to T for the second product.
//
// qkv has 3·heads·64 columns: queries, keys, values side by side, each head by head.

#include "number.cuh"
#include "softmax.cuh"

constexpr int HEAD = 64, ROWS = 64, CHUNKS = HEAD / 8, THREADS = 128;
constexpr unsigned TILE = ROWS * HEAD * 2; // bytes

template <class T> DEVICE void attention(const T *qkv, T *out, int seq_len, int heads) {
    __shared__ uint4 memory[5 * TILE / 16]; // queries, two of keys, two of values
    const unsigned queries = shared_address(memory), keys = queries + TILE, values = keys + 2 * TILE;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Where this lane points ldmatrix to, in each 16 x 16 block.
    const int lane_row = lane % 16, lane_chunk = lane / 16;
    const int q_tiles = (seq_len + ROWS - 1) / ROWS;
    const int q0 = blockIdx.x % q_tiles * ROWS;
    const int head = blockIdx.x / q_tiles % heads, sample = blockIdx.x / q_tiles / heads;
    const long long stride = 3LL * heads * HEAD;

    // What this thread copies of each tile: one chunk of every COPIED-th row.
    constexpr int COPIED = THREADS / CHUNKS;
    const int my_row = threadIdx.x / CHUNKS, my_chunk = threadIdx.x % CHUNKS;
    const unsigned to = swizzle<CHUNKS>(my_row, my_chunk) * 16;
    const T *from = qkv + ((long long)sample * seq_len + my_row) * stride + head * HEAD + my_chunk * 8;
    // Rows from `first` on of the queries, keys or values; zeros beyond the sequence.
    auto copy_tile = [&](unsigned tile, int which, int first) {
        const T *start = from + first * stride + which * heads * HEAD;
#pragma unroll
        for (int i = 0; i < ROWS; i += COPIED)
            copy_async(tile + to + i * CHUNKS * 16, start + i * stride, first + my_row + i < seq_len);
    };
    copy_tile(queries, 0, q0);
    copy_tile(keys, 1, 0);
    copy_tile(values, 2, 0);
    copy_async_commit();

    // exp(s / √64) = 2^(s · scale)
    const float scale = 0.125f * 1.44269504f;
    unsigned query[HEAD / 16][4];
    float sum[HEAD / 8][4] = {};
    // Of this lane's two rows, lane / 4 and 8 below it.
    float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};

    const int steps = (seq_len + ROWS - 1) / ROWS;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) {
            unsigned other = (step + 1) % 2 * TILE;
            copy_tile(keys + other, 1, (step + 1) * ROWS);
            copy_tile(values + other, 2, (step + 1) * ROWS);
        }
        copy_async_commit();
        copy_async_wait<1>();
        __syncthreads();
        if (step == 0) {
#pragma unroll
            for (int i = 0; i < HEAD / 16; ++i)
                ldmatrix(query[i], queries + swizzle<CHUNKS>(warp * 16 + lane_row, i * 2 + lane_chunk) * 16);
        }

        float score[ROWS / 8][4] = {};
        const unsigned these_keys = keys + step % 2 * TILE;
#pragma unroll
        for (int i = 0; i < HEAD / 16; ++i)
#pragma unroll
            for (int j = 0; j < ROWS / 16; ++j) {
                unsigned key[4];
                ldmatrix(key, these_keys + swizzle<CHUNKS>(j * 16 + lane_row, i * 2 + lane_chunk) * 16);
                mma<T>(score[2 * j], query[i], key[0], key[2]);
                mma<T>(score[2 * j + 1], query[i], key[1], key[3]);
            }

        float largest[2] = {maximum[0], maximum[1]};
#pragma unroll
        for (int j = 0; j < ROWS / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int column = step * ROWS + j * 8 + lane % 4 * 2 + e % 2;
                score[j][e] = column < seq_len ? score[j][e] * scale : -INFINITY;
                largest[e / 2] = fmaxf(largest[e / 2], score[j][e]);
            }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            largest[r] = quad_max(largest[r]); // finite: column step·64 exists
            float shrink = exp2_fast(maximum[r] - largest[r]);
            maximum[r] = largest[r];
            total[r] *= shrink;
#pragma unroll
            for (int j = 0; j < HEAD / 8; ++j) sum[j][2 * r] *= shrink, sum[j][2 * r + 1] *= shrink;
        }
#pragma unroll
        for (int j = 0; j < ROWS / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                score[j][e] = exp2_fast(score[j][e] - maximum[e / 2]);
                total[e / 2] += score[j][e];
            }

        const unsigned these_values = values + step % 2 * TILE;
#pragma unroll
        for (int i = 0; i < ROWS / 16; ++i) {
            // Two neighbouring accumulators hold just the elements of a left operand's fragment.
            const unsigned weight[4] = {
                pack<T>(score[2 * i][0], score[2 * i][1]), pack<T>(score[2 * i][2], score[2 * i][3]),
                pack<T>(score[2 * i + 1][0], score[2 * i + 1][1]),
                pack<T>(score[2 * i + 1][2], score[2 * i + 1][3])};
#pragma unroll
            for (int j = 0; j < HEAD / 16; ++j) {
                unsigned value[4];
                ldmatrix_transposed(
                    value, these_values + swizzle<CHUNKS>(i * 16 + lane_row, j * 2 + lane_chunk) * 16);
                mma<T>(sum[2 * j], weight, value[0], value[1]);
                mma<T>(sum[2 * j + 1], weight, value[2], value[3]);
            }
        }
        __syncthreads(); // the next step but one is copied over what was just read
    }

    const long long out_stride = (long long)heads * HEAD;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = q0 + warp * 16 + lane / 4 + r * 8;
        const float inverse = 1.0f / quad_sum(total[r]);
        if (row >= seq_len) continue;
        T *to = out + ((long long)sample * seq_len + row) * out_stride + head * HEAD + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < HEAD / 8; ++j)
            *(unsigned *)(to + j * 8) = pack<T>(sum[j][2 * r] * inverse, sum[j][2 * r + 1] * inverse);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    ENTRY(attention)(const NUMBER *__restrict__ qkv, NUMBER *__restrict__ out, int seq_len, int heads) {
    attention(qkv, out, seq_len, heads);
}
