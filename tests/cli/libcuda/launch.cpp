// Modules, functions and launches, which the emulator runs.
#include <stdint.h>
#include <string.h>

#include <algorithm>

#include "emulator/emulator.h"
#include "libcuda.h"

namespace stand_in {
namespace {

// Dynamic bytes that a function may be launched with before it is told of more: 48 KiB less its fixed arrays, which nobody here knows, so none.
constexpr unsigned SHARED_USUALLY = 0;
constexpr int MAX_DYNAMIC_SHARED = 8;     // of CUfunction_attribute
constexpr int STREAM_SERIALIZATION = 6;   // of CUlaunchAttributeID: programmatic

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

// Whether it holds something for this GPU: code of its generation for a card that is no newer, or PTX of an older one.
bool runs_here(const Fatbin& fatbin) {
    const uint32_t here = static_cast<uint32_t>(capability());
    const char* const start = reinterpret_cast<const char*>(&fatbin) + fatbin.header_bytes;
    for (uint64_t at = 0; at + sizeof(Image) <= fatbin.bytes;) {
        Image image;
        memcpy(&image, start + at, sizeof image);
        const bool same = image.capability / 10 == here / 10;
        if (image.capability <= here && (image.kind == PTX || (image.kind == MACHINE_CODE && same))) return true;
        if (image.header_bytes == 0) return false;
        at += image.header_bytes + image.bytes;
    }
    return false;
}

size_t bytes_of(char letter) {
    switch (letter) {
        case 'm': return 128;
        case 'i': case 'f': return 4;
        default: return 8;
    }
}

// Which memory a parameter is of.
Block* block_of(const Launch& launch, size_t index) {
    const char letter = launch.function->signature->parameters[index];
    const Address address = launch.parameters[index][0];
    return letter == 'i' || letter == 'f' || address == 0 ? nullptr : stand_in::block_of(address);
}

// Whether it is written. A map does not say so: it may be of a result where kernels store, and is of a weight where none ever did.
bool written(const Launch& launch, size_t index, const Block& block) {
    const char letter = launch.function->signature->parameters[index];
    return letter == 'w' || (letter == 'm' && block.stored);
}

struct Attribute {
    int id, unused;
    int value[16];
};

struct Configuration {
    unsigned grid[3], block[3], shared;
    void* stream;
    const Attribute* attributes;
    unsigned attribute_count;
};

// Why it cannot start, or "".
std::string refusal(const Configuration& asked, const Function& function) {
    const Signature& entry = *function.signature;
    const unsigned most[] = {0x7fffffff, 65535, 65535};
    for (int i = 0; i < 3; i++) {
        if (asked.grid[i] == 0 || asked.grid[i] > most[i]) return text("%u blocks along axis %d", asked.grid[i], i);
    }
    if (asked.block[0] != entry.threads || asked.block[1] != 1 || asked.block[2] != 1) {
        return text("%u x %u x %u threads, where it has %u", asked.block[0], asked.block[1], asked.block[2], entry.threads);
    }
    if (asked.grid[0] % entry.cluster != 0) return text("%u blocks along x in clusters of %u", asked.grid[0], entry.cluster);
    if (asked.shared > function.shared) return text("%u bytes of shared memory, of which it may have %u", asked.shared, function.shared);
    for (unsigned i = 0; i < asked.attribute_count; i++) {
        if (asked.attributes[i].id != STREAM_SERIALIZATION || asked.attributes[i].value[0] != 1) return text("attribute %d", asked.attributes[i].id);
        if (capability() < 90) return "only GPUs from Hopper on start launches early";
    }
    return "";
}

// Reads the next parameter of a launch: what is wrong with it, or "".
std::string take(Launch& launch, const void* from) {
    const size_t index = launch.parameters.size();
    const char letter = launch.function->signature->parameters[index];
    if (!from || reinterpret_cast<uintptr_t>(from) % std::min<size_t>(bytes_of(letter), 64) != 0) return "is not where one can be";
    Parameter parameter{};
    memcpy(parameter.data(), from, bytes_of(letter));
    launch.parameters.push_back(parameter);
    if (letter == 'm' && !is_encoded(parameter)) return "is a tensor map that nobody encoded";
    const bool number = letter == 'i' || letter == 'f';
    return number || parameter[0] == 0 || block_of(launch, index) ? "" : "is no memory of this GPU";
}

}  // namespace

std::vector<Touch> touches_of(const Launch& launch) {
    std::vector<Touch> touches;
    for (size_t i = 0; i < launch.parameters.size(); i++) {
        if (const Block* block = block_of(launch, i)) touches.push_back({block->start, block->bytes, written(launch, i, *block)});
    }
    return touches;
}

void run(const Launch& launch) {
    static int runs = 0;
    const Signature& entry = *launch.function->signature;
    if (const long long code = setting(text("run@%d", ++runs), 0)) {
        log("a kernel fails as it was told to");
        spoilt = static_cast<int>(code);
        return;
    }
    if (!launch.function->live) return spoil(LAUNCH_FAILED, std::string(entry.name) + " ran when its module was unloaded");
    if (!setting("compute", 1)) return;
    std::vector<ldm_region> regions;
    std::vector<void*> arguments;
    std::vector<Parameter> parameters = launch.parameters;
    for (size_t i = 0; i < parameters.size(); i++) {
        arguments.push_back(parameters[i].data());
        Block* const block = block_of(launch, i);
        if (!block) continue;
        // Where no kernel has stored there is nothing of the launch before to be waited for.
        const bool free = !launch.early || !(block->stored || written(launch, i, *block));
        regions.push_back(ldm_region{reinterpret_cast<void*>(block->start), block->bytes, entry.parameters[i] != 'r', free});
    }
    for (size_t i = 0; i < parameters.size(); i++) {
        Block* const block = block_of(launch, i);
        if (block && written(launch, i, *block)) block->stored = true;
    }
    ldm_launch request{};
    request.entry = entry.name;
    memcpy(request.grid, launch.grid, sizeof request.grid);
    request.threads = entry.threads;
    request.cluster = entry.cluster;
    request.shared_bytes = launch.shared;
    request.arguments = arguments.data();
    request.regions = regions.data();
    request.region_count = static_cast<uint32_t>(regions.size());
    request.workers = std::max(1u, std::thread::hardware_concurrency());
    request.check = setting("check", 1) != 0;
    char report[1024] = "";
    if (ldm_emulator_launch(&request, report, sizeof report) != 0) spoil(LAUNCH_FAILED, std::string(entry.name) + ": " + report);
}

}  // namespace stand_in

using namespace stand_in;

extern "C" {

int cuModuleLoadData(void** handle, const void* image) {
    CALL_OUTSIDE_CAPTURE;
    Fatbin fatbin;
    memcpy(&fatbin, image, sizeof fatbin);
    if (fatbin.magic != FATBIN_MAGIC) return call.refuse(INVALID_IMAGE, "this is no fatbin");
    if (reinterpret_cast<uintptr_t>(image) % 8 != 0) return call.refuse(INVALID_IMAGE, "it is not at a multiple of 8");
    if (!runs_here(*static_cast<const Fatbin*>(image))) return call.refuse(NO_BINARY_FOR_GPU, "it has no code for this GPU");
    Module* const module = new Module;
    remember(module);
    *handle = static_cast<Object*>(module);
    return 0;
}

int cuModuleUnload(void* handle) {
    CALL_OUTSIDE_CAPTURE;
    Module* const module = find<Module>(handle);
    if (!module) return call.refuse(INVALID_HANDLE, "there is no such module");
    finish_all();
    module->live = false;
    return 0;
}

int cuModuleGetFunction(void** handle, void* from, const char* name) {
    CALL_IN_CONTEXT;
    const Module* const module = find<Module>(from);
    if (!module) return call.refuse(INVALID_HANDLE, "there is no such module");
    const Signature* entry = signatures;
    while (entry->name && strcmp(entry->name, name) != 0) entry++;
    if (!entry->name) return call.refuse(NOT_FOUND, std::string("there is no entry ") + name);
    if (entry->hopper && capability() != 90) return call.refuse(NOT_FOUND, std::string(name) + " is for compute capability 9.0 alone");
    Function* const function = new Function;
    function->module = module;
    function->signature = entry;
    function->shared = SHARED_USUALLY;
    remember(function);
    *handle = static_cast<Object*>(function);
    return 0;
}

int cuFuncSetAttribute(void* handle, int attribute, int value) {
    CALL_IN_CONTEXT;
    Function* const function = find<Function>(handle);
    if (!function || !function->module->live) return call.refuse(INVALID_HANDLE, "there is no such function");
    if (attribute != MAX_DYNAMIC_SHARED || value < 0) return call.refuse(INVALID_VALUE, text("attribute %d of %d", attribute, value));
    if (value > most_shared()) return call.refuse(INVALID_VALUE, text("%d bytes of shared memory, where a block may have %d", value, most_shared()));
    function->shared = static_cast<unsigned>(value);
    return 0;
}

int cuLaunchKernelEx(const Configuration* asked, void* handle, void** arguments, void** extra) {
    CALL_IN_CONTEXT;
    const Function* const function = find<Function>(handle);
    Stream* const stream = find<Stream>(asked->stream);
    if (!function || !function->module->live || !stream) return call.refuse(INVALID_HANDLE, "there is no such function or stream");
    const Signature& entry = *function->signature;
    const std::string problem = refusal(*asked, *function);
    if (!problem.empty()) return call.refuse(INVALID_VALUE, std::string(entry.name) + ": " + problem);
    if (!arguments || extra) return call.refuse(INVALID_VALUE, std::string(entry.name) + " has no list of arguments");
    Launch launch{function, {asked->grid[0], asked->grid[1], asked->grid[2]}, asked->shared, asked->attribute_count > 0, {}};
    for (size_t i = 0; entry.parameters[i]; i++) {
        const std::string wrong = take(launch, arguments[i]);
        if (!wrong.empty()) return call.refuse(INVALID_VALUE, text("%s: argument %zu %s", entry.name, i, wrong.c_str()));
    }
    if (launch.early) log("a launch that may start early");
    if (stream->capture) {
        if (stream->capture->invalid) return call.refuse(CAPTURE_INVALIDATED, "the capture was broken before");
        stream->capture->launches.push_back(std::move(launch));
        return 0;
    }
    Work work{entry.name, touches_of(launch), {}};
    work.run = [launch = std::move(launch)] { run(launch); };
    return enqueue(call, *stream, std::move(work));
}

}  // extern "C"
