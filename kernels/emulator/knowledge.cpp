// Vector clocks, as short as the agents there are.
#include "knowledge.h"

#include <string.h>

#include "clock.h"

namespace emulator {

typedef int32_t Times __attribute__((vector_size(16)));
constexpr uint32_t WIDTH = 4;

bool Knowledge::start(uint32_t threads) {
    const bool enough = now_ < END_OF_TIME / 2;
    if (!enough) now_ = 0;
    start_ = now_;
    advance();
    threads_ = agents_ = threads;
    used_ = false;
    if (of_.size() < threads) of_.resize(threads);
    for (Known& known : of_) known.clear();
    for (std::vector<Fences>& fences : fences_) fences.assign(threads, Fences{});
    return enough;
}

int Knowledge::new_agent() { return agents_ < MAX_AGENTS ? static_cast<int>(agents_++) : -1; }

// Engines are rarely many, and often made after the first barrier was used: there is room for some more.
void Knowledge::make(Known& known) {
    used_ = true;
    const size_t wanted = (agents_ + 63) / 64 * 64;
    if (known.size() < wanted) known.resize(wanted < MAX_AGENTS ? wanted : size_t{MAX_AGENTS}, start_);
}

void Knowledge::learn(Known& to, const Known& from) {
    if (from.empty()) return;
    make(to);
    for (size_t i = 0; i < from.size(); i += WIDTH) {
        Times mine, theirs;
        memcpy(&mine, &to[i], sizeof mine);
        memcpy(&theirs, &from[i], sizeof theirs);
        const Times later = theirs > mine;
        mine = (theirs & later) | (mine & ~later);
        memcpy(&to[i], &mine, sizeof mine);
    }
}

void Knowledge::learn(Known& to, uint32_t agent, int32_t time) {
    make(to);
    if (to[agent] < time) to[agent] = time;
}

void Knowledge::met(uint32_t first, uint32_t count) {
    Known all;
    for (uint32_t i = first; i < first + count; i++) learn(all, of_[i]);
    if (all.empty()) return;
    for (uint32_t i = first; i < first + count; i++) of_[i] = all;
}

void Knowledge::all_met() {
    Known all;
    for (uint32_t i = 0; i < threads_; i++) learn(all, of_[i]);
    for (uint32_t i = 0; i < threads_; i++) learn(all, i, now_);
    for (uint32_t i = 0; i < threads_; i++) of_[i] = all;
    advance();
}

void Knowledge::fence(uint32_t agent, bool of_barriers) {
    Fences& fences = fences_[of_barriers][agent];
    memmove(fences.latest + 1, fences.latest, sizeof fences.latest - sizeof(Stamp));
    fences.latest[0] = now_ << AGENT_BITS | static_cast<Stamp>(agent);
    advance();
}

Knowledge::Fences Knowledge::fences_after(Stamp stamp, bool of_barriers) const {
    Fences fences = fences_[of_barriers][static_cast<size_t>(stamp & AGENT_MASK)];
    for (Stamp& fence : fences.latest) {
        if (time_of(fence) < time_of(stamp)) fence = 0;
    }
    return fences;
}

void Clock::tell(uint32_t thread, Known& whom) const {
    knowledge_->learn(whom, knowledge_->of(agent(thread)));
    // What the floors say to this thread, others may not know: they are of another warp, or of another block.
    const uint32_t first = static_cast<uint32_t>(first_), warp = thread / WARP * WARP;
    const int32_t block_time = time_of(block_floor_) - 1, warp_time = time_of(warp_floor_[thread / WARP]) - 1;
    knowledge_->learn(whom, agent(thread), knowledge_->now());
    for (uint32_t i = first; i < first + current.block->thread_count; i++) {
        if (whom[i] < block_time) whom[i] = block_time;
    }
    for (uint32_t i = first + warp; i < first + warp + WARP; i++) {
        if (whom[i] < warp_time) whom[i] = warp_time;
    }
    knowledge_->advance();
}

}  // namespace emulator
