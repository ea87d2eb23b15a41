// What a network for images needs beside its convolutions; NHWC, `columns` channels.

#include "number.cuh"
#include "overlap.cuh"

// The first `from` columns of each row of out are x, the other `columns` - `from` are zeros; one thread
// a chunk of 8 columns.
extern "C" __global__ void __launch_bounds__(256)
    ENTRY(pad)(const NUMBER *__restrict__ x, NUMBER *__restrict__ out, unsigned rows, unsigned from,
               unsigned columns) {
    unsigned chunks = columns / 8;
    unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    let_next_start();
    wait_for_previous();
    if (i >= (unsigned long long)rows * chunks) return;
    unsigned long long row = i / chunks;
    unsigned column = (unsigned)(i % chunks) * 8;
    float v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = column + j < from ? widen(x[row * from + column + j]) : 0.0f;
    store8(out + row * columns + column, v);
}

// The largest value of each channel within each window; pixels outside the image do not take part. One
// thread a chunk of 8 channels of a position; `count` of these in all.
extern "C" __global__ void __launch_bounds__(256)
    ENTRY(max_pool)(const NUMBER *__restrict__ x, NUMBER *__restrict__ out, unsigned long long count, int side,
                    int columns, int kernel, int stride, int padding, int positions) {
    unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    let_next_start();
    wait_for_previous();
    if (i >= count) return;
    int chunks = columns / 8, column = (int)(i % chunks) * 8;
    unsigned long long position = i / chunks;
    int rest = (int)(position % (positions * positions));
    int top = rest / positions * stride - padding, left = rest % positions * stride - padding;
    const NUMBER *image = x + position / (positions * positions) * side * side * columns + column;
    float largest[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) largest[j] = __int_as_float(0xff800000);
    for (int row = max(top, 0); row < min(top + kernel, side); ++row)
        for (int across = max(left, 0); across < min(left + kernel, side); ++across) {
            float v[8];
            load8(image + ((long long)row * side + across) * columns, v);
#pragma unroll
            for (int j = 0; j < 8; ++j)
                if (!(v[j] <= largest[j])) largest[j] = v[j]; // NaN is not lost
        }
    store8(out + i * 8, largest);
}

// The mean of each column over the `rows` rows of a sample. A block of 8 warps has 64 columns, a
// thread 8 columns of every 32nd row.
extern "C" __global__ void __launch_bounds__(256)
    ENTRY(mean)(const NUMBER *__restrict__ x, NUMBER *__restrict__ out, int rows, int columns) {
    __shared__ float sums[32][65];
    int blocks = (columns + 63) / 64, sample = blockIdx.x / blocks;
    int chunk = threadIdx.x % 8, group = threadIdx.x / 8, column = blockIdx.x % blocks * 64 + chunk * 8;
    float sum[8] = {};
    let_next_start();
    wait_for_previous();
    if (column < columns)
        for (int row = group; row < rows; row += 32) {
            float v[8];
            load8(x + ((long long)sample * rows + row) * columns + column, v);
#pragma unroll
            for (int j = 0; j < 8; ++j) sum[j] += v[j];
        }
#pragma unroll
    for (int j = 0; j < 8; ++j) sums[group][chunk * 8 + j] = sum[j];
    __syncthreads();
    int mine = blockIdx.x % blocks * 64 + threadIdx.x;
    if (threadIdx.x >= 64 || mine >= columns) return;
    float total = 0;
#pragma unroll
    for (int i = 0; i < 32; ++i) total += sums[i][threadIdx.x];
    narrow(out[(long long)sample * columns + mine], total / rows);
}
