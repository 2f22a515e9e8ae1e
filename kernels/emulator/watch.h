// The checker: looks at every access of a kernel before it happens, and ends the launch at the first that is wrong.
#pragma once

#include <stdint.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "banks.h"
#include "block.h"
#include "clock.h"
#include "launch.h"
#include "memory.h"
#include "shadow.h"

namespace emulator {

// The regions of a request, the writable ones first: where two overlap, more is allowed.
std::vector<Region> regions_of(const ldm_launch& request);

// An access, for all that looks at it.
struct Access {
    const unsigned char* address;
    uint32_t bytes;
    bool write;
    const void* pc;       // where in the kernel's code
};

class Watch;

// What a product that `self` starts reads, for a lane of each warp, and remembered for the warpgroup as its engine's unless that is negative.
struct ProductReads {
    ProductReads(const Watch& watch, const Thread& self, int engine);

    Observer who;
    Stamp mark, known = 0;
};

class Watch {
public:
    void start_block(Block& block);
    void end_block();
    // What the lanes of a warp do from now on is apart from what they did.
    void lanes_met(uint32_t warp);
    void forget() { shadow_.forget(); }
    void allocate(uint32_t offset, uint32_t bytes) { shadow_.allocate(offset, bytes); }
    void block_met();
    void warp_met(uint32_t warp) { clock_.warp_met(warp); }

    // An access by an ordinary load or store; the address may be anything but a local variable of the thread.
    void access(Thread& self, const Access& access);
    // An access to what must be shared memory.
    void shared(Thread& self, const Access& access);
    // An access to what must be global memory.
    void global(Thread& self, const Access& access);
    // A counter at which the block arrives.
    void counter(Thread& self, const Access& access);
    // The start of an asynchronous copy to shared memory, and its end, in the thread's wait.
    void start_copy(Thread& self, const Access& access);
    void finish_copy(Thread& self, const unsigned char* address, uint32_t bytes);

    // ---- beyond barriers of blocks and warps: watch_engines.cpp ----

    // Everything up to now is ordered with what any thread of the block does from now on.
    void cluster_met() { clock_.raise_floors(); }
    // What `self`, a thread of this block, knows, for others; what others have told; and whether a thread of the cluster knows of what happened here.
    void tell(const Thread& self, Known& whom) { clock_.tell(self.index, whom); }
    void learn(const Thread& self, const Known& told);
    void learn(const Thread& self, uint32_t engine, int32_t time);
    bool knows(const Thread& who, Stamp stamp) const { return observer(who).knows(stamp); }
    bool fenced(const Thread& who, Stamp stamp, bool of_barriers) const { return observer(who).knows_fence(stamp, of_barriers); }
    // A fence of `self`: fence_async_shared, or barrier_init_fence.
    void fence(const Thread& self, bool of_barriers);
    // A barrier is made at `offset` by `self`; when.
    Stamp make_barrier(const Thread& self, uint32_t offset);
    // The thread of a stamp, by its number in its block.
    int thread_of(Stamp stamp) const;

    // A tensor load to this block, counted by the barrier of agent `engine` and started by `self`; and its end.
    void start_load(const Thread& self, uint32_t offset, uint32_t bytes, uint32_t engine, ldm_site site, const void* pc);
    void land(uint32_t offset, uint32_t bytes) { shadow_.land(offset, bytes); }
    // A read of shared memory by an engine that `self` starts.
    void engine_read(const Thread& self, uint32_t offset, uint32_t bytes, uint32_t engine, const char* what, ldm_site site, const void* pc);
    // A read of 16 bytes by a product.
    void product_read(ProductReads& reads, uint32_t offset, ldm_site site, const void* pc);
    // A read by a thread of another block of the cluster.
    void peer_read(const Thread& peer, uint32_t offset, uint32_t bytes, ldm_site site, const void* pc);

    // What this block releases to others now, and what `self` has come to know of them.
    Released released(const Thread& self);
    void acquire(Thread& self, const std::vector<Released>& blocks);

private:
    friend struct ProductReads;

    void judge(const Access& access, Verdict verdict, const std::string& what, ldm_site site);
    Observer observer(const Thread& who) const;
    // Who has left a stamp, for a report.
    std::string name_of(Stamp stamp) const;
    bool locate(Thread& self, const Access& access);
    bool known(Thread& self, uint32_t block, Stamp stamp) const;
    bool read_global(Thread& self, Touched& at, Verdict& verdict);
    bool write_global(Thread& self, Touched& at, Verdict& verdict);
    [[noreturn]] void unknown_address(const Access& access);

    Block* block_ = nullptr;
    Clock clock_;
    Shadow shadow_;
    std::unique_ptr<Banks> banks_;    // null: conflicts are not counted
    uint32_t number_ = 0;             // of this block, see Touched
    struct Acquired {
        Released other;
        Stamp since;                  // what it did is known to whoever comes after this
    };
    std::unordered_map<uint32_t, std::vector<Acquired>> acquired_;   // by the other block's number
    const Region* latest_ = nullptr;  // where the last access was: the next one often is there too
};

}  // namespace emulator
