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

template <int activation> DEVICE float activate(float v) {
    if (activation == RELU) return fmaxf(v, 0.0f);
    if (activation == GELU) {
        // v/2 · (1 + erf(v/√2)) = max(v, 0) - |v|/2 · erfc(|v|/√2), which loses nothing where v is
        // negative; erfc to 3e-7 by Abramowitz and Stegun 7.1.28.
        float z = fabsf(v) * 0.70710678f;
        float p = 1.0f + z * (0.0705230784f + z * (0.0422820123f + z * (0.0092705272f +
                  z * (0.0001520143f + z * (0.0002765672f + z * 0.0000430638f)))));
        p *= p, p *= p, p *= p, p *= p;
        return fmaxf(v, 0.0f) - 0.5f * fabsf(v) * reciprocal(p);
    }
    if (activation == TANH) return 1.0f - 2.0f * reciprocal(1.0f + exponential(2.0f * v));
    return v;
}

// g / (1 + e^-g) · u
DEVICE float gate(float g, float u) { return g * reciprocal(1.0f + exponential(-g)) * u; }
