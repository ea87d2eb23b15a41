// Nothing: what launching a kernel costs by itself.

extern "C" __global__ void null() {}
