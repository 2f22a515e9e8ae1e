// Global memory: allocations, and what is known of who touched them.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "clock.h"

namespace emulator {

// The last accesses of two bytes that a launch may write. Blocks carry numbers that are never used again, so that what an earlier launch
// left here is recognised, and need not be cleared. Host threads write these at once, without care: a race of a kernel may go unseen in the few
// nanoseconds in which it really is one, and is found in any other schedule.
struct Touched {
    uint32_t writer;      // a block
    Stamp write;          // its thread
    uint32_t reader;      // a block, or the launch's number for several
    Readers readers;      // its threads
};

// A block that has arrived at a counter: what it did before `floor`, and what its thread that arrived knew of, is known to whoever comes last.
struct Released {
    uint32_t block;
    Stamp floor;
    Known known;

    bool holds(Stamp stamp) const {
        const size_t agent = static_cast<size_t>(stamp & AGENT_MASK);
        return stamp < floor || (agent < known.size() && time_of(stamp) <= known[agent]);
    }
};

// The record of the two bytes at `address`, or null if they are not from ldm_emulator_alloc. Those of following bytes follow it.
Touched* touched(const void* address);

// The first of `count` numbers for blocks, none of them given out before.
uint32_t new_block_numbers(uint64_t count);

}  // namespace emulator
