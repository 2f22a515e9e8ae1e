// Fibers: one stack per CUDA thread, switched by hand. A processor of a GPU keeps thousands of threads alive and changes between them at
// every instruction; here a thread runs until it must wait, so a switch is a handful of instructions and needs no kernel's help.
#pragma once

#include <stddef.h>

#if defined(__x86_64__) && defined(__ELF__)
#define LDM_FIBER_ASSEMBLY 1
#else
#include <ucontext.h>
#endif

namespace emulator {

class Fiber {
public:
    // Makes the next switch to this fiber call `entry`, which must never return, on the stack that ends at `stack + bytes`.
    void prepare(char* stack, size_t bytes, void (*entry)());

    // Leaves the fiber (or host thread) that runs now, keeping its place in `from`.
    static void change(Fiber& from, Fiber& to);

private:
#ifdef LDM_FIBER_ASSEMBLY
    void* stack_pointer_ = nullptr;
#else
    ucontext_t context_{};
#endif
};

}  // namespace emulator
