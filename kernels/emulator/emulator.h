// The emulator's door: how a program runs a kernel on the processor. Everything else in this folder is behind it.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Memory that a launch may touch: one tensor, or the scratch memory of a node.
typedef struct {
    void* address;
    uint64_t bytes;
    int32_t writable;
    int32_t early;            // a weight: may be read before the grid before has ended
} ldm_region;

// One launch, as cuLaunchKernel takes it, and how closely to watch it.
typedef struct {
    const char* entry;
    uint32_t grid[3];
    uint32_t threads;
    uint32_t cluster;         // blocks along x that form a cluster; 1: none do
    uint32_t shared_bytes;    // of dynamic shared memory
    void** arguments;         // an address per parameter, of the value to pass
    const ldm_region* regions;
    uint32_t region_count;
    uint32_t workers;         // host threads that share the blocks
    int32_t check;            // 0: run; 1: watch every access; 2: count bank conflicts too
    uint64_t seed;            // 0: one fixed schedule; otherwise a random one
} ldm_launch;

// Runs a launch to its end. 0 if all is well; otherwise `report` holds one line per fault, ended by a zero byte. Where conflicts are counted and all
// is well, it holds one line per place that has any.
int32_t ldm_emulator_launch(const ldm_launch* launch, char* report, size_t report_bytes);

// Global memory: `bytes` bytes of 0xFF (every float and half among them is NaN), aligned to 256, or null.
void* ldm_emulator_alloc(size_t bytes);
void ldm_emulator_free(void* address);

#ifdef __cplusplus
}
#endif
