// What the threads of a cluster have been told of one another and of engines: vector clocks.
//
// Of every agent a vector holds the latest time up to which all that the agent did is known. A thread that arrives at a barrier leaves its
// vector there, and one that has waited takes what all have left. Vectors are made when the first such thing happens: kernels that know
// nothing but barriers of blocks and warps pay nothing for it.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace emulator {

// Time in the high bits, so that stamps compare by time, and an agent in the low ones. 0: never. Stamps are positive as int32_t, since vector
// units compare those; the bit below the sign marks those that no floor orders.
using Stamp = int32_t;

constexpr int AGENT_BITS = 11;
constexpr uint32_t MAX_AGENTS = 1 << AGENT_BITS;
constexpr Stamp AGENT_MASK = MAX_AGENTS - 1;
constexpr Stamp WARP_MASK = AGENT_MASK & ~31;
constexpr Stamp MARKED = 1 << 30;
constexpr int32_t END_OF_TIME = (1 << (30 - AGENT_BITS)) - 1;

constexpr int32_t time_of(Stamp stamp) { return (stamp & ~MARKED) >> AGENT_BITS; }

// A vector clock, empty or as long as there are agents: what is not there is as early as can be.
using Known = std::vector<int32_t>;

class Knowledge {
public:
    // A new cluster of `threads` threads. False if time has come to its end; all stamps must then be forgotten.
    bool start(uint32_t threads);
    // An engine, or -1 if there are too many.
    int new_agent();
    uint32_t threads() const { return threads_; }
    bool used() const { return used_; }

    int32_t now() const { return now_; }
    // Of whatever happened before this cluster, the latest.
    int32_t start_time() const { return start_; }
    // Half a million steps in one cluster are far more than any kernel has. Beyond, nothing is ordered by time: too much is then reported, not too
    // little.
    void advance() { now_ += now_ < END_OF_TIME; }
    Stamp marked(uint32_t agent) const { return MARKED | now_ << AGENT_BITS | static_cast<Stamp>(agent); }

    // Whether `agent`, a thread, was told of what `stamp` says.
    bool ordered(Stamp stamp, uint32_t agent) const {
        const Known& known = of_[agent];
        const size_t other = static_cast<size_t>(stamp & AGENT_MASK);
        return time_of(stamp) <= (other < known.size() ? known[other] : start_);
    }
    const Known& of(uint32_t agent) const { return of_[agent]; }
    // `to` learns all that `from` knows, or that one agent did until `time`.
    void learn(Known& to, const Known& from);
    void learn(Known& to, uint32_t agent, int32_t time);
    void learn(uint32_t thread, const Known& from) { learn(of_[thread], from); }
    void learn(uint32_t thread, uint32_t agent, int32_t time) { learn(of_[thread], agent, time); }
    // All of these threads learn what any of them knows.
    void met(uint32_t first, uint32_t count);
    // All threads learn all that any has done or knows.
    void all_met();

    // Thread `agent` has let the other proxy see what it has written so far (fence.proxy.async), or what barriers it has made.
    void fence(uint32_t agent, bool of_barriers);
    // Of what `stamp` says, by a thread: the stamps of the fences behind it, latest first, of which a few are remembered; 0 behind the last.
    struct Fences {
        Stamp latest[8];
    };
    Fences fences_after(Stamp stamp, bool of_barriers) const;

private:
    void make(Known& known);

    int32_t now_ = 0;
    int32_t start_ = 0;       // the last time before this cluster
    uint32_t threads_ = 0;
    uint32_t agents_ = 0;
    bool used_ = false;
    std::vector<Known> of_;   // each thread
    std::vector<Fences> fences_[2];
};

}  // namespace emulator
