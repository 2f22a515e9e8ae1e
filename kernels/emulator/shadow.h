// What is known of each two bytes of shared memory: whether they are part of an array, whether they were written, whether a copy to them is
// under way, and who wrote and read them last.
#pragma once

#include <stdint.h>

#include "clock.h"

namespace emulator {

constexpr uint32_t GRANULE = 2;
// Granules that are looked at together: the 16 bytes of the widest access.
constexpr uint32_t LINE = 8;

enum State : uint8_t { ALLOCATED = 1, WRITTEN = 2, IN_FLIGHT = 4 };

// What an access finds wrong, and the stamp of the access it collides with.
enum class Finding : uint8_t { none, unallocated, uninitialised, in_flight, after_write, after_read };
struct Verdict {
    Finding finding = Finding::none;
    Stamp other = 0;
};

class Shadow {
public:
    Shadow();
    ~Shadow();
    Shadow(const Shadow&) = delete;

    // A new block with nothing allocated.
    void clear(bool forget_stamps);
    void allocate(uint32_t offset, uint32_t bytes);

    Verdict read(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes);
    Verdict write(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes);
    // A copy: it overwrites from its start on, but what it brings is there, and written by `thread`, only at its end.
    Verdict start_copy(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes);
    void finish_copy(const Clock& clock, uint32_t thread, uint32_t offset, uint32_t bytes);

private:
    struct alignas(32) Line {
        Stamp write[LINE];
        Stamp read[LINE];         // the latest
        Stamp other_read[LINE];
    };

    Verdict read_line(const Clock& clock, uint32_t thread, uint32_t line);

    Line* lines_;
    uint8_t* states_;             // one per granule
    uint32_t allocated_ = 0;      // granules from the first on that a block has used
};

}  // namespace emulator
