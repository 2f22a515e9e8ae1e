// What machine code says of its functions: the parameters they read, and the shared memory that they have whatever a launch asks for.
//
// A fatbin holds images for several GPUs, and one of machine code is an ELF file. Of a function there are the sections `.text.NAME`,
// `.nv.shared.NAME` and `.nv.info.NAME`, the last a list of attributes.
#include <elf.h>
#include <string.h>

#include "libcuda.h"

namespace stand_in {
namespace {

// The heads of a fatbin and of each image in it.
struct Fatbin {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
};
struct Image {
    uint16_t kind, version;
    uint32_t header_bytes;
    uint64_t bytes;
    uint32_t compressed, unused;
    uint16_t minor, major;
    uint32_t capability;
};
constexpr uint32_t FATBIN_MAGIC = 0xba55ed50u;
constexpr uint16_t PTX = 1, MACHINE_CODE = 2;

// Forms of an attribute, of which only this one has bytes behind its head of 4; and two that have this form.
constexpr unsigned char WITH_BYTES = 4;
constexpr unsigned char PARAMETER = 0x17, CLUSTER = 0x3d;
// On Hopper GPUs the section of shared memory begins with what the system keeps for itself.
constexpr uint64_t KEPT_ON_HOPPER = 1024;

template <typename T>
T at(const char* from) {
    T value;
    memcpy(&value, from, sizeof value);
    return value;
}

void read_attributes(const char* from, uint64_t bytes, Compiled& code) {
    for (uint64_t i = 0; i + 4 <= bytes; i += 4) {
        if (from[i] != WITH_BYTES) continue;
        const unsigned char kind = static_cast<unsigned char>(from[i + 1]);
        const char* const value = from + i + 4;
        // The number of the parameter, its place, and its length among other bits.
        if (kind == PARAMETER) code.parameters[at<uint16_t>(value + 4)] = at<uint32_t>(value + 8) >> 18;
        if (kind == CLUSTER) code.cluster = at<uint32_t>(value);
        i += at<uint16_t>(from + i + 2);
    }
}

void read_code(const char* elf, std::map<std::string, Compiled>& found) {
    const Elf64_Ehdr head = at<Elf64_Ehdr>(elf);
    const auto section = [&](unsigned index) { return at<Elf64_Shdr>(elf + head.e_shoff + index * head.e_shentsize); };
    const char* const names = elf + section(head.e_shstrndx).sh_offset;
    for (unsigned i = 0; i < head.e_shnum; i++) {
        const Elf64_Shdr here = section(i);
        const std::string name = names + here.sh_name;
        const auto of = [&](const std::string& kind) -> Compiled* {
            return name.compare(0, kind.size(), kind) == 0 ? &found[name.substr(kind.size())] : nullptr;
        };
        of(".text.");
        if (Compiled* const code = of(".nv.shared.")) code->shared = static_cast<unsigned>(here.sh_size - (capability() >= 90 ? KEPT_ON_HOPPER : 0));
        if (Compiled* const code = of(".nv.info.")) read_attributes(elf + here.sh_offset, here.sh_size, *code);
    }
}

}  // namespace

int read_image(const void* image, std::map<std::string, Compiled>& found) {
    const Fatbin fatbin = at<Fatbin>(static_cast<const char*>(image));
    if (fatbin.magic != FATBIN_MAGIC) return INVALID_IMAGE;
    const char* const start = static_cast<const char*>(image) + fatbin.header_bytes;
    const uint32_t here = static_cast<uint32_t>(capability());
    // The machine code of this GPU's generation that is for the newest card not newer than it, or PTX of an older one.
    const char* code = nullptr;
    uint32_t newest = 0;
    bool ptx = false;
    for (uint64_t i = 0; i + sizeof(Image) <= fatbin.bytes;) {
        const Image next = at<Image>(start + i);
        const bool fits = next.capability <= here;
        ptx |= fits && next.kind == PTX;
        if (fits && next.kind == MACHINE_CODE && next.capability / 10 == here / 10 && next.capability >= newest) {
            newest = next.capability;
            code = start + i + next.header_bytes;
        }
        i += next.header_bytes + next.bytes;
    }
    if (!code) return ptx ? SUCCESS : NO_BINARY_FOR_GPU;
    // What nvcc has compressed cannot be looked into.
    if (memcmp(code, ELFMAG, SELFMAG) == 0) read_code(code, found);
    return SUCCESS;
}

}  // namespace stand_in
