// Faults: what can be wrong with a kernel, and how it is said.
#pragma once

#include <string>

#include "block.h"

namespace emulator {

// The table of fault.cpp says what each means.
enum class Fault : uint8_t {
    bad_launch,
    race_read_after_write,
    race_write_after_read,
    race_write_after_write,
    shared_uninitialised,
    shared_out_of_bounds,
    shared_too_large,
    async_read_before_wait,
    async_write_write,
    global_out_of_bounds,
    global_read_only,
    early_access,
    block_race,
    counter_misused,
    counter_left,
    foreign_local_memory,
    misaligned,
    divergent_collective,
    collective_after_exit,
    divergent_barrier,
    barrier_after_exit,
    barrier_uninitialised,
    barrier_init_race,
    missing_init_fence,
    barrier_over_arrival,
    barrier_bytes,
    barrier_touched,
    missing_proxy_fence,
    async_overwrite,
    async_unfinished,
    bad_tensor_map,
    bad_descriptor,
    divergent_product,
    wgmma_fence,
    wgmma_registers,
    wgmma_unwaited,
    register_count,
    cluster_exit,
    deadlock,
};

const char* name_of(Fault fault);

// What a thread has found wrong.
struct Failure {
    Fault fault;
    std::string detail;
    const Thread* thread;     // null: no single one is to blame
    ldm_site site;
    const void* pc;
};

// Ends the launch. The place is that of `pc`, an address in the kernel's code, if the program knows its lines, and else `site`.
[[noreturn]] void raise(Fault fault, std::string detail, ldm_site site, const void* pc = nullptr);

// As raise, where no thread of the block is to blame.
[[noreturn]] void raise_in_block(Block& block, Fault fault, std::string detail);

// One line: the fault, the entry, block and thread, file and line, and what there is to say of it.
std::string sentence(const Block& block, const Failure& failure);

// "file.cu:12" or "".
std::string place_of(ldm_site site);
// "file.cu:12", the innermost line outside the primitive layer that an instruction comes from; else its function; else "".
std::string place_of(const void* pc);

// Whether an address is in constant data of the program.
bool in_constants(const void* address);

// printf into a string.
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace emulator
