// A whole decode step in one kernel: look-up, products of few rows, attention over a cache and the choice
// of a token, one phase after another. What such a step waits for is the memory, which must never be idle.
//
// One block a multiprocessor, all of them at once (a cooperative launch), in clusters of two. They meet
// after each phase. What does not depend on an earlier phase, weights and the cache, is copied up to STAGES
// steps ahead through all phases, by a warp that does not wait for others; what does, x, by another one which
// waits for all blocks. Eight warps compute.
//
// The two blocks of a cluster share each tile of a product and each kv head of an attention, half of k or of
// the context for either, and take turns to finish it: the one sends its part to the other's shared memory.
// All sums are added in a fixed order: results do not depend on timing.

#include "number.cuh"
#include "overlap.cuh"
#include "activate.cuh"
#include "hopper.cuh"
#include "softmax.cuh"
#include "few.cuh"
#include "ring.cuh"
#include "phases.cuh"
#include "cached.cuh"
#include "rotated.cuh"

// Wide steps of weights or of a cache that a block has on their way at most, and most of a phase that has likely not
// begun. It takes some 32 KB a multiprocessor to keep the memory busy; more would only wait in a queue, and behind
// them what blocks tell each other.
constexpr int MOST_OF_PRODUCT = 5, MOST_OF_ATTENTION = 3, MOST_AHEAD = 2;
constexpr int X_STAGES = 8; // all of x's half of k = 2048

template <class T, int ROWS, int STAGES> struct Block {
    static constexpr unsigned WEIGHT = SPAN * 64 * 2 /* or keys and values */, X = ROWS * SPAN * 2;
    // Of the widest tile, or of 16 warps' part of an attention.
    static constexpr int TILE_SUMS = 2 * ROWS * (64 + 8) * 4, SHARES = 2 * WARPS * MOST * (WIDTH + 2) * 4;
    static constexpr unsigned SUMS = TILE_SUMS > SHARES ? TILE_SUMS : SHARES;

    Ring<STAGES, WEIGHT> constants;
    Ring<X_STAGES, X> computed;
    unsigned sums, arrived, ready; // addresses in shared memory
    float *all, *scales;           // the sums again; of x's rows
    Phase *phases;
    const Maps *maps;
    unsigned *counters;
    unsigned long long *best;
    int m, cluster, clusters, rank;
    int finished = 0; // units, by both blocks: their parity says whose turn it is

    // Empties the rings of those steps of a unit that are for this warp's group. With x, whose stages stay full
    // for the next unit unless it `leaves` them.
    template <bool WITH_X, class Act> DEVICE void use(const Part &part, bool leaves, Act act) {
        const bool first_lane = threadIdx.x % 32 == 0;
#pragma unroll 1
        for (int step = part.first + threadIdx.x / GROUP; step < part.end; step += GROUPS) {
            constants.wait_until_full();
            if (WITH_X) computed.wait_until_full();
            act(step, constants.at(), computed.at());
            __syncwarp();
            if (first_lane) barrier_arrive(constants.empty());
            constants.go_on(GROUPS);
            if (!WITH_X) continue;
            if (first_lane && leaves) barrier_arrive(computed.empty());
            computed.go_on(GROUPS);
        }
    }
    // All of x's steps fit their ring: they are copied once a phase.
    DEVICE static bool keeps_x(const Part &part) { return part.end - part.first <= X_STAGES; }

    // What no phase computes. All lanes of a warp come here.
    DEVICE void copy_constants(int count) {
        for (int p = 0; p < count; ++p) {
            const Phase phase = phases[p];
            const TensorMap *map = &maps[p].weight;
            if (p + 1 < count && is_elected()) prefetch_map(&maps[p + 1].weight), prefetch_map(&maps[p + 1].x);
            const Part part(phase, m);
            const bool product = phase.kind == PRODUCT;
            const int steps_a_wide_one = product ? 64 / phase.columns : 1;
            const int on_way = product ? MOST_OF_PRODUCT : MOST_OF_ATTENTION;
            int done = 0;
            for (int unit = cluster; unit < part.units; unit += clusters) {
                const int sample = product ? 0 : unit / phase.kv_heads;
                const int column = product ? unit * phase.columns : unit % phase.kv_heads * WIDTH;
#pragma unroll 1
                for (int step = part.first; step < part.end; ++step, constants.go_on(1)) {
                    const int most = (done++ < STAGES ? MOST_AHEAD : on_way) * steps_a_wide_one;
                    const unsigned to = constants.at(), values = to + KEYS * WIDTH * 2, barrier = constants.full();
                    constants.wait_until_empty();
                    constants.wait_until_landed(min(most, STAGES));
                    if (is_elected()) {
                        barrier_expect(barrier, product ? SPAN * phase.columns * 2 : WEIGHT);
                        if (product) copy_tile_in(to, map, column, step * SPAN, barrier);
                        else {
                            copy_tile_in(to, map, column, step * KEYS, sample, barrier);
                            copy_tile_in(values, map, column + phase.kv_heads * WIDTH, step * KEYS, sample, barrier);
                        }
                    }
                    __syncwarp();
                }
            }
        }
    }

    // What some phase computes, and the word that it has. All lanes of a warp come here.
    DEVICE void copy_computed(int count) {
        for (int p = 0; p < count; ++p) {
            const Part part(phases[p], m);
            const TensorMap *map = &maps[p].x;
            if (is_elected()) {
                if (p > 0) wait_for_count(counters + p - 1, gridDim.x);
                fence_for_copies_of_memory();
                barrier_arrive(ready);
            }
            __syncwarp();
            if (phases[p].kind != PRODUCT) continue;
            for (int tile = cluster; tile < part.units; tile += keeps_x(part) ? part.units : clusters)
#pragma unroll 1
                for (int step = part.first; step < part.end; ++step, computed.go_on(1)) {
                    const unsigned to = computed.at(), barrier = computed.full();
                    computed.wait_until_empty();
                    if (is_elected()) {
                        barrier_expect(barrier, X);
                        copy_tile_in(to, map, 0, 0, step * (SPAN / STEP), barrier);
                    }
                    __syncwarp();
                }
        }
    }

    DEVICE void compute(int count) {
        __shared__ bool last;
        for (int p = 0; p < count; ++p) {
            const Phase phase = phases[p];
            const Part part(phase, m); // before the wait: it takes divisions
            Angles<T, WIDTH> angles;
            if (phase.kind == ATTENTION) angles.load((const T *)phase.b); // no phase computes them
            barrier_wait(ready, p & 1);
            if (phase.kind == LOOKUP) look_up(phase);
            if (phase.kind == PRODUCT && phase.columns == 64) multiply<64>(phase, part);
            if (phase.kind == PRODUCT && phase.columns == 32) multiply<32>(phase, part);
            if (phase.kind == ATTENTION) attend(phase, part, angles);
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

    // Is it this block's turn?
    DEVICE bool finishes() const { return rank == (finished & 1); }

    // Sends this warp's part of a unit, which `store` puts where it is told, and returns whether this block
    // finishes the unit; then all parts of both blocks are there. A block's warps send `bytes` together. What was
    // there before has been read.
    template <class Store> DEVICE bool exchange(int bytes, Store store) {
        const bool mine = finishes();
        const int turn = finished++ >> 1 & 1;
        if (!mine) {
            const unsigned other = rank ^ 1, barrier = in_block(arrived, other);
            store(in_block(sums, other), [&](unsigned to, const float *two) { store_remote(to, two, barrier); });
            return false;
        }
        // The other block sends only after this one has sent it the unit between.
        if (threadIdx.x == 0) barrier_expect(arrived, bytes);
        store(sums, [](unsigned to, const float *two) { store_shared(to, two); });
        if (threadIdx.x < 32) barrier_acquire(arrived, turn); // each one that acquires forgets its L1 cache
        named_sync(1, THREADS);
        return true;
    }

    template <int COLUMNS> DEVICE void multiply(const Phase &phase, const Part &part) {
        using S = Shape<COLUMNS, ROWS>;
        const auto start = computed;
        for (int tile = cluster; tile < part.units; tile += clusters) {
            Few<T, COLUMNS, ROWS> mine;
            if (keeps_x(part)) computed = start;
            const bool leaves_x = !keeps_x(part) || tile + clusters >= part.units;
            // What will be added, of which this thread finishes four columns of some rows.
            constexpr int FOURS = COLUMNS / 4, APART = THREADS / FOURS, COUNT = (ROWS + APART - 1) / APART;
            const int column = tile * COLUMNS + threadIdx.x % FOURS * 4, first_row = threadIdx.x / FOURS;
            uint2 residual[COUNT] = {};
            if (phase.a && finishes() && column < phase.n)
#pragma unroll
                for (int i = 0; i < COUNT; ++i) {
                    const int row = first_row + i * APART;
                    const uint2 *from = (const uint2 *)((const T *)phase.a + (long long)row * phase.n + column);
                    if (row < m) residual[i] = __ldcg(from);
                }
            // Either block has the scales after the first tile that it finishes.
            const bool measures = phase.epsilon > 0 && tile < cluster + 2 * clusters;
            use<true>(part, leaves_x, [&](int, unsigned weights, unsigned x) {
                mine.template add<SPAN / STEP>(weights, x, measures);
            });
            // Over the groups, then over the blocks.
            if (measures) mine.add_up_squares();
            named_sync(1, THREADS); // what is there was read
            if (mine.group == 1)
                mine.each(sums, rank, measures, [](unsigned to, const float *two) { store_shared(to, two); });
            named_sync(1, THREADS);
            if (mine.group == 0)
                mine.each(sums, rank, measures, [](unsigned from, float *two) {
                    const float2 other = load_shared_two(from);
                    two[0] += other.x, two[1] += other.y;
                });
            const int bytes = ROWS * (COLUMNS + (measures ? 2 : 0)) * 4;
            const bool mine_to_finish = exchange(bytes, [&](unsigned to, auto put) {
                if (mine.group == 0) mine.each(to, rank, measures, put);
            });
            if (!mine_to_finish) continue;
            if (measures) {
                if (threadIdx.x < ROWS) {
                    const float *squares = all + threadIdx.x * S::PITCH + COLUMNS;
                    const float total = squares[0] + squares[ROWS * S::PITCH];
                    scales[threadIdx.x] = 1.0f / sqrtf(total / phase.k + phase.epsilon);
                }
                named_sync(1, THREADS);
            }
            if (column < phase.n)
#pragma unroll
                for (int i = 0; i < COUNT; ++i)
                    if (const int row = first_row + i * APART; row < m) finish<COLUMNS>(phase, row, column, residual[i]);
        }
    }

    // Adds the parts of four columns of a row and writes the result.
    template <int COLUMNS> DEVICE void finish(const Phase &phase, int row, int column, uint2 residual) {
        using S = Shape<COLUMNS, ROWS>;
        const float *parts = all + row * S::PITCH + column % COLUMNS;
        float4 v = *(const float4 *)parts;
        const float4 other = *(const float4 *)(parts + ROWS * S::PITCH);
        v.x += other.x, v.y += other.y, v.z += other.z, v.w += other.w;
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

    // A group of warps shares the keys of a step.
    DEVICE void attend(const Phase &phase, const Part &part, const Angles<T, WIDTH> &angles) {
        constexpr int MINE = KEYS * GROUPS / WARPS;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first_key = warp % (WARPS / GROUPS) * MINE;
        const int group = phase.heads / phase.kv_heads, context = phase.k;
        Given<T, WIDTH> given;
        auto load = [&](int unit) {
            const T *qkv = (const T *)phase.a;
            qkv += (long long)(unit / phase.kv_heads) * (phase.heads + 2 * phase.kv_heads) * WIDTH;
            if (unit < part.units) given.load(qkv, phase.heads, phase.kv_heads, unit % phase.kv_heads);
        };
        load(cluster);
        for (int unit = cluster; unit < part.units; unit += clusters) {
            const int sample = unit / phase.kv_heads, kv = unit % phase.kv_heads;
            unsigned query[WIDTH / 16][4];
            given.turn_queries(query, angles);
            Attended<T, WIDTH> mine;
            use<false>(part, true, [&](int step, unsigned keys, unsigned) {
                const int first = step * KEYS + first_key, newest = context - 1 - first; // its row of mine
                const unsigned my_keys = keys + first_key * WIDTH * 2, my_values = my_keys + KEYS * WIDTH * 2;
                if (newest < 0) return;
                if (newest < MINE) {
                    const long long row = ((long long)sample * context + context - 1) * 2 * phase.kv_heads;
                    T *cache = (T *)phase.c + (row + kv) * WIDTH;
                    given.take_in(angles, cache, phase.kv_heads * WIDTH, my_keys, my_values, newest);
                }
                mine.add(query, my_keys, my_values, first, context);
            });
            load(unit + clusters);
            // Each warp's share of each head: the sums, the largest score, the total.
            constexpr int SIZE = WIDTH + 2;
            const float total = quad_sum(mine.total);
            if (finishes()) named_sync(1, THREADS); // what is there was read
            const bool mine_to_finish = exchange(WARPS * MOST * SIZE * 4, [&](unsigned to, auto put) {
                if (lane / 4 >= MOST) return;
                to += ((rank * WARPS + warp) * MOST + lane / 4) * SIZE * 4;
#pragma unroll
                for (int j = 0; j < WIDTH / 8; ++j) put(to + (j * 8 + lane % 4 * 2) * 4, mine.sum[j]);
                const float last[2] = {mine.largest, total};
                if (lane % 4 == 0) put(to + WIDTH * 4, last);
            });
            if (!mine_to_finish) continue;
            T *out = (T *)phase.out + ((long long)sample * phase.heads + kv * group) * WIDTH;
            for (int i = threadIdx.x; i < group * WIDTH; i += THREADS) {
                const float *shares = all + i / WIDTH * SIZE;
                float largest = -INFINITY, sum = 0, total = 0;
#pragma unroll
                for (int w = 0; w < 2 * WARPS; ++w) largest = fmaxf(largest, shares[w * MOST * SIZE + WIDTH]);
#pragma unroll
                for (int w = 0; w < 2 * WARPS; ++w) {
                    const float *share = shares + w * MOST * SIZE;
                    const float scale = exp2_fast(share[WIDTH] - largest);
                    sum += share[i % WIDTH] * scale, total += share[WIDTH + 1] * scale;
                }
                narrow(out[i], sum / total);
            }
        }
    }
};

template <class T, int ROWS, int STAGES>
DEVICE void whole(const Phase *phases, const Maps *maps, unsigned *counters, unsigned long long *best, int m,
                  int count) {
    using B = Block<T, ROWS, STAGES>;
    extern __shared__ uint4 memory[];
    __shared__ Phase copied[MOST_PHASES];
    __shared__ float scales[ROWS];
    __shared__ unsigned long long barriers[2 * STAGES + 2 * X_STAGES + 2];
    wait_for_previous();
    B block;
    const unsigned start = uniform(shared_address(memory));
    // The swizzle works on addresses: tiles begin at multiples of 1024.
    block.constants.stages = (start + 1023) & ~1023u;
    block.computed.stages = block.constants.stages + STAGES * B::WEIGHT;
    block.sums = block.computed.stages + X_STAGES * B::X;
    block.all = (float *)((char *)memory + (block.sums - start));
    block.constants.stage = block.computed.stage = threadIdx.x < THREADS ? threadIdx.x / GROUP : 0;
    block.constants.barriers = uniform(shared_address(barriers));
    block.computed.barriers = block.constants.barriers + 8 * 2 * STAGES;
    block.arrived = block.computed.barriers + 8 * 2 * X_STAGES, block.ready = block.arrived + 8;
    block.scales = scales, block.phases = copied, block.maps = maps, block.counters = counters, block.best = best;
    block.m = m, block.cluster = blockIdx.x / 2, block.clusters = gridDim.x / 2, block.rank = cluster_rank();
    for (int i = threadIdx.x; i < count * (int)(sizeof(Phase) / 16); i += blockDim.x)
        ((uint4 *)copied)[i] = ((const uint4 *)phases)[i];
    if (threadIdx.x == 0) {
        block.constants.init(), block.computed.init();
        barrier_init(block.arrived, 1), barrier_init(block.ready, 1);
        fence_barriers();
    }
    cluster_sync();
    const int warp = uniform(threadIdx.x / 32);
    if (warp < WARPS) block.compute(count);
    if (warp == WARPS) block.copy_constants(count);
    if (warp == WARPS + 1) block.copy_computed(count);
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
TILE(8, 10)
TILE(16, 10)
TILE(32, 8)
