// The machine as the driver describes it, and contexts.
#include <stdio.h>
#include <string.h>

#include "libcuda.h"

namespace stand_in {
namespace {

// By data sheets; the first is nothing in particular.
const Machine MACHINES[] = {
    {"", "Stub", 8, 0, 108, 163, 0, 8, 1000000, 1000000, 5120},
    {"a100", "NVIDIA A100-SXM4-80GB", 8, 0, 108, 163, 40, 80, 1410000, 1593000, 5120},
    {"3090", "NVIDIA GeForce RTX 3090", 8, 6, 82, 99, 6, 24, 1695000, 9751000, 384},
    {"4090", "NVIDIA GeForce RTX 4090", 8, 9, 128, 99, 72, 24, 2520000, 10501000, 384},
    {"h200", "NVIDIA H200", 9, 0, 132, 227, 50, 141, 1980000, 3201000, 6144},
};

bool started = false;
int retained = 0;
int contexts;
thread_local void* current = nullptr;

int devices() { return static_cast<int>(setting("count", 1)); }

}  // namespace

const Machine& machine() {
    for (const Machine& machine : MACHINES) {
        if (word("gpu") == machine.word) return machine;
    }
    return MACHINES[0];
}

int capability() { return static_cast<int>(10 * setting("major", machine().major) + setting("minor", machine().minor)); }

int most_shared() { return (capability() >= 90 ? 227 : machine().shared_kib) << 10; }

int Call::context() const {
    if (spoilt) return spoilt;
    if (!started) return refuse(NOT_INITIALIZED, "before cuInit");
    if (!current || retained == 0) return refuse(INVALID_CONTEXT, "no context is current on this thread");
    return 0;
}

}  // namespace stand_in

using namespace stand_in;

extern "C" {

int cuInit(unsigned flags) {
    CALL;
    if (flags) return call.refuse(INVALID_VALUE, "there are no flags");
    started = true;
    return 0;
}

int cuDriverGetVersion(int* version) {
    CALL;
    *version = static_cast<int>(setting("version", 13000));
    return 0;
}

int cuGetErrorName(int code, const char** name) {
    static thread_local char text[32];
    snprintf(text, sizeof text, "CUDA_ERROR_%d", code);
    *name = text;
    return 0;
}

int cuGetErrorString(int, const char** said) {
    *said = "the stub was told to fail";
    return 0;
}

int cuDeviceGetCount(int* count) {
    CALL;
    if (!started) return call.refuse(NOT_INITIALIZED, "before cuInit");
    *count = devices();
    return 0;
}

int cuDeviceGet(int* device, int ordinal) {
    CALL;
    if (ordinal < 0 || ordinal >= devices()) return call.refuse(INVALID_DEVICE, text("there is no device %d", ordinal));
    *device = ordinal;
    return 0;
}

int cuDeviceGetName(char* name, int length, int device) {
    CALL;
    if (*machine().word) {
        snprintf(name, static_cast<size_t>(length), "%s", machine().name);
    } else {
        snprintf(name, static_cast<size_t>(length), "%s %d", machine().name, device);
    }
    return 0;
}

int cuDeviceTotalMem_v2(size_t* bytes, int) {
    CALL;
    *bytes = static_cast<size_t>(setting("memory", static_cast<long long>(machine().memory_gib) << 30));
    return 0;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
    CALL;
    switch (attribute) {
        case 13: *value = machine().clock_khz; break;
        case 16: *value = machine().multiprocessors; break;
        case 36: *value = machine().memory_khz; break;
        case 37: *value = machine().bus_bits; break;
        case 38: *value = machine().cache_mib << 20; break;
        case 75: *value = capability() / 10; break;
        case 76: *value = capability() % 10; break;
        case 97: *value = most_shared(); break;
        case 115: *value = 1; break;   // memory pools
        default: return call.refuse(INVALID_VALUE, text("attribute %d is not known here", attribute));
    }
    return 0;
}

int cuDevicePrimaryCtxRetain(void** context, int) {
    CALL;
    if (!started) return call.refuse(NOT_INITIALIZED, "before cuInit");
    retained++;
    *context = &contexts;
    return 0;
}

int cuDevicePrimaryCtxRelease_v2(int) {
    CALL;
    if (retained == 0) return call.refuse(INVALID_CONTEXT, "it was not retained as often");
    retained--;
    return 0;
}

int cuCtxGetCurrent(void** context) {
    CALL;
    *context = current;
    return 0;
}

int cuCtxSetCurrent(void* context) {
    CALL;
    if (context && (context != &contexts || retained == 0)) return call.refuse(INVALID_CONTEXT, "there is no such context");
    current = context;
    return 0;
}

}  // extern "C"
