// The 16-bit number formats, without CUDA's headers: conversion, packing, the tensor cores' product,
// and the copies between memories that the kernels share. Everything is inline PTX of PTX ISA 7.0 /
// sm_80.
//
// kernels/generate compiles a file that includes this one twice, and a third time one that says so:
// NUMBER is the format, and ENTRY(x) names a kernel x_f16, x_bf16 or x_f32.
#pragma once

struct half_t {
    unsigned short x;
};
struct bfloat_t {
    unsigned short x;
};

#ifdef F32
#define NUMBER float
#define ENTRY(name) name##_f32
#elif defined BF16
#define NUMBER bfloat_t
#define ENTRY(name) name##_bf16
#else
#define NUMBER half_t
#define ENTRY(name) name##_f16
#endif
#define DEVICE __device__ __forceinline__

DEVICE float widen(half_t v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.x));
    return f;
}
DEVICE float widen(float v) { return v; }
DEVICE float widen(bfloat_t v) { return __uint_as_float((unsigned)v.x << 16); }

// Round to nearest, ties to even.
DEVICE void narrow(half_t &v, float f) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v.x) : "f"(f)); }
DEVICE void narrow(bfloat_t &v, float f) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(v.x) : "f"(f)); }

DEVICE void narrow(float &v, float f) { v = f; }

// Two numbers in one register, `low` first in memory.
template <class T> DEVICE unsigned pack(float low, float high);
template <> DEVICE unsigned pack<half_t>(float low, float high) {
    unsigned d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}
template <> DEVICE unsigned pack<bfloat_t>(float low, float high) {
    unsigned d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}
template <class T> DEVICE void unpack(unsigned two, float &low, float &high) {
    low = widen(T{(unsigned short)(two & 0xffff)});
    high = widen(T{(unsigned short)(two >> 16)});
}

// Eight numbers, 16 bytes: the widest access of one thread.
template <class T> DEVICE void unpack8(uint4 raw, float (&v)[8]) {
    unpack<T>(raw.x, v[0], v[1]);
    unpack<T>(raw.y, v[2], v[3]);
    unpack<T>(raw.z, v[4], v[5]);
    unpack<T>(raw.w, v[6], v[7]);
}
// Eight numbers as they lie in memory; fp32 takes two accesses.
template <class T> struct Raw8 {
    uint4 raw;
    DEVICE void unpack(float (&v)[8]) const { unpack8<T>(raw, v); }
};
template <> struct Raw8<float> {
    float4 low, high;
    DEVICE void unpack(float (&v)[8]) const {
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
        v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    }
};
template <class T> DEVICE void load8(const T *from, float (&v)[8]) { ((const Raw8<T> *)from)->unpack(v); }
template <class T> DEVICE void store8(T *to, const float (&v)[8]) {
    *(uint4 *)to = make_uint4(pack<T>(v[0], v[1]), pack<T>(v[2], v[3]), pack<T>(v[4], v[5]),
                              pack<T>(v[6], v[7]));
}
template <> DEVICE void store8<float>(float *to, const float (&v)[8]) {
    ((float4 *)to)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

// c += a (16 x 16) · b (16 x 8) by one warp, fp32 sums.
template <class T> DEVICE void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
template <>
DEVICE void mma<half_t>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
DEVICE void mma<bfloat_t>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

// Four 8 x 8 blocks of 16-bit numbers from shared memory into the fragments of mma; lane l names
// row l % 8 of block l / 8.
DEVICE void ldmatrix(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}
DEVICE void ldmatrix_transposed(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

// 16 bytes from device to shared memory without waiting; zeros, and no access, unless `valid`.
DEVICE void copy_async(unsigned to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(to), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Returns when all but the latest `pending` groups of this thread have arrived.
template <int pending> DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Where 16-byte chunk `chunk` of row `row` lies in a tile of shared memory whose rows have
// `chunks` of them. The exclusive or spreads eight rows of one column over all 32 banks, for rows
// of whole and of odd half multiples of 128 bytes.
template <int chunks> DEVICE int swizzle(int row, int chunk) {
    static_assert(chunks % 4 == 0, "rows are multiples of 64 bytes");
    return row * chunks + (chunk ^ (chunks % 8 == 0 ? row & 7 : (row >> 1) & 3));
}
