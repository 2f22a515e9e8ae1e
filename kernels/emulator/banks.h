// Bank conflicts: how many turns shared memory needs for what a warp asks of it at once. It has 32 banks of four bytes; lanes that want different
// words of one bank take turns, and so do the lanes of accesses that are wider than 128 bytes together: those of 16 bytes by eights, of 8 by sixteens.
//
// Fibers run one lane after another, so a warp's access is put together again from what its lanes did at one place of the code for the same time since
// the warp met last. Of lanes that go around a loop without meeting, and not all equally often, that is a guess. What a lane touches side by side, one
// after the other, is one access as wide as its alignment lets it be: the host's compiler takes vectors apart that a GPU's moves as they are.
#pragma once

#include <stdint.h>

#include <unordered_map>
#include <vector>

#include "block.h"
#include "launch.h"

namespace emulator {

class Banks {
public:
    // A lane reads or writes shared memory.
    void touch(const Thread& self, uint32_t offset, uint32_t bytes, bool write, const void* pc);
    // All lanes of a warp have come to one place.
    void meet(uint32_t warp);
    // Of a whole block; what was found is left with the launch.
    void end(Launch& launch);

private:
    // One access of a warp.
    struct Request {
        uint32_t lanes = 0;          // a bit for each that takes part
        uint32_t bytes = 0;          // of a lane
        uint32_t offset[WARP];
    };
    // What a warp did at one place since it met.
    struct Place {
        bool write = false;
        uint32_t times[WARP] = {};
        std::vector<Request> requests;
    };
    // The latest access of a lane.
    struct Latest {
        Place* place = nullptr;
        uint32_t request = 0, first = 0, end = 0;
    };
    struct Warp {
        std::unordered_map<const void*, Place> places;
        Latest latest[WARP];
    };
    static bool join(Latest& latest, uint32_t offset, uint32_t bytes, bool write);

    Warp warps_[MAX_THREADS / WARP];
    Conflicts found_;
};

// One line for each place where a launch has made lanes take turns: "file.cu:12", how many turns at most, "read" or "written".
std::string sentences(const Conflicts& conflicts);

}  // namespace emulator
