// What instrumented kernels call in the emulator: one function per primitive of gpu.cuh that needs other threads, or memory that is watched.
#pragma once

#include <stdint.h>

// Where in the source a primitive was called.
struct ldm_site {
    const char* file;
    int line;
};

extern "C" {

// Component 0, 1 or 2 of an index or a size. They never change during a thread's life, so the compiler may ask once.
__attribute__((const)) uint32_t ldm_thread_index(int axis) noexcept;
__attribute__((const)) uint32_t ldm_block_index(int axis) noexcept;
__attribute__((const)) uint32_t ldm_block_size(int axis) noexcept;
__attribute__((const)) uint32_t ldm_grid_size(int axis) noexcept;

// The block's dynamic shared memory, the same declared for tiles of 128-byte swizzle, and its array of this key.
__attribute__((const)) void* ldm_shared_dynamic() noexcept;
void* ldm_shared_dynamic_swizzled() noexcept;
void* ldm_shared_array(const void* key, const char* name, uint32_t bytes);

void ldm_sync_block(ldm_site site);
void ldm_sync_warp(ldm_site site);
void ldm_wait_for_previous_grid();
uint32_t ldm_shuffle_xor(uint32_t value, int mask, ldm_site site);

void ldm_copy_async(void* shared, const void* global, int bytes, bool valid, ldm_site site);
void ldm_copy_async_commit();
void ldm_copy_async_wait(int pending);

bool ldm_arrive(int* counter, int count, ldm_site site);

void ldm_load_matrix(uint32_t* fragment, const void* row, bool transposed, ldm_site site);
void ldm_multiply(float* d, const uint32_t* a, const uint32_t* b, int rows, int columns, ldm_site site);
void ldm_multiply_half(uint32_t* d, const uint32_t* a, const uint32_t* b, int rows, int columns, ldm_site site);
}
