// A launch under way: what its host threads share.
#pragma once

#include <stdint.h>

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "emulator.h"
#include "entry.h"

namespace emulator {

struct Launch {
    const ldm_launch* request = nullptr;
    const ldm_entry* entry = nullptr;
    uint64_t blocks = 0;
    std::vector<uint32_t> order;         // of the blocks, if it is not the plain one
    std::atomic<uint64_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex lock;
    std::string report;

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
