// Blocks of a cluster among themselves: their barrier, and each other's shared memory.
#include <string.h>

#include "fault.h"
#include "hopper_primitives.h"
#include "schedule.h"
#include "watch.h"

namespace emulator {

Block& peer(Block& block, int rank, ldm_site site, const void* pc) {
    Cluster& cluster = *block.cluster;
    if (rank < 0 || static_cast<uint32_t>(rank) >= cluster.size) {
        raise(Fault::shared_out_of_bounds, text("block %d of a cluster of %u", rank, cluster.size), site, pc);
    }
    return *cluster.blocks[static_cast<uint32_t>(rank)];
}

void touch_peer(Block& of, const Thread& self, ldm_site site, const void* pc) {
    if (&of == self.block) return;
    if (of.exited == of.thread_count) raise(Fault::cluster_exit, text("block %u of the cluster has ended", of.rank), site, pc);
    Knowledge& knowledge = of.cluster->knowledge;
    const uint32_t agent = self.block->rank * of.thread_count + self.index;
    if (of.watch) knowledge.learn(of.used_by_peers, agent, knowledge.now());
}

void check_peers(Block& block) {
    if (!block.watch) return;
    Knowledge& knowledge = block.cluster->knowledge;
    Known known;
    const uint32_t first = block.rank * block.thread_count;
    for (uint32_t i = first; i < first + block.thread_count; i++) knowledge.learn(known, knowledge.of(i));
    for (uint32_t agent = 0; agent < block.used_by_peers.size() && agent < knowledge.threads(); agent++) {
        const int32_t used = block.used_by_peers[agent];
        if (used <= knowledge.start_time() || (agent < known.size() && known[agent] >= used)) continue;
        raise_in_block(block, Fault::cluster_exit,
                       text("the block has ended, and nothing orders that with its use by thread %u of block %u of the cluster",
                            agent % block.thread_count, agent / block.thread_count));
    }
}

bool meet_cluster(Cluster& cluster) {
    uint32_t there = cluster.at_barrier;
    for (uint32_t rank = 0; rank < cluster.size; rank++) there += cluster.blocks[rank]->exited;
    if (cluster.at_barrier == 0 || there < cluster.size * cluster.blocks[0]->thread_count) return false;
    cluster.at_barrier = 0;
    if (cluster.blocks[0]->watch) cluster.knowledge.all_met();
    for (uint32_t rank = cluster.size; rank-- > 0;) {
        Block& block = *cluster.blocks[rank];
        if (block.watch) block.watch->cluster_met();
        for (uint32_t i = block.thread_count; i-- > 0;) {
            if (block.threads[i].waiting == Waiting::cluster) block.make_ready(block.threads[i]);
        }
    }
    return true;
}

// Shared memory of another block at the same place as `shared` here.
static const unsigned char* shared_of_peer(const void* shared, int rank, uint32_t bytes, ldm_site site, const void* pc) {
    Block& block = *current.block;
    const Thread& self = *current.thread;
    const uint32_t offset = block.offset_of(shared, "a read through the cluster", site);
    if (offset % bytes != 0) raise(Fault::misaligned, text("a read through the cluster of %u bytes at an address that is no multiple of it", bytes), site, pc);
    Block& of = peer(block, rank, site, pc);
    touch_peer(of, self, site, pc);
    if (of.watch && &of != &block) of.watch->peer_read(self, offset, bytes, site, pc);
    if (of.watch && &of == &block) of.watch->shared(*current.thread, Access{of.arena + offset, bytes, false, pc});
    return of.arena + offset;
}

}  // namespace emulator

using namespace emulator;

int ldm_cluster_rank() noexcept { return static_cast<int>(current.block->rank); }

void ldm_sync_cluster(ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    self.waiting = Waiting::cluster;
    block.cluster->at_barrier++;
    if (!meet_cluster(*block.cluster)) return block.wait(self, Waiting::cluster, site);
    // It was made ready with the others: they take turns from here.
    block.cluster->run_next(self.fiber);
}

void ldm_load_cluster(const void* shared, int rank, void* value, int bytes, ldm_site site) {
    const uint32_t count = static_cast<uint32_t>(bytes);
    memcpy(value, shared_of_peer(shared, rank, count, site, __builtin_return_address(0)), count);
}
