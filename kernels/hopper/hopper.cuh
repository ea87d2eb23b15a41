// Hopper's own instructions, without CUDA's headers: barriers in shared memory that count bytes
// (mbarrier), copies of whole tiles by the copy engine (cp.async.bulk.tensor), and the matrix
// product of a group of four warps (wgmma). Inline PTX of ISA 8.1 / sm_90a.
#pragma once

// What cuTensorMapEncodeTiled writes; a kernel takes it as a __grid_constant__ argument.
struct alignas(64) TensorMap {
    unsigned long long opaque[16];
};

// One thread of each block initialises; `fence_barriers` and a barrier of all come before their use.
DEVICE void barrier_init(unsigned barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
DEVICE void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// An arrival, and the bytes that must arrive too before the phase is over.
DEVICE void barrier_expect(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// The address of the same place in block `block` of the cluster.
DEVICE unsigned in_block(unsigned address, unsigned block) {
    unsigned remote;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(block));
    return remote;
}
DEVICE uint4 load_shared(unsigned address) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}
DEVICE float2 load_shared_two(unsigned address) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address) : "memory");
    return v;
}
DEVICE void store_shared(unsigned address, const float *two) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(two[0]), "f"(two[1]) : "memory");
}
// Two numbers for shared memory of some block of the cluster, whose 8 bytes count at a barrier of that block: an
// arrival there after ordinary stores would wait for everything that this one has on its way to memory.
DEVICE void store_remote(unsigned address, const float *two, unsigned barrier) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                     address),
                 "f"(two[0]), "f"(two[1]), "r"(barrier)
                 : "memory");
}
DEVICE void barrier_arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Returns when the phase of this parity is over.
DEVICE void barrier_wait(unsigned barrier, unsigned parity) {
    asm volatile("{.reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra over;\n"
                 "bra again;\n"
                 "over:}" ::"r"(barrier), "r"(parity)
                 : "memory");
}

// The same, and what the other block wrote before it released is visible.
DEVICE void barrier_acquire(unsigned barrier, unsigned parity) {
    asm volatile("{.reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra over;\n"
                 "bra again;\n"
                 "over:}" ::"r"(barrier), "r"(parity)
                 : "memory");
}

// A counter in device memory: one more, after what this thread's block has written.
DEVICE void count_up(unsigned *counter) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
// The same; returns what it was before, and what was written before the others counted is visible.
DEVICE unsigned count_up_and_see(unsigned *counter) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}
// Returns when it has come to `count`, and what was written before is visible.
DEVICE void wait_for_count(const unsigned *counter, unsigned count) {
    unsigned now;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
    } while (now != count);
}

// True for one of the lanes of a warp, which all come here together. The compiler knows that it is one: what that
// lane tells the copy engine then needs no loop over lanes.
DEVICE bool is_elected() {
    unsigned elected;
    asm volatile("{.reg .pred elected;\n"
                 "elect.sync _|elected, 0xffffffff;\n"
                 "selp.u32 %0, 1, 0, elected;}"
                 : "=r"(elected)::"memory");
    return elected;
}

// What all lanes of a warp have the same, from one of them: so the compiler knows, can keep it in uniform registers, and
// does not work it out again at each use.
DEVICE unsigned uniform(unsigned value) { return __shfl_sync(0xffffffff, value, 0); }

DEVICE unsigned cluster_rank() {
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// All threads of all blocks of the cluster.
DEVICE void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Of `threads` threads of the block that name the same `id`, 1 to 15.
DEVICE void named_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
DEVICE void named_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Moves registers between the roles of a block; all four warps of a group call it.
template <int registers> DEVICE void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers> DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

DEVICE void prefetch_map(const TensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// One box of a matrix from device to shared memory; its bytes count at `barrier`.
DEVICE void copy_tile_in(unsigned to, const TensorMap *map, int column, int row, unsigned barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(barrier)
                 : "memory");
}
// The same of a stack of matrices.
DEVICE void copy_tile_in(unsigned to, const TensorMap *map, int column, int row, int matrix, unsigned barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(matrix), "r"(barrier)
                 : "memory");
}
DEVICE void copy_tile_out(const TensorMap *map, int column, int row, int matrix, unsigned from) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map),
                 "r"(column), "r"(row), "r"(matrix), "r"(from)
                 : "memory");
}
// One box from shared to device memory; what lies beyond the matrix is not written. The writers of
// the box have called `fence_for_copies` before a barrier with the thread that calls this.
DEVICE void copy_tile_out(const TensorMap *map, int column, int row, unsigned from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
                 "r"(column), "r"(row), "r"(from)
                 : "memory");
}
// What this thread wrote to device memory, or knows to be written, before what the copy engine reads there.
DEVICE void fence_for_copies_of_memory() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
DEVICE void fence_for_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void copies_out_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// All but the latest `pending` groups of this thread have been read from shared memory.
template <int pending> DEVICE void copies_out_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}

// Four 8 x 8 blocks of 16-bit numbers from the fragments of a product to shared memory; lane l names
// row l % 8 of block l / 8.
DEVICE void stmatrix(unsigned address, unsigned r0, unsigned r1, unsigned r2, unsigned r3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r0),
                 "r"(r1), "r"(r2), "r"(r3)
                 : "memory");
}

// Where wgmma finds an operand: rows of 128 or 64 bytes, swizzled as the copy engine does. `leading`
// and `stride` are bytes between blocks of rows; the PTX manual's 'matrix descriptor' has the units.
template <int row_bytes> DEVICE unsigned long long descriptor(unsigned address, unsigned leading, unsigned stride) {
    static_assert(row_bytes == 128 || row_bytes == 64, "a swizzle of this width");
    return (unsigned long long)(row_bytes == 128 ? 1 : 2) << 62 | (unsigned long long)(stride >> 4) << 32 |
           (unsigned long long)(leading >> 4) << 16 | (address >> 4 & 0x3fff);
}

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending> DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// sum (+)= a (64 x 16, from shared memory, rows along k) · b (16 x N, from shared memory, rows along
// N), by four warps; `keep` 0 forgets what was in sum.
#define REGISTERS_16                                                                                 \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define REGISTERS_32 REGISTERS_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define REGISTERS_48 REGISTERS_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define REGISTERS_64 REGISTERS_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define REGISTERS_80 REGISTERS_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define REGISTERS_96 REGISTERS_80 ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define SUMS_8(i)                                                                                     \
    "+f"(sum[i]), "+f"(sum[i + 1]), "+f"(sum[i + 2]), "+f"(sum[i + 3]), "+f"(sum[i + 4]),             \
        "+f"(sum[i + 5]), "+f"(sum[i + 6]), "+f"(sum[i + 7])
#define SUMS_16(i) SUMS_8(i), SUMS_8(i + 8)
#define SUMS_32 SUMS_16(0), SUMS_16(16)
#define SUMS_48 SUMS_32, SUMS_16(32)
#define SUMS_64 SUMS_48, SUMS_16(48)
#define SUMS_96 SUMS_64, SUMS_16(64), SUMS_16(80)

template <class T, int N> struct Wgmma;
// COUNT registers a thread; A, B, K are the operands after them.
#define WGMMA(TYPE, NAME, N, COUNT, SUMS, A, B, K)                                                    \
    template <> struct Wgmma<TYPE, N> {                                                               \
        DEVICE static void run(float *sum, unsigned long long a, unsigned long long b, int keep) {    \
            asm volatile("{.reg .pred keep;\n"                                                        \
                         "setp.ne.b32 keep, %" #K ", 0;\n"                                            \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME              \
                         " {" REGISTERS_##COUNT "}, %" #A ", %" #B ", keep, 1, 1, 0, 1;}"             \
                         : SUMS                                                                       \
                         : "l"(a), "l"(b), "r"(keep));                                                \
        }                                                                                             \
    };
#define WGMMAS(TYPE, NAME)                                                                            \
    WGMMA(TYPE, NAME, 32, 16, SUMS_16(0), 16, 17, 18)                                                 \
    WGMMA(TYPE, NAME, 64, 32, SUMS_32, 32, 33, 34)                                                    \
    WGMMA(TYPE, NAME, 96, 48, SUMS_48, 48, 49, 50)                                                    \
    WGMMA(TYPE, NAME, 128, 64, SUMS_64, 64, 65, 66)                                                   \
    WGMMA(TYPE, NAME, 192, 96, SUMS_96, 96, 97, 98)
WGMMAS(half_t, "f16")
WGMMAS(bfloat_t, "bf16")

// The two products of attention, `keep` as above: scores (64 x 128) = a (64 x 16) · bᵀ, both from shared
// memory with their rows along k; and sum (64 x 64) = weights (64 x 16, in registers) · b (16 x 64, from
// shared memory, rows along N).
template <class T> struct Scores;
template <class T> struct Weighted;
#define ATTENTION(TYPE, NAME)                                                                         \
    template <> struct Scores<TYPE> {                                                                 \
        DEVICE static void run(float *sum, unsigned long long a, unsigned long long b, int keep) {    \
            asm volatile("{.reg .pred keep;\n"                                                        \
                         "setp.ne.b32 keep, %66, 0;\n"                                                \
                         "wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME                 \
                         " {" REGISTERS_64 "}, %64, %65, keep, 1, 1, 0, 0;}"                          \
                         : SUMS_64                                                                    \
                         : "l"(a), "l"(b), "r"(keep));                                                \
        }                                                                                             \
    };                                                                                                \
    template <> struct Weighted<TYPE> {                                                               \
        DEVICE static void run(float *sum, const unsigned *a, unsigned long long b, int keep) {       \
            asm volatile("{.reg .pred keep;\n"                                                        \
                         "setp.ne.b32 keep, %37, 0;\n"                                                \
                         "wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME                  \
                         " {" REGISTERS_32 "}, {%32, %33, %34, %35}, %36, keep, 1, 1, 1;}"            \
                         : SUMS_32                                                                    \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));            \
        }                                                                                             \
    };
ATTENTION(half_t, "f16")
ATTENTION(bfloat_t, "bf16")
