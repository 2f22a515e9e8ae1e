// What is wrong with what engines and other blocks of a cluster do to shared memory, and who knows of whom.
#include "barriers.h"
#include "fault.h"
#include "products.h"
#include "schedule.h"
#include "watch.h"

namespace emulator {

static uint32_t agent_of(const Thread& thread) { return thread.block->rank * thread.block->thread_count + thread.index; }

Observer Watch::observer(const Thread& who) const {
    return Observer{who.block == block_ ? &clock_ : nullptr, who.index, &block_->cluster->knowledge, agent_of(who)};
}

void Watch::learn(const Thread& self, const Known& told) { block_->cluster->knowledge.learn(agent_of(self), told); }

void Watch::learn(const Thread& self, uint32_t engine, int32_t time) { block_->cluster->knowledge.learn(agent_of(self), engine, time); }

void Watch::fence(const Thread& self, bool of_barriers) { block_->cluster->knowledge.fence(agent_of(self), of_barriers); }

Stamp Watch::make_barrier(const Thread& self, uint32_t offset) {
    const Stamp made = clock_.stamp(self.index);
    shadow_.make_barrier(offset, BARRIER_BYTES);
    return made;
}

int Watch::thread_of(Stamp stamp) const { return static_cast<int>(static_cast<uint32_t>(stamp & AGENT_MASK) % block_->thread_count); }

std::string Watch::name_of(Stamp stamp) const {
    const uint32_t agent = static_cast<uint32_t>(stamp & AGENT_MASK);
    const Cluster& cluster = *block_->cluster;
    if (agent < cluster.knowledge.threads()) {
        const std::string thread = text("thread %d", thread_of(stamp));
        return agent / block_->thread_count == block_->rank ? thread : thread + text(" of block %u of the cluster", agent / block_->thread_count);
    }
    for (uint32_t rank = 0; rank < cluster.size; rank++) {
        const Block& block = *cluster.blocks[rank];
        for (const Warpgroup& group : block.warpgroups) {
            if (group.has_agent && group.agent == agent) return text("a product of warpgroup %td", &group - block.warpgroups.data());
        }
        for (uint32_t i = 0; i < block.thread_count; i++) {
            if (block.threads[i].store_agent == static_cast<int>(agent)) return text("a tensor store of thread %u", i);
        }
    }
    return "a tensor load";
}

void Watch::start_load(const Thread& self, uint32_t offset, uint32_t bytes, uint32_t engine, ldm_site site, const void* pc) {
    const Verdict verdict = shadow_.start_load(observer(self), block_->cluster->knowledge.marked(engine), offset, bytes);
    if (verdict.finding != Finding::none) judge(Access{block_->arena + offset, bytes, true, pc}, verdict, "a tensor load to", site);
}

void Watch::engine_read(const Thread& self, uint32_t offset, uint32_t bytes, uint32_t engine, const char* what, ldm_site site, const void* pc) {
    Stamp known = 0;
    const Verdict verdict = shadow_.read_for(observer(self), block_->cluster->knowledge.marked(engine), offset, bytes, true, known);
    if (verdict.finding != Finding::none) judge(Access{block_->arena + offset, bytes, false, pc}, verdict, std::string(what) + " of", site);
}

ProductReads::ProductReads(const Watch& watch, const Thread& self, int engine)
    : who(watch.observer(self)), mark(engine < 0 ? 0 : who.knowledge->marked(static_cast<uint32_t>(engine))) {}

void Watch::product_read(ProductReads& reads, uint32_t offset, ldm_site site, const void* pc) {
    const Verdict verdict = shadow_.read_for(reads.who, reads.mark, offset, 16, true, reads.known);
    if (verdict.finding != Finding::none) judge(Access{block_->arena + offset, 16, false, pc}, verdict, "a product of", site);
}

void Watch::peer_read(const Thread& peer, uint32_t offset, uint32_t bytes, ldm_site site, const void* pc) {
    const Stamp mark = block_->cluster->knowledge.marked(agent_of(peer));
    Stamp known = 0;
    const Verdict verdict = shadow_.read_for(observer(peer), mark, offset, bytes, false, known);
    if (verdict.finding != Finding::none) judge(Access{block_->arena + offset, bytes, false, pc}, verdict, "a read through the cluster of", site);
}

}  // namespace emulator
