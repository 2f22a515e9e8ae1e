// Scheduling: which thread of a block runs, barriers, exits and deadlock.
#include "block.h"

#include <string.h>
#include <sys/mman.h>

#include <map>
#include <new>
#include <string>

#include "copies.h"
#include "fault.h"
#include "fragments.h"
#include "launch.h"
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
        threads[i].index = i;
        threads[i].stack = stacks_ + i * STACK_STRIDE + 4096;
    }
}

Block::~Block() {
    munmap(stacks_, STACK_STRIDE * MAX_THREADS);
    munmap(arena - ARENA_GUARD, ARENA_BYTES + 2 * ARENA_GUARD);
}

void Block::run(Launch& of, const uint32_t (&position)[3]) {
    launch = &of;
    const ldm_launch& request = *of.request;
    memcpy(index, position, sizeof index);
    thread_count = request.threads;
    at_barrier = exited = 0;
    for (uint32_t i = 0; i < thread_count / WARP; i++) warps[i] = Warp();

    // Shared memory holds NaN until somebody writes. A gap that nobody may touch follows everything in it.
    arrays.clear();
    arena_used = (request.shared_bytes + REDZONE + 127) / 128 * 128;
    memset(arena, 0xff, arena_used);
    watch = request.check ? checker.get() : nullptr;
    if (watch) watch->start_block(*this);

    random_ = request.seed * 0x2545f4914f6cdd1du + position[0] + (uint64_t{position[1]} << 24) + (uint64_t{position[2]} << 44);
    ready_count_ = 0;
    for (uint32_t i = thread_count; i-- > 0;) {
        Thread& thread = threads[i];
        thread.waiting = Waiting::no;
        thread.alone = false;
        thread.open_group = 0;
        thread.copies.clear();
        thread.fiber.prepare(thread.stack, STACK_BYTES, thread_main);
        make_ready(thread);
    }
    current = Current{nullptr, this, watch};
    run_next(host_);
    current = Current{};
    if (failure) launch->fail(sentence(*this, *failure));
    failure.reset();
}

bool Block::in_stacks(const void* address) const {
    return static_cast<size_t>(static_cast<const char*>(address) - stacks_) < STACK_STRIDE * MAX_THREADS;
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

void Block::make_ready(Thread& thread) {
    thread.waiting = Waiting::no;
    ready_[ready_count_++] = &thread;
}

// Leaves `from` for a ready fiber. The caller has seen to it that there is one.
void Block::run_next(Fiber& from) {
    const bool random = launch->request->seed != 0;
    const uint32_t pick = random ? static_cast<uint32_t>(next_random(random_) % ready_count_) : ready_count_ - 1;
    Thread* next = ready_[pick];
    ready_[pick] = ready_[--ready_count_];
    current.thread = next;
    if (&next->fiber != &from) Fiber::change(from, next->fiber);
}

void Block::wait(Thread& self, Waiting reason, ldm_site site) {
    self.waiting = reason;
    self.site = site;
    if (ready_count_ == 0) report_deadlock();
    run_next(self.fiber);
}

void Block::go_on(Thread& self) {
    if (launch->request->seed == 0) return;
    make_ready(self);
    run_next(self.fiber);
}

void Block::stop() {
    Thread abandoned;
    Fiber::change(abandoned.fiber, host_);
    __builtin_unreachable();
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
    finish_copies(*this, self);
    warp.exited++;
    exited++;
    if (exited == thread_count) stop();
    if (ready_count_ == 0) report_deadlock();
    run_next(self.fiber);
    __builtin_unreachable();
}

void Block::report_deadlock() {
    std::map<std::string, uint32_t> where;
    for (uint32_t i = 0; i < thread_count; i++) {
        const Thread& thread = threads[i];
        if (thread.waiting == Waiting::no) continue;
        const char* what = thread.waiting == Waiting::block ? "sync_block" : name_of(warps[thread.warp()].collective);
        where[std::string(what) + " at " + place_of(thread.site)]++;
    }
    std::string detail = "no thread can go on:";
    for (const auto& [place, count] : where) detail += text(" %u wait in %s;", count, place.c_str());
    if (exited > 0) detail += text(" %u have ended;", exited);
    detail.pop_back();
    raise_in_block(*this, Fault::deadlock, detail);
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
