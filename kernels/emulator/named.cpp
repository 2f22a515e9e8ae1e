// Barriers of some of a block's threads (bar.sync, bar.arrive with a number and a count).
#include "barriers.h"
#include "fault.h"
#include "hopper_primitives.h"
#include "schedule.h"
#include "watch.h"

using namespace emulator;

// Counts `self` in. True if it was the last.
static bool arrive(Block& block, Thread& self, NamedBarrier& barrier, int number, int threads, ldm_site site, const void* pc) {
    const uint32_t wanted = static_cast<uint32_t>(threads);
    if (number < 1 || number >= static_cast<int>(NAMED_BARRIERS) || threads <= 0 || wanted % WARP != 0 || wanted > block.thread_count) {
        raise(Fault::divergent_barrier,
              text("barrier %d for %d of the block's %u threads; expected barrier 1 to 15, for whole warps", number, threads, block.thread_count), site, pc);
    }
    if (barrier.threads == 0) {
        barrier.threads = wanted;
        barrier.site = site;
    } else if (barrier.threads != wanted) {
        raise(Fault::divergent_barrier,
              text("barrier %d for %u threads, to which others have come for %u at %s", number, wanted, barrier.threads, place_of(barrier.site).c_str()),
              site, pc);
    }
    if (block.watch) block.watch->tell(self, barrier.told);
    return ++barrier.arrived == wanted;
}

static void open(Block& block, NamedBarrier& barrier) {
    for (Thread* thread : barrier.waiting) {
        if (block.watch) block.watch->learn(*thread, barrier.told);
        block.make_ready(*thread);
    }
    barrier = NamedBarrier();
}

void ldm_sync_named(int number, int threads, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    NamedBarrier& barrier = block.named_barriers[static_cast<uint32_t>(number) % NAMED_BARRIERS];
    if (!arrive(block, self, barrier, number, threads, site, __builtin_return_address(0))) {
        barrier.waiting.push_back(&self);
        return block.wait(self, Waiting::named, site);
    }
    if (block.watch) block.watch->learn(self, barrier.told);
    open(block, barrier);
    block.go_on(self);
}

void ldm_arrive_named(int number, int threads, ldm_site site) {
    Block& block = *current.block;
    NamedBarrier& barrier = block.named_barriers[static_cast<uint32_t>(number) % NAMED_BARRIERS];
    if (arrive(block, *current.thread, barrier, number, threads, site, __builtin_return_address(0))) open(block, barrier);
}
