// Attention of one query a sample over a cache: softmax(q kᵀ / √d) v for each head, where `group`
// heads share the keys and values of one kv head. What counts is to read the cache once and at full
// speed.
//
// A block of 4 warps computes all heads of one kv head over one of `splits` parts of the context, by
// the tensor cores, for which the heads are the (few) rows of a left operand. A warp takes every
// fourth tile of 16 keys, and keeps STAGES - 1 of them on their way to a part of shared memory that
// no other warp uses, so that warps wait for nobody. The block that ends last adds the parts in
// their order: results do not depend on timing. There is a counter for each sample and kv head of which the
// context is cut; it is zero before and after.
//
// qkv has (heads + 2 · kv_heads) · d columns of which the first heads · d are used; the cache has
// `context` rows a sample of 2 · kv_heads · d columns, keys before values. Only its last row changes
// from batch to batch.

#include "number.cuh"
#include "overlap.cuh"
#include "softmax.cuh"
#include "cached.cuh"

constexpr int WARPS = 4, KEYS = 16, MOST = 4; // heads of a kv head

// What some keys contributed to an element of a head.
struct Share {
    float largest = -INFINITY, total = 0, sum = 0;
    DEVICE void add(float other_largest, float other_total, float other) {
        const float most = fmaxf(largest, other_largest);
        // Of nothing at all there is no maximum.
        const float mine = largest == -INFINITY ? 0.0f : exp2_fast(largest - most);
        const float its = other_largest == -INFINITY ? 0.0f : exp2_fast(other_largest - most);
        largest = most, total = total * mine + other_total * its, sum = sum * mine + other * its;
    }
};

template <class T, int D, int STAGES>
DEVICE void decode(const T *__restrict__ qkv, const T *__restrict__ cache, T *__restrict__ out,
                   unsigned *__restrict__ counters, float *__restrict__ parts, int heads, int kv_heads,
                   int context, int splits) {
    constexpr int CHUNKS = D / 8; // of 8 numbers, in a row of a tile
    constexpr unsigned TILE = KEYS * D * 2, STAGE = 2 * TILE;
    extern __shared__ uint4 memory[];
    __shared__ float shared[WARPS][MOST][D + 2];
    __shared__ bool last;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned ring = shared_address(memory) + warp * STAGES * STAGE;
    const int split = blockIdx.x % splits, pair = blockIdx.x / splits; // sample and kv head
    const int sample = pair / kv_heads, kv = pair % kv_heads, group = heads / kv_heads;
    const long long wide = 2LL * kv_heads * D;
    const int part = (context + splits - 1) / splits, end = min(split * part + part, context);
    // This warp's first key, and the keys between its tiles.
    constexpr int APART = WARPS * KEYS;
    const int first = split * part + warp * KEYS;
    const int steps = max(0, (end - first + APART - 1) / APART);

    const T *from = cache + (long long)sample * context * wide + kv * D + lane % CHUNKS * 8;
    auto copy_tile = [&](int step) {
        const unsigned to = ring + step % STAGES * STAGE;
#pragma unroll
        for (int i = 0; i < KEYS; i += 32 / CHUNKS) {
            const int row = lane / CHUNKS + i, key = first + step * APART + row;
            const unsigned place = to + swizzle<CHUNKS>(row, lane % CHUNKS) * 16;
            copy_async(place, from + key * wide, key < end);
            copy_async(place + TILE, from + key * wide + kv_heads * D, key < end);
        }
    };
    let_next_start();
    // The kernels before this one write the last row and no other: the others come while they run.
    int early = 0;
    for (; early < STAGES - 1 && early < steps && first + early * APART + KEYS < context; ++early) {
        copy_tile(early);
        copy_async_commit();
    }
    wait_for_previous();
    for (int step = early; step < STAGES - 1; ++step) {
        if (step < steps) copy_tile(step);
        copy_async_commit();
    }

    // The queries as a left operand whose rows are heads: beyond the group's, zeros.
    unsigned query[D / 16][4];
    const T *q = qkv + (long long)sample * (heads + 2 * kv_heads) * D + (kv * group + lane / 4) * D + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
        query[i][0] = lane / 4 < group ? *(const unsigned *)(q + i * 16) : 0;
        query[i][2] = lane / 4 < group ? *(const unsigned *)(q + i * 16 + 8) : 0;
        query[i][1] = query[i][3] = 0;
    }
    Attended<T, D> mine;

#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        copy_async_wait<STAGES - 2>();
        __syncwarp();
        // Over the tile before this one, which all lanes have read.
        if (step + STAGES - 1 < steps) copy_tile(step + STAGES - 1);
        copy_async_commit();

        const unsigned keys = ring + step % STAGES * STAGE, values = keys + TILE;
        mine.add(query, keys, values, first + step * APART, end);
    }

    // Over the warps, then over the parts of the context.
    const float total = quad_sum(mine.total);
    if (lane / 4 < MOST) {
        float *to = shared[warp][lane / 4];
#pragma unroll
        for (int j = 0; j < D / 8; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e) to[j * 8 + lane % 4 * 2 + e] = mine.sum[j][e];
        if (lane % 4 == 0) to[D] = mine.largest, to[D + 1] = total;
    }
    __syncthreads();

    T *to = out + (long long)sample * heads * D + kv * group * D;
    for (int i = threadIdx.x; i < group * D; i += WARPS * 32) {
        const int h = i / D, d = i % D;
        Share all;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) all.add(shared[w][h][D], shared[w][h][D + 1], shared[w][h][d]);
        if (splits == 1) {
            narrow(to[i], all.sum / all.total);
            continue;
        }
        float *part = parts + ((long long)blockIdx.x * MOST + h) * (D + 2);
        part[d] = all.sum;
        if (d == 0) part[D] = all.largest, part[D + 1] = all.total;
    }
    if (splits == 1) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(counters + pair, 1) + 1 == (unsigned)splits;
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int i = threadIdx.x; i < group * D; i += WARPS * 32) {
        const int h = i / D, d = i % D;
        Share all;
        for (int s = 0; s < splits; ++s) {
            const float *part = parts + (((long long)pair * splits + s) * MOST + h) * (D + 2);
            all.add(__ldcg(part + D), __ldcg(part + D + 1), __ldcg(part + d));
        }
        narrow(to[i], all.sum / all.total);
    }
    if (threadIdx.x == 0) counters[pair] = 0;
}

#define WIDTH(D, STAGES)                                                                                     \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                 \
        ENTRY(decode_##D)(const NUMBER *qkv, const NUMBER *cache, NUMBER *out, unsigned *counters,           \
                          float *parts, int heads, int kv_heads, int context, int splits) {                  \
        decode<NUMBER, D, STAGES>(qkv, cache, out, counters, parts, heads, kv_heads, context, splits);       \
    }

WIDTH(64, 4)
WIDTH(128, 2)
