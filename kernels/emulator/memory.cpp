// Global memory. An allocation ends at a page that may not be touched and is filled with 0xFF, so that what a kernel has not written reads
// as NaN, and an access far outside ends the program even where nothing is checked.
#include <string.h>
#include <sys/mman.h>

#include <map>
#include <mutex>

#include "emulator.h"

namespace {

constexpr size_t GUARD = size_t{1} << 20;
constexpr size_t ALIGNMENT = 256;

struct Mapping {
    void* start;
    size_t bytes;
};

std::mutex lock;
std::map<void*, Mapping>& mappings() {
    static std::map<void*, Mapping> all;
    return all;
}

}  // namespace

void* ldm_emulator_alloc(size_t bytes) {
    constexpr size_t PAGE = 4096;
    if (bytes > SIZE_MAX / 4) return nullptr;
    const size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t pages = (rounded + PAGE - 1) / PAGE * PAGE;
    const size_t total = pages + 2 * GUARD;
    void* const start = mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    unsigned char* const usable = static_cast<unsigned char*>(start) + GUARD;
    if (mprotect(usable, pages, PROT_READ | PROT_WRITE) != 0) {
        munmap(start, total);
        return nullptr;
    }
    memset(usable, 0xff, pages);
    void* const address = usable + (pages - rounded);
    const std::lock_guard<std::mutex> hold(lock);
    mappings()[address] = Mapping{start, total};
    return address;
}

void ldm_emulator_free(void* address) {
    const std::lock_guard<std::mutex> hold(lock);
    const auto found = mappings().find(address);
    if (found == mappings().end()) return;
    munmap(found->second.start, found->second.bytes);
    mappings().erase(found);
}
