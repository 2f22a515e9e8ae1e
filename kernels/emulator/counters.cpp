// Where blocks meet: counters in global memory, at which each arrives once and the last goes on for all.
//
// No block waits for another, so blocks may still run one after the other. What a block, or a warpgroup of it, did before its last barrier is
// released by its arrival, and acquired by the last one's.
#include "fault.h"
#include "launch.h"
#include "watch.h"

using namespace emulator;

bool ldm_arrive(int* counter, int count, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    const void* const pc = __builtin_return_address(0);
    if (count < 1) raise(Fault::counter_misused, text("%d blocks are to arrive", count), site, pc);
    if (block.watch) block.watch->counter(self, Access{reinterpret_cast<const unsigned char*>(counter), sizeof(int), true, pc});
    const Released mine = block.watch ? block.watch->released(self) : Released{};
    std::string wrong;
    const std::vector<Released> others = block.launch->arrive(counter, count, mine, site, wrong);
    if (!wrong.empty()) raise(Fault::counter_misused, std::move(wrong), site, pc);
    if (block.watch) block.watch->acquire(self, others);
    return !others.empty();
}
