// From an address in a kernel's code to a line of its source, by addr2line where it is installed and debug sections are there.
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fault.h"

namespace emulator {

// Files of the primitive layer: a fault is where a kernel called them.
static bool is_primitive(const std::string& file) {
    for (const char* name : {"gpu.cuh", "gpu.h", "half.h", "primitives.h", "entry.h", "hopper.cuh", "hopper.h"}) {
        if (file == name) return true;
    }
    return false;
}

std::string place_of(const void* pc) {
    Dl_info module;
    if (!dladdr(pc, &module) || !module.dli_fname || strchr(module.dli_fname, '\'')) return "";
    // The instruction that called is before the one to return to.
    const size_t offset = static_cast<size_t>(static_cast<const char*>(pc) - static_cast<const char*>(module.dli_fbase)) - 1;
    // A program that was found along PATH is known by its bare name.
    const std::string file = strchr(module.dli_fname, '/') ? module.dli_fname : text("/proc/%d/exe", static_cast<int>(getpid()));
    FILE* const answer = popen(text("addr2line -i -e '%s' 0x%zx 2>/dev/null", file.c_str(), offset).c_str(), "r");
    if (!answer) return "";
    // Innermost first: a helper, perhaps, and who called it.
    std::string places;
    char line[1024];
    int found = 0;
    while (found < 3 && fgets(line, sizeof line, answer)) {
        line[strcspn(line, " \n")] = 0;
        const char* const slash = strrchr(line, '/');
        const std::string place = slash ? slash + 1 : line;
        const std::string name = place.substr(0, place.find(':'));
        if (name == "??" || place.empty() || place.back() == '?' || is_primitive(name)) continue;
        if (found++ > 0) places += " from ";
        places += place;
    }
    pclose(answer);
    return places;
}

// Read-only data of the program or library that holds kernels: their constant tables.
bool in_constants(const void* address) {
    const auto look = [](dl_phdr_info* module, size_t, void* wanted) -> int {
        const uintptr_t at = reinterpret_cast<uintptr_t>(wanted);
        for (int i = 0; i < module->dlpi_phnum; i++) {
            const ElfW(Phdr)& part = module->dlpi_phdr[i];
            const uintptr_t start = module->dlpi_addr + part.p_vaddr;
            if (part.p_type == PT_LOAD && !(part.p_flags & PF_W) && at >= start && at < start + part.p_memsz) return 1;
        }
        return 0;
    };
    return dl_iterate_phdr(look, const_cast<void*>(address)) != 0;
}

}  // namespace emulator
