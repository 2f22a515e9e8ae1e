// What instrumented kernels call in the emulator beyond primitives.h: one function per primitive of hopper.cuh.
#pragma once

#include "primitives.h"

extern "C" {

void ldm_sync_named(int number, int threads, ldm_site site);
void ldm_arrive_named(int number, int threads, ldm_site site);
// Faults unless all lanes have this value.
void ldm_uniform(int value, ldm_site site);
bool ldm_elect_lane(ldm_site site);
void ldm_registers(int count, bool more, ldm_site site);

void ldm_barrier_init(void* barrier, int arrivals, ldm_site site);
void ldm_barrier_init_fence();
void ldm_barrier_arrive(void* barrier, int bytes, ldm_site site);
void ldm_barrier_arrive_remote(void* barrier, int rank, ldm_site site);
void ldm_barrier_wait(void* barrier, int parity, ldm_site site);

void ldm_prefetch_map(const void* map);
// To this block alone where the mask is negative.
void ldm_tensor_load(void* shared, const void* map, void* barrier, const int* at, int rank, int mask, ldm_site site);
void ldm_tensor_store(const void* map, const void* shared, const int* at, int rank, ldm_site site);
void ldm_tensor_store_commit();
void ldm_tensor_store_wait_read(int pending);
void ldm_fence_async_shared();
void ldm_store_matrix(void* row, const uint32_t* fragment, bool transposed, ldm_site site);

uint32_t ldm_shared_address(const void* shared);
void ldm_wgmma_fence();
void ldm_wgmma_commit();
void ldm_wgmma_wait(int pending, ldm_site site);
// A is in registers unless `fragment` is null.
void ldm_product(float* d, int columns, const uint32_t* fragment, uint64_t a, uint64_t b, bool transposed, bool accumulate, ldm_site site);

int ldm_cluster_rank() noexcept;
void ldm_sync_cluster(ldm_site site);
void ldm_load_cluster(const void* shared, int rank, void* value, int bytes, ldm_site site);
}
