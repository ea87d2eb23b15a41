// Attention of one query a sample over a cache: softmax(q kᵀ / √d) v for each head, where `group`
// heads share the keys and values of one kv head. What counts is to read the cache once and at full
// speed, so it goes from memory to registers and the arithmetic is fp32.
//
// A block of 4 warps computes all heads of one kv head over one of `splits` parts of the context; in
// a warp, D/8 lanes hold one key, 8 dimensions each. The block that ends last adds the parts in
// their order: results do not depend on timing. `scratch` holds for each sample and kv head a counter
// that is zero before and after, then the parts.
//
// qkv has (heads + 2 · kv_heads) · d columns of which the first heads · d are used; the cache has
// `context` rows a sample of 2 · kv_heads · d columns, keys before values.

#include "number.cuh"
#include "overlap.cuh"

constexpr int WARPS = 4, MOST = 4; // heads of a kv head
#define INFINITY __int_as_float(0x7f800000)

DEVICE float exp2_fast(float v) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}

// What some keys contributed to one head: the largest score, the sum of 2^(score - largest), and that
// sum weighted with the values.
template <int N> struct Share {
    float largest, total, sum[N];
    DEVICE void add(float other_largest, float other_total, const float (&other)[N]) {
        const float most = fmaxf(largest, other_largest);
        // Of nothing at all there is no maximum.
        const float mine = largest == -INFINITY ? 0.0f : exp2_fast(largest - most);
        const float its = other_largest == -INFINITY ? 0.0f : exp2_fast(other_largest - most);
        largest = most, total = total * mine + other_total * its;
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] = sum[i] * mine + other[i] * its;
    }
};

template <class T, int D>
DEVICE void decode(const T *__restrict__ qkv, const T *__restrict__ cache, T *__restrict__ out,
                   unsigned *__restrict__ scratch, int samples, int heads, int kv_heads, int context, int splits) {
    constexpr int LANES = D / 8, KEYS = 32 / LANES, UNROLL = 4; // lanes of a key, keys of a warp, at once
    __shared__ float shared[WARPS][MOST][D + 2];
    __shared__ bool last;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int split = blockIdx.x % splits, pair = blockIdx.x / splits; // sample and kv head
    const int sample = pair / kv_heads, kv = pair % kv_heads, group = heads / kv_heads;
    const int dim = lane % LANES * 8, key = lane / LANES;
    const long long wide = 2LL * kv_heads * D;
    const int part = (context + splits - 1) / splits;
    const int first = split * part, end = min(first + part, context);
    const T *keys = cache + (long long)sample * context * wide + kv * D + dim;
    let_next_start();
    wait_for_previous();

    // score = q · k / √d · log2 e
    const float scale = rsqrtf((float)D) * 1.44269504f;
    float q[MOST][8];
    Share<8> mine[MOST];
#pragma unroll
    for (int h = 0; h < MOST; ++h) {
        mine[h].largest = -INFINITY, mine[h].total = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) q[h][i] = mine[h].sum[i] = 0;
        if (h >= group) continue;
        load8(qkv + (long long)sample * (heads + 2 * kv_heads) * D + (kv * group + h) * D + dim, q[h]);
#pragma unroll
        for (int i = 0; i < 8; ++i) q[h][i] *= scale;
    }

    for (int start = first + warp * KEYS + key; start - key < end; start += WARPS * KEYS * UNROLL) {
        uint4 raw_key[UNROLL], raw_value[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            const int row = start + u * WARPS * KEYS;
            raw_key[u] = raw_value[u] = make_uint4(0, 0, 0, 0);
            if (row >= end) continue;
            const T *from = keys + row * wide;
            raw_key[u] = __ldcs((const uint4 *)from);
            raw_value[u] = __ldcs((const uint4 *)(from + kv_heads * D));
        }
        float score[UNROLL][MOST];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            float k[8];
            unpack8<T>(raw_key[u], k);
#pragma unroll
            for (int h = 0; h < MOST; ++h) {
                float s = 0;
#pragma unroll
                for (int i = 0; i < 8; ++i) s += q[h][i] * k[i];
#pragma unroll
                for (int other = 1; other < LANES; other *= 2) s += __shfl_xor_sync(0xffffffff, s, other);
                score[u][h] = start + u * WARPS * KEYS < end ? s : -INFINITY;
            }
        }
#pragma unroll
        for (int h = 0; h < MOST; ++h) {
            float most = mine[h].largest;
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) most = fmaxf(most, score[u][h]);
            const float base = most == -INFINITY ? 0.0f : most;
            const float shrink = exp2_fast(mine[h].largest - base);
            mine[h].largest = most, mine[h].total *= shrink;
#pragma unroll
            for (int i = 0; i < 8; ++i) mine[h].sum[i] *= shrink;
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) {
                score[u][h] = exp2_fast(score[u][h] - base);
                mine[h].total += score[u][h];
            }
        }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            float v[8];
            unpack8<T>(raw_value[u], v);
#pragma unroll
            for (int h = 0; h < MOST; ++h)
#pragma unroll
                for (int i = 0; i < 8; ++i) mine[h].sum[i] += score[u][h] * v[i];
        }
    }

    // Over the keys of the warp, then over the warps, then over the parts of the context.
#pragma unroll
    for (int h = 0; h < MOST; ++h) {
#pragma unroll
        for (int other = LANES; other < 32; other *= 2) {
            float sum[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) sum[i] = __shfl_xor_sync(0xffffffff, mine[h].sum[i], other);
            const float largest = __shfl_xor_sync(0xffffffff, mine[h].largest, other);
            mine[h].add(largest, __shfl_xor_sync(0xffffffff, mine[h].total, other), sum);
        }
        if (key == 0) {
#pragma unroll
            for (int i = 0; i < 8; ++i) shared[warp][h][dim + i] = mine[h].sum[i];
            if (lane == 0) shared[warp][h][D] = mine[h].largest, shared[warp][h][D + 1] = mine[h].total;
        }
    }
    __syncthreads();

    const int pairs = samples * kv_heads;
    float *parts = (float *)(scratch + (pairs + 3) / 4 * 4);
    T *to = out + (long long)sample * heads * D + kv * group * D;
    for (int i = threadIdx.x; i < group * D; i += WARPS * 32) {
        const int h = i / D, d = i % D;
        Share<1> all = {-INFINITY, 0, {0}};
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const float sum[1] = {shared[w][h][d]};
            all.add(shared[w][h][D], shared[w][h][D + 1], sum);
        }
        if (splits == 1) {
            narrow(to[i], all.sum[0] / all.total);
            continue;
        }
        float *part = parts + ((long long)blockIdx.x * MOST + h) * (D + 2);
        part[d] = all.sum[0];
        if (d == 0) part[D] = all.largest, part[D + 1] = all.total;
    }
    if (splits == 1) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(scratch + pair, 1) + 1 == (unsigned)splits;
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int i = threadIdx.x; i < group * D; i += WARPS * 32) {
        const int h = i / D, d = i % D;
        Share<1> all = {-INFINITY, 0, {0}};
        for (int s = 0; s < splits; ++s) {
            const float *part = parts + (((long long)pair * splits + s) * MOST + h) * (D + 2);
            const float sum[1] = {__ldcg(part + d)};
            all.add(__ldcg(part + D), __ldcg(part + D + 1), sum);
        }
        narrow(to[i], all.sum[0] / all.total);
    }
    if (threadIdx.x == 0) scratch[pair] = 0;
}

#define WIDTH(D)                                                                                             \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                 \
        ENTRY(decode_##D)(const NUMBER *qkv, const NUMBER *cache, NUMBER *out, unsigned *scratch, int samples, \
                          int heads, int kv_heads, int context, int splits) {                                \
        decode<NUMBER, D>(qkv, cache, out, scratch, samples, heads, kv_heads, context, splits);              \
    }

WIDTH(64)
WIDTH(128)
