// Asynchronous copies from global to shared memory.
#pragma once

#include "block.h"

namespace emulator {

// Carries out all copies that `thread` still has under way.
void finish_copies(Block& block, Thread& thread);

}  // namespace emulator
