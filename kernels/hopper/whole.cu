// A whole decode step in one kernel: look-up, products of few rows, attention over a cache and the choice
// of a token, one phase after another. What such a step waits for is the memory, which must never be idle.
//
// One block a multiprocessor, all of them at once (a cooperative launch), in clusters of two. They meet
// after each phase. What does not depend on an earlier phase, weights and the cache, is copied STAGES steps
// ahead through all phases, by a thread that waits for nothing but room; what does, x, by another one
// which waits for all blocks. Eight warps compute.
//
// The two blocks of a cluster share each tile of a product and each kv head of an attention, half of k or of
// the context for either, and take turns to finish it: the one sends its part to the other's shared memory.
// All sums are added in a fixed order: results do not depend on timing.
//
// Phases, and how they depend on shapes, come from src/workload/cuda/whole.rs.

#include "number.cuh"
#include "overlap.cuh"
#include "activate.cuh"
#include "hopper.cuh"
#include "softmax.cuh"
#include "few.cuh"
#include "cached.cuh"

// Of a step: k of a product, keys of an attention. Numbers of a head, most heads of a kv head.
constexpr int SPAN = 2 * STEP, KEYS = 64, WIDTH = 64, MOST = 4;
constexpr int MOST_PHASES = 96;

enum Kind { LOOKUP = 0, PRODUCT = 1, ATTENTION = 2, ARGMAX = 3 };

// What the phases of a batch of m samples compute, and from what:
//   LOOKUP     out (m x n) = the rows of b (table) that a (tokens) names
//   PRODUCT    out = activation(x · weight, m x n, + a), where x, m x k, is first divided by its root mean
//              square if epsilon is not 0; a may be null, and be out
//   ATTENTION  out = attention of the queries in a (qkv), turned by the angles in b, over c (cache), k rows a
//              sample, of which the last becomes a's key and value
//   ARGMAX     out (m) = the columns of the largest of a, m x n
struct alignas(16) Phase {
    int kind, n, k, columns /* of a tile */, activation, heads, kv_heads;
    float epsilon;
    const void *a, *b;
    void *c, *out;
};
// Of a product: x and weight. Of an attention: the cache as `weight`.
struct Maps {
    TensorMap x, weight;
};

// The part of a phase that a block has: units (tiles, or kv heads of samples) from its cluster's number on,
// and of each the steps along k or the context.
struct Part {
    int units, first, end;
    DEVICE Part(const Phase &phase, int m) {
        const bool product = phase.kind == PRODUCT, attention = phase.kind == ATTENTION;
        const int size = product ? SPAN : KEYS, all = (phase.k + size - 1) / size, share = (all + 1) / 2;
        units = product ? (phase.n + phase.columns - 1) / phase.columns : attention ? m * phase.kv_heads : 0;
        first = cluster_rank() * share, end = min(first + share, all);
    }
};

template <class T, int ROWS, int STAGES> struct Block {
    struct Place {
        int stage = 0, turn = 0; // the parity of the rounds before
        DEVICE void go_on() {
            if (++stage == STAGES) stage = 0, turn ^= 1;
        }
    };
    static constexpr unsigned WEIGHT = SPAN * 64 * 2, STAGE = WEIGHT + ROWS * SPAN * 2;
    // Of the widest tile, or of 16 warps' part of an attention.
    static constexpr int TILE_SUMS = 4 * ROWS * (64 + 8) * 4, SHARES = 2 * WARPS * MOST * (WIDTH + 2) * 4;
    static constexpr unsigned SUMS = TILE_SUMS > SHARES ? TILE_SUMS : SHARES;

    unsigned ring, sums, full, empty, arrived, ready; // addresses in shared memory
    float *all, *scales;                              // the sums again; of x's rows
    Phase *phases;
    const Maps *maps;
    unsigned *counters;
    unsigned long long *best;
    int m, cluster, clusters, rank;
    Place place;      // in the ring
    int finished = 0; // units, by both blocks: their parity says whose turn it is

    // Fills the ring.
    template <class Act> DEVICE void fill_each(const Part &part, Act act) {
        for (int unit = cluster; unit < part.units; unit += clusters)
#pragma unroll 1
            for (int step = part.first; step < part.end; ++step, place.go_on()) {
                barrier_wait(empty + 8 * place.stage, place.turn ^ 1);
                act(unit, step, ring + place.stage * STAGE, full + 8 * place.stage);
            }
    }
    // Empties it: of a unit every `OF`-th step, from the one with this number on. Other warps take the others.
    template <int OF, class Act> DEVICE void use_each(const Part &part, int number, Act act) {
#pragma unroll 1
        for (int step = part.first; step < part.end; ++step, place.go_on()) {
            // Also for another's: a parity tells one turn of a stage from the next, not from the one after that.
            barrier_wait(full + 8 * place.stage, place.turn);
            if ((step - part.first) % OF == number) act(step, ring + place.stage * STAGE);
            __syncwarp();
            if (threadIdx.x % 32 == 0) barrier_arrive(empty + 8 * place.stage);
        }
    }

    // What no phase computes.
    DEVICE void copy_constants(int count) {
        for (int p = 0; p < count; ++p) {
            const Phase phase = phases[p];
            const TensorMap *map = &maps[p].weight;
            if (p + 1 < count) prefetch_map(&maps[p + 1].weight), prefetch_map(&maps[p + 1].x);
            const Part part(phase, m);
            if (phase.kind == PRODUCT)
                fill_each(part, [&](int tile, int step, unsigned to, unsigned barrier) {
                    barrier_expect(barrier, SPAN * phase.columns * 2);
                    copy_tile_in(to, map, tile * phase.columns, step * SPAN, barrier);
                });
            else
                fill_each(part, [&](int unit, int step, unsigned to, unsigned barrier) {
                    const int sample = unit / phase.kv_heads, kv = unit % phase.kv_heads;
                    barrier_expect(barrier, 2 * KEYS * WIDTH * 2);
                    copy_tile_in(to, map, kv * WIDTH, step * KEYS, sample, barrier);
                    copy_tile_in(to + KEYS * WIDTH * 2, map, (phase.kv_heads + kv) * WIDTH, step * KEYS, sample,
                                 barrier);
                });
        }
    }

    // What some phase computes, and the word that it has.
    DEVICE void copy_computed(int count) {
        for (int p = 0; p < count; ++p) {
            const Part part(phases[p], m);
            const bool product = phases[p].kind == PRODUCT;
            const TensorMap *map = &maps[p].x;
            if (p > 0) wait_for_count(counters + p - 1, gridDim.x);
            fence_for_copies_of_memory();
            barrier_arrive(ready);
            if (product)
                fill_each(part, [&](int, int step, unsigned to, unsigned barrier) {
                    barrier_expect(barrier, ROWS * SPAN * 2);
                    copy_tile_in(to + WEIGHT, map, 0, 0, step * (SPAN / STEP), barrier);
                });
            else
                fill_each(part, [&](int, int, unsigned, unsigned barrier) { barrier_arrive(barrier); });
        }
    }

    DEVICE void compute(int count) {
        __shared__ bool last;
        for (int p = 0; p < count; ++p) {
            const Phase phase = phases[p];
            barrier_wait(ready, p & 1);
            if (phase.kind == LOOKUP) look_up(phase);
            if (phase.kind == PRODUCT && phase.columns == 64) multiply<64>(phase);
            if (phase.kind == PRODUCT && phase.columns == 32) multiply<32>(phase);
            if (phase.kind == ATTENTION) attend(phase);
            if (phase.kind == ARGMAX) find_largest(phase);
            fence_for_copies_of_memory();
            named_sync(1, THREADS);
            if (threadIdx.x > 0) continue;
            if (p + 1 < count) count_up(counters + p);
            else last = count_up_and_see(counters + p) + 1 == gridDim.x;
        }
        // The counters are zero before and after, and so is what the blocks found.
        named_sync(1, THREADS);
        if (!last) return;
        for (int p = threadIdx.x; p < count; p += THREADS) counters[p] = 0;
        const Phase &phase = phases[count - 1];
        if (phase.kind == ARGMAX && threadIdx.x < m) {
            ((unsigned *)phase.out)[threadIdx.x] = ~(unsigned)__ldcg(best + threadIdx.x);
            best[threadIdx.x] = 0;
        }
    }

    DEVICE void look_up(const Phase &phase) {
        for (int row = blockIdx.x; row < m; row += gridDim.x) {
            const uint4 *from =
                (const uint4 *)((const T *)phase.b + (long long)((const unsigned *)phase.a)[row] * phase.n);
            uint4 *to = (uint4 *)((T *)phase.out + (long long)row * phase.n);
            for (int i = threadIdx.x; i < phase.n / 8; i += THREADS) to[i] = from[i];
        }
    }

    // A block's part of the columns of a row; the largest of all blocks is found by the counter of each row,
    // which holds a number of the same order as the value, then the column, the first the largest.
    DEVICE void find_largest(const Phase &phase) {
        const int parts = max(1, gridDim.x / m), chunks = phase.n / 8, share = (chunks + parts - 1) / parts;
        for (int job = blockIdx.x; job < m * parts; job += gridDim.x) {
            const int row = job / parts, end = min((job % parts + 1) * share, chunks);
            const T *x = (const T *)phase.a + (long long)row * phase.n;
            float largest = -INFINITY;
            unsigned place = 0;
            for (int chunk = job % parts * share + threadIdx.x; chunk < end; chunk += THREADS) {
                float v[8];
                unpack8<T>(__ldcg((const uint4 *)(x + chunk * 8)), v);
#pragma unroll
                for (int j = 0; j < 8; ++j)
                    if (v[j] > largest) largest = v[j], place = chunk * 8 + j;
            }
            const unsigned bits = __float_as_uint(largest), order = bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
            unsigned long long key = (unsigned long long)order << 32 | ~place;
#pragma unroll
            for (int lane = 16; lane > 0; lane /= 2) key = max(key, __shfl_xor_sync(0xffffffff, key, lane));
            if (threadIdx.x % 32 == 0) atomicMax(best + row, key);
        }
    }

    // Sends this warp's part of a unit, which `store` puts where it is told, and returns whether this block
    // finishes the unit; then all parts of both blocks are there. A block's warps send `bytes` together.
    template <class Store> DEVICE bool exchange(int bytes, Store store) {
        const int finisher = finished & 1, turn = finished >> 1 & 1;
        ++finished;
        if (rank != finisher) {
            const unsigned barrier = in_block(arrived, finisher);
            store(in_block(sums, finisher), [&](unsigned to, float v) { store_remote(to, v, barrier); });
            return false;
        }
        // What is there was read. The other block sends only after this one has sent it the unit between.
        named_sync(1, THREADS);
        if (threadIdx.x == 0) barrier_expect(arrived, bytes);
        store(sums, [](unsigned to, float v) { store_shared(to, v); });
        named_sync(1, THREADS);
        barrier_acquire(arrived, turn);
        return true;
    }

    // Is it this block's turn?
    DEVICE bool finishes() const { return rank == (finished & 1); }

    template <int COLUMNS> DEVICE void multiply(const Phase &phase) {
        using S = Shape<COLUMNS, ROWS>;
        const Part part(phase, m);
        for (int tile = cluster; tile < part.units; tile += clusters) {
            Few<T, COLUMNS, ROWS> mine;
            // What will be added, of which this thread finishes four columns of some rows.
            constexpr int GROUPS = COLUMNS / 4, APART = THREADS / GROUPS, COUNT = (ROWS + APART - 1) / APART;
            const int column = tile * COLUMNS + threadIdx.x % GROUPS * 4, first_row = threadIdx.x / GROUPS;
            uint2 residual[COUNT] = {};
            if (phase.a && finishes() && column < phase.n)
#pragma unroll
                for (int i = 0; i < COUNT; ++i) {
                    const int row = first_row + i * APART;
                    const uint2 *from = (const uint2 *)((const T *)phase.a + (long long)row * phase.n + column);
                    if (row < m) residual[i] = __ldcg(from);
                }
            // Either block has the scales after the first tile that it finishes.
            const bool measures = phase.epsilon > 0 && tile < cluster + 2 * clusters, squared = measures && mine.column == 0;
            use_each<S::GROUPS>(part, mine.group, [&](int, unsigned at) {
#pragma unroll 1
                for (int i = 0; i < SPAN / STEP; ++i)
                    mine.add(at + i * S::WEIGHT, at + WEIGHT + i * S::X, squared);
            });
            const int bytes = S::GROUPS * ROWS * (COLUMNS + (measures ? 1 : 0)) * 4;
            const bool mine_to_finish = exchange(bytes, [&](unsigned to, auto put) {
                mine.store(to, rank * S::GROUPS + mine.group, put);
                if (squared) mine.store_squares(to, rank * S::GROUPS + mine.group, put);
            });
            if (!mine_to_finish) continue;
            if (measures) {
                if (threadIdx.x < ROWS) {
                    float total = 0;
#pragma unroll
                    for (int part = 0; part < 2 * S::GROUPS; ++part)
                        total += all[(part * ROWS + threadIdx.x) * S::PITCH + COLUMNS];
                    scales[threadIdx.x] = 1.0f / sqrtf(total / phase.k + phase.epsilon);
                }
                named_sync(1, THREADS);
            }
            if (column < phase.n)
#pragma unroll
                for (int i = 0; i < COUNT; ++i)
                    if (first_row + i * APART < m) finish<COLUMNS>(phase, first_row + i * APART, column, residual[i]);
        }
    }

    // Adds the parts of four columns of a row and writes the result.
    template <int COLUMNS> DEVICE void finish(const Phase &phase, int row, int column, uint2 residual) {
        using S = Shape<COLUMNS, ROWS>;
        float4 v = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int part = 0; part < 2 * S::GROUPS; ++part) {
            const float4 other = *(const float4 *)&all[(part * ROWS + row) * S::PITCH + column % COLUMNS];
            v.x += other.x, v.y += other.y, v.z += other.z, v.w += other.w;
        }
        if (phase.epsilon > 0) {
            const float scale = scales[row];
            v.x *= scale, v.y *= scale, v.z *= scale, v.w *= scale;
        }
        const long long place = (long long)row * phase.n + column;
        if (phase.activation == SWIGLU) {
            *(unsigned *)((T *)phase.out + place / 2) = pack<T>(gate(v.x, v.y), gate(v.z, v.w));
            return;
        }
        float r[4];
        unpack<T>(residual.x, r[0], r[1]), unpack<T>(residual.y, r[2], r[3]);
        *(uint2 *)((T *)phase.out + place) =
            make_uint2(pack<T>(v.x + r[0], v.y + r[1]), pack<T>(v.z + r[2], v.w + r[3]));
    }

    // Four warps share the keys of a step, the others take the next.
    DEVICE void attend(const Phase &phase) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tile = warp % (KEYS / 16);
        const int group = phase.heads / phase.kv_heads, context = phase.k;
        const Part part(phase, m);
        Given given;
        if (cluster < part.units) given.load(phase, cluster);
        for (int unit = cluster; unit < part.units; unit += clusters) {
            const int sample = unit / phase.kv_heads, kv = unit % phase.kv_heads;
            unsigned query[WIDTH / 16][4];
            given.turn_queries(query, (const T *)phase.b);
            Attended<T, WIDTH> mine;
            use_each<WARPS * 16 / KEYS>(part, warp / (KEYS / 16), [&](int step, unsigned keys) {
                const int first = step * KEYS + tile * 16, newest = context - 1 - first; // its row in the tile
                const unsigned values = keys + KEYS * WIDTH * 2;
                const unsigned my_keys = keys + tile * 16 * WIDTH * 2, my_values = values + tile * 16 * WIDTH * 2;
                if (newest < 0) return;
                if (newest < 16) {
                    const long long row = ((long long)sample * context + context - 1) * 2 * phase.kv_heads;
                    T *cache = (T *)phase.c + (row + kv) * WIDTH;
                    given.take_in((const T *)phase.b, cache, phase.kv_heads * WIDTH, my_keys, my_values, newest);
                }
                mine.add(query, my_keys, my_values, first, context);
            });
            if (unit + clusters < part.units) given.load(phase, unit + clusters);
            // Each warp's share of each head: the sums, the largest score, the total.
            constexpr int SIZE = WIDTH + 2;
            const float total = quad_sum(mine.total);
            const bool mine_to_finish = exchange(WARPS * MOST * SIZE * 4, [&](unsigned to, auto put) {
                if (lane / 4 >= MOST) return;
                to += ((rank * WARPS + warp) * MOST + lane / 4) * SIZE * 4;
#pragma unroll
                for (int j = 0; j < WIDTH / 8; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e) put(to + (j * 8 + lane % 4 * 2 + e) * 4, mine.sum[j][e]);
                if (lane % 4 == 0) put(to + WIDTH * 4, mine.largest), put(to + WIDTH * 4 + 4, total);
            });
            if (!mine_to_finish) continue;
            T *out = (T *)phase.out + ((long long)sample * phase.heads + kv * group) * WIDTH;
            for (int i = threadIdx.x; i < group * WIDTH; i += THREADS) {
                Share<1> share = {-INFINITY, 0, {0}};
#pragma unroll
                for (int w = 0; w < 2 * WARPS; ++w) {
                    const float *from = all + (w * MOST + i / WIDTH) * SIZE;
                    const float sum[1] = {from[i % WIDTH]};
                    share.add(from[WIDTH], from[WIDTH + 1], sum);
                }
                narrow(out[i], share.sum[0] / share.total);
            }
        }
    }

    // What a lane is given of a unit of an attention, loaded while the unit before it is finished: elements of
    // the queries, and of the newest key and its value.
    struct Given {
        unsigned low[WIDTH / 16], high[WIDTH / 16]; // two elements each, half a head apart
        unsigned short key[2], value[2];

        DEVICE void load(const Phase &phase, int unit) {
            const int lane = threadIdx.x % 32, sample = unit / phase.kv_heads, kv = unit % phase.kv_heads;
            const int group = phase.heads / phase.kv_heads;
            const T *qkv = (const T *)phase.a + (long long)sample * (phase.heads + 2 * phase.kv_heads) * WIDTH;
            const T *query = qkv + (kv * group + lane / 4) * WIDTH + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < WIDTH / 16; ++i) {
                low[i] = lane / 4 < group ? __ldcg((const unsigned *)(query + i * 8)) : 0;
                high[i] = lane / 4 < group ? __ldcg((const unsigned *)(query + i * 8 + WIDTH / 2)) : 0;
            }
            const T *newest = qkv + (phase.heads + kv) * WIDTH + lane;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                key[half] = __ldcg(&newest[half * WIDTH / 2].x);
                value[half] = __ldcg(&newest[phase.kv_heads * WIDTH + half * WIDTH / 2].x);
            }
        }

        // The queries as a left operand whose rows are heads, beyond the group's zeros, turned by the angles:
        // cosines, then sines.
        DEVICE void turn_queries(unsigned (&query)[WIDTH / 16][4], const T *angles) const {
            angles += threadIdx.x % 4 * 2;
#pragma unroll
            for (int i = 0; i < WIDTH / 16; ++i) {
                float a[2], b[2], cosine[2], sine[2];
                unpack<T>(low[i], a[0], a[1]), unpack<T>(high[i], b[0], b[1]);
                unpack<T>(*(const unsigned *)(angles + i * 8), cosine[0], cosine[1]);
                unpack<T>(*(const unsigned *)(angles + WIDTH / 2 + i * 8), sine[0], sine[1]);
                const int part = i % 2 * 2; // of a fragment, 16 wide; the other half is two fragments on
                query[i / 2][part] = pack<T>(a[0] * cosine[0] - b[0] * sine[0], a[1] * cosine[1] - b[1] * sine[1]);
                query[i / 2 + WIDTH / 32][part] =
                    pack<T>(b[0] * cosine[0] + a[0] * sine[0], b[1] * cosine[1] + a[1] * sine[1]);
                query[i / 2][part + 1] = query[i / 2 + WIDTH / 32][part + 1] = 0;
            }
        }

        // The newest key, turned, and its value, `apart` numbers behind it, into the cache, and over the row of
        // the tiles that holds what the cache had before.
        DEVICE void take_in(const T *angles, T *cache, int apart, unsigned keys, unsigned values, int row) const {
            const int lane = threadIdx.x % 32; // an element of either half
            const float a = widen(T{key[0]}), b = widen(T{key[1]});
            const float cosine = widen(angles[lane]), sine = widen(angles[lane + WIDTH / 2]);
            T turned[2];
            narrow(turned[0], a * cosine - b * sine), narrow(turned[1], b * cosine + a * sine);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int column = lane + half * WIDTH / 2;
                const unsigned place = swizzle<WIDTH / 8>(row, column / 8) * 16 + column % 8 * 2;
                cache[column] = turned[half], cache[apart + column] = T{value[half]};
                put(keys + place, turned[half].x), put(values + place, value[half]);
            }
            fence_for_copies(); // the next copy into these tiles comes after
            __syncwarp();
        }
        DEVICE static void put(unsigned address, unsigned short v) {
            asm volatile("st.shared.u16 [%0], %1;" ::"r"(address), "h"(v) : "memory");
        }
    };
};

template <class T, int ROWS, int STAGES>
DEVICE void whole(const Phase *phases, const Maps *maps, unsigned *counters, unsigned long long *best, int m,
                  int count) {
    using B = Block<T, ROWS, STAGES>;
    extern __shared__ uint4 memory[];
    __shared__ Phase copied[MOST_PHASES];
    __shared__ float scales[ROWS];
    __shared__ unsigned long long barriers[2 * STAGES + 2];
    wait_for_previous();
    B block;
    // The swizzle works on addresses: tiles begin at multiples of 1024.
    block.ring = (shared_address(memory) + 1023) & ~1023u, block.sums = block.ring + STAGES * B::STAGE;
    block.all = (float *)((char *)memory + (block.sums - shared_address(memory)));
    block.full = shared_address(barriers), block.empty = block.full + 8 * STAGES;
    block.arrived = block.empty + 8 * STAGES, block.ready = block.arrived + 8;
    block.scales = scales, block.phases = copied, block.maps = maps, block.counters = counters, block.best = best;
    block.m = m, block.cluster = blockIdx.x / 2, block.clusters = gridDim.x / 2, block.rank = cluster_rank();
    for (int i = threadIdx.x; i < count * (int)(sizeof(Phase) / 16); i += blockDim.x)
        ((uint4 *)copied)[i] = ((const uint4 *)phases)[i];
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s)
            barrier_init(block.full + 8 * s, 2), barrier_init(block.empty + 8 * s, WARPS);
        barrier_init(block.arrived, 1), barrier_init(block.ready, 1);
        fence_barriers();
    }
    cluster_sync();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp < WARPS) block.compute(count);
    if (warp == WARPS && lane == 0) block.copy_constants(count);
    if (warp == WARPS + 1 && lane == 0) block.copy_computed(count);
    __syncwarp();
    cluster_sync(); // the other block may still write here
}

// A text for each.
#define TILE(ROWS, STAGES)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS + 64, 1)                                             \
        ENTRY(whole_##ROWS)(const Phase *phases, const Maps *maps, unsigned *counters, unsigned long long *best, \
                            int m, int count) {                                                               \
        whole<NUMBER, ROWS, STAGES>(phases, maps, counters, best, m, count);                                  \
    }

//   ROWS, STAGES
TILE(8, 11)
TILE(16, 10)
TILE(32, 7)
