// Modules, functions and launches, which the emulator runs.
#include <stdint.h>
#include <string.h>

#include <algorithm>

#include "emulator/emulator.h"
#include "libcuda.h"

namespace stand_in {
namespace {

// Shared memory that a function may have before it is told of more.
constexpr unsigned SHARED_USUALLY = 48 << 10;
constexpr int MAX_DYNAMIC_SHARED = 8;     // of CUfunction_attribute
constexpr int STREAM_SERIALIZATION = 6;   // of CUlaunchAttributeID: programmatic

size_t bytes_of(char letter) {
    switch (letter) {
        case 'm': return 128;
        case 'i': case 'f': return 4;
        default: return 8;
    }
}

// Whether machine code takes what is passed to it.
bool agrees(const Compiled& code, const Signature& entry) {
    const size_t count = strlen(entry.parameters);
    if (code.parameters.size() != count || code.cluster != entry.cluster) return false;
    for (const auto& [index, bytes] : code.parameters) {
        if (index >= count || bytes != bytes_of(entry.parameters[index])) return false;
    }
    return true;
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

// Whether FAKE_CUDA says so of this entry.
bool told(const char* what, const Signature& entry) {
    const std::string name = word(what);
    return !name.empty() && strstr(entry.name, name.c_str());
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
    if (told("fault", entry)) {
        log("a kernel fails as it was told to");
        spoilt = ILLEGAL_INSTRUCTION;
        return;
    }
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
    // The result is the first parameter of every entry; as a half this is -48.
    if (told("spoil", entry)) *reinterpret_cast<uint16_t*>(launch.parameters[0][0]) = 0xd200;
}

}  // namespace stand_in

using namespace stand_in;

extern "C" {

int cuModuleLoadData(void** handle, const void* image) {
    CALL_OUTSIDE_CAPTURE;
    if (reinterpret_cast<uintptr_t>(image) % 8 != 0) return call.refuse(INVALID_IMAGE, "it is not at a multiple of 8");
    Module* const module = new Module;
    const int code = read_image(image, module->functions);
    if (code == NO_BINARY_FOR_GPU) return call.refuse(NO_BINARY_FOR_GPU, "it has no code for this GPU");
    if (code) return call.refuse(INVALID_IMAGE, "this is no fatbin");
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
    // Of others nothing is known, not even how much their arrays leave.
    if (!module->functions.empty()) {
        const auto code = module->functions.find(name);
        if (code == module->functions.end()) return call.refuse(NOT_FOUND, std::string("the module has no ") + name);
        if (!agrees(code->second, *entry)) return call.refuse(NOT_FOUND, std::string(name) + " takes other parameters, or clusters");
        function->fixed = code->second.shared;
        function->shared = SHARED_USUALLY - function->fixed;
    }
    remember(function);
    *handle = static_cast<Object*>(function);
    return 0;
}

int cuFuncSetAttribute(void* handle, int attribute, int value) {
    CALL_IN_CONTEXT;
    Function* const function = find<Function>(handle);
    if (!function || !function->module->live) return call.refuse(INVALID_HANDLE, "there is no such function");
    if (attribute != MAX_DYNAMIC_SHARED || value < 0) return call.refuse(INVALID_VALUE, text("attribute %d of %d", attribute, value));
    const int most = most_shared() - static_cast<int>(function->fixed);
    if (value > most) return call.refuse(INVALID_VALUE, text("%d bytes of shared memory, where a launch may have %d", value, most));
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
    if (told("refuse", entry)) {
        log("a launch is refused as it was told to be");
        return OUT_OF_RESOURCES;
    }
    if (!arguments || extra) return call.refuse(INVALID_VALUE, std::string(entry.name) + " has no list of arguments");
    Launch launch{function, {asked->grid[0], asked->grid[1], asked->grid[2]}, asked->shared, asked->attribute_count > 0, {}};
    for (size_t i = 0; entry.parameters[i]; i++) {
        const std::string wrong = take(launch, arguments[i]);
        if (!wrong.empty()) return call.refuse(INVALID_VALUE, text("%s: argument %zu %s", entry.name, i, wrong.c_str()));
    }
    if (launch.early) log("a launch that may start early");
    if (stream->capture) {
        if (stream->capture->invalid) return call.refuse(CAPTURE_INVALIDATED, "the capture was broken before");
        // A driver would record it.
        if (stream->capture->thread != std::this_thread::get_id()) return call.refuse(CAPTURE_WRONG_THREAD, "another thread records on this stream");
        stream->capture->launches.push_back(std::move(launch));
        return 0;
    }
    Work work{entry.name, touches_of(launch), {}};
    work.run = [launch = std::move(launch)] { run(launch); };
    return enqueue(call, *stream, std::move(work));
}

}  // extern "C"
