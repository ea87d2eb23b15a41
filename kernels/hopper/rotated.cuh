// What an attention over a cache needs of the newest token, for whole.cu: its queries, its key and its value,
// which are turned by angles that depend on its place. After number.cuh and hopper.cuh. D is the
// numbers of a head.
#pragma once

// The angles that a lane turns queries and a key by: of a rotation the cosines, then the sines.
template <class T, int D> struct Angles {
    unsigned cosines[D / 16], sines[D / 16]; // of two elements each of a query, as a fragment has them
    float cosine, sine;                      // of a key's

    DEVICE void load(const T *angles) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < D / 16; ++i) {
            cosines[i] = *(const unsigned *)(angles + i * 8 + lane % 4 * 2);
            sines[i] = *(const unsigned *)(angles + D / 2 + i * 8 + lane % 4 * 2);
        }
        cosine = widen(angles[lane]), sine = widen(angles[D / 2 + lane]);
    }
};

// What a lane is given of a unit of an attention, loaded while the unit before it is finished: elements of
// the queries, and of the newest key and its value.
template <class T, int D> struct Given {
    unsigned low[D / 16], high[D / 16]; // two elements each, half a head apart
    unsigned short key[2], value[2];

    // Of a sample's row of qkv and a kv head.
    DEVICE void load(const T *qkv, int heads, int kv_heads, int kv) {
        const int lane = threadIdx.x % 32, group = heads / kv_heads;
        const T *query = qkv + (kv * group + lane / 4) * D + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < D / 16; ++i) {
            low[i] = lane / 4 < group ? __ldcg((const unsigned *)(query + i * 8)) : 0;
            high[i] = lane / 4 < group ? __ldcg((const unsigned *)(query + i * 8 + D / 2)) : 0;
        }
        const T *newest = qkv + (heads + kv) * D + lane;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            key[half] = __ldcg(&newest[half * D / 2].x);
            value[half] = __ldcg(&newest[kv_heads * D + half * D / 2].x);
        }
    }

    // The queries, turned, as a left operand whose rows are heads, beyond the group's zeros.
    DEVICE void turn_queries(unsigned (&query)[D / 16][4], const Angles<T, D> &angles) const {
#pragma unroll
        for (int i = 0; i < D / 16; ++i) {
            float a[2], b[2], cosine[2], sine[2];
            unpack<T>(low[i], a[0], a[1]), unpack<T>(high[i], b[0], b[1]);
            unpack<T>(angles.cosines[i], cosine[0], cosine[1]), unpack<T>(angles.sines[i], sine[0], sine[1]);
            const int part = i % 2 * 2; // of a fragment, 16 wide; the other half is two fragments on
            query[i / 2][part] = pack<T>(a[0] * cosine[0] - b[0] * sine[0], a[1] * cosine[1] - b[1] * sine[1]);
            query[i / 2 + D / 32][part] =
                pack<T>(b[0] * cosine[0] + a[0] * sine[0], b[1] * cosine[1] + a[1] * sine[1]);
            query[i / 2][part + 1] = query[i / 2 + D / 32][part + 1] = 0;
        }
    }

    // The newest key, turned, and its value, `apart` numbers behind it, into the cache, and over the row of
    // the tiles that holds what the cache had before.
    DEVICE void take_in(const Angles<T, D> &angles, T *cache, int apart, unsigned keys, unsigned values,
                        int row) const {
        const int lane = threadIdx.x % 32; // an element of either half
        const float a = widen(T{key[0]}), b = widen(T{key[1]});
        T turned[2];
        narrow(turned[0], a * angles.cosine - b * angles.sine);
        narrow(turned[1], b * angles.cosine + a * angles.sine);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int column = lane + half * D / 2;
            const unsigned place = swizzle<D / 8>(row, column / 8) * 16 + column % 8 * 2;
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
