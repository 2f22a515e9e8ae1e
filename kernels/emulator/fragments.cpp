// The arithmetic of a warp. A product is computed for all lanes at once, from operands brought into the order in which vectors can use them.
//
// Products of two halves have at most 22 significant bits, so they are exact in f32, and a fused multiply-add gives the same bits as a
// multiplication and an addition: every processor computes the same, with or without the instruction.
#include "fragments.h"

#include <string.h>

#include "half.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace emulator {

void load_matrix(const Deposit (&lanes)[WARP], bool transposed) {
    for (uint32_t lane = 0; lane < WARP; lane++) {
        const uint32_t g = lane / 4, t = lane % 4;
        uint32_t* const registers = static_cast<uint32_t*>(lanes[lane].result);
        for (uint32_t i = 0; i < 4; i++) {
            if (transposed) {
                const uint16_t* const low = static_cast<const uint16_t*>(lanes[8 * i + 2 * t].a);
                const uint16_t* const high = static_cast<const uint16_t*>(lanes[8 * i + 2 * t + 1].a);
                registers[i] = low[g] | static_cast<uint32_t>(high[g]) << 16;
            } else {
                memcpy(&registers[i], static_cast<const uint32_t*>(lanes[8 * i + g].a) + t, 4);
            }
        }
    }
}

void store_matrix(const Deposit (&lanes)[WARP], bool transposed) {
    for (uint32_t lane = 0; lane < WARP; lane++) {
        const uint32_t g = lane / 4, t = lane % 4;
        const uint32_t* const registers = static_cast<const uint32_t*>(lanes[lane].a);
        for (uint32_t i = 0; i < 4; i++) {
            for (uint32_t pair = 0; pair < 2; pair++) {
                const uint16_t element = static_cast<uint16_t>(registers[i] >> 16 * pair);
                const uint32_t row = transposed ? 2 * t + pair : g, column = transposed ? g : 2 * t + pair;
                static_cast<uint16_t*>(lanes[8 * i + row].result)[column] = element;
            }
        }
    }
}

namespace {

constexpr int K = 16;
// Where along k the halves of a register lie, beyond 2t.
constexpr int K_OF_REGISTER[2] = {0, 8};

void gather(Operands& to, const Deposit (&lanes)[WARP], int rows, int columns, void (*widen)(const uint32_t*, float*, int)) {
    float wide[MAX_FRAGMENTS * 8];
    for (uint32_t lane = 0; lane < WARP; lane++) {
        const uint32_t g = lane / 4, t = lane % 4;
        widen(static_cast<const uint32_t*>(lanes[lane].a), wide, rows * 4);
        for (int i = 0; i < rows; i++) {
            const float* const value = wide + i * 8;
            for (int pair = 0; pair < 2; pair++) {
                for (int half = 0; half < 2; half++) {
                    float* const place = to.a[i][g][2 * t + K_OF_REGISTER[pair] + half];
                    place[0] = place[1] = value[pair * 4 + half];
                    place[2] = place[3] = value[pair * 4 + 2 + half];
                }
            }
        }
        widen(static_cast<const uint32_t*>(lanes[lane].b), wide, columns * 2);
        for (int j = 0; j < columns; j++) {
            for (int pair = 0; pair < 2; pair++) {
                for (int half = 0; half < 2; half++) {
                    float* const place = &to.b[g / 2][2 * t + K_OF_REGISTER[pair] + half][j * 4 + g % 2];
                    place[0] = place[2] = wide[j * 4 + pair * 2 + half];
                }
            }
        }
    }
}

typedef float Vector4 __attribute__((vector_size(16)));
typedef float Vector8 __attribute__((vector_size(32)));

inline __attribute__((always_inline)) void repeat(Vector4& to, const float* four) { memcpy(&to, four, sizeof to); }
inline __attribute__((always_inline)) void repeat(Vector8& to, const float* four) {
    to = Vector8{four[0], four[1], four[2], four[3], four[0], four[1], four[2], four[3]};
}

// d[0 .. FRAGMENTS * 4) += sum over k of a[k] b[k]: one lane, one row fragment. The sums stay in registers.
template <typename Vector, int FRAGMENTS>
inline __attribute__((always_inline)) void accumulate(float* d, const float (*a)[4], const float (*b)[MAX_FRAGMENTS * 4]) {
    constexpr int LANES = sizeof(Vector) / sizeof(float), COUNT = FRAGMENTS * 4 / LANES;
    Vector sum[COUNT];
#pragma GCC unroll 16
    for (int i = 0; i < COUNT; i++) memcpy(&sum[i], d + i * LANES, sizeof sum[i]);
    for (int k = 0; k < K; k++) {
        Vector factor;
        repeat(factor, a[k]);
#pragma GCC unroll 16
        for (int i = 0; i < COUNT; i++) {
            Vector other;
            memcpy(&other, b[k] + i * LANES, sizeof other);
            sum[i] += factor * other;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < COUNT; i++) memcpy(d + i * LANES, &sum[i], sizeof sum[i]);
}

// As many column fragments as registers hold, then half as many, and so on.
template <typename Vector, int FRAGMENTS>
inline __attribute__((always_inline)) void accumulate_row(float* d, const float (*a)[4], const float* b, int columns) {
    for (; columns >= FRAGMENTS; columns -= FRAGMENTS) {
        accumulate<Vector, FRAGMENTS>(d, a, reinterpret_cast<const float(*)[MAX_FRAGMENTS * 4]>(b));
        d += FRAGMENTS * 4;
        b += FRAGMENTS * 4;
    }
    if constexpr (FRAGMENTS > 2) {
        accumulate_row<Vector, FRAGMENTS / 2>(d, a, b, columns);
    } else if (columns > 0) {
        accumulate<Vector4, 1>(d, a, reinterpret_cast<const float(*)[MAX_FRAGMENTS * 4]>(b));
    }
}

template <typename Vector>
inline __attribute__((always_inline)) void accumulate_all(const Operands& from, const Deposit (&lanes)[WARP], int rows, int columns) {
    for (uint32_t lane = 0; lane < WARP; lane++) {
        for (int i = 0; i < rows; i++) {
            float* const d = static_cast<float*>(lanes[lane].result) + i * columns * 4;
            accumulate_row<Vector, 8>(d, from.a[i][lane / 4], from.b[lane % 4][0], columns);
        }
    }
}

void widen_portable(const uint32_t* pairs, float* wide, int count) {
    for (int i = 0; i < count; i++) {
        wide[2 * i] = half_bits::widen(static_cast<uint16_t>(pairs[i]));
        wide[2 * i + 1] = half_bits::widen(static_cast<uint16_t>(pairs[i] >> 16));
    }
}

void multiply_portable(Operands& scratch, const Deposit (&lanes)[WARP], int rows, int columns) {
    gather(scratch, lanes, rows, columns, widen_portable);
    accumulate_all<Vector4>(scratch, lanes, rows, columns);
}

#if defined(__x86_64__)

__attribute__((target("avx2,fma,f16c"))) void widen_f16c(const uint32_t* pairs, float* wide, int count) {
    for (int i = 0; i < count; i += 2) {
        const __m128i halves = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(pairs + i));
        _mm_storeu_ps(wide + 2 * i, _mm_cvtph_ps(halves));
    }
}

__attribute__((target("avx2,fma,f16c"))) void multiply_avx2(Operands& scratch, const Deposit (&lanes)[WARP], int rows, int columns) {
    gather(scratch, lanes, rows, columns, widen_f16c);
    accumulate_all<Vector8>(scratch, lanes, rows, columns);
}

#endif

using Multiply = void (*)(Operands&, const Deposit (&)[WARP], int, int);

Multiply fastest() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) return multiply_avx2;
#endif
    return multiply_portable;
}

}  // namespace

void multiply(Operands& scratch, const Deposit (&lanes)[WARP], int rows, int columns) {
    static const Multiply chosen = fastest();
    chosen(scratch, lanes, rows, columns);
}

void multiply_half(Operands& scratch, const Deposit (&lanes)[WARP], int rows, int columns) {
    const int count = rows * columns * 2;
    Deposit wide[WARP];
    for (uint32_t lane = 0; lane < WARP; lane++) {
        wide[lane] = lanes[lane];
        wide[lane].result = scratch.sums[lane];
        widen_portable(static_cast<const uint32_t*>(lanes[lane].result), scratch.sums[lane], count);
    }
    multiply(scratch, wide, rows, columns);
    for (uint32_t lane = 0; lane < WARP; lane++) {
        uint32_t* const result = static_cast<uint32_t*>(lanes[lane].result);
        const float* const sum = scratch.sums[lane];
        for (int i = 0; i < count; i++) result[i] = half_bits::narrow(sum[2 * i]) | static_cast<uint32_t>(half_bits::narrow(sum[2 * i + 1])) << 16;
    }
}

}  // namespace emulator
