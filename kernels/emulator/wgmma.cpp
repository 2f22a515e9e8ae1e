// The arithmetic of a warpgroup's product: 64 x N += 64 x 16 times 16 x N. As in fragments.cpp products are exact, and summed in f32 in order of
// k, so every processor computes the same bits.
#include <string.h>

#include "half.h"
#include "products.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace emulator {
namespace {

constexpr uint32_t DEPTH = PRODUCT_DEPTH;

void widen_portable(const void* halves, float* wide) {
    uint16_t bits[8];
    memcpy(bits, halves, sizeof bits);
    for (int i = 0; i < 8; i++) wide[i] = half_bits::widen(bits[i]);
}

template <void (*widen)(const void*, float*)>
inline __attribute__((always_inline)) void gather(const Block& block, const Product& product, Factors& to) {
    if (product.from_registers) {
        for (uint32_t lane = 0; lane < WARPGROUP; lane++) {
            float wide[8];
            widen(&product.fragments[lane * 4], wide);
            for (uint32_t i = 0; i < 8; i++) {
                const uint32_t row = lane / WARP * 16 + lane % WARP / 4 + i / 2 % 2 * 8;
                to.a[row][lane % 4 * 2 + i % 2 + i / 4 * 8] = wide[i];
            }
        }
    } else {
        const Descriptor a = decode(product.a);
        for (uint32_t row = 0; row < PRODUCT_ROWS; row++) {
            for (uint32_t chunk = 0; chunk < DEPTH / 8; chunk++) widen(block.arena + place_k_major(a, row, chunk), to.a[row] + chunk * 8);
        }
    }
    const Descriptor b = decode(product.b);
    if (product.transposed) {
        for (uint32_t k = 0; k < DEPTH; k++) {
            for (uint32_t chunk = 0; chunk < product.columns / 8; chunk++) widen(block.arena + place_mn_major(b, k, chunk), to.b[k] + chunk * 8);
        }
        return;
    }
    for (uint32_t column = 0; column < product.columns; column++) {
        for (uint32_t chunk = 0; chunk < DEPTH / 8; chunk++) {
            float wide[8];
            widen(block.arena + place_k_major(b, column, chunk), wide);
            for (uint32_t i = 0; i < 8; i++) to.b[chunk * 8 + i][column] = wide[i];
        }
    }
}

typedef float Vector __attribute__((vector_size(32)));

// ROWS x COUNT vectors of sums stay in registers.
template <int ROWS, int COUNT>
inline __attribute__((always_inline)) void accumulate(float* sums, uint32_t pitch, const float (*a)[DEPTH], const float (*b)[MAX_PRODUCT_COLUMNS],
                                                      bool keep) {
    Vector sum[ROWS][COUNT];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS * COUNT; i++) {
        sum[i / COUNT][i % COUNT] = Vector{};
        if (keep) memcpy(&sum[i / COUNT][i % COUNT], sums + i / COUNT * pitch + i % COUNT * 8, sizeof(Vector));
    }
    for (uint32_t k = 0; k < DEPTH; k++) {
#pragma GCC unroll 8
        for (int j = 0; j < COUNT; j++) {
            Vector right;
            memcpy(&right, b[k] + j * 8, sizeof right);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++) sum[i][j] += a[i][k] * right;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS * COUNT; i++) memcpy(sums + i / COUNT * pitch + i % COUNT * 8, &sum[i / COUNT][i % COUNT], sizeof(Vector));
}

inline __attribute__((always_inline)) void accumulate_all(Product& product, const Factors& from) {
    const uint32_t columns = product.columns;
    for (uint32_t row = 0; row < PRODUCT_ROWS; row += 4) {
        float* const sums = product.accumulator->value.data() + row * columns;
        uint32_t column = 0;
        for (; column + 16 <= columns; column += 16) {
            accumulate<4, 2>(sums + column, columns, from.a + row, reinterpret_cast<const float(*)[MAX_PRODUCT_COLUMNS]>(from.b[0] + column),
                             product.accumulate);
        }
        if (column < columns) {
            accumulate<4, 1>(sums + column, columns, from.a + row, reinterpret_cast<const float(*)[MAX_PRODUCT_COLUMNS]>(from.b[0] + column),
                             product.accumulate);
        }
    }
}

void compute_portable(const Block& block, Product& product, Factors& scratch) {
    gather<widen_portable>(block, product, scratch);
    accumulate_all(product, scratch);
}

#if defined(__x86_64__)

__attribute__((target("avx2,fma,f16c"))) inline void widen_f16c(const void* halves, float* wide) {
    _mm256_storeu_ps(wide, _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(halves))));
}

__attribute__((target("avx2,fma,f16c"))) void compute_avx2(const Block& block, Product& product, Factors& scratch) {
    gather<widen_f16c>(block, product, scratch);
    accumulate_all(product, scratch);
}

#endif

using Compute = void (*)(const Block&, Product&, Factors&);

Compute fastest() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) return compute_avx2;
#endif
    return compute_portable;
}

}  // namespace

void compute(Block& block, Product& product) {
    static const Compute chosen = fastest();
    if (!block.factors) block.factors = std::make_unique<Factors>();
    chosen(block, product, *block.factors);
    product.fragments = {};
}

}  // namespace emulator
