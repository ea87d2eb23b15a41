// to = from: `count` chunks of 16 bytes, four a thread.

#include "overlap.cuh"

extern "C" __global__ void __launch_bounds__(512)
    copy(const uint4 *__restrict__ from, uint4 *__restrict__ to, unsigned long long count) {
    unsigned long long first = blockIdx.x * 2048ull + threadIdx.x;
    uint4 chunk[4];
    let_next_start();
    wait_for_previous();
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (first + i * 512 < count) chunk[i] = __ldcs(from + first + i * 512);
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (first + i * 512 < count) __stcs(to + first + i * 512, chunk[i]);
}
