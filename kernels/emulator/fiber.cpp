// Switching stacks: by a few instructions on x86-64, by ucontext elsewhere.
#include "fiber.h"

#include <stdint.h>

#ifdef LDM_FIBER_ASSEMBLY

// void ldm_fiber_change(void** from, void* to): what the System V ABI lets a callee keep goes on the old stack and comes from the new.
asm(R"(
    .text
    .p2align 4
    .hidden ldm_fiber_change
    .globl ldm_fiber_change
    .type ldm_fiber_change, @function
ldm_fiber_change:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size ldm_fiber_change, .-ldm_fiber_change
)");

extern "C" void ldm_fiber_change(void** from, void* to);

namespace emulator {

void Fiber::prepare(char* stack, size_t bytes, void (*entry)()) {
    // Six registers, the address that the change returns to, and the return address that `entry` would see: zero ends a debugger's walk.
    // The stack pointer is then 8 more than a multiple of 16, as at any function's first instruction.
    uintptr_t* top = reinterpret_cast<uintptr_t*>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15});
    *--top = 0;
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < 6; i++) *--top = 0;
    stack_pointer_ = top;
}

void Fiber::change(Fiber& from, Fiber& to) { ldm_fiber_change(&from.stack_pointer_, to.stack_pointer_); }

}  // namespace emulator

#else

namespace emulator {

void Fiber::prepare(char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
}

void Fiber::change(Fiber& from, Fiber& to) { swapcontext(&from.context_, &to.context_); }

}  // namespace emulator

#endif
