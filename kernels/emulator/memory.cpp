// Global memory. An allocation ends at a page that may not be touched and is filled with 0xFF, so that what a kernel has not written reads
// as NaN, and an access far outside ends the program even where nothing is checked.
#include "memory.h"

#include <string.h>
#include <sys/mman.h>

#include <atomic>
#include <map>
#include <mutex>

#include "emulator.h"

namespace emulator {
namespace {

constexpr size_t PAGE = 4096;
constexpr size_t GUARD = size_t{1} << 20;
constexpr size_t ALIGNMENT = 256;

struct Mapping {
    unsigned char* start;     // of the whole, guards included
    size_t bytes;
    unsigned char* usable;
    size_t usable_bytes;
    Touched* touched;         // null until somebody asks
};

constexpr size_t record_bytes(const Mapping& mapping) { return mapping.usable_bytes / 2 * sizeof(Touched); }

std::mutex lock;
std::map<const void*, Mapping>& mappings() {
    static std::map<const void*, Mapping> all;
    return all;
}

void* reserve(size_t bytes, int protection) {
    void* const memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
}

}  // namespace

Touched* touched(const void* address) {
    const std::lock_guard<std::mutex> hold(lock);
    auto after = mappings().upper_bound(address);
    if (after == mappings().begin()) return nullptr;
    Mapping& mapping = std::prev(after)->second;
    const unsigned char* const byte = static_cast<const unsigned char*>(address);
    if (byte >= mapping.usable + mapping.usable_bytes) return nullptr;
    if (!mapping.touched) mapping.touched = static_cast<Touched*>(reserve(record_bytes(mapping), PROT_READ | PROT_WRITE));
    return mapping.touched ? mapping.touched + (byte - mapping.usable) / 2 : nullptr;
}

uint32_t new_block_numbers(uint64_t count) {
    static std::atomic<uint32_t> next{1};
    return next.fetch_add(static_cast<uint32_t>(count));
}

}  // namespace emulator

using namespace emulator;

void* ldm_emulator_alloc(size_t bytes) {
    if (bytes > SIZE_MAX / 64) return nullptr;
    const size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t pages = (rounded + PAGE - 1) / PAGE * PAGE;
    Mapping mapping{};
    mapping.bytes = pages + 2 * GUARD;
    mapping.start = static_cast<unsigned char*>(reserve(mapping.bytes, PROT_NONE));
    if (!mapping.start) return nullptr;
    mapping.usable = mapping.start + GUARD;
    mapping.usable_bytes = pages;
    if (pages > 0 && mprotect(mapping.usable, pages, PROT_READ | PROT_WRITE) != 0) {
        munmap(mapping.start, mapping.bytes);
        return nullptr;
    }
    memset(mapping.usable, 0xff, pages);
    void* const address = mapping.usable + (pages - rounded);
    const std::lock_guard<std::mutex> hold(lock);
    mappings()[address] = mapping;
    return address;
}

void ldm_emulator_free(void* address) {
    const std::lock_guard<std::mutex> hold(lock);
    const auto found = mappings().find(address);
    if (found == mappings().end()) return;
    const Mapping& mapping = found->second;
    munmap(mapping.start, mapping.bytes);
    if (mapping.touched) munmap(mapping.touched, record_bytes(mapping));
    mappings().erase(found);
}
