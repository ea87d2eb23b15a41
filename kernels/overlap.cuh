// Overlap of a kernel's start with the end of the one before it (programmatic dependent launch),
// where the GPU can: nothing at all before compute capability 9.0.
//
// A file that includes this one is also compiled for sm_90a, and the host then launches its kernels
// so that they may start early. Each of them therefore calls both of these, on every path that
// touches memory which a kernel before it reads or writes; weights are neither.
#pragma once

// The next kernel's blocks may start as soon as all of this one's have come here.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Returns when the kernels before this one are done and what they wrote is visible.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
