// A block's threads from their start to their end, and its barrier.
#include "block.h"

#include <string.h>
#include <sys/mman.h>

#include <new>
#include <string>

#include "barriers.h"
#include "copies.h"
#include "fault.h"
#include "fragments.h"
#include "launch.h"
#include "products.h"
#include "schedule.h"
#include "watch.h"

namespace emulator {

thread_local Current current{};

// A page below each stack is never mapped, so a kernel that needs more ends the program instead of writing into its neighbour.
constexpr size_t STACK_STRIDE = STACK_BYTES + 4096;

Block::Block() : checker(new Watch), operands(new Operands) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* stacks = mmap(nullptr, STACK_STRIDE * MAX_THREADS, PROT_READ | PROT_WRITE, flags, -1, 0);
    void* memory = mmap(nullptr, ARENA_BYTES + 2 * ARENA_GUARD, PROT_NONE, flags, -1, 0);
    if (stacks == MAP_FAILED || memory == MAP_FAILED) throw std::bad_alloc();
    stacks_ = static_cast<char*>(stacks);
    arena = static_cast<unsigned char*>(memory) + ARENA_GUARD;
    mprotect(arena, ARENA_BYTES, PROT_READ | PROT_WRITE);
    for (uint32_t i = 0; i < MAX_THREADS; i++) {
        mprotect(stacks_ + i * STACK_STRIDE, 4096, PROT_NONE);
        threads[i].block = this;
        threads[i].index = i;
        threads[i].stack = stacks_ + i * STACK_STRIDE + 4096;
    }
}

Block::~Block() {
    munmap(stacks_, STACK_STRIDE * MAX_THREADS);
    munmap(arena - ARENA_GUARD, ARENA_BYTES + 2 * ARENA_GUARD);
}

void Block::start(Launch& of, Cluster& in, uint32_t number, const uint32_t (&position)[3]) {
    launch = &of;
    cluster = &in;
    rank = number;
    const ldm_launch& request = *of.request;
    memcpy(index, position, sizeof index);
    thread_count = request.threads;
    at_barrier = exited = 0;
    for (uint32_t i = 0; i < thread_count / WARP; i++) warps[i] = Warp();
    mbarriers.clear();
    named_barriers.assign(NAMED_BARRIERS, NamedBarrier());
    warpgroups.clear();
    warpgroups.resize((thread_count + WARPGROUP - 1) / WARPGROUP);
    used_by_peers.clear();

    // Shared memory holds NaN until somebody writes. A gap that nobody may touch follows everything in it.
    arrays.clear();
    swizzled = false;
    arena_used = (request.shared_bytes + REDZONE + 127) / 128 * 128;
    memset(arena, 0xff, arena_used);
    watch = request.check ? checker.get() : nullptr;
    if (watch) watch->start_block(*this);

    for (uint32_t i = thread_count; i-- > 0;) {
        Thread& thread = threads[i];
        thread.alone = false;
        thread.open_group = 0;
        thread.copies.clear();
        thread.open_store_group = thread.open_product_group = 0;
        thread.store_agent = -1;
        thread.unread.clear();
        thread.products = thread.awaited = 0;
        thread.products_fenced = false;
        thread.lent.clear();
        thread.lent_start = thread.lent_end = nullptr;
        thread.fiber.prepare(thread.stack, STACK_BYTES, thread_main);
        make_ready(thread);
    }
}

bool Block::in_stacks(const void* address) const {
    return static_cast<size_t>(static_cast<const char*>(address) - stacks_) < STACK_STRIDE * MAX_THREADS;
}

uint32_t Block::offset_of(const void* shared, const char* what, ldm_site site) const {
    const unsigned char* const address = static_cast<const unsigned char*>(shared);
    if (address < arena || address >= arena + arena_used) raise(Fault::shared_out_of_bounds, std::string(what) + " that is not in shared memory", site);
    return static_cast<uint32_t>(address - arena);
}

std::string Block::name_of_shared(const unsigned char* address) const {
    const ptrdiff_t offset = address - arena;
    const SharedArray* nearest = nullptr;
    for (const SharedArray& array : arrays) {
        if (offset >= array.offset) nearest = &array;
    }
    if (nearest) return text("byte %td of `%s` (%u bytes of shared memory)", offset - nearest->offset, nearest->name, nearest->bytes);
    return text("byte %td of %u bytes of dynamic shared memory", offset, launch->request->shared_bytes);
}

void Block::thread_main() {
    // Both stay what they are for the fiber's life: a block keeps to one host thread.
    Block& block = *current.block;
    Thread& self = *current.thread;
    block.launch->entry->run(block.launch->request->arguments);
    block.exit_thread(self);
}

void Block::exit_thread(Thread& self) {
    Warp& warp = warps[self.warp()];
    if (warp.arrived > 0) {
        raise(Fault::collective_after_exit,
              text("the thread has ended while %u lanes of its warp wait for it in %s", warp.arrived, name_of(warp.collective)), warp.site);
    }
    if (at_barrier > 0) {
        raise(Fault::barrier_after_exit, text("the thread has ended while %u threads wait for it in sync_block", at_barrier), barrier_site);
    }
    if (!self.lent.empty()) raise(Fault::wgmma_unwaited, "the thread has ended without wgmma_wait for its products", {});
    finish_copies(*this, self);
    warp.exited++;
    exited++;
    if (exited == thread_count) {
        check_no_tensor_copies(*this);
        check_registers(*this);
        check_peers(*this);
        if (watch) watch->end_block();
    }
    if (!meet_cluster(*cluster)) {
        bool all = true;
        for (uint32_t i = 0; i < cluster->size; i++) all &= cluster->blocks[i]->exited == thread_count;
        if (all) stop();
    }
    cluster->run_next(self.fiber);
    __builtin_unreachable();
}

}  // namespace emulator

using namespace emulator;

uint32_t ldm_thread_index(int axis) noexcept { return axis == 0 ? current.thread->index : 0; }
uint32_t ldm_block_index(int axis) noexcept { return current.block->index[axis]; }
uint32_t ldm_block_size(int axis) noexcept { return axis == 0 ? current.block->thread_count : 1; }
uint32_t ldm_grid_size(int axis) noexcept { return current.block->launch->request->grid[axis]; }

void ldm_wait_for_previous_grid() { current.thread->alone = true; }

void ldm_sync_block(ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    Warp& warp = block.warps[self.warp()];
    const void* const pc = __builtin_return_address(0);
    if (block.exited > 0) {
        raise(Fault::barrier_after_exit, text("%u threads of the block have ended and will never come to sync_block", block.exited), site, pc);
    }
    if (warp.arrived > 0) {
        raise(Fault::divergent_barrier,
              text("the thread is at sync_block while %u lanes of its warp wait in %s", warp.arrived, name_of(warp.collective)), site, pc);
    }
    if (block.at_barrier == 0) {
        block.barrier_site = site;
    } else if (site.line != block.barrier_site.line || strcmp(site.file, block.barrier_site.file) != 0) {
        raise(Fault::divergent_barrier, "other threads wait in another sync_block, at " + place_of(block.barrier_site), site, pc);
    }
    warp.at_barrier++;
    if (++block.at_barrier < block.thread_count) return block.wait(self, Waiting::block, site);
    block.at_barrier = 0;
    for (uint32_t i = 0; i < block.thread_count / WARP; i++) block.warps[i].at_barrier = 0;
    if (block.watch) block.watch->block_met();
    for (uint32_t i = block.thread_count; i-- > 0;) {
        if (i != self.index) block.make_ready(block.threads[i]);
    }
    block.go_on(self);
}
