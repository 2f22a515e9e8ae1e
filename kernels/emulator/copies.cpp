// Asynchronous copies (cp.async). A copy is carried out as late as CUDA allows, in its thread's wait; until then its destination holds NaN.
// A kernel that reads too early, or that waits for the wrong group, thus computes nonsense here even where a GPU would often be in time.
#include "copies.h"

#include <string.h>

#include "fault.h"
#include "watch.h"

namespace emulator {

static void carry_out(Block& block, Thread& thread, const Copy& copy) {
    if (copy.valid) {
        memcpy(copy.shared, copy.global, copy.bytes);
    } else {
        memset(copy.shared, 0, copy.bytes);
    }
    if (block.watch) block.watch->finish_copy(thread, copy.shared, copy.bytes);
}

// All groups but the latest `pending` that were closed.
static void finish_groups(Block& block, Thread& thread, uint32_t pending) {
    size_t done = 0;
    for (; done < thread.copies.size(); done++) {
        const Copy& copy = thread.copies[done];
        if (copy.group + pending >= thread.open_group) break;
        carry_out(block, thread, copy);
    }
    thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<ptrdiff_t>(done));
}

void finish_copies(Block& block, Thread& thread) {
    thread.open_group++;
    finish_groups(block, thread, 0);
}

}  // namespace emulator

using namespace emulator;

void ldm_copy_async(void* shared, const void* global, int bytes, bool valid, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    unsigned char* const to = static_cast<unsigned char*>(shared);
    const uint32_t size = static_cast<uint32_t>(bytes);
    if (reinterpret_cast<uintptr_t>(to) % size != 0 || (valid && reinterpret_cast<uintptr_t>(global) % size != 0)) {
        raise(Fault::misaligned, text("an asynchronous copy of %u bytes between addresses that are not multiples of it", size), site);
    }
    if (to < block.arena || to >= block.arena + block.arena_used) {
        raise(Fault::shared_out_of_bounds, "an asynchronous copy to memory that is not shared", site);
    }
    if (block.watch) {
        const void* pc = __builtin_return_address(0);
        block.watch->start_copy(self, Access{to, size, true, pc});
        if (valid) block.watch->global(self, Access{static_cast<const unsigned char*>(global), size, false, pc});
    }
    memset(to, 0xff, size);
    self.copies.push_back(Copy{to, global, static_cast<uint16_t>(size), valid, self.open_group});
}

void ldm_copy_async_commit() { current.thread->open_group++; }

void ldm_copy_async_wait(int pending) { finish_groups(*current.block, *current.thread, static_cast<uint32_t>(pending)); }
