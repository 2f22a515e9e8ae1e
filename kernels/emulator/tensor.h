// Copies of boxes of tensors to and from shared memory (TMA).
#pragma once

#include <stdint.h>

#include <vector>

#include "knowledge.h"

namespace emulator {

struct Block;
struct Thread;
struct Mbarrier;

constexpr uint32_t MAX_RANK = 5;

// What the 128 bytes of a tensor map are here, where there is no driver to encode them. Elements are halves, dimension 0 is contiguous.
struct Map {
    uint64_t address;
    uint32_t rank;
    uint32_t swizzle;             // bytes: 0, 32, 64 or 128
    uint64_t extent[MAX_RANK];
    uint64_t pitch[MAX_RANK - 1]; // bytes from one to the next, of dimension 1 on
    uint32_t box[MAX_RANK];
    uint32_t step[MAX_RANK];      // every how manieth element of the box is taken; of dimension 0 all are
};
static_assert(sizeof(Map) == 128, "the size of a CUtensorMap");

struct Box {
    Map map;
    int32_t at[MAX_RANK];
};

// Where a load goes: one block, or several of a cluster.
struct Target {
    Block* block;
    Mbarrier* barrier;
};

struct TensorLoad {
    Box box;
    uint32_t offset;              // in each target's shared memory
    uint32_t bytes;
    std::vector<Target> targets;
};

struct TensorStore {
    Box box;
    uint32_t offset;
    uint32_t bytes;
    Thread* thread;               // that has started it
    uint32_t group;
};

// What engines do when their turn comes.
void carry_out(const TensorLoad& load);
void carry_out(const TensorStore& store);

// At the block's end: faults if loads to it are under way, or stores from it were not waited for.
void check_no_tensor_copies(Block& block);

// A shared address, of 128-byte swizzle or less: what a chunk of 16 bytes is XORed with.
inline uint32_t swizzled(uint32_t offset, uint32_t swizzle) {
    const uint32_t chunks = swizzle / 16;
    return chunks > 1 ? offset ^ ((offset >> 7 & (chunks - 1)) << 4) : offset;
}

}  // namespace emulator
