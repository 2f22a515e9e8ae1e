// What is known of each two bytes of shared memory: whether they are part of an array, whether they were written, whether a copy to them is
// under way, and who wrote and read them last.
#pragma once

#include <stdint.h>

#include "clock.h"

namespace emulator {

constexpr uint32_t GRANULE = 2;
// Granules that are looked at together: the 16 bytes of the widest access.
constexpr uint32_t LINE = 8;

enum State : uint8_t { ALLOCATED = 1, WRITTEN = 2, IN_FLIGHT = 4, BARRIER = 8 };

// What an access finds wrong, and the stamp of the access it collides with.
enum class Finding : uint8_t { none, unallocated, uninitialised, in_flight, after_write, after_read, barrier, unfenced, unfenced_read, engine_reads };
struct Verdict {
    Finding finding = Finding::none;
    Stamp other = 0;
};

// On whose behalf an engine, or a thread of another block, accesses shared memory: a thread that must know of what was there before.
struct Observer {
    const Clock* clock;           // of the thread's own block, where the memory is that; else null
    uint32_t thread;
    const Knowledge* knowledge;
    uint32_t agent;

    bool knows(Stamp stamp) const { return clock ? clock->ordered(stamp, thread) : knowledge->ordered(stamp | MARKED, agent); }
    // Whether a fence of the thread behind what `stamp` says is known too.
    bool knows_fence(Stamp stamp, bool of_barriers) const;
};

class Shadow {
public:
    Shadow();
    ~Shadow();
    Shadow(const Shadow&) = delete;

    // A new block with nothing allocated.
    void clear();
    // Time begins again: no stamp means anything.
    void forget();
    void allocate(uint32_t offset, uint32_t bytes);

    Verdict read(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes);
    Verdict write(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes);
    // A copy: it overwrites from its start on, but what it brings is there, and written by `thread`, only at its end.
    Verdict start_copy(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes);
    void finish_copy(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes);

    // A barrier is made: nothing else may touch these bytes.
    void make_barrier(uint32_t offset, uint32_t bytes);
    // The start of a tensor load, whose engine and time `mark` says, and its end. Multiples of 16 bytes, as below.
    Verdict start_load(const Observer& who, Stamp mark, uint32_t offset, uint32_t bytes);
    void land(uint32_t offset, uint32_t bytes);
    // A read by an engine or by another block (`proxy`: by the other way to memory), remembered as `mark` unless that is 0. `known`, at first 0, is a
    // stamp that `who` knows, kept from one read of it to the next.
    Verdict read_for(const Observer& who, Stamp mark, uint32_t offset, uint32_t bytes, bool proxy, Stamp& known);

private:
    // Engines and other blocks that read 16 bytes last, each once.
    static constexpr uint32_t READERS = 4;
    struct EngineReads {
        Stamp latest[READERS];
    };
    Verdict check_engine_reads(const Observer& who, uint32_t granule, uint32_t end) const;

    struct alignas(32) Line {
        Stamp write[LINE];
        Stamp read[LINE];         // the latest
        Stamp other_read[LINE];
    };

    Verdict read_line(const Clock& clock, uint32_t thread, uint32_t line);

    Line* lines_;
    uint8_t* states_;             // one per granule
    EngineReads* engine_reads_;   // one per line
    bool read_by_engines_ = false;
    uint32_t allocated_ = 0;      // granules from the first on that a block has used
};

}  // namespace emulator
