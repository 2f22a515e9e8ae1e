// mbarriers (PTX ISA, "mbarrier"): arrivals and bytes end a phase, and whoever waits learns what all who have arrived knew.
#include "barriers.h"

#include "fault.h"
#include "hopper_primitives.h"
#include "schedule.h"
#include "watch.h"

namespace emulator {

Mbarrier* barrier_at(const Block& block, uint32_t offset) {
    for (const std::unique_ptr<Mbarrier>& barrier : block.mbarriers) {
        if (barrier->offset == offset) return barrier.get();
    }
    return nullptr;
}

static std::string name(const Mbarrier& barrier, const Block& block) { return block.name_of_shared(block.arena + barrier.offset); }

std::string state_of(const Mbarrier& barrier, const Block& block) {
    std::string state = text("the barrier at %s, in its phase %u", name(barrier, block).c_str(), barrier.phase);
    if (barrier.pending > 0) state += text(", which lacks %u of %u arrivals", barrier.pending, barrier.expected);
    if (barrier.bytes != 0) state += text(", which lacks %lld bytes", static_cast<long long>(barrier.bytes));
    return state;
}

void check_made(const Mbarrier& barrier, const Block& of, const Thread& self, bool by_engine, ldm_site site, const void* pc) {
    if (!of.watch) return;
    if (!of.watch->knows(self, barrier.made)) {
        raise(Fault::barrier_init_race,
              text("the barrier at %s was made by thread %d, and nothing orders the two since", name(barrier, of).c_str(),
                   of.watch->thread_of(barrier.made)),
              site, pc);
    }
    if (by_engine && !of.watch->fenced(self, barrier.made, true)) {
        raise(Fault::missing_init_fence,
              text("thread %d has made the barrier at %s without barrier_init_fence before others were told", of.watch->thread_of(barrier.made),
                   name(barrier, of).c_str()),
              site, pc);
    }
}

static void end_phase(Block& block, Mbarrier& barrier) {
    if (barrier.pending > 0 || barrier.bytes != 0) return;
    barrier.pending = barrier.expected;
    barrier.phase++;
    if (block.watch) {
        Knowledge& knowledge = block.cluster->knowledge;
        knowledge.learn(barrier.told, barrier.agent, knowledge.now());
        knowledge.advance();
        barrier.known = barrier.told;
    }
    for (Thread* thread : barrier.waiting) {
        if (block.watch) block.watch->learn(*thread, barrier.known);
        block.make_ready(*thread);
    }
    barrier.waiting.clear();
}

void complete(Block& block, Mbarrier& barrier, uint32_t bytes) {
    barrier.bytes -= bytes;
    if (barrier.pending == 0 && barrier.bytes < 0) {
        raise_in_block(block, Fault::barrier_bytes,
                       text("%lld bytes more than were expected have come to the barrier at %s", static_cast<long long>(-barrier.bytes),
                            name(barrier, block).c_str()));
    }
    end_phase(block, barrier);
}

// The barrier at an address, which `self` uses in its own block or in `of`.
static Mbarrier& find(const Block& of, uint32_t offset, const Thread& self, ldm_site site, const void* pc) {
    Mbarrier* const barrier = barrier_at(of, offset);
    if (!barrier) {
        const bool elsewhere = self.block != &of;
        raise(Fault::barrier_uninitialised,
              text("there is no barrier at %s%s", of.name_of_shared(of.arena + offset).c_str(), elsewhere ? " in that block of the cluster yet" : ""),
              site, pc);
    }
    check_made(*barrier, of, self, &of != self.block, site, pc);
    return *barrier;
}

static void arrive(Block& of, Mbarrier& barrier, Thread& self, uint32_t bytes, ldm_site site, const void* pc) {
    if (barrier.pending == 0) {
        raise(Fault::barrier_over_arrival,
              text("all %u arrivals of this phase have come to the barrier at %s, which only lacks bytes", barrier.expected, name(barrier, of).c_str()),
              site, pc);
    }
    barrier.pending--;
    barrier.bytes += bytes;
    if (barrier.pending == 0 && barrier.bytes < 0) {
        raise(Fault::barrier_bytes,
              text("%lld bytes more than are expected have come to the barrier at %s", static_cast<long long>(-barrier.bytes),
                   name(barrier, of).c_str()),
              site, pc);
    }
    if (self.block->watch) self.block->watch->tell(self, barrier.told);
    end_phase(of, barrier);
}

}  // namespace emulator

using namespace emulator;

void ldm_barrier_init(void* shared, int arrivals, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    const void* const pc = __builtin_return_address(0);
    const uint32_t offset = block.offset_of(shared, "a barrier", site);
    if (offset % BARRIER_BYTES != 0) raise(Fault::misaligned, "a barrier that is not at a multiple of 8 bytes", site, pc);
    if (arrivals < 1 || arrivals >= 1 << 20) raise(Fault::barrier_over_arrival, text("a barrier for %d arrivals", arrivals), site, pc);
    if (barrier_at(block, offset)) raise(Fault::barrier_init_race, "a barrier is made where there is one", site, pc);
    if (block.watch) block.watch->shared(self, Access{block.arena + offset, BARRIER_BYTES, true, pc});
    const int agent = block.cluster->knowledge.new_agent();
    if (agent < 0) raise(Fault::bad_launch, text("more than %u threads and barriers in a cluster", MAX_AGENTS), site, pc);
    const uint32_t expected = static_cast<uint32_t>(arrivals);
    block.mbarriers.emplace_back(new Mbarrier{offset, expected, expected});
    block.mbarriers.back()->agent = static_cast<uint32_t>(agent);
    if (block.watch) block.mbarriers.back()->made = block.watch->make_barrier(self, offset);
}

void ldm_barrier_init_fence() {
    const Current& now = current;
    if (now.watch) now.watch->fence(*now.thread, true);
}

void ldm_fence_async_shared() {
    const Current& now = current;
    if (now.watch) now.watch->fence(*now.thread, false);
}

void ldm_barrier_arrive(void* shared, int bytes, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    const void* const pc = __builtin_return_address(0);
    arrive(block, find(block, block.offset_of(shared, "a barrier", site), self, site, pc), self, static_cast<uint32_t>(bytes), site, pc);
}

void ldm_barrier_arrive_remote(void* shared, int rank, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    const void* const pc = __builtin_return_address(0);
    const uint32_t offset = block.offset_of(shared, "a barrier", site);
    Block& of = peer(block, rank, site, pc);
    touch_peer(of, self, site, pc);
    arrive(of, find(of, offset, self, site, pc), self, 0, site, pc);
}

void ldm_barrier_wait(void* shared, int parity, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    Mbarrier& barrier = find(block, block.offset_of(shared, "a barrier", site), self, site, __builtin_return_address(0));
    if (((barrier.phase ^ static_cast<uint32_t>(parity)) & 1) != 0) {
        if (block.watch) block.watch->learn(self, barrier.known);
        return;
    }
    self.mbarrier = &barrier;
    barrier.waiting.push_back(&self);
    block.wait(self, Waiting::mbarrier, site);
}
