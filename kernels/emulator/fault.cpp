// How faults are said.
#include "fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "launch.h"

namespace emulator {

const char* name_of(Fault fault) {
    switch (fault) {
        // The launch asks for what no GPU has, or for an entry that does not exist.
        case Fault::bad_launch: return "BAD_LAUNCH";
        // A thread reads what another wrote, and no barrier orders the two.
        case Fault::race_read_after_write: return "RACE_READ_AFTER_WRITE";
        // A thread overwrites what another read, and no barrier orders the two.
        case Fault::race_write_after_read: return "RACE_WRITE_AFTER_READ";
        // Two threads write one place, and no barrier orders them.
        case Fault::race_write_after_write: return "RACE_WRITE_AFTER_WRITE";
        // Shared memory is read that no thread of the block has written.
        case Fault::shared_uninitialised: return "SHARED_UNINITIALISED";
        // Shared memory beyond the launch's dynamic size, or between or behind arrays.
        case Fault::shared_out_of_bounds: return "SHARED_OUT_OF_BOUNDS";
        // Arrays of fixed size need more than every GPU has.
        case Fault::shared_too_large: return "SHARED_TOO_LARGE";
        // The destination of an asynchronous copy is read before the copy was waited for.
        case Fault::async_read_before_wait: return "ASYNC_READ_BEFORE_WAIT";
        // The destination of an asynchronous copy is written while the copy is under way.
        case Fault::async_write_write: return "ASYNC_WRITE_WRITE";
        // Global memory outside the tensors that the launch names.
        case Fault::global_out_of_bounds: return "GLOBAL_OUT_OF_BOUNDS";
        // A tensor is written that the launch names as only read.
        case Fault::global_read_only: return "GLOBAL_READ_ONLY";
        // What the grid before may still write is touched before that grid was waited for.
        case Fault::early_access: return "EARLY_ACCESS";
        // One block touches an element of global memory that another block writes.
        case Fault::block_race: return "BLOCK_RACE";
        // Blocks disagree on how many arrive at a counter, or it was not zero before the first.
        case Fault::counter_misused: return "COUNTER_MISUSED";
        // The launch has ended, and fewer blocks have arrived at a counter than were to.
        case Fault::counter_left: return "COUNTER_LEFT";
        // A thread touches another's local variables.
        case Fault::foreign_local_memory: return "FOREIGN_LOCAL_MEMORY";
        // An address is not a multiple of the bytes that one access moves.
        case Fault::misaligned: return "MISALIGNED";
        // Lanes of a warp meet in different primitives, or some of them nowhere.
        case Fault::divergent_collective: return "DIVERGENT_COLLECTIVE";
        // Lanes have ended that others of their warp wait for.
        case Fault::collective_after_exit: return "COLLECTIVE_AFTER_EXIT";
        // Threads of a block wait in different barriers.
        case Fault::divergent_barrier: return "DIVERGENT_BARRIER";
        // Threads have ended that others of their block wait for.
        case Fault::barrier_after_exit: return "BARRIER_AFTER_EXIT";
        // An mbarrier is used that nobody has made.
        case Fault::barrier_uninitialised: return "BARRIER_UNINITIALISED";
        // An mbarrier is used, and nothing orders that with its making; or it is made twice.
        case Fault::barrier_init_race: return "BARRIER_INIT_RACE";
        // An mbarrier is used by an engine or another block, and its maker had no barrier_init_fence.
        case Fault::missing_init_fence: return "MISSING_INIT_FENCE";
        // More threads arrive at an mbarrier than it was made for.
        case Fault::barrier_over_arrival: return "BARRIER_OVER_ARRIVAL";
        // More bytes come to an mbarrier than were expected.
        case Fault::barrier_bytes: return "BARRIER_BYTES";
        // An mbarrier is read or written as ordinary memory.
        case Fault::barrier_touched: return "BARRIER_TOUCHED";
        // What a thread has written is read by an engine, or what it has read is written by one, and it had no fence_async_shared in between.
        case Fault::missing_proxy_fence: return "MISSING_PROXY_FENCE";
        // Shared memory is written that a product, a tensor store or another block may still read.
        case Fault::async_overwrite: return "ASYNC_OVERWRITE";
        // A block ends while tensor copies go on.
        case Fault::async_unfinished: return "ASYNC_UNFINISHED";
        // A tensor map describes what the copy cannot do.
        case Fault::bad_tensor_map: return "BAD_TENSOR_MAP";
        // A descriptor names no tile of 128-byte swizzle.
        case Fault::bad_descriptor: return "BAD_DESCRIPTOR";
        // Threads of a warpgroup start different products.
        case Fault::divergent_product: return "DIVERGENT_PRODUCT";
        // A product is started without wgmma_fence.
        case Fault::wgmma_fence: return "WGMMA_FENCE";
        // Registers of a product are touched before it was waited for.
        case Fault::wgmma_registers: return "WGMMA_REGISTERS";
        // A thread ends without having waited for its products.
        case Fault::wgmma_unwaited: return "WGMMA_UNWAITED";
        // Numbers of registers that a warpgroup cannot have, or that a block's have not together.
        case Fault::register_count: return "REGISTER_COUNT";
        // A block ends while another may still use its shared memory, or is used after its end.
        case Fault::cluster_exit: return "CLUSTER_EXIT";
        // Nobody can go on.
        case Fault::deadlock: return "DEADLOCK";
    }
    return "";
}

std::string text(const char* format, ...) {
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    return line;
}

std::string place_of(ldm_site site) {
    if (!site.file) return "";
    const char* const slash = strrchr(site.file, '/');
    return text("%s:%d", slash ? slash + 1 : site.file, site.line);
}

std::string sentence(const Block& block, const Failure& failure) {
    std::string line = text("%s: %s, block (%u, %u, %u)", name_of(failure.fault), block.launch->entry->name, block.index[0], block.index[1],
                            block.index[2]);
    if (failure.thread) line += text(", thread %u", failure.thread->index);
    std::string place = failure.pc ? place_of(failure.pc) : "";
    if (place.empty()) place = place_of(failure.site);
    if (!place.empty()) line += " at " + place;
    return line + ": " + failure.detail;
}

// The thread's stack is abandoned with all that is on it, so what is kept has moved out of it.
void raise(Fault fault, std::string detail, ldm_site site, const void* pc) {
    Block& block = *current.block;
    block.failure.reset(new Failure{fault, std::move(detail), current.thread, site, pc});
    block.stop();
}

void raise_in_block(Block& block, Fault fault, std::string detail) {
    block.failure.reset(new Failure{fault, std::move(detail), nullptr, ldm_site{}, nullptr});
    block.stop();
}

}  // namespace emulator
