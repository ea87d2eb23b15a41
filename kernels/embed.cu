// out[r] = word[tokens[r]] + position[r mod seq_len] + segment[0], summed in fp32.
//
// One thread a chunk of 8 columns; `columns` is a multiple of 8.

#include "number.cuh" // also in fp32
#include "overlap.cuh"

template <class T>
DEVICE void embed(const unsigned *tokens, const T *word, const T *position, const T *segment, T *out,
                  unsigned rows, unsigned seq_len, unsigned columns) {
    unsigned chunks = columns / 8;
    unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    let_next_start();
    wait_for_previous();
    if (i >= (unsigned long long)rows * chunks) return;
    unsigned row = (unsigned)(i / chunks);
    unsigned column = (unsigned)(i % chunks) * 8;
    float w[8], p[8], s[8];
    load8(word + (unsigned long long)tokens[row] * columns + column, w);
    load8(position + (unsigned long long)(row % seq_len) * columns + column, p);
    load8(segment + column, s);
#pragma unroll
    for (int j = 0; j < 8; ++j) w[j] += p[j] + s[j];
    store8(out + (unsigned long long)row * columns + column, w);
}

extern "C" __global__ void __launch_bounds__(256)
    ENTRY(embed)(const unsigned *tokens, const NUMBER *word, const NUMBER *position, const NUMBER *segment,
                 NUMBER *out, unsigned rows, unsigned seq_len, unsigned columns) {
    embed(tokens, word, position, segment, out, rows, seq_len, columns);
}
