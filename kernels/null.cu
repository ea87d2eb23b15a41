// What computes nothing: an empty kernel, and one that takes a given time.

extern "C" __global__ void null() {}

__device__ inline unsigned long long nanoseconds() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

// One thread, so that it takes time and nothing else of the device.
extern "C" __global__ void spin(unsigned long long duration) {
    const unsigned long long start = nanoseconds();
    while (nanoseconds() - start < duration) {
    }
}
