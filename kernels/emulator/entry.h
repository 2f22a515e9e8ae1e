// How kernels reach the emulator.
//
// What a build compiles
//
//   1. The emulator: every kernels/emulator/*.cpp, plainly: -std=c++17 -O2. It must not be instrumented.
//   2. For each kernels/X.cu one stub X.cpp, written by the build, which reads
//
//          #include "emulator/entry.h"
//          namespace {
//          #include "X.cu"
//          }
//          extern const ldm_entry ldm_entries_X[] = {LDM_ENTRY(name), LDM_ENTRY(other), {nullptr, nullptr, 0}};
//
//      The namespace keeps types and templates of one name in two kernel files apart. Flags:
//
//          -std=c++17 -O2 -g1 -gdwarf-4 -DLDM_EMULATOR -Ikernels -Wno-unknown-pragmas -fsanitize=thread
//          g++:     --param tsan-instrument-func-entry-exit=0 -fno-tree-loop-distribute-patterns
//          clang++: -mllvm -tsan-instrument-func-entry-exit=0
//
//      so that every load and store calls a function of hooks.cpp. The option must not be given to the linker: libtsan has no part in this.
//   3. One file more, plainly compiled, which lists the tables:
//
//          #include "emulator/entry.h"
//          extern const ldm_entry ldm_entries_X[];
//          extern "C" const ldm_entry* const ldm_entry_tables[] = {ldm_entries_X, nullptr};
//
// clang++ copies whole structures without telling how they are aligned: that is then not checked.
//
// Faults name file and line if the linked program keeps the debug sections of (2), and the function otherwise.
#pragma once

// One kernel's entry, a function that calls it with parameters fetched from the addresses a launch gives, and the registers that a thread has at the
// start, at most.
struct ldm_entry {
    const char* name;
    void (*run)(void** arguments);
    unsigned registers;
};

extern "C" const ldm_entry* const ldm_entry_tables[];

#ifdef LDM_EMULATOR
#include "../gpu.cuh"

#include <utility>

namespace ldm_entries {

template <auto entry>
struct caller;

// Both functions read host memory, which is none of the checker's business.
template <typename... parameters, void (*entry)(parameters...)>
struct caller<entry> {
    template <size_t... i>
    __attribute__((no_sanitize("thread"))) static void call(void** arguments, std::index_sequence<i...>) {
        entry(*static_cast<parameters*>(arguments[i])...);
    }
    __attribute__((no_sanitize("thread"))) static void run(void** arguments) {
        call(arguments, std::index_sequence_for<parameters...>{});
    }
};

}  // namespace ldm_entries

#define LDM_ENTRY(NAME) {#NAME, &ldm_entries::caller<&NAME>::run, ldm_registers_##NAME}
#endif
