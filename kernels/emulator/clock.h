// Who did what before whom: vector clocks, as small as these kernels let them be.
//
// Two accesses race if neither happens before the other. Memory is ordered by barriers alone: of a block, or of a warp. (A shuffle or a
// matrix product makes lanes meet too, but orders nothing, in CUDA as here.) All threads of a block run on one host thread, so one counter
// can tell the time: it advances at every barrier, and an access is stamped with it and with its thread. What a thread knows of the others,
// a vector clock's components, is then the same for all of a warp and mostly for all of the block: everything before the block's last
// barrier, and of its own warp everything before the warp's last one. Two numbers say that, exactly, where FastTrack (Flanagan and Freund,
// PLDI 2009) keeps a vector.
//
// An mbarrier will order any subset of agents with any other. It adds a third source of knowledge: a vector per thread that has waited on
// one, which `ordered` asks last. Asynchronous engines are then agents beyond the threads; the stamp has room for as many again.
#pragma once

#include <stdint.h>

#include "block.h"

namespace emulator {

// Time in the high bits, so that stamps compare by time, and an agent in the low ones. 0: never. Stamps are positive as int32_t, since vector
// units compare those.
using Stamp = int32_t;

constexpr int AGENT_BITS = 11;
constexpr Stamp AGENT_MASK = (1 << AGENT_BITS) - 1;
constexpr Stamp WARP_MASK = AGENT_MASK & ~static_cast<Stamp>(WARP - 1);
constexpr int32_t END_OF_TIME = (1 << (31 - AGENT_BITS)) - 1;

class Clock {
public:
    // A new block: everything that an earlier one left behind is ordered. False if time has come to its end; all stamps must then be forgotten.
    bool start() {
        const bool enough = now_ < END_OF_TIME / 2;
        if (!enough) now_ = 0;
        block_met();
        return enough;
    }
    void block_met() {
        advance();
        block_floor_ = now_ << AGENT_BITS;
        for (Stamp& floor : warp_floor_) floor = block_floor_;
    }
    void warp_met(uint32_t warp) {
        advance();
        warp_floor_[warp] = now_ << AGENT_BITS;
    }

    Stamp stamp(uint32_t thread) const { return now_ << AGENT_BITS | static_cast<Stamp>(thread); }
    // Stamps below happened before everything that any thread does now.
    Stamp block_floor() const { return block_floor_; }
    // Whether what `stamp` says happened before what `thread` does now.
    bool ordered(Stamp stamp, uint32_t thread) const {
        if (stamp < block_floor_) return true;
        const Stamp differs = (stamp ^ static_cast<Stamp>(thread)) & AGENT_MASK;
        if (differs == 0) return true;
        return (differs & WARP_MASK) == 0 && stamp < warp_floor_[thread / WARP];
    }

private:
    // Half a million barriers in one block are far more than any kernel has. Beyond, warps' barriers order nothing: too much is then reported,
    // not too little.
    void advance() { now_ += now_ < END_OF_TIME; }

    int32_t now_ = 0;
    Stamp block_floor_ = 0;
    Stamp warp_floor_[MAX_THREADS / WARP] = {};
};

// The latest readers of one place, and the rule by which two of them suffice: a later writer races with some reader if and only if it races
// with one of these. Kept are the latest reader and, of the others, one of another warp if the block has not met since it read, else the next
// latest. `mine` reads now.
struct Readers {
    Stamp latest, other;
};

inline Readers with_reader(Readers before, Stamp mine, Stamp block_floor) {
    if (((before.latest ^ mine) & AGENT_MASK) == 0) return {mine, before.other};
    const bool keep = ((before.latest ^ mine) & WARP_MASK) == 0 && ((before.other ^ mine) & WARP_MASK) != 0 && before.other >= block_floor;
    return {mine, keep ? before.other : before.latest};
}

}  // namespace emulator
