// mbarriers, and barriers of some of a block's threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block.h"
#include "knowledge.h"

namespace emulator {

struct Mbarrier {
    uint32_t offset;              // in shared memory
    uint32_t expected;            // arrivals that end a phase
    uint32_t pending;             // of these, still to come
    int64_t bytes = 0;            // of tensor loads, still to come; negative if more came than were expected so far
    uint32_t phase = 0;           // that is under way
    uint32_t agent = 0;           // the engine whose loads it counts
    Stamp made = 0;               // by whom and when
    Known told{};                 // by all who have arrived so far
    Known known{};                // what of it was told when the last phase ended
    std::vector<Thread*> waiting{};
};

struct NamedBarrier {
    uint32_t threads = 0;         // that it is for; 0: nobody is there
    uint32_t arrived = 0;
    ldm_site site{};              // of the first to arrive
    Known told{};
    std::vector<Thread*> waiting{};
};

constexpr uint32_t NAMED_BARRIERS = 16;
constexpr uint32_t BARRIER_BYTES = 8;

// The barrier at `offset` of the block's shared memory, or null.
Mbarrier* barrier_at(const Block& block, uint32_t offset);
// Faults unless `self` knows of the barrier, and, for engines and other blocks, unless they do.
void check_made(const Mbarrier& barrier, const Block& of, const Thread& self, bool by_engine, ldm_site site, const void* pc);
// Bytes of a tensor load have come.
void complete(Block& block, Mbarrier& barrier, uint32_t bytes);
// Of a barrier that somebody waits on: where it is and what it lacks.
std::string state_of(const Mbarrier& barrier, const Block& block);

}  // namespace emulator
