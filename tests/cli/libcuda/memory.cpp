// The GPU's memory, the host's that is pinned, and copies between them.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "emulator/emulator.h"
#include "libcuda.h"

namespace stand_in {
namespace {

size_t in_use = 0;
size_t total() { return static_cast<size_t>(setting("memory", static_cast<long long>(machine().memory_gib) << 30)); }

std::map<Address, Block>& blocks() {
    static std::map<Address, Block>& all = *new std::map<Address, Block>;
    return all;
}

std::map<Address, size_t>& pinned() {
    static std::map<Address, size_t>& all = *new std::map<Address, size_t>;
    return all;
}

void* memory(Address address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }
Address address(const void* memory) { return reinterpret_cast<uintptr_t>(memory); }

// FNV-1a over words: enough to see that bytes were changed.
uint64_t digest(const void* memory, size_t bytes) {
    uint64_t sum = 0xcbf29ce484222325u;
    const unsigned char* at = static_cast<const unsigned char*>(memory);
    for (; bytes >= 8; bytes -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        sum = (sum ^ word) * 0x100000001b3u;
    }
    for (; bytes > 0; bytes--) sum = (sum ^ *at++) * 0x100000001b3u;
    return sum;
}

// The block that holds all of these bytes.
Block* block_of(Address start, size_t bytes) {
    Block* const block = stand_in::block_of(start);
    return block && block->contains(start, bytes) ? block : nullptr;
}

// A copy of `bytes` bytes between the GPU's memory and the host's, to be done when `stream` is waited for.
int copy(const Call& call, Address device, void* host, size_t bytes, void* handle, bool to_device) {
    Stream* const stream = find<Stream>(handle);
    if (!stream) return call.refuse(INVALID_HANDLE, "there is no such stream");
    if (!host || !block_of(device, bytes)) return call.refuse(INVALID_VALUE, text("%zu bytes at %#lx are no memory of this GPU", bytes, device));
    const uint64_t before = to_device ? digest(host, bytes) : 0;
    // What nobody waits for must not look as if it were there.
    if (!to_device) memset(host, 0xff, bytes);
    Work work{to_device ? "a copy to the GPU" : "a copy from the GPU", {{device, bytes, to_device}}, {}, address(host), bytes};
    work.run = [=] {
        if (!block_of(device, bytes)) return spoil(ILLEGAL_ADDRESS, "a copy ran when its memory was freed");
        if (!to_device) {
            memcpy(host, memory(device), bytes);
        } else if (digest(host, bytes) != before) {
            spoil(ILLEGAL_ADDRESS, "the host changed what it copies before the copy ran");
        } else {
            memcpy(memory(device), host, bytes);
        }
    };
    return enqueue(call, *stream, std::move(work));
}

}  // namespace

Block* block_of(Address address) {
    auto after = blocks().upper_bound(address);
    if (after == blocks().begin()) return nullptr;
    Block& block = std::prev(after)->second;
    return block.contains(address, 0) ? &block : nullptr;
}

void report_memory() {
    for (const auto& [start, block] : blocks()) log(text("leaked: %zu bytes of the GPU's memory", block.bytes));
    for (const auto& [start, bytes] : pinned()) log(text("leaked: %zu bytes of pinned memory", bytes));
}

}  // namespace stand_in

using namespace stand_in;

extern "C" {

int cuMemGetInfo_v2(size_t* left, size_t* all) {
    CALL_IN_CONTEXT;
    *all = total();
    *left = total() - in_use;
    return 0;
}

int cuMemAlloc_v2(Address* start, size_t bytes) {
    CALL_OUTSIDE_CAPTURE;
    if (bytes == 0) return call.refuse(INVALID_VALUE, "no bytes are asked for");
    if (bytes > total() - in_use) return OUT_OF_MEMORY;
    void* const memory = ldm_emulator_alloc(bytes);
    if (!memory) return OUT_OF_MEMORY;
    if (!setting("compute", 1)) memset(memory, 0, bytes);
    in_use += bytes;
    *start = address(memory);
    blocks()[*start] = Block{*start, bytes};
    return 0;
}

int cuMemFree_v2(Address start) {
    CALL_OUTSIDE_CAPTURE;
    finish_all();
    const auto found = blocks().find(start);
    if (found == blocks().end()) return call.refuse(INVALID_VALUE, text("%#lx was not allocated, or was freed", start));
    const size_t bytes = found->second.bytes;
    in_use -= bytes;
    blocks().erase(found);
    ldm_emulator_free(memory(start));
    // Nobody gets the place again, so that whoever still uses it is found out. Where it does not start at a page, the page before is taken too.
    const Address page = start & ~Address{4095};
    mmap(memory(page), start - page + bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    return 0;
}

int cuMemHostAlloc(void** host, size_t bytes, unsigned) {
    CALL_OUTSIDE_CAPTURE;
    *host = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*host) return OUT_OF_MEMORY;
    pinned()[address(*host)] = bytes;
    return 0;
}

int cuMemFreeHost(void* host) {
    CALL_OUTSIDE_CAPTURE;
    const auto found = pinned().find(address(host));
    if (found == pinned().end()) return call.refuse(INVALID_VALUE, "it was not allocated, or was freed");
    if (is_copied(found->first, found->second)) return call.refuse(INVALID_VALUE, "a copy of it was not waited for");
    pinned().erase(found);
    free(host);
    return 0;
}

int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void* stream) {
    CALL_OUTSIDE_CAPTURE;
    return copy(call, to, const_cast<void*>(from), bytes, stream, true);
}

int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void* stream) {
    CALL_OUTSIDE_CAPTURE;
    return copy(call, from, to, bytes, stream, false);
}

}  // extern "C"
