// Hooks.
extern "C" {
#define HOOK(SIZE) \
    void __tsan_read##SIZE(const void*) {} \
    void __tsan_write##SIZE(const void*) {} \
    void __tsan_unaligned_read##SIZE(const void*) {} \
    void __tsan_unaligned_write##SIZE(const void*) {}
HOOK(1) HOOK(2) HOOK(4) HOOK(8) HOOK(16)
void __tsan_read_range(const void*, unsigned long) {}
void __tsan_write_range(const void*, unsigned long) {}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
