// The primitive layer of sm_90a on the processor: hopper.cuh's other side, with the same names and meanings. Comments stand there.
#pragma once

#include "hopper_primitives.h"

#define ENTRY_90(THREADS, BLOCKS, CLUSTER, NAME, ...) ENTRY(THREADS, BLOCKS, NAME, __VA_ARGS__)
#define TENSOR_MAP const TensorMap
// The emulator's shared memory begins at a page; a GPU's begins behind arrays of fixed size, aligned as it is declared.
#define SHARED_DYNAMIC_SWIZZLED(NAME) unsigned char* const NAME = static_cast<unsigned char*>(ldm_shared_dynamic_swizzled())

// ---- threads ----------------------------------------------------------------------------------------------------------------------

DEVICE void sync_named(int barrier, int threads, LDM_SITE) { ldm_sync_named(barrier, threads, {file, line}); }
DEVICE void arrive_named(int barrier, int threads, LDM_SITE) { ldm_arrive_named(barrier, threads, {file, line}); }
DEVICE int uniform(int value, LDM_SITE) {
    ldm_uniform(value, {file, line});
    return value;
}
DEVICE bool elect_lane(LDM_SITE) { return ldm_elect_lane({file, line}); }
template <int REGISTERS>
DEVICE void registers_decrease(LDM_SITE) {
    ldm_registers(REGISTERS, false, {file, line});
}
template <int REGISTERS>
DEVICE void registers_increase(LDM_SITE) {
    ldm_registers(REGISTERS, true, {file, line});
}

// ---- barriers ---------------------------------------------------------------------------------------------------------------------

DEVICE void barrier_init(Barrier* barrier, int arrivals, LDM_SITE) { ldm_barrier_init(barrier, arrivals, {file, line}); }
DEVICE void barrier_init_fence() { ldm_barrier_init_fence(); }
DEVICE void barrier_arrive(Barrier* barrier, LDM_SITE) { ldm_barrier_arrive(barrier, 0, {file, line}); }
DEVICE void barrier_arrive_expect(Barrier* barrier, int bytes, LDM_SITE) { ldm_barrier_arrive(barrier, bytes, {file, line}); }
DEVICE void barrier_arrive_remote(Barrier* barrier, int rank, LDM_SITE) { ldm_barrier_arrive_remote(barrier, rank, {file, line}); }
DEVICE void barrier_wait(Barrier* barrier, int parity, LDM_SITE) { ldm_barrier_wait(barrier, parity, {file, line}); }

// ---- tensor copies ----------------------------------------------------------------------------------------------------------------

DEVICE void prefetch_map(const TensorMap& map) { ldm_prefetch_map(&map); }

DEVICE void tensor_load_2d(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, LDM_SITE) {
    const int at[] = {c0, c1};
    ldm_tensor_load(shared, &map, barrier, at, 2, -1, {file, line});
}
DEVICE void tensor_load_3d(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int c2, LDM_SITE) {
    const int at[] = {c0, c1, c2};
    ldm_tensor_load(shared, &map, barrier, at, 3, -1, {file, line});
}
DEVICE void tensor_load_4d(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int c2, int c3, LDM_SITE) {
    const int at[] = {c0, c1, c2, c3};
    ldm_tensor_load(shared, &map, barrier, at, 4, -1, {file, line});
}
DEVICE void tensor_load_5d(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int c2, int c3, int c4, LDM_SITE) {
    const int at[] = {c0, c1, c2, c3, c4};
    ldm_tensor_load(shared, &map, barrier, at, 5, -1, {file, line});
}
DEVICE void tensor_load_2d_multicast(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int mask, LDM_SITE) {
    const int at[] = {c0, c1};
    ldm_tensor_load(shared, &map, barrier, at, 2, mask & 0xffff, {file, line});
}
DEVICE void tensor_load_4d_multicast(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int c2, int c3, int mask, LDM_SITE) {
    const int at[] = {c0, c1, c2, c3};
    ldm_tensor_load(shared, &map, barrier, at, 4, mask & 0xffff, {file, line});
}

DEVICE void tensor_store_2d(const TensorMap& map, const void* shared, int c0, int c1, LDM_SITE) {
    const int at[] = {c0, c1};
    ldm_tensor_store(&map, shared, at, 2, {file, line});
}
DEVICE void tensor_store_3d(const TensorMap& map, const void* shared, int c0, int c1, int c2, LDM_SITE) {
    const int at[] = {c0, c1, c2};
    ldm_tensor_store(&map, shared, at, 3, {file, line});
}
DEVICE void tensor_store_4d(const TensorMap& map, const void* shared, int c0, int c1, int c2, int c3, LDM_SITE) {
    const int at[] = {c0, c1, c2, c3};
    ldm_tensor_store(&map, shared, at, 4, {file, line});
}
DEVICE void tensor_store_commit() { ldm_tensor_store_commit(); }
template <int PENDING>
DEVICE void tensor_store_wait_read() {
    ldm_tensor_store_wait_read(PENDING);
}
DEVICE void fence_async_shared() { ldm_fence_async_shared(); }

DEVICE void store_matrix_x4(void* row, const uint32_t (&r)[4], LDM_SITE) { ldm_store_matrix(row, r, false, {file, line}); }
DEVICE void store_matrix_x4_transposed(void* row, const uint32_t (&r)[4], LDM_SITE) { ldm_store_matrix(row, r, true, {file, line}); }

// ---- clusters ---------------------------------------------------------------------------------------------------------------------

DEVICE int cluster_rank() { return ldm_cluster_rank(); }
DEVICE void sync_cluster(LDM_SITE) { ldm_sync_cluster({file, line}); }
DEVICE float load_cluster(const float* shared, int rank, LDM_SITE) {
    float value;
    ldm_load_cluster(shared, rank, &value, sizeof value, {file, line});
    return value;
}
DEVICE Vector16 load_cluster_16(const void* shared, int rank, LDM_SITE) {
    Vector16 value;
    ldm_load_cluster(shared, rank, &value, sizeof value, {file, line});
    return value;
}

// ---- products of a warpgroup ------------------------------------------------------------------------------------------------------

DEVICE uint32_t shared_address(const void* pointer) { return ldm_shared_address(pointer); }

DEVICE void wgmma_fence() { ldm_wgmma_fence(); }
DEVICE void wgmma_commit() { ldm_wgmma_commit(); }
template <int PENDING>
DEVICE void wgmma_wait(LDM_SITE) {
    ldm_wgmma_wait(PENDING, {file, line});
}
template <typename T, int COUNT>
DEVICE void hold_registers(T (&)[COUNT]) {}

template <int N>
DEVICE void multiply_warpgroup(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate, LDM_SITE) {
    ldm_product(d, N, nullptr, a, b, false, accumulate, {file, line});
}
template <int N>
DEVICE void multiply_warpgroup_transposed(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate, LDM_SITE) {
    ldm_product(d, N, nullptr, a, b, true, accumulate, {file, line});
}
template <int N>
DEVICE void multiply_warpgroup_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate, LDM_SITE) {
    ldm_product(d, N, a, 0, b, false, accumulate, {file, line});
}
template <int N>
DEVICE void multiply_warpgroup_registers_transposed(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate, LDM_SITE) {
    ldm_product(d, N, a, 0, b, true, accumulate, {file, line});
}
