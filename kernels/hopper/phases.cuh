// What whole.cu is told to do, by src/workload/cuda/whole.rs, and a block's part of it; after few.cuh and
// hopper.cuh.
#pragma once

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
// and of each the steps along k or the context, an even number of them; beyond the end there are zeros.
struct Part {
    int units, first, end;
    DEVICE Part(const Phase &phase, int m) {
        const bool product = phase.kind == PRODUCT, attention = phase.kind == ATTENTION;
        const int size = product ? SPAN : KEYS, share = (phase.k + 4 * size - 1) / (4 * size) * 2;
        units = product ? (phase.n + phase.columns - 1) / phase.columns : attention ? m * phase.kv_heads : 0;
        first = cluster_rank() * share, end = first + share;
    }
};
