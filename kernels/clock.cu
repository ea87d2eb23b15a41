// The clock of a multiprocessor, without asking the driver: how far its cycle counter runs while the
// GPU's wall clock passes `spin_ns`. One thread a block, one block a multiprocessor.
//
// %globaltimer moves in steps, of 32 ns to about 1 us by the GPU: both ends are taken just after a step.

__device__ __forceinline__ unsigned long long wall_ns() {
    unsigned long long t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

__device__ __forceinline__ unsigned long long cycles() {
    unsigned long long c;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(c));
    return c;
}

// out: for each block the multiprocessor, the nanoseconds and the cycles.
extern "C" __global__ void clock_probe(unsigned long long *out, unsigned int spin_ns) {
    unsigned int sm;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    const unsigned long long before = wall_ns();
    unsigned long long start = before;
    while (start == before) {
        start = wall_ns();
    }
    const unsigned long long first = cycles();
    unsigned long long end = start;
    while (end - start < spin_ns) {
        end = wall_ns();
    }
    const unsigned long long last = cycles();
    unsigned long long *mine = out + 3 * blockIdx.x;
    mine[0] = sm;
    mine[1] = end - start;
    mine[2] = last - first;
}
