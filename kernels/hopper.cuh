// The primitive layer of sm_90a: what a kernel may ask of a Hopper multiprocessor beyond gpu.cuh. Tiles are copied by a tensor map (TMA),
// whose end an mbarrier tells; matrices are multiplied by four warps at once, straight from shared memory (wgmma); two blocks of a cluster
// share what they load.
//
// Files named *_sm90.cu include this; nvcc compiles them for compute_90a alone, and the C++ compiler for the emulator, like any other. This file and
// wgmma.cuh, which it includes, are with gpu.cuh the only ones with inline PTX.
//
// Two proxies (PTX ISA, "Async proxy"). Ordinary loads and stores are one way to memory, tensor copies and wgmma another. What a thread has
// stored in shared memory is seen by the other way only after `fence_async_shared` by that thread, and then a barrier for those who start the
// copy or product; and so what it has loaded there was loaded before a tensor load writes over it. What a tensor load brings is seen by all who
// have waited on its barrier, both ways.
//
// Phases. A barrier is in phase 0 at first; a phase ends, and the next begins, when all arrivals and all expected bytes have come.
// `barrier_wait(b, parity)` returns once the phase of that parity has ended: parity 0 for the first use of a stage, 1 for the second, 0 again
// for the third. A producer that waits for a stage to be empty begins with parity 1, which is "the phase before the first", and returns at once.
//
// Tiles of 128-byte swizzle. A tile is rows of 64 halves (128 bytes), whose 16-byte chunks a tensor load permutes: chunk c of the row
// at a multiple of 1024 plus 128 r is stored as chunk c ^ (r % 8). Bits 4 to 6 of a shared address are thus XORed with bits 7 to 9.
//   K-major        rows are rows of A (columns of B), the 64 halves lie along K. 8 rows are 1024 bytes, the next 8 `stride_bytes` behind;
//                  `leading_bytes` is not used (1 by custom). A step of 16 along K is 32 bytes: descriptor + 2.
//   MN-major       rows lie along K, the 64 halves along M or N. 8 rows are 1024 bytes, the next 8 of K `stride_bytes` behind;
//                  the next 64 of M or N `leading_bytes` behind. A step of 16 along K is two strides.
#pragma once

#include "gpu.cuh"

// What the driver encodes of a tensor: where it lies, its extents and pitches, and the box that one copy moves. 128 opaque bytes, aligned as
// CUDA 13 declares them (64 bytes are asked for).
struct alignas(128) TensorMap {
    unsigned char bytes[128];
};

// An mbarrier, in shared memory.
struct Barrier {
    uint64_t bits;
};

#ifdef LDM_EMULATOR
#include "emulator/hopper.h"
#else

// As ENTRY, for sm_90a and with clusters of CLUSTER blocks along x. A parameter may be `TENSOR_MAP name` too.
#define ENTRY_90(THREADS, BLOCKS, CLUSTER, NAME, ...) \
    extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, BLOCKS) NAME(__VA_ARGS__)
#define TENSOR_MAP const __grid_constant__ TensorMap

// As SHARED_DYNAMIC, aligned for tiles of 128-byte swizzle.
#define SHARED_DYNAMIC_SWIZZLED(NAME) extern __shared__ __align__(1024) unsigned char NAME[]

// ---- threads ----------------------------------------------------------------------------------------------------------------------

// Waits until `threads` threads, whole warps, have come to barrier 1 .. 15, by this call or by arrive_named; orders memory as sync_block does.
DEVICE void sync_named(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
// Comes to the barrier and goes on.
DEVICE void arrive_named(int barrier, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }

// The value of lane 0, of which the compiler then knows that all lanes have it: what is made of it takes no vector registers. All 32 lanes must
// call, with the same value.
DEVICE int uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

// True in one lane of the warp, always the same. All 32 lanes must call.
DEVICE bool elect_lane() {
    uint32_t elected;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
    return elected != 0;
}

// Gives registers back, or takes such that were given back: how many each thread has from then on, a multiple of 8. All of a warpgroup must call.
template <int REGISTERS>
DEVICE void registers_decrease() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
DEVICE void registers_increase() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// ---- barriers ---------------------------------------------------------------------------------------------------------------------

// Makes a barrier whose phases end after `arrivals` arrivals. One thread, before anybody else knows of the barrier.
DEVICE void barrier_init(Barrier* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// By the thread that has made the barriers, before the sync_block or sync_cluster behind which others use them.
DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

DEVICE void barrier_arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and lets the phase end only after `bytes` bytes of tensor loads.
DEVICE void barrier_arrive_expect(Barrier* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Arrives at the barrier that lies there in block `rank` of the cluster. It tells that tensor loads may follow, and releases no stores of this
// thread: that would cost a fence of the whole GPU at every stage.
DEVICE void barrier_arrive_remote(Barrier* barrier, int rank) {
    asm volatile(
        "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(
            shared_address(barrier)),
        "r"(rank)
        : "memory");
}
// Waits until the phase of that parity has ended.
DEVICE void barrier_wait(Barrier* barrier, int parity) {
    asm volatile(
        "{\n.reg .pred ended;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n@ended bra DONE;\nbra WAIT;\nDONE:\n}" ::"r"(
            shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// ---- tensor copies ----------------------------------------------------------------------------------------------------------------

// Brings a map close before its first use.
DEVICE void prefetch_map(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }

// Starts the copy of the map's box at these coordinates (the contiguous one first, in elements, negative ones included) to shared memory, dense
// in the box's order but for the swizzle; what lies outside of the tensor is zeros. Its bytes, all of the box's, count at the barrier. One
// thread; the shared address is a multiple of 128, or of 1024 with 128-byte swizzle.
#define LDM_TENSOR_LOAD(RANK, COORDINATES, ...) \
    asm volatile("cp.async.bulk.tensor." RANK ".shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {" COORDINATES "}], [%2];" ::"r"( \
                     shared_address(shared)), \
                 "l"(&map), "r"(shared_address(barrier)), __VA_ARGS__ \
                 : "memory")
DEVICE void tensor_load_2d(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1) {
    LDM_TENSOR_LOAD("2d", "%3, %4", "r"(c0), "r"(c1));
}
DEVICE void tensor_load_3d(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int c2) {
    LDM_TENSOR_LOAD("3d", "%3, %4, %5", "r"(c0), "r"(c1), "r"(c2));
}
DEVICE void tensor_load_4d(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int c2, int c3) {
    LDM_TENSOR_LOAD("4d", "%3, %4, %5, %6", "r"(c0), "r"(c1), "r"(c2), "r"(c3));
}
DEVICE void tensor_load_5d(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int c2, int c3, int c4) {
    LDM_TENSOR_LOAD("5d", "%3, %4, %5, %6, %7", "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4));
}
#undef LDM_TENSOR_LOAD

// As tensor_load, to the same place in every block of the cluster whose bit is set in `mask`, counted at each block's own barrier.
#define LDM_TENSOR_LOAD_MULTICAST(RANK, COORDINATES, ...) \
    asm volatile("cp.async.bulk.tensor." RANK \
                 ".shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {" COORDINATES "}], [%2], %3;" ::"r"( \
                     shared_address(shared)), \
                 "l"(&map), "r"(shared_address(barrier)), "h"(static_cast<uint16_t>(mask)), __VA_ARGS__ \
                 : "memory")
DEVICE void tensor_load_2d_multicast(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int mask) {
    LDM_TENSOR_LOAD_MULTICAST("2d", "%4, %5", "r"(c0), "r"(c1));
}
DEVICE void tensor_load_4d_multicast(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int c2, int c3, int mask) {
    LDM_TENSOR_LOAD_MULTICAST("4d", "%4, %5, %6, %7", "r"(c0), "r"(c1), "r"(c2), "r"(c3));
}
#undef LDM_TENSOR_LOAD_MULTICAST

// Starts the copy of a box from shared memory to the tensor; what would lie outside of it is left out. What threads have stored there needs
// fence_async_shared by them first, and a barrier.
#define LDM_TENSOR_STORE(RANK, COORDINATES, ...) \
    asm volatile("cp.async.bulk.tensor." RANK ".global.shared::cta.tile.bulk_group [%1, {" COORDINATES "}], [%0];" ::"r"(shared_address(shared)), \
                 "l"(&map), __VA_ARGS__ \
                 : "memory")
DEVICE void tensor_store_2d(const TensorMap& map, const void* shared, int c0, int c1) { LDM_TENSOR_STORE("2d", "%2, %3", "r"(c0), "r"(c1)); }
DEVICE void tensor_store_3d(const TensorMap& map, const void* shared, int c0, int c1, int c2) {
    LDM_TENSOR_STORE("3d", "%2, %3, %4", "r"(c0), "r"(c1), "r"(c2));
}
DEVICE void tensor_store_4d(const TensorMap& map, const void* shared, int c0, int c1, int c2, int c3) {
    LDM_TENSOR_STORE("4d", "%2, %3, %4, %5", "r"(c0), "r"(c1), "r"(c2), "r"(c3));
}
#undef LDM_TENSOR_STORE

// Closes the group of stores this thread has started since the last call.
DEVICE void tensor_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until of all but the latest PENDING groups of this thread shared memory has been read. A block must not end before.
template <int PENDING>
DEVICE void tensor_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

// Lets wgmma and tensor stores see what this thread has written to shared memory, and tensor loads come after what it has read there.
DEVICE void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Stores four 8 x 8 matrices of halves to shared memory: lane 8 i + r gives the address of row r of matrix i (16 bytes, 16-byte aligned), and
// `r[i]` holds the elements 2t, 2t+1 of row g of matrix i.
DEVICE void store_matrix_x4(void* row, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)), "r"(r[0]), "r"(r[1]), "r"(r[2]),
                 "r"(r[3])
                 : "memory");
}
// As store_matrix_x4, each matrix transposed: `r[i]` holds elements (2t, g) and (2t+1, g).
DEVICE void store_matrix_x4_transposed(void* row, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)), "r"(r[0]), "r"(r[1]),
                 "r"(r[2]), "r"(r[3])
                 : "memory");
}

// ---- clusters ---------------------------------------------------------------------------------------------------------------------

// This block's place in its cluster.
DEVICE int cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return static_cast<int>(rank);
}

// Waits for every thread of the cluster; what they wrote to shared memory is then visible to all. No block may end while another still reads
// its shared memory or sends to its barriers.
DEVICE void sync_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// What lies there in block `rank` of the cluster.
DEVICE float load_cluster(const float* shared, int rank) {
    float value;
    asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %1, %2;\nld.shared::cluster.f32 %0, [remote];\n}"
                 : "=f"(value)
                 : "r"(shared_address(shared)), "r"(rank)
                 : "memory");
    return value;
}
DEVICE Vector16 load_cluster_16(const void* shared, int rank) {
    Vector16 value;
    asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %4, %5;\nld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [remote];\n}"
                 : "=r"(value.word[0]), "=r"(value.word[1]), "=r"(value.word[2]), "=r"(value.word[3])
                 : "r"(shared_address(shared)), "r"(rank)
                 : "memory");
    return value;
}

// ---- products of a warpgroup ------------------------------------------------------------------------------------------------------

// The products themselves are in wgmma.cuh. They are started one after the other and run by themselves; until they were waited for, their
// accumulators, and registers of A, must not be touched, not even read, and shared memory of theirs not be written.

// Before the first product, and again after registers of theirs were written.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Closes the group of products started since the last call.
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits for all but the latest PENDING groups.
template <int PENDING>
DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Lets the compiler move no use of these registers over this line: behind a wait, for what was waited for. No instruction.
template <int COUNT>
DEVICE void hold_registers(float (&registers)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int COUNT>
DEVICE void hold_registers(uint32_t (&registers)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+r"(registers[i])::"memory");
}

#include "wgmma.cuh"

#endif

// ---- made of the above, the same on both sides --------------------------------------------------------------------------------------

#define WARPGROUP 128

// How wgmma finds a tile of 128-byte swizzle; what the distances mean stands at the head.
DEVICE uint64_t matrix_descriptor(const void* shared, int leading_bytes, int stride_bytes) {
    const uint64_t address = shared_address(shared) & 0x3ffff;
    return address >> 4 | static_cast<uint64_t>(leading_bytes >> 4) << 16 | static_cast<uint64_t>(stride_bytes >> 4) << 32 | uint64_t{1} << 62;
}

DEVICE int warpgroup_index() { return uniform(static_cast<int>(threadIdx.x / WARPGROUP)); }
