// Who did what before whom: vector clocks, as small as these kernels let them be.
//
// Two accesses race if neither happens before the other. Memory is ordered by barriers alone: of a block, or of a warp. (A shuffle or a
// matrix product makes lanes meet too, but orders nothing, in CUDA as here.) All threads of a block run on one host thread, so one counter
// can tell the time: it advances at every barrier, and an access is stamped with it and with its thread. What a thread knows of the others,
// a vector clock's components, is then the same for all of a warp and mostly for all of the block: everything before the block's last
// barrier, and of its own warp everything before the warp's last one. Two numbers say that, exactly, where FastTrack (Flanagan and Freund,
// PLDI 2009) keeps a vector.
//
// mbarriers, named barriers and barriers of a cluster order any agents with any others. What they tell a thread is a third source of knowledge: a
// vector per thread (knowledge.h), which `ordered` asks last. Agents are the threads of a cluster's blocks and, beyond them, the engines that
// copy tensors and multiply by themselves. Stamps of engines, and of a cluster's other blocks, are marked: no barrier of a block or
// warp orders them, only what a thread was told.
#pragma once

#include <stdint.h>

#include "block.h"
#include "knowledge.h"

namespace emulator {

class Clock {
public:
    // A new block, the one of whose threads the first is agent `first`: everything that an earlier one left behind is ordered.
    void start(Knowledge& knowledge, uint32_t first) {
        knowledge_ = &knowledge;
        first_ = static_cast<Stamp>(first);
        raise_floors();
    }
    void block_met() {
        const bool told = knowledge_->used();
        if (told) knowledge_->met(static_cast<uint32_t>(first_), current.block->thread_count);
        knowledge_->advance();
        raise_floors();
    }
    void warp_met(uint32_t warp) {
        if (knowledge_->used()) knowledge_->met(static_cast<uint32_t>(first_) + warp * WARP, WARP);
        knowledge_->advance();
        warp_floor_[warp] = knowledge_->now() << AGENT_BITS;
    }
    // Everything up to now is ordered with what any thread of the block does from now on.
    void raise_floors() {
        block_floor_ = knowledge_->now() << AGENT_BITS;
        for (Stamp& floor : warp_floor_) floor = block_floor_;
    }

    uint32_t agent(uint32_t thread) const { return static_cast<uint32_t>(first_) + thread; }
    Stamp stamp(uint32_t thread) const { return knowledge_->now() << AGENT_BITS | (first_ + static_cast<Stamp>(thread)); }
    // Stamps below happened before everything that any thread does now.
    Stamp block_floor() const { return block_floor_; }
    // Whether what `stamp` says happened before what `thread` does now.
    bool ordered(Stamp stamp, uint32_t thread) const {
        if (stamp < block_floor_) return true;
        const Stamp differs = (stamp ^ (first_ + static_cast<Stamp>(thread))) & (AGENT_MASK | MARKED);
        if (differs == 0) return true;
        if ((differs & (WARP_MASK | MARKED)) == 0 && stamp < warp_floor_[thread / WARP]) return true;
        return knowledge_->ordered(stamp, agent(thread));
    }
    // What `thread` does from now on is later than what it tells now, with all that it knows.
    void tell(uint32_t thread, Known& whom) const;

private:
    Knowledge* knowledge_ = nullptr;
    Stamp first_ = 0;
    Stamp block_floor_ = 0;
    Stamp warp_floor_[MAX_THREADS / WARP] = {};
};

// The latest readers of one place, and the rule by which two of them suffice: a later writer races with some reader if and only if it races
// with one of these. Kept are the latest reader and, of the others, one of another warp if the block has not met since it read, else the next
// latest. `mine` reads now. (That is so where blocks and warps meet. Where mbarriers order a writer with some readers only, a third reader may be
// forgotten, and be found under another schedule; engines are remembered apart, see shadow.h.)
struct Readers {
    Stamp latest, other;
};

inline Readers with_reader(Readers before, Stamp mine, Stamp block_floor) {
    if (((before.latest ^ mine) & AGENT_MASK) == 0) return {mine, before.other};
    const bool keep = ((before.latest ^ mine) & WARP_MASK) == 0 && ((before.other ^ mine) & WARP_MASK) != 0 && before.other >= block_floor;
    return {mine, keep ? before.other : before.latest};
}

}  // namespace emulator
