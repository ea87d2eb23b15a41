// Causal attention of all queries of a sample over a cache, softmax(q kᵀ / √d) v, without ever storing
// the scores: query row r of n sees all but the last n - 1 - r rows of the cache.
//
// As attention.cu, but for the mask, the cache of its own, the kv heads that serve several heads each,
// and heads of 64 or 128. Blocks with the most keys come first.
//
// qkv has (heads + 2 · kv_heads) · D columns of which the first heads · D are used; the cache has
// `context` rows a sample of 2 · kv_heads · D columns, keys before values.

#include "number.cuh"
#include "overlap.cuh"
#include "softmax.cuh"

constexpr int ROWS = 64, THREADS = 128;

template <class T, int HEAD>
DEVICE void causal(const T *qkv, const T *cache, T *out, int rows, int context, int heads, int kv_heads) {
    constexpr int CHUNKS = HEAD / 8;
    constexpr unsigned TILE = ROWS * HEAD * 2; // bytes
    extern __shared__ uint4 memory[];          // queries, two of keys, two of values
    const unsigned queries = shared_address(memory), keys = queries + TILE, values = keys + 2 * TILE;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Where this lane points ldmatrix to, in each 16 x 16 block.
    const int lane_row = lane % 16, lane_chunk = lane / 16;
    const int q_tiles = (rows + ROWS - 1) / ROWS, blocks = gridDim.x / q_tiles;
    const int q0 = (q_tiles - 1 - blockIdx.x / blocks) * ROWS;
    const int head = blockIdx.x % blocks % heads, sample = blockIdx.x % blocks / heads;
    const int kv = head / (heads / kv_heads);
    const long long q_stride = (long long)(heads + 2 * kv_heads) * HEAD, stride = 2LL * kv_heads * HEAD;
    // Of the first query in the cache, and keys that any query of this block sees.
    const int position = context - rows + q0, seen = min(position + ROWS, context);

    // What this thread copies of each tile: one chunk of every COPIED-th row.
    constexpr int COPIED = THREADS / CHUNKS;
    const int my_row = threadIdx.x / CHUNKS, my_chunk = threadIdx.x % CHUNKS;
    const unsigned to = swizzle<CHUNKS>(my_row, my_chunk) * 16;
    const T *q_from = qkv + ((long long)sample * rows + q0 + my_row) * q_stride + head * HEAD + my_chunk * 8;
    const T *from = cache + ((long long)sample * context + my_row) * stride + kv * HEAD + my_chunk * 8;
    // Rows from `first` on of the keys or values; zeros beyond what is seen.
    auto copy_tile = [&](unsigned tile, int which, int first) {
        const T *start = from + first * stride + which * kv_heads * HEAD;
#pragma unroll
        for (int i = 0; i < ROWS; i += COPIED)
            copy_async(tile + to + i * CHUNKS * 16, start + i * stride, first + my_row + i < seen);
    };
    let_next_start();
    wait_for_previous();
#pragma unroll
    for (int i = 0; i < ROWS; i += COPIED)
        copy_async(queries + to + i * CHUNKS * 16, q_from + i * q_stride, q0 + my_row + i < rows);
    copy_tile(keys, 0, 0);
    copy_tile(values, 1, 0);
    copy_async_commit();

    // exp(s / √d) = 2^(s · scale)
    const float scale = rsqrtf((float)HEAD) * 1.44269504f;
    unsigned query[HEAD / 16][4];
    float sum[HEAD / 8][4] = {};
    // Of this lane's two rows, lane / 4 and 8 below it.
    float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};

    const int steps = (seen + ROWS - 1) / ROWS;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) {
            unsigned other = (step + 1) % 2 * TILE;
            copy_tile(keys + other, 0, (step + 1) * ROWS);
            copy_tile(values + other, 1, (step + 1) * ROWS);
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
                int last = position + warp * 16 + lane / 4 + e / 2 * 8; // that this query sees
                score[j][e] = column <= last ? score[j][e] * scale : -INFINITY;
                largest[e / 2] = fmaxf(largest[e / 2], score[j][e]);
            }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            largest[r] = quad_max(largest[r]); // finite: column 0 is always seen
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
        if (row >= rows) continue;
        T *to = out + ((long long)sample * rows + row) * out_stride + head * HEAD + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < HEAD / 8; ++j)
            *(unsigned *)(to + j * 8) = pack<T>(sum[j][2 * r] * inverse, sum[j][2 * r + 1] * inverse);
    }
}

#define WIDTH(D)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                 \
        ENTRY(causal_##D)(const NUMBER *__restrict__ qkv, const NUMBER *__restrict__ cache,               \
                          NUMBER *__restrict__ out, int rows, int context, int heads, int kv_heads) {     \
        causal<NUMBER, D>(qkv, cache, out, rows, context, heads, kv_heads);                               \
    }

WIDTH(64)
WIDTH(128)
