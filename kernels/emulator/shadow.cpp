// Most accesses of fast kernels move 16 aligned bytes, so those are looked at with vector instructions, and one after the other only where
// the vectors find something to look at.
#include "shadow.h"

#include <string.h>
#include <sys/mman.h>

#include <new>

namespace emulator {

// Every processor that has vectors has them of 16 bytes; wider ones would be taken apart into numbers.
typedef int32_t Stamps __attribute__((vector_size(16)));
typedef int64_t Words __attribute__((vector_size(16)));
constexpr uint32_t WIDTH = 4;

constexpr uint64_t ALL = 0x0101010101010101u;
constexpr uint32_t LINES = ARENA_BYTES / (LINE * GRANULE);

static inline void load(Stamps& to, const Stamp* from) { memcpy(&to, from, sizeof to); }
static inline void store(Stamp* to, const Stamps& from) { memcpy(to, &from, sizeof from); }

// Whether any of the stamps is `floor` or later.
static inline bool any_since(const Stamp* stamps, Stamp floor) {
    Stamps low, high;
    load(low, stamps);
    load(high, stamps + WIDTH);
    const Words late = (Words)((low >= floor) | (high >= floor));
    return (late[0] | late[1]) != 0;
}

static void* map(size_t bytes) {
    void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return memory;
}

Shadow::Shadow()
    : lines_(static_cast<Line*>(map(LINES * sizeof(Line)))),
      states_(static_cast<uint8_t*>(map(LINES * LINE))),
      engine_reads_(static_cast<EngineReads*>(map(LINES * sizeof(EngineReads)))) {}

Shadow::~Shadow() {
    munmap(lines_, LINES * sizeof(Line));
    munmap(states_, LINES * LINE);
    munmap(engine_reads_, LINES * sizeof(EngineReads));
}

void Shadow::clear() {
    memset(states_, 0, allocated_);
    allocated_ = 0;
    read_by_engines_ = false;
}

void Shadow::forget() {
    memset(static_cast<void*>(lines_), 0, LINES * sizeof(Line));
    memset(static_cast<void*>(engine_reads_), 0, LINES * sizeof(EngineReads));
}

void Shadow::allocate(uint32_t offset, uint32_t bytes) {
    const uint32_t first = offset / GRANULE, count = (bytes + GRANULE - 1) / GRANULE;
    memset(states_ + first, ALLOCATED, count);
    if (first + count > allocated_) allocated_ = first + count;
}

Verdict Shadow::read_line(const Clock& clock, uint32_t thread, uint32_t line) {
    Line& at = lines_[line];
    const Stamp floor = clock.block_floor(), mine = clock.stamp(thread);
    // `with_reader` for four granules at once.
    for (uint32_t i = 0; i < LINE; i += WIDTH) {
        Stamps latest, other;
        load(latest, at.read + i);
        load(other, at.other_read + i);
        const Stamps same = ((latest ^ mine) & AGENT_MASK) == 0;
        const Stamps keep = same | ((((latest ^ mine) & WARP_MASK) == 0) & (((other ^ mine) & WARP_MASK) != 0) & (other >= floor));
        store(at.other_read + i, (other & keep) | (latest & ~keep));
        store(at.read + i, Stamps{} + mine);
    }
    return {};
}

Verdict Shadow::read(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes) {
    uint32_t granule = offset / GRANULE;
    const uint32_t end = (offset + bytes - 1) / GRANULE + 1;
    if (granule % LINE == 0 && end - granule == LINE) {
        uint64_t states;
        memcpy(&states, states_ + granule, sizeof states);
        if (states == ALL * (ALLOCATED | WRITTEN) && !any_since(lines_[granule / LINE].write, clock.block_floor())) {
            return read_line(clock, thread, granule / LINE);
        }
    }
    for (; granule < end; granule++) {
        const uint8_t state = states_[granule];
        Line& line = lines_[granule / LINE];
        const uint32_t i = granule % LINE;
        if (!(state & ALLOCATED)) return {state & BARRIER ? Finding::barrier : Finding::unallocated, 0};
        if (state & IN_FLIGHT) return {Finding::in_flight, line.write[i]};
        if (!(state & WRITTEN)) return {Finding::uninitialised, 0};
        if (!clock.ordered(line.write[i], thread)) return {Finding::after_write, line.write[i]};
        const Readers readers = with_reader({line.read[i], line.other_read[i]}, clock.stamp(thread), clock.block_floor());
        line.read[i] = readers.latest;
        line.other_read[i] = readers.other;
    }
    return {};
}

Verdict Shadow::write(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes) {
    uint32_t granule = offset / GRANULE;
    const uint32_t end = (offset + bytes - 1) / GRANULE + 1;
    const Stamp mine = clock.stamp(thread), floor = clock.block_floor();
    if (read_by_engines_) {
        const Verdict verdict = check_engine_reads(Observer{&clock, thread, nullptr, 0}, granule, end);
        if (verdict.finding != Finding::none) return verdict;
    }
    if (granule % LINE == 0 && end - granule == LINE) {
        uint64_t states;
        memcpy(&states, states_ + granule, sizeof states);
        Line& line = lines_[granule / LINE];
        if ((states & ALL * (ALLOCATED | IN_FLIGHT)) == ALL * ALLOCATED && !any_since(line.write, floor) && !any_since(line.read, floor) &&
            !any_since(line.other_read, floor)) {
            for (uint32_t i = 0; i < LINE; i += WIDTH) store(line.write + i, Stamps{} + mine);
            memset(states_ + granule, ALLOCATED | WRITTEN, LINE);
            return {};
        }
    }
    for (; granule < end; granule++) {
        const uint8_t state = states_[granule];
        Line& line = lines_[granule / LINE];
        const uint32_t i = granule % LINE;
        if (!(state & ALLOCATED)) return {state & BARRIER ? Finding::barrier : Finding::unallocated, 0};
        if (state & IN_FLIGHT) return {Finding::in_flight, line.write[i]};
        if (!clock.ordered(line.write[i], thread)) return {Finding::after_write, line.write[i]};
        if (!clock.ordered(line.read[i], thread)) return {Finding::after_read, line.read[i]};
        if (!clock.ordered(line.other_read[i], thread)) return {Finding::after_read, line.other_read[i]};
        line.write[i] = mine;
        states_[granule] = ALLOCATED | WRITTEN;
    }
    return {};
}

Verdict Shadow::start_copy(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes) {
    const Verdict verdict = write(clock, thread, offset, bytes);
    if (verdict.finding == Finding::none) memset(states_ + offset / GRANULE, ALLOCATED | IN_FLIGHT, bytes / GRANULE);
    return verdict;
}

void Shadow::finish_copy(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes) {
    const uint32_t first = offset / GRANULE;
    memset(states_ + first, ALLOCATED | WRITTEN, bytes / GRANULE);
    for (uint32_t granule = first; granule < first + bytes / GRANULE; granule++) {
        lines_[granule / LINE].write[granule % LINE] = clock.stamp(thread);
    }
}

}  // namespace emulator
