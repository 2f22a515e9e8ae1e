// Shared memory: the launch's dynamic bytes first, then arrays of fixed size in the order in which threads come to them.
#include <string.h>

#include "block.h"
#include "fault.h"
#include "watch.h"

namespace emulator {

void Block::check_swizzled(ldm_site site, const void* pc) const {
    if (swizzled) return;
    raise(Fault::misaligned, "a swizzled tile, where dynamic shared memory is declared to begin at a multiple of 128 bytes and not of 1024", site, pc);
}

}  // namespace emulator

using namespace emulator;

void* ldm_shared_dynamic() noexcept { return current.block->arena; }

void* ldm_shared_dynamic_swizzled() noexcept {
    current.block->swizzled = true;
    return current.block->arena;
}

void* ldm_shared_array(const void* key, const char* name, uint32_t bytes) {
    Block& block = *current.block;
    uint32_t total = bytes;
    for (const SharedArray& array : block.arrays) {
        if (array.key == key) return block.arena + array.offset;
        total += array.bytes;
    }
    if (total > MAX_STATIC_BYTES) {
        raise(Fault::shared_too_large, text("%s makes %u bytes of arrays, where %u are possible", name, total, MAX_STATIC_BYTES), ldm_site{});
    }
    const uint32_t offset = block.arena_used;
    block.arena_used += (bytes + REDZONE + 15) / 16 * 16;
    memset(block.arena + offset, 0xff, block.arena_used - offset);
    if (block.watch) block.watch->allocate(offset, bytes);
    block.arrays.push_back(SharedArray{key, name, offset, bytes});
    return block.arena + offset;
}
