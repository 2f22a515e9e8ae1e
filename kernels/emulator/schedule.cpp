// Which thread runs, what engines do meanwhile, and what is said when nobody can go on.
#include "schedule.h"

#include <map>
#include <string>

#include "barriers.h"
#include "fault.h"
#include "launch.h"
#include "watch.h"

namespace emulator {

void Cluster::make_room(uint32_t wanted) {
    while (blocks.size() < wanted) blocks.push_back(std::make_unique<Block>());
}

void Cluster::run(Launch& launch, const uint32_t (&index)[3]) {
    const ldm_launch& request = *launch.request;
    size = request.cluster;
    at_barrier = 0;
    ready.clear();
    loads.clear();
    stores.clear();
    random_ = request.seed * 0x2545f4914f6cdd1du + index[0] + (uint64_t{index[1]} << 24) + (uint64_t{index[2]} << 44);
    if (!knowledge.start(size * request.threads)) {
        for (const std::unique_ptr<Block>& block : blocks) block->checker->forget();
    }
    for (uint32_t rank = size; rank-- > 0;) {
        const uint32_t position[3] = {index[0] + rank, index[1], index[2]};
        blocks[rank]->start(launch, *this, rank, position);
    }
    run_next(host);
    current = Current{};
    for (uint32_t rank = 0; rank < size; rank++) {
        Block& block = *blocks[rank];
        if (block.failure) launch.fail(sentence(block, *block.failure));
        block.failure.reset();
    }
}

void Cluster::run_next(Fiber& from) {
    const bool random = blocks[0]->launch->request->seed != 0;
    while (ready.empty() || (random && !(loads.empty() && stores.empty()) && next_random(random_) % 4 == 0)) {
        const size_t under_way = loads.size() + stores.size();
        if (under_way == 0) report_deadlock();
        const size_t pick = random ? next_random(random_) % under_way : 0;
        if (pick < loads.size()) {
            const TensorLoad load = std::move(loads[pick]);
            loads.erase(loads.begin() + static_cast<ptrdiff_t>(pick));
            carry_out(load);
        } else {
            const TensorStore store = stores[pick - loads.size()];
            stores.erase(stores.begin() + static_cast<ptrdiff_t>(pick - loads.size()));
            carry_out(store);
        }
    }
    const size_t pick = random ? next_random(random_) % ready.size() : ready.size() - 1;
    Thread* const next = ready[pick];
    ready[pick] = ready.back();
    ready.pop_back();
    current = Current{next, next->block, next->block->watch};
    if (&next->fiber != &from) Fiber::change(from, next->fiber);
}

static std::string what_it_waits_for(const Thread& thread) {
    switch (thread.waiting) {
        case Waiting::no: break;
        case Waiting::block: return "sync_block";
        case Waiting::warp: return name_of(thread.block->warps[thread.warp()].collective);
        case Waiting::mbarrier: return "barrier_wait on " + state_of(*thread.mbarrier, *thread.block);
        case Waiting::named: return "sync_named";
        case Waiting::products: return "wgmma_wait for other threads of the warpgroup";
        case Waiting::cluster: return "sync_cluster";
    }
    return "";
}

void Cluster::report_deadlock() {
    std::map<std::string, uint32_t> where;
    uint32_t ended = 0;
    for (uint32_t rank = 0; rank < size; rank++) {
        const Block& block = *blocks[rank];
        ended += block.exited;
        for (uint32_t i = 0; i < block.thread_count; i++) {
            const Thread& thread = block.threads[i];
            if (thread.waiting != Waiting::no) where[what_it_waits_for(thread) + " at " + place_of(thread.site)]++;
        }
    }
    std::string detail = "no thread can go on:";
    for (const auto& [place, count] : where) detail += text(" %u wait in %s;", count, place.c_str());
    if (ended > 0) detail += text(" %u have ended;", ended);
    detail.pop_back();
    raise_in_block(*blocks[0], Fault::deadlock, detail);
}

void Block::make_ready(Thread& thread) {
    thread.waiting = Waiting::no;
    cluster->make_ready(thread);
}

void Block::wait(Thread& self, Waiting reason, ldm_site site) {
    self.waiting = reason;
    self.site = site;
    cluster->run_next(self.fiber);
}

void Block::go_on(Thread& self) {
    if (launch->request->seed == 0) return;
    make_ready(self);
    cluster->run_next(self.fiber);
}

void Block::stop() {
    Thread abandoned;
    Fiber::change(abandoned.fiber, cluster->host);
    __builtin_unreachable();
}

}  // namespace emulator
