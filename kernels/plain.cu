// fp32 without the tensor cores: what they would make of fp32 is tf32, with 10 bits of significand.

#include "overlap.cuh"
#define DEVICE __device__ __forceinline__
#include "activate.cuh"

#define INFINITY __int_as_float(0x7f800000)

// out = activation(x · weight + bias + residual), as linear.cu. A block of (BM / TM) · (BN / TN) threads
// computes a BM x BN tile, TM x TN each, in steps of 16 along k; the next step is in registers while one is
// used. n and k are multiples of 4.
template <int BM, int BN, int TM, int TN>
DEVICE void linear32(const float *x, long long x_stride, const float *weight, const float *bias,
                     const float *residual, float *out, int m, int n, int k, int activation) {
    constexpr int BK = 16, THREADS = BM / TM * (BN / TN), ACROSS = BN / TN;
    constexpr int A_LOADS = (BM * BK / 4 + THREADS - 1) / THREADS, B_LOADS = (BN * BK / 4 + THREADS - 1) / THREADS;
    // x transposed, so that a thread reads its rows' numbers side by side.
    __shared__ __align__(16) float a_tile[BK][BM + 4], b_tile[BK][BN];
    const int thread = threadIdx.x, n_tiles = (n + BN - 1) / BN;
    const int m0 = blockIdx.x / n_tiles * BM, n0 = blockIdx.x % n_tiles * BN;
    const int my_row = thread / ACROSS * TM, my_column = thread % ACROSS * TN;
    float4 a_next[A_LOADS], b_next[B_LOADS];
    auto load = [&](int k0) {
#pragma unroll
        for (int i = 0; i < A_LOADS; ++i) {
            const int chunk = thread + i * THREADS, row = chunk / (BK / 4), column = chunk % (BK / 4) * 4;
            const bool inside = row < BM && m0 + row < m && k0 + column < k;
            a_next[i] = inside ? *(const float4 *)(x + (m0 + row) * x_stride + k0 + column)
                               : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < B_LOADS; ++i) {
            const int chunk = thread + i * THREADS, row = chunk / (BN / 4), column = chunk % (BN / 4) * 4;
            const bool inside = row < BK && k0 + row < k && n0 + column < n;
            b_next[i] = inside ? *(const float4 *)(weight + (long long)(k0 + row) * n + n0 + column)
                               : make_float4(0, 0, 0, 0);
        }
    };
    float sum[TM][TN] = {};
    let_next_start();
    wait_for_previous();
    load(0);
    for (int k0 = 0; k0 < k; k0 += BK) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < A_LOADS; ++i) {
            const int chunk = thread + i * THREADS, row = chunk / (BK / 4), column = chunk % (BK / 4) * 4;
            if (row >= BM) continue;
            a_tile[column][row] = a_next[i].x, a_tile[column + 1][row] = a_next[i].y;
            a_tile[column + 2][row] = a_next[i].z, a_tile[column + 3][row] = a_next[i].w;
        }
#pragma unroll
        for (int i = 0; i < B_LOADS; ++i) {
            const int chunk = thread + i * THREADS, row = chunk / (BN / 4), column = chunk % (BN / 4) * 4;
            if (row < BK) *(float4 *)&b_tile[row][column] = b_next[i];
        }
        __syncthreads();
        if (k0 + BK < k) load(k0 + BK);
#pragma unroll
        for (int step = 0; step < BK; ++step) {
            float a[TM], b[TN];
#pragma unroll
            for (int i = 0; i < TM; ++i) a[i] = a_tile[step][my_row + i];
#pragma unroll
            for (int j = 0; j < TN; j += 4) {
                const float4 four = *(const float4 *)&b_tile[step][my_column + j];
                b[j] = four.x, b[j + 1] = four.y, b[j + 2] = four.z, b[j + 3] = four.w;
            }
#pragma unroll
            for (int i = 0; i < TM; ++i)
#pragma unroll
                for (int j = 0; j < TN; ++j) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
        }
    }
#pragma unroll
    for (int i = 0; i < TM; ++i) {
        const int row = m0 + my_row + i;
#pragma unroll
        for (int j = 0; j < TN; ++j) {
            const int column = n0 + my_column + j;
            if (row >= m || column >= n) continue;
            const long long place = (long long)row * n + column;
            float v[1] = {sum[i][j] + (bias ? bias[column] : 0.0f) + (residual ? residual[place] : 0.0f)};
            if (activation == RELU) activate<RELU, 1>(v);
            if (activation == GELU) activate<GELU, 1>(v);
            if (activation == TANH) activate<TANH, 1>(v);
            out[place] = v[0];
        }
    }
}

#define SHAPE(name, BM, BN, TM, TN)                                                                       \
    extern "C" __global__ void __launch_bounds__(BM / TM * (BN / TN))                                     \
        linear32_##name(const float *x, long long x_stride, const float *weight, const float *bias,      \
                        const float *residual, float *out, int m, int n, int k, int activation) {        \
        linear32<BM, BN, TM, TN>(x, x_stride, weight, bias, residual, out, m, n, k, activation);         \
    }

SHAPE(128x128, 128, 128, 8, 8)
SHAPE(64x64, 64, 64, 4, 4)
SHAPE(16x64, 16, 64, 1, 4)

// softmax(q kᵀ / √64) v of each sample and head, as attention.cu: a block of 4 warps computes 16 query rows
// of one head, 4 a warp, over 32 keys at a time; a lane has one key, then two dimensions of the values.
extern "C" __global__ void __launch_bounds__(128)
    attention32(const float *qkv, float *out, int seq_len, int heads) {
    constexpr int HEAD = 64, KEYS = 32, ROWS = 16, EACH = 4;
    __shared__ float queries[ROWS][HEAD], keys[KEYS][HEAD + 1], values[KEYS][HEAD];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, tiles = (seq_len + ROWS - 1) / ROWS;
    const int q0 = blockIdx.x % tiles * ROWS, head = blockIdx.x / tiles % heads;
    const long long sample = blockIdx.x / tiles / heads, stride = 3LL * heads * HEAD;
    const float *from = qkv + sample * seq_len * stride + head * HEAD;
    let_next_start();
    wait_for_previous();
    for (int i = threadIdx.x; i < ROWS * HEAD; i += 128) {
        const int row = q0 + i / HEAD;
        queries[i / HEAD][i % HEAD] = row < seq_len ? from[row * stride + i % HEAD] : 0.0f;
    }
    float largest[EACH], total[EACH], sum[EACH][2];
#pragma unroll
    for (int r = 0; r < EACH; ++r) largest[r] = -INFINITY, total[r] = sum[r][0] = sum[r][1] = 0;
    for (int first = 0; first < seq_len; first += KEYS) {
        __syncthreads();
        for (int i = threadIdx.x; i < KEYS * HEAD; i += 128) {
            const int row = first + i / HEAD;
            const float *at = from + row * stride + i % HEAD;
            keys[i / HEAD][i % HEAD] = row < seq_len ? at[heads * HEAD] : 0.0f;
            values[i / HEAD][i % HEAD] = row < seq_len ? at[2 * heads * HEAD] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int r = 0; r < EACH; ++r) {
            float score = 0;
#pragma unroll 16
            for (int d = 0; d < HEAD; ++d) score = fmaf(queries[warp * EACH + r][d], keys[lane][d], score);
            score = first + lane < seq_len ? score * 0.125f : -INFINITY;
            float most = score;
#pragma unroll
            for (int other = 16; other > 0; other /= 2)
                most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, other));
            most = fmaxf(most, largest[r]); // finite: key `first` exists
            const float shrink = exponential(largest[r] - most), share = exponential(score - most);
            largest[r] = most, sum[r][0] *= shrink, sum[r][1] *= shrink;
            total[r] = total[r] * shrink + share; // of this lane's keys
#pragma unroll
            for (int j = 0; j < KEYS; ++j) {
                const float weight = __shfl_sync(0xffffffff, share, j);
                sum[r][0] = fmaf(weight, values[j][lane], sum[r][0]);
                sum[r][1] = fmaf(weight, values[j][lane + 32], sum[r][1]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < EACH; ++r) {
#pragma unroll
        for (int other = 16; other > 0; other /= 2) total[r] += __shfl_xor_sync(0xffffffff, total[r], other);
        const int row = q0 + warp * EACH + r;
        if (row >= seq_len) continue;
        float *to = out + (sample * seq_len + row) * heads * HEAD + head * HEAD + lane;
        to[0] = sum[r][0] / total[r], to[32] = sum[r][1] / total[r];
    }
}
