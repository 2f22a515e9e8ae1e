// The primitive layer: everything a kernel may ask of the processor beyond plain C++.
//
// Kernels are written once. nvcc compiles them for GPUs, where each primitive below is an instruction; a C++ compiler compiles the very
// same source for the emulator, where each is a call into kernels/emulator. So this file is the only one with inline PTX, and the only one
// that knows which compiler reads it. A kernel never writes `asm`, `__shared__`, `#ifdef` or `<<<>>>`.
//
// Bits and fragments are PTX's (PTX ISA, "Matrix fragments for mma.m16n8k16" and "ldmatrix"): lane = 4 * group + quad member,
// `g = lane / 4`, `t = lane % 4`.
//
//   A (16 x 16, row-major)  a[0]: rows g,     k 2t, 2t+1     a[1]: rows g + 8, k 2t, 2t+1
//                           a[2]: rows g,     k 2t+8, 2t+9   a[3]: rows g + 8, k 2t+8, 2t+9
//   B (16 x 8, by columns)  b[0]: column g,   k 2t, 2t+1     b[1]: column g,   k 2t+8, 2t+9
//   D (16 x 8)              d[0], d[1]: row g, columns 2t, 2t+1   d[2], d[3]: row g + 8
#pragma once

#ifdef LDM_EMULATOR
#include "emulator/gpu.h"
#else

#include <cuda_fp16.h>
#include <stdint.h>

// A kernel's entry: threads per block, blocks that should fit on one multiprocessor, name, parameters. build.rs reads these lines to know
// every entry and its signature; parameters may come from an object-like macro of the same file. Allowed types: `half*`, `float*`, `int*`,
// their `const` forms, `int`, `float`.
#define ENTRY(THREADS, BLOCKS, NAME, ...) \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(__VA_ARGS__)

// The block's dynamic shared memory, 128-byte aligned; its size comes with the launch.
#define SHARED_DYNAMIC(NAME) extern __shared__ __align__(128) unsigned char NAME[]

// A fixed array in shared memory, 16-byte aligned.
#define SHARED_ARRAY(TYPE, NAME, COUNT) __shared__ __align__(16) TYPE NAME[COUNT]

#define DEVICE static __device__ __forceinline__

// ---- threads ----------------------------------------------------------------------------------------------------------------------

// Waits for every thread of the block; what they wrote to shared memory is then visible to all.
DEVICE void sync_block() { __syncthreads(); }

// Waits for every lane of the warp; what they wrote is then visible to the warp.
DEVICE void sync_warp() { __syncwarp(); }

// Waits until the grid before this one has ended and what it wrote is visible: Hopper GPUs start a grid earlier, everywhere else there is nothing
// to wait for. Every thread of every kernel calls it before it touches global memory that is not a weight; weights are never written while
// kernels run. A kernel without it could end before its predecessor, and let its successor read what that has not yet written.
DEVICE void wait_for_previous_grid() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next grid start once every block of this one has come here or ended; it then stands in its own wait until this one has ended. It
// takes only the room that is left, as all blocks of this grid have theirs.
DEVICE void let_next_grid_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The value of lane `lane ^ mask`. All 32 lanes must call.
DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE int shuffle_xor(int value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// ---- memory -----------------------------------------------------------------------------------------------------------------------

// Sixteen bytes moved by one instruction. The address must be a multiple of 16.
struct alignas(16) Vector16 {
    uint32_t word[4];
};
DEVICE Vector16 load_16(const void* address) { return *reinterpret_cast<const Vector16*>(address); }
DEVICE void store_16(void* address, const Vector16& value) { *reinterpret_cast<Vector16*>(address) = value; }

DEVICE uint32_t shared_address(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

// Starts a copy of 16 bytes from global to shared memory, or of zeros unless `valid` (the global address is then not read). Both
// addresses are multiples of 16. The bytes are there after `copy_async_wait`, and for other threads after a barrier behind it.
DEVICE void copy_async_16(void* shared, const void* global, bool valid = true) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}

// As copy_async_16, for 8 and 4 bytes, aligned to as many.
DEVICE void copy_async_8(void* shared, const void* global, bool valid = true) {
    const int bytes = valid ? 8 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}
DEVICE void copy_async_4(void* shared, const void* global, bool valid = true) {
    const int bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}

// Closes the group of copies this thread has started since the last call.
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the latest PENDING groups of this thread are still under way.
template <int PENDING>
DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Loads four 8 x 8 matrices of halves from shared memory: lane 8 i + r gives the address of row r of matrix i (16 bytes, 16-byte
// aligned), and receives in `r[i]` the elements 2t, 2t+1 of row g of matrix i.
DEVICE void load_matrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// As load_matrix_x4, each matrix transposed: the lane receives elements (2t, g) and (2t+1, g).
DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Counts one block more at `counter`, which is zero at first: whether `count` have now come, of which this is the last. The counter is then
// zero again. What the threads of those blocks wrote before the barrier that precedes their call is visible to this thread, and to its block
// after a barrier. One thread calls.
DEVICE bool arrive(int* counter, int count) {
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(count - 1) : "memory");
    return before == static_cast<uint32_t>(count - 1);
}

// The same number, which the compiler does not know to be the same: what follows from it is computed again, where it is needed seldom and would take
// a register of a loop.
DEVICE int computed_again(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

// ---- arithmetic -------------------------------------------------------------------------------------------------------------------

// d += a b on the tensor cores: halves multiplied exactly, accumulated in f32.
DEVICE void multiply_accumulate(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// As multiply_accumulate with the sum kept in halves (d[0]: row g, d[1]: row g + 8), twice as fast on consumer GPUs. Its caller adds the
// sums to f32 before they grow long.
DEVICE void multiply_accumulate_half(uint32_t (&d)[2], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
                 : "+r"(d[0]), "+r"(d[1])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// All products of a warp's tile of ROWS x COLUMNS fragments, for one step of 16 along K.
template <int ROWS, int COLUMNS>
DEVICE void multiply_tile(float (&d)[ROWS][COLUMNS][4], const uint32_t (&a)[ROWS][4], const uint32_t (&b)[COLUMNS][2]) {
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) multiply_accumulate(d[i][j], a[i], b[j]);
    }
}
// The same with the sums kept in halves.
template <int ROWS, int COLUMNS>
DEVICE void multiply_tile_half(uint32_t (&d)[ROWS][COLUMNS][2], const uint32_t (&a)[ROWS][4], const uint32_t (&b)[COLUMNS][2]) {
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) multiply_accumulate_half(d[i][j], a[i], b[j]);
    }
}

// 2^x, to 2 units in the last place; denormals become zero.
DEVICE float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x, to 1 unit in the last place; denormals become zero before and after.
DEVICE float reciprocal_approximate(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The larger, or NaN if either is, where fmaxf drops it.
DEVICE float maximum(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

// Two floats rounded to halves, the first in the low bits.
DEVICE uint32_t pack_halves(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}
DEVICE float low_half(uint32_t pair) { return __low2float(*reinterpret_cast<const __half2*>(&pair)); }
DEVICE float high_half(uint32_t pair) { return __high2float(*reinterpret_cast<const __half2*>(&pair)); }

// An element to f32 and back, rounded to nearest: for kernels written for halves and floats alike.
DEVICE float to_float(half x) { return __half2float(x); }
DEVICE float to_float(float x) { return x; }
template <typename T>
__device__ __forceinline__ T from_float(float x) { return x; }
template <>
__device__ __forceinline__ half from_float<half>(float x) { return __float2half_rn(x); }

#endif

// ---- made of the above, the same on both sides --------------------------------------------------------------------------------------

#define WARP 32

DEVICE int lane_index() { return static_cast<int>(threadIdx.x % WARP); }
DEVICE int warp_index() { return static_cast<int>(threadIdx.x / WARP); }

// The sum, or the largest, of all lanes' values; every lane receives the same bits. NaN wins no comparison: callers that must pass
// it on take sums.
DEVICE float warp_sum(float value) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}
DEVICE float warp_max(float value) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask));
    return value;
}

// Whether this block is the last of `count` that call with this counter, in all its threads or in none. What those blocks wrote before their
// calls is then visible to it. All threads of the block must call.
DEVICE bool last_to_arrive(int* counter, int count) {
    SHARED_ARRAY(int, last, 1);
    sync_block();
    if (threadIdx.x == 0) last[0] = arrive(counter, count) ? 1 : 0;
    sync_block();
    return last[0] != 0;
}
