// A cluster of blocks, run by one host thread, and the order in which its threads and engines take turns.
//
// Which ready fiber runs next is the schedule: the latest made ready under seed 0, which keeps one warp's data hot, and any of them under another
// seed. Tensor copies run by themselves. Under seed 0 one is carried out when no thread can go on without it, which is as late as can be;
// under another seed at any time.
#pragma once

#include <memory>
#include <vector>

#include "block.h"
#include "knowledge.h"
#include "tensor.h"

namespace emulator {

// Blocks of one cluster, at most: of more, few would be on a GPU at once.
constexpr uint32_t MAX_CLUSTER = 8;

// Kept between launches, with its blocks: their stacks have been touched and their memory is warm.
struct Cluster {
    // Runs all blocks of the cluster whose first is block `index` of the launch to their end, or to the first fault.
    void run(Launch& launch, const uint32_t (&index)[3]);

    // Has as many blocks.
    void make_room(uint32_t size);

    void make_ready(Thread& thread) { ready.push_back(&thread); }
    // Leaves `from` for a ready fiber, if need be after engines have made one ready.
    void run_next(Fiber& from);

    std::vector<std::unique_ptr<Block>> blocks;   // the first `size` are in use
    uint32_t size = 0;
    uint32_t at_barrier = 0;                      // threads at sync_cluster
    Knowledge knowledge;
    std::vector<TensorLoad> loads;                // under way, in the order they were started
    std::vector<TensorStore> stores;
    Fiber host;

private:
    [[noreturn]] void report_deadlock();

    std::vector<Thread*> ready;
    uint64_t random_ = 0;
};

// Block `rank` of the cluster, or a fault.
Block& peer(Block& block, int rank, ldm_site site, const void* pc);
// `self` uses shared memory of another block, which must not have ended; and at a block's end: faults if a use is not ordered with that.
void touch_peer(Block& of, const Thread& self, ldm_site site, const void* pc);
void check_peers(Block& block);

// If all threads of the cluster that have not ended are at sync_cluster, lets them go on. Whether they were.
bool meet_cluster(Cluster& cluster);

}  // namespace emulator
