// The checker: looks at every access of a kernel before it happens, and ends the launch at the first that is wrong.
#pragma once

#include <stdint.h>

#include <vector>

#include "block.h"
#include "clock.h"
#include "launch.h"
#include "memory.h"
#include "shadow.h"

namespace emulator {

// The regions of a request, the writable ones first: where two overlap, more is allowed.
std::vector<Region> regions_of(const ldm_launch& request);

// An access, for all that looks at it.
struct Access {
    const unsigned char* address;
    uint32_t bytes;
    bool write;
    const void* pc;       // where in the kernel's code
};

class Watch {
public:
    void start_block(Block& block);
    void allocate(uint32_t offset, uint32_t bytes) { shadow_.allocate(offset, bytes); }
    void block_met() { clock_.block_met(); }
    void warp_met(uint32_t warp) { clock_.warp_met(warp); }

    // An access by an ordinary load or store; the address may be anything but a local variable of the thread.
    void access(Thread& self, const Access& access);
    // An access to what must be shared memory.
    void shared(Thread& self, const Access& access);
    // An access to what must be global memory.
    void global(Thread& self, const Access& access);
    // The start of an asynchronous copy to shared memory, and its end, in the thread's wait.
    void start_copy(Thread& self, const Access& access);
    void finish_copy(Thread& self, const unsigned char* address, uint32_t bytes);

private:
    void judge(Thread& self, const Access& access, Verdict verdict, bool copy);
    bool read_global(Thread& self, Touched& at, Verdict& verdict);
    bool write_global(Thread& self, Touched& at, Verdict& verdict);
    [[noreturn]] void unknown_address(const Access& access);

    Block* block_ = nullptr;
    Clock clock_;
    Shadow shadow_;
    uint32_t number_ = 0;             // of this block, see Touched
    const Region* latest_ = nullptr;  // where the last access was: the next one often is there too
};

}  // namespace emulator
