// What a matrix product's result goes through before it is stored.
#pragma once

enum Activation { NONE = 0, RELU = 1, GELU = 2, TANH = 3, SWIGLU = 4 };

// To a part in 10^6 or better, far below the rounding of what is stored.
DEVICE float reciprocal(float v) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}
DEVICE float exponential(float v) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v * 1.44269504f));
    return r;
}

// Applies it to several at once, step by step: each step of one waits for its last, and only other
// elements can fill that time.
template <int activation, int COUNT> DEVICE void activate(float (&v)[COUNT]) {
    if (activation == RELU) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) v[i] = fmaxf(v[i], 0.0f);
    }
    if (activation == GELU) {
        // v/2 · (1 + erf(v/√2)) = max(v, 0) - |v|/2 · erfc(|v|/√2), which loses nothing where v is
        // negative; and erfc(u/√2)/2 = p(u)^-16 by a polynomial of least squares whose weights were
        // moved until the largest error of the whole, 1.5e-6, was as small as it gets.
        constexpr float C[] = {1.0442674f, 0.052136867f, 0.021888714f, 0.0036740631f, -1.2230874e-4f, 1.0027977e-4f};
        float p[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) p[i] = fabsf(v[i]) * C[5] + C[4];
#pragma unroll
        for (int c = 3; c >= 0; --c)
#pragma unroll
            for (int i = 0; i < COUNT; ++i) p[i] = p[i] * fabsf(v[i]) + C[c];
#pragma unroll
        for (int square = 0; square < 4; ++square)
#pragma unroll
            for (int i = 0; i < COUNT; ++i) p[i] *= p[i];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) p[i] = reciprocal(p[i]);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) v[i] = fmaxf(v[i], 0.0f) - fabsf(v[i]) * p[i];
    }
    if (activation == TANH) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) v[i] = 1.0f - 2.0f * reciprocal(1.0f + exponential(2.0f * v[i]));
    }
}

// g / (1 + e^-g) · u
DEVICE float gate(float g, float u) { return g * reciprocal(1.0f + exponential(-g)) * u; }
