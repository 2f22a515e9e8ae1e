// What the lanes of a warp do together: each brings its operands, and the last to arrive computes for all 32.
#include <string.h>

#include "block.h"
#include "fault.h"
#include "fragments.h"
#include "hopper_primitives.h"
#include "launch.h"
#include "products.h"
#include "watch.h"

namespace emulator {

const char* name_of(Collective collective) {
    switch (collective) {
        case Collective::none: return "nothing";
        case Collective::sync: return "sync_warp";
        case Collective::shuffle: return "shuffle";
        case Collective::load_matrix: return "load_matrix";
        case Collective::load_matrix_transposed: return "load_matrix_transposed";
        case Collective::multiply: return "multiply";
        case Collective::multiply_half: return "multiply_half";
        case Collective::store_matrix: return "store_matrix";
        case Collective::store_matrix_transposed: return "store_matrix_transposed";
        case Collective::uniform: return "uniform";
        case Collective::elect: return "elect_lane";
        case Collective::registers: return "registers_decrease or _increase";
    }
    return "";
}

// Counts `self` in, or faults. True for the last lane: it must compute what all came for, and then call `part`.
static bool meet(Block& block, Thread& self, Collective collective, uint32_t shape, ldm_site site, const void* pc) {
    Warp& warp = block.warps[self.warp()];
    if (warp.exited > 0) {
        raise(Fault::collective_after_exit, text("%u lanes of the warp have ended and will never come to %s", warp.exited, name_of(collective)),
              site, pc);
    }
    if (warp.at_barrier > 0) {
        raise(Fault::divergent_collective,
              text("the lane is in %s while %u lanes of its warp wait in sync_block", name_of(collective), warp.at_barrier), site, pc);
    }
    if (warp.arrived == 0) {
        warp.collective = collective;
        warp.shape = shape;
        warp.site = site;
    } else if (warp.collective != collective || warp.shape != shape) {
        raise(Fault::divergent_collective,
              text("the lane is in %s while %u lanes of its warp wait in %s%s at %s", name_of(collective), warp.arrived,
                   name_of(warp.collective), warp.collective == collective ? " of another shape or value" : "", place_of(warp.site).c_str()),
              site, pc);
    }
    return ++warp.arrived == WARP;
}

static void part(Block& block, Thread& self) {
    block.warps[self.warp()].arrived = 0;
    if (block.watch) block.watch->lanes_met(self.warp());
    const uint32_t first = self.index - self.lane();
    for (uint32_t lane = WARP; lane-- > 0;) {
        if (lane != self.lane()) block.make_ready(block.threads[first + lane]);
    }
    block.go_on(self);
}

}  // namespace emulator

using namespace emulator;

void ldm_sync_warp(ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    if (!meet(block, self, Collective::sync, 0, site, __builtin_return_address(0))) return block.wait(self, Waiting::warp, site);
    if (block.watch) block.watch->warp_met(self.warp());
    part(block, self);
}

uint32_t ldm_shuffle_xor(uint32_t value, int mask, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    Warp& warp = block.warps[self.warp()];
    Deposit& mine = warp.deposit[self.lane()];
    uint32_t received = 0;
    mine.word = value;
    mine.result = &received;
    if (!meet(block, self, Collective::shuffle, static_cast<uint32_t>(mask), site, __builtin_return_address(0))) {
        block.wait(self, Waiting::warp, site);
        return received;
    }
    for (uint32_t lane = 0; lane < WARP; lane++) {
        *static_cast<uint32_t*>(warp.deposit[lane].result) = warp.deposit[(lane ^ static_cast<uint32_t>(mask)) % WARP].word;
    }
    part(block, self);
    return received;
}

void ldm_load_matrix(uint32_t* fragment, const void* row, bool transposed, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    Warp& warp = block.warps[self.warp()];
    const unsigned char* address = static_cast<const unsigned char*>(row);
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0) raise(Fault::misaligned, "a row of a matrix that is not at a multiple of 16 bytes", site);
    if (address < block.arena || address >= block.arena + block.arena_used) {
        raise(Fault::shared_out_of_bounds, "a row of a matrix that is not in shared memory", site);
    }
    if (block.watch) block.watch->shared(self, Access{address, 16, false, __builtin_return_address(0)});
    warp.deposit[self.lane()].a = address;
    warp.deposit[self.lane()].result = fragment;
    const Collective collective = transposed ? Collective::load_matrix_transposed : Collective::load_matrix;
    if (!meet(block, self, collective, 0, site, __builtin_return_address(0))) return block.wait(self, Waiting::warp, site);
    load_matrix(warp.deposit, transposed);
    part(block, self);
}

void ldm_store_matrix(void* row, const uint32_t* fragment, bool transposed, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    Warp& warp = block.warps[self.warp()];
    unsigned char* const address = static_cast<unsigned char*>(row);
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) raise(Fault::misaligned, "a row of a matrix that is not at a multiple of 16 bytes", site);
    block.offset_of(row, "a row of a matrix", site);
    if (block.watch) block.watch->shared(self, Access{address, 16, true, __builtin_return_address(0)});
    warp.deposit[self.lane()] = Deposit{fragment, nullptr, address, 0};
    const Collective collective = transposed ? Collective::store_matrix_transposed : Collective::store_matrix;
    if (!meet(block, self, collective, 0, site, __builtin_return_address(0))) return block.wait(self, Waiting::warp, site);
    store_matrix(warp.deposit, transposed);
    part(block, self);
}

void ldm_uniform(int value, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    const void* const pc = __builtin_return_address(0);
    if (!meet(block, self, Collective::uniform, static_cast<uint32_t>(value), site, pc)) return block.wait(self, Waiting::warp, site);
    part(block, self);
}

bool ldm_elect_lane(ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    // Which lane it is, a GPU does not say.
    const bool elected = self.lane() == block.launch->request->seed % WARP;
    if (!meet(block, self, Collective::elect, 0, site, __builtin_return_address(0))) {
        block.wait(self, Waiting::warp, site);
        return elected;
    }
    part(block, self);
    return elected;
}

void ldm_registers(int count, bool more, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    const void* const pc = __builtin_return_address(0);
    if (count < 24 || count > 256 || count % 8 != 0) {
        raise(Fault::register_count, text("%d registers a thread; expected a multiple of 8 from 24 to 256", count), site, pc);
    }
    if (!meet(block, self, Collective::registers, static_cast<uint32_t>(count) << 1 | more, site, pc)) return block.wait(self, Waiting::warp, site);
    set_registers(block, self, static_cast<uint32_t>(count), site, pc);
    part(block, self);
}

// A product of the warp's fragments, computed by whoever comes last.
static void multiply_together(Collective collective, const Deposit& mine, int rows, int columns, ldm_site site, const void* pc,
                              void (*compute)(Operands&, const Deposit (&)[WARP], int, int)) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    Warp& warp = block.warps[self.warp()];
    warp.deposit[self.lane()] = mine;
    if (!meet(block, self, collective, static_cast<uint32_t>(rows << 16 | columns), site, pc)) return block.wait(self, Waiting::warp, site);
    compute(*block.operands, warp.deposit, rows, columns);
    part(block, self);
}

void ldm_multiply(float* d, const uint32_t* a, const uint32_t* b, int rows, int columns, ldm_site site) {
    multiply_together(Collective::multiply, Deposit{a, b, d, 0}, rows, columns, site, __builtin_return_address(0), multiply);
}

void ldm_multiply_half(uint32_t* d, const uint32_t* a, const uint32_t* b, int rows, int columns, ldm_site site) {
    multiply_together(Collective::multiply_half, Deposit{a, b, d, 0}, rows, columns, site, __builtin_return_address(0), multiply_half);
}
