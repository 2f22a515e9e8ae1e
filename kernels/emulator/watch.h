// The checker.
#pragma once

#include "block.h"

namespace emulator {

class Watch {
public:
    void start_block(Block&) {}
    void block_met() {}
    void warp_met(uint32_t) {}
    void shared_access(Thread&, const void*, uint32_t, bool, const void*) {}
    void start_copy(Thread&, const void*, uint32_t, const void*) {}
    void read_by_copy(Thread&, const void*, uint32_t, const void*) {}
    void finish_copy(Thread&, const void*, uint32_t) {}
};

}  // namespace emulator
