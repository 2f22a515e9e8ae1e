// What engines and other blocks do to shared memory. Tiles are read and written by lines of 16 bytes which mostly share one history, so what a
// line's stamps say is asked once for each stamp that differs from the one before.
#include <string.h>

#include "shadow.h"

namespace emulator {

bool Observer::knows_fence(Stamp stamp, bool of_barriers) const {
    const Knowledge::Fences fences = knowledge->fences_after(stamp, of_barriers);
    for (const Stamp fence : fences.latest) {
        if (fence != 0 && knows(fence)) return true;
    }
    return false;
}

typedef int32_t Stamps __attribute__((vector_size(16)));
typedef int64_t Words __attribute__((vector_size(16)));

// Whether all stamps of a line are `one`.
static inline bool all_same(Stamp one, const Stamp* stamps) {
    Stamps low, high;
    memcpy(&low, stamps, sizeof low);
    memcpy(&high, stamps + 4, sizeof high);
    const Words differ = (Words)((low ^ one) | (high ^ one));
    return (differ[0] | differ[1]) == 0;
}

// Whether all granules of a line are in one state, since the same write.
static inline bool all_are(uint8_t state, const uint8_t* states, Stamp write, const Stamp* writes) {
    uint64_t all;
    memcpy(&all, states, sizeof all);
    return all == 0x0101010101010101u * state && all_same(write, writes);
}

// Whether a fence is known behind a thread's ordinary access, which is known.
static bool fenced(const Observer& who, Stamp stamp) {
    // Stamps from before this cluster are of nobody here.
    if (time_of(stamp) <= who.knowledge->start_time() || static_cast<uint32_t>(stamp & AGENT_MASK) >= who.knowledge->threads()) return true;
    return who.knows_fence(stamp, false);
}

// A thread's ordinary write, as the other proxy sees it: known and fenced, or what it lacks. A read likewise, where the other proxy writes.
static Finding judge_write(const Observer& who, Stamp write) {
    if (!who.knows(write)) return Finding::after_write;
    return fenced(who, write) ? Finding::none : Finding::unfenced;
}
static Finding judge_read(const Observer& who, Stamp read) {
    if (!who.knows(read)) return Finding::after_read;
    return fenced(who, read) ? Finding::none : Finding::unfenced_read;
}

Verdict Shadow::check_engine_reads(const Observer& who, uint32_t granule, uint32_t end) const {
    for (uint32_t line = granule / LINE; line <= (end - 1) / LINE; line++) {
        for (const Stamp read : engine_reads_[line].latest) {
            if (!who.knows(read | MARKED)) return {Finding::engine_reads, read};
        }
    }
    return {};
}

void Shadow::make_barrier(uint32_t offset, uint32_t bytes) { memset(states_ + offset / GRANULE, BARRIER, bytes / GRANULE); }

Verdict Shadow::start_load(const Observer& who, Stamp mark, uint32_t offset, uint32_t bytes) {
    const uint32_t first = offset / GRANULE, end = first + bytes / GRANULE;
    if (read_by_engines_) {
        const Verdict verdict = check_engine_reads(who, first, end);
        if (verdict.finding != Finding::none) return verdict;
    }
    Stamp known_write = 0, known_read = 0;
    const auto check_write = [&](Stamp write) -> Verdict {
        if (write == known_write) return {};
        known_write = write;
        return {judge_write(who, write), write};
    };
    const auto check_read = [&](Stamp read) -> Verdict {
        if (read == known_read) return {};
        known_read = read;
        return {judge_read(who, read), read};
    };
    for (uint32_t granule = first; granule < end; granule++) {
        const Line& line = lines_[granule / LINE];
        const uint32_t i = granule % LINE;
        // A line that was last loaded as a whole, and read by engines alone.
        if (i == 0 && all_are(ALLOCATED | WRITTEN, states_ + granule, known_write, line.write) && all_same(known_read, line.read) &&
            all_same(known_read, line.other_read)) {
            granule += LINE - 1;
            continue;
        }
        const uint8_t state = states_[granule];
        if (!(state & ALLOCATED)) return {state & BARRIER ? Finding::barrier : Finding::unallocated, 0};
        if (state & IN_FLIGHT) return {Finding::in_flight, line.write[i]};
        for (const Verdict verdict : {check_write(line.write[i]), check_read(line.read[i]), check_read(line.other_read[i])}) {
            if (verdict.finding != Finding::none) return verdict;
        }
    }
    for (uint32_t granule = first; granule < end; granule++) lines_[granule / LINE].write[granule % LINE] = mark;
    memset(states_ + first, ALLOCATED | IN_FLIGHT, end - first);
    return {};
}

void Shadow::land(uint32_t offset, uint32_t bytes) { memset(states_ + offset / GRANULE, ALLOCATED | WRITTEN, bytes / GRANULE); }

Verdict Shadow::read_for(const Observer& who, Stamp mark, uint32_t offset, uint32_t bytes, bool proxy, Stamp& known) {
    uint32_t granule = offset / GRANULE;
    const uint32_t first = granule / LINE, end = granule + (bytes + GRANULE - 1) / GRANULE;
    while (granule < end) {
        const Line& line = lines_[granule / LINE];
        if (granule % LINE == 0 && end - granule >= LINE && all_are(ALLOCATED | WRITTEN, states_ + granule, known, line.write)) {
            granule += LINE;
            continue;
        }
        const uint8_t state = states_[granule];
        const Stamp write = line.write[granule % LINE];
        if (!(state & ALLOCATED)) return {state & BARRIER ? Finding::barrier : Finding::unallocated, 0};
        if (state & IN_FLIGHT) return {Finding::in_flight, write};
        if (!(state & WRITTEN)) return {Finding::uninitialised, 0};
        granule++;
        if (write == known) continue;
        const Finding finding = proxy ? judge_write(who, write) : who.knows(write) ? Finding::none : Finding::after_write;
        if (finding != Finding::none) return {finding, write};
        known = write;
    }
    if (mark == 0) return {};
    read_by_engines_ = true;
    for (uint32_t line = first; line <= (end - 1) / LINE; line++) {
        // In its own place, or that of the reader longest ago.
        Stamp* slot = engine_reads_[line].latest;
        for (Stamp& other : engine_reads_[line].latest) {
            if (((other ^ mark) & AGENT_MASK) == 0) {
                slot = &other;
                break;
            }
            if (other < *slot) slot = &other;
        }
        *slot = mark;
    }
    return {};
}

}  // namespace emulator
