// The non-linearities, for kernels that apply one to what they hold in registers.
//
// An approximate exponential and an approximate reciprocal, 2 units in the last place of f32 each, replace exact ones of some 20
// instructions: a kernel that streams halves has about 24 instructions per element before it is slower than memory. For large negative x
// the exponential is infinite and the reciprocal zero, as it should be; NaN passes through.
#pragma once

#include "gpu.cuh"

enum Activation { NO_ACTIVATION, SILU, GELU, QUICK_GELU };

// 1 / (1 + e^-x).
DEVICE float sigmoid(float x) { return reciprocal_approximate(1.0f + exp2_approximate(-1.4426950408889634f * x)); }

// x Phi(x), with the exact distribution function and not its tanh approximation.
DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erff(0.70710678118654752f * x)); }

template <Activation ACTIVATION>
DEVICE float activate(float x) {
    if (ACTIVATION == SILU) return x * sigmoid(x);
    if (ACTIVATION == GELU) return gelu(x);
    if (ACTIVATION == QUICK_GELU) return x * sigmoid(1.702f * x);
    return x;
}
