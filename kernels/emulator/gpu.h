// The primitive layer on the processor: gpu.cuh's other side, with the same names and meanings. What needs no other thread is plain C++;
// everything else is a call into the emulator. Comments stand in gpu.cuh.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "half.h"
#include "primitives.h"

// ---- the language -----------------------------------------------------------------------------------------------------------------

#define __device__
#define __forceinline__ inline __attribute__((always_inline, unused))
#define DEVICE static __forceinline__

// Local to its file, which lists it in a table: what is in no table costs nothing. So many blocks on one multiprocessor leave each thread so many
// registers, given by the eight.
#define ENTRY(THREADS, BLOCKS, NAME, ...) \
    static constexpr unsigned ldm_registers_##NAME __attribute__((unused)) = 65536 / ((THREADS) * (BLOCKS)) / 8 * 8; \
    static __attribute__((unused)) void NAME(__VA_ARGS__)

#define SHARED_DYNAMIC(NAME) unsigned char* const NAME = static_cast<unsigned char*>(ldm_shared_dynamic())

// As in CUDA there is one array per block for each declaration (and instance of a template), however often it is executed.
#define SHARED_ARRAY(TYPE, NAME, COUNT) \
    static const char ldm_key_##NAME = 0; \
    TYPE(&NAME)[COUNT] = *static_cast<TYPE(*)[COUNT]>(ldm_shared_array(&ldm_key_##NAME, #NAME, sizeof(TYPE[COUNT])))

struct dim3 {
    unsigned x, y, z;
};
#define threadIdx (dim3{ldm_thread_index(0), ldm_thread_index(1), ldm_thread_index(2)})
#define blockIdx (dim3{ldm_block_index(0), ldm_block_index(1), ldm_block_index(2)})
#define blockDim (dim3{ldm_block_size(0), ldm_block_size(1), ldm_block_size(2)})
#define gridDim (dim3{ldm_grid_size(0), ldm_grid_size(1), ldm_grid_size(2)})

struct half {
    uint16_t bits;
};

DEVICE int min(int a, int b) { return a < b ? a : b; }
DEVICE int max(int a, int b) { return a > b ? a : b; }
DEVICE float rsqrtf(float x) { return 1.0f / sqrtf(x); }

// The caller's place in the source, as last parameters that nobody writes.
#define LDM_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// ---- threads ----------------------------------------------------------------------------------------------------------------------

DEVICE void sync_block(LDM_SITE) { ldm_sync_block({file, line}); }
DEVICE void sync_warp(LDM_SITE) { ldm_sync_warp({file, line}); }

DEVICE void wait_for_previous_grid() { ldm_wait_for_previous_grid(); }
DEVICE void let_next_grid_start() {}  // grids run one after another here

DEVICE int shuffle_xor(int value, int mask, LDM_SITE) {
    return static_cast<int>(ldm_shuffle_xor(static_cast<uint32_t>(value), mask, {file, line}));
}
DEVICE float shuffle_xor(float value, int mask, LDM_SITE) {
    return half_bits::float_of(ldm_shuffle_xor(half_bits::bits_of(value), mask, {file, line}));
}

// ---- memory -----------------------------------------------------------------------------------------------------------------------

struct alignas(16) Vector16 {
    uint32_t word[4];
};
DEVICE Vector16 load_16(const void* address) { return *static_cast<const Vector16*>(address); }
DEVICE void store_16(void* address, const Vector16& value) { *static_cast<Vector16*>(address) = value; }

DEVICE void copy_async_16(void* shared, const void* global, bool valid = true, LDM_SITE) {
    ldm_copy_async(shared, global, 16, valid, {file, line});
}
DEVICE void copy_async_8(void* shared, const void* global, bool valid = true, LDM_SITE) {
    ldm_copy_async(shared, global, 8, valid, {file, line});
}
DEVICE void copy_async_4(void* shared, const void* global, bool valid = true, LDM_SITE) {
    ldm_copy_async(shared, global, 4, valid, {file, line});
}
DEVICE void copy_async_commit() { ldm_copy_async_commit(); }
template <int PENDING>
DEVICE void copy_async_wait() {
    ldm_copy_async_wait(PENDING);
}

DEVICE void load_matrix_x4(uint32_t (&r)[4], const void* row, LDM_SITE) { ldm_load_matrix(r, row, false, {file, line}); }
DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row, LDM_SITE) { ldm_load_matrix(r, row, true, {file, line}); }

DEVICE bool arrive(int* counter, int count, LDM_SITE) { return ldm_arrive(counter, count, {file, line}); }

DEVICE int computed_again(int x) { return x; }

// ---- arithmetic -------------------------------------------------------------------------------------------------------------------

DEVICE void multiply_accumulate(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], LDM_SITE) {
    ldm_multiply(d, a, b, 1, 1, {file, line});
}
DEVICE void multiply_accumulate_half(uint32_t (&d)[2], const uint32_t (&a)[4], const uint32_t (&b)[2], LDM_SITE) {
    ldm_multiply_half(d, a, b, 1, 1, {file, line});
}
// The warp meets once for the whole tile, and not once for each of its fragments: the sums are the same.
template <int ROWS, int COLUMNS>
DEVICE void multiply_tile(float (&d)[ROWS][COLUMNS][4], const uint32_t (&a)[ROWS][4], const uint32_t (&b)[COLUMNS][2], LDM_SITE) {
    static_assert(ROWS <= 32 && COLUMNS <= 32, "the emulator has room for as many fragments");
    ldm_multiply(&d[0][0][0], &a[0][0], &b[0][0], ROWS, COLUMNS, {file, line});
}
template <int ROWS, int COLUMNS>
DEVICE void multiply_tile_half(uint32_t (&d)[ROWS][COLUMNS][2], const uint32_t (&a)[ROWS][4], const uint32_t (&b)[COLUMNS][2], LDM_SITE) {
    static_assert(ROWS * COLUMNS <= 32, "the emulator has room for as many fragments");
    ldm_multiply_half(&d[0][0][0], &a[0][0], &b[0][0], ROWS, COLUMNS, {file, line});
}

DEVICE float exp2_approximate(float x) {
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

// Denormals are zero on both sides.
DEVICE float reciprocal_approximate(float x) {
    const float y = 1.0f / (fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x);
    return fabsf(y) < 0x1p-126f ? copysignf(0.0f, y) : y;
}

// Of two zeros the positive one is larger.
DEVICE float maximum(float a, float b) {
    if (a != a || b != b) return NAN;
    return a > b || (a == b && !signbit(a)) ? a : b;
}

DEVICE uint32_t pack_halves(float low, float high) {
    return half_bits::narrow(low) | static_cast<uint32_t>(half_bits::narrow(high)) << 16;
}
DEVICE float low_half(uint32_t pair) { return half_bits::widen(static_cast<uint16_t>(pair)); }
DEVICE float high_half(uint32_t pair) { return half_bits::widen(static_cast<uint16_t>(pair >> 16)); }

DEVICE float to_float(half x) { return half_bits::widen(x.bits); }
DEVICE float to_float(float x) { return x; }
template <typename T>
DEVICE T from_float(float x) {
    return x;
}
template <>
__forceinline__ half from_float<half>(float x) {
    return half{half_bits::narrow(x)};
}
