// Where instrumented kernels enter the checker. The compiler's thread sanitizer calls one of these functions before every load and store; here
// they are ours, and libtsan has no part in it.
#include "fault.h"
#include "products.h"
#include "watch.h"

using namespace emulator;

static inline __attribute__((always_inline)) void look(const void* address, uint32_t bytes, bool write, bool aligned, const void* pc) {
    const Current& now = current;
    if (!now.watch) return;
    // A thread's own variables are most of what it touches.
    if (static_cast<size_t>(static_cast<const char*>(address) - now.thread->stack) < STACK_BYTES) {
        if (address < now.thread->lent_end) check_lent(*now.thread, address, bytes, pc);
        return;
    }
    if (aligned && reinterpret_cast<uintptr_t>(address) % bytes != 0) {
        raise(Fault::misaligned, text("%s %u bytes at an address that is no multiple of it", write ? "a write of" : "a read of", bytes), {}, pc);
    }
    now.watch->access(*now.thread, Access{static_cast<const unsigned char*>(address), bytes, write, pc});
}

extern "C" {

#define HOOKS(BYTES) \
    void __tsan_read##BYTES(const void* address) { look(address, BYTES, false, true, __builtin_return_address(0)); } \
    void __tsan_write##BYTES(const void* address) { look(address, BYTES, true, true, __builtin_return_address(0)); } \
    void __tsan_unaligned_read##BYTES(const void* address) { look(address, BYTES, false, false, __builtin_return_address(0)); } \
    void __tsan_unaligned_write##BYTES(const void* address) { look(address, BYTES, true, false, __builtin_return_address(0)); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

// Of structures, and of what the compiler has put together; clang asks for copies in these words.
void __tsan_read_range(const void* address, size_t bytes) {
    look(address, static_cast<uint32_t>(bytes), false, false, __builtin_return_address(0));
}
void __tsan_write_range(const void* address, size_t bytes) {
    look(address, static_cast<uint32_t>(bytes), true, false, __builtin_return_address(0));
}
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
    look(from, static_cast<uint32_t>(bytes), false, false, __builtin_return_address(0));
    look(to, static_cast<uint32_t>(bytes), true, false, __builtin_return_address(0));
    return __builtin_memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
    look(from, static_cast<uint32_t>(bytes), false, false, __builtin_return_address(0));
    look(to, static_cast<uint32_t>(bytes), true, false, __builtin_return_address(0));
    return __builtin_memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
    look(to, static_cast<uint32_t>(bytes), true, false, __builtin_return_address(0));
    return __builtin_memset(to, value, bytes);
}

void __tsan_init() {}
}
