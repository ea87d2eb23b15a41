// What a decoder needs beside its matrix products and its attention. fp32 throughout.

#include "number.cuh"
#include "overlap.cuh"

// out[r] = table[tokens[r]]; one thread a chunk of 8 columns.
extern "C" __global__ void __launch_bounds__(256)
    ENTRY(lookup)(const unsigned *tokens, const NUMBER *table, NUMBER *out, unsigned rows, unsigned columns) {
    unsigned chunks = columns / 8;
    unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    let_next_start();
    wait_for_previous();
    if (i >= (unsigned long long)rows * chunks) return;
    unsigned long long row = i / chunks, column = i % chunks * 8;
    *(uint4 *)(out + row * columns + column) =
        *(const uint4 *)(table + (unsigned long long)tokens[row] * columns + column);
}

DEVICE float warp_sum(float v) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) v += __shfl_xor_sync(0xffffffff, v, lane);
    return v;
}

// Each row of x divided by its root mean square. A block of 256 threads a row, of which each
// has up to 4 chunks of 8 columns.
extern "C" __global__ void __launch_bounds__(256)
    ENTRY(rms_norm)(const NUMBER *__restrict__ x, NUMBER *__restrict__ out, unsigned columns, float epsilon) {
    __shared__ float sums[8];
    const unsigned first = threadIdx.x * 8;
    const unsigned long long start = (unsigned long long)blockIdx.x * columns;
    uint4 raw[4];
    let_next_start();
    wait_for_previous();
#pragma unroll
    for (int c = 0; c < 4; ++c)
        if (first + c * 2048 < columns) raw[c] = *(const uint4 *)(x + start + first + c * 2048);
    float squares = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        if (first + c * 2048 >= columns) continue;
        float v[8];
        unpack8<NUMBER>(raw[c], v);
#pragma unroll
        for (int j = 0; j < 8; ++j) squares += v[j] * v[j];
    }
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) total += sums[i];
    const float scale = 1.0f / sqrtf(total / columns + epsilon);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        if (first + c * 2048 >= columns) continue;
        float v[8];
        unpack8<NUMBER>(raw[c], v);
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] *= scale;
        store8(out + start + first + c * 2048, v);
    }
}

// Turns the queries in place, and the keys on their way into the cache, by the angles of their row; copies
// the values there. A block a row: `heads` + 2 · `kv_heads` heads of `width`; the cache has `context` rows
// a sample, of which the last `rows` are written. A row of angles holds width/2 cosines, then the sines.
extern "C" __global__ void __launch_bounds__(256)
    ENTRY(rotate)(NUMBER *qkv, const NUMBER *__restrict__ angles, NUMBER *__restrict__ cache, int rows,
                  int context, int heads, int kv_heads, int width) {
    const int half = width / 2, turned = heads + kv_heads;
    const long long row = blockIdx.x;
    NUMBER *from = qkv + row * (heads + 2 * kv_heads) * width;
    const NUMBER *angle = angles + row % rows * width;
    NUMBER *cached = cache + (row / rows * context + context - rows + row % rows) * 2 * kv_heads * width;
    let_next_start();
    wait_for_previous();
    for (int i = threadIdx.x; i < turned * half / 2; i += blockDim.x) {
        const int head = i / (half / 2), pair = i % (half / 2) * 2;
        float a[2], b[2], cosine[2], sine[2];
        unpack<NUMBER>(*(const unsigned *)(from + head * width + pair), a[0], a[1]);
        unpack<NUMBER>(*(const unsigned *)(from + head * width + half + pair), b[0], b[1]);
        unpack<NUMBER>(*(const unsigned *)(angle + pair), cosine[0], cosine[1]);
        unpack<NUMBER>(*(const unsigned *)(angle + half + pair), sine[0], sine[1]);
        NUMBER *to = head < heads ? from + head * width : cached + (head - heads) * width;
        *(unsigned *)(to + pair) =
            pack<NUMBER>(a[0] * cosine[0] - b[0] * sine[0], a[1] * cosine[1] - b[1] * sine[1]);
        *(unsigned *)(to + half + pair) =
            pack<NUMBER>(b[0] * cosine[0] + a[0] * sine[0], b[1] * cosine[1] + a[1] * sine[1]);
    }
    for (int i = threadIdx.x * 8; i < kv_heads * width; i += blockDim.x * 8)
        *(uint4 *)(cached + kv_heads * width + i) = *(const uint4 *)(from + turned * width + i);
}

// The column of the largest value of each row, the first of equals; a block of 1024 threads a row.
extern "C" __global__ void __launch_bounds__(1024)
    ENTRY(argmax)(const NUMBER *__restrict__ x, unsigned *__restrict__ out, unsigned columns) {
    __shared__ float values[32];
    __shared__ unsigned places[32];
    const NUMBER *row = x + (unsigned long long)blockIdx.x * columns;
    float largest = __int_as_float(0xff800000);
    unsigned place = 0;
    let_next_start();
    wait_for_previous();
    // Each thread's columns only grow: the first of equals stays.
    for (unsigned first = threadIdx.x * 8; first < columns; first += 8192) {
        float v[8];
        load8(row + first, v);
#pragma unroll
        for (int j = 0; j < 8; ++j)
            if (v[j] > largest) largest = v[j], place = first + j;
    }
    auto take = [&](float other, unsigned other_place) {
        if (other > largest || (other == largest && other_place < place)) largest = other, place = other_place;
    };
    auto reduce = [&]() {
#pragma unroll
        for (int lane = 16; lane > 0; lane /= 2)
            take(__shfl_xor_sync(0xffffffff, largest, lane), __shfl_xor_sync(0xffffffff, place, lane));
    };
    reduce();
    if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = largest, places[threadIdx.x / 32] = place;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    largest = values[threadIdx.x], place = places[threadIdx.x];
    reduce();
    if (threadIdx.x == 0) out[blockIdx.x] = place;
}
