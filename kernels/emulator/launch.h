// A launch under way: what its host threads share.
#pragma once

#include <stdint.h>

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "emulator.h"
#include "entry.h"
#include "memory.h"

namespace emulator {

// One range of global memory that a launch may touch.
struct Region {
    const unsigned char* start;
    const unsigned char* end;
    bool writable;
    bool early;           // may be touched while the grid before still runs
    Touched* touched;     // of `start`; null: who touches it is not recorded
};

// Blocks that have arrived at a counter since it was last zero.
struct Arrivals {
    int count;                           // that are to come
    ldm_site site;                       // where the last one called
    std::vector<Released> blocks;
};

// Lanes that had to take turns at a bank of shared memory, see banks.h.
struct Conflict {
    uint32_t turns = 0;   // the most
    bool write = false;
};
// By where in the kernel's code.
using Conflicts = std::map<const void*, Conflict>;

struct Launch {
    const ldm_launch* request = nullptr;
    const ldm_entry* entry = nullptr;
    uint64_t blocks = 0;
    uint64_t clusters = 0;               // of as many blocks as the request says, which run together
    uint32_t first_number = 0;           // of the blocks, among all that ever ran
    std::vector<Region> regions;         // what may be touched, if that is checked
    std::vector<uint32_t> order;         // of the clusters, if it is not the plain one
    std::map<int*, Arrivals> arrivals;   // at counters that are not zero; under `lock`
    Conflicts conflicts;                 // if they are counted; under `lock`
    std::atomic<uint64_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex lock;
    std::string report;

    // Counts `block` in at a counter; those that came before it, if it is the last. `wrong` says what is wrong with the call.
    std::vector<Released> arrive(int* counter, int count, Released block, ldm_site site, std::string& wrong);
    // Keeps the first fault and lets no further block start.
    void fail(const std::string& line);
};

// The next number of a pseudo-random stream (splitmix64): schedules must repeat for a seed on every machine.
inline uint64_t next_random(uint64_t& state) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

}  // namespace emulator
