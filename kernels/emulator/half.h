// Halves (IEEE 754 binary16) as 16 bits of storage, converted by integer arithmetic: the same bits on every processor, with no instruction
// that some lack. Rounding is to nearest, ties to even, and NaN becomes 0x7fff, as on GPUs.
#pragma once

#include <stdint.h>
#include <string.h>

namespace half_bits {

inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline float widen(uint16_t half) {
    const uint32_t sign = (half & 0x8000u) << 16;
    const uint32_t magnitude = (half & 0x7fffu) << 13;
    // Infinity and NaN keep their fraction under the wider exponent; all else is off by the difference of the biases, 127 - 15.
    const uint32_t wide = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : bits_of(float_of(magnitude) * 0x1p112f);
    return float_of(sign | wide);
}

inline uint16_t narrow(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more round to infinity
    if (magnitude < 0x38800000u) {
        // Below 2^-14 halves are multiples of 2^-24, and so are the floats from 0.5 to 1: one addition rounds.
        return static_cast<uint16_t>(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u));
    }
    const uint32_t odd = magnitude >> 13 & 1u;
    return static_cast<uint16_t>(sign | (((magnitude + 0x0fffu + odd) >> 13) - (112u << 10)));
}

}  // namespace half_bits
