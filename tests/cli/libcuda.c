// A libcuda.so.1 without a GPU: it answers as NVIDIA's driver does, and fails where the variable FAKE_CUDA says so.
//
// FAKE_CUDA holds words: `cuInit=803` makes that function return that code; `count=2`, `version=12020`, `major=9`, `minor=0` and
// `memory=BYTES` describe the machine. FAKE_CUDA_LOG names a file that gets a line per call. Memory is the host's, zeroed; a launch
// does nothing, takes 2 ms by its clock, and is refused where the driver would refuse it: outside the grid's limits, or with shared memory that was not asked for.
// While a stream is captured, what would break the capture is refused too.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OUT_OF_MEMORY = 2, INVALID_VALUE = 1, INVALID_DEVICE = 101, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900 };

typedef unsigned long long address;

struct function {
    char name[128];
    int shared;
};

static size_t in_use;
static int capturing;

// A stream, and whether a copy on it has not been waited for. Launches refuse to run before the copies of other streams have arrived.
struct stream {
    int copying;
};
enum { STREAMS = 8 };
static struct stream streams[STREAMS];
static int stream_count;

static long long setting(const char* name, long long otherwise) {
    const char* text = getenv("FAKE_CUDA");
    const size_t length = strlen(name);
    for (; text && *text; text += strcspn(text, " "), text += strspn(text, " ")) {
        if (!strncmp(text, name, length) && text[length] == '=') return atoll(text + length + 1);
    }
    return otherwise;
}

// Bytes of shared memory that a block may ask for.
static int most_shared(void) { return setting("major", 8) == 9 ? 227 << 10 : 163 << 10; }

static int answer(const char* name) {
    const char* const log = getenv("FAKE_CUDA_LOG");
    FILE* const file = log ? fopen(log, "a") : NULL;
    if (file) {
        fprintf(file, "%s\n", name);
        fclose(file);
    }
    return (int)setting(name, 0);
}

#define ANSWER \
    const int code = answer(__func__); \
    if (code) return code
#define NOT_IN_CAPTURE \
    ANSWER; \
    if (capturing) return CAPTURE_UNSUPPORTED
#define NOTHING(NAME, ...) \
    int NAME(__VA_ARGS__) { \
        ANSWER; \
        return 0; \
    }

static int handles;
#define HANDLE ((void*)&handles)

NOTHING(cuInit, unsigned flags)
NOTHING(cuCtxSetCurrent, void* context)
NOTHING(cuDevicePrimaryCtxRelease_v2, int device)
NOTHING(cuEventDestroy_v2, void* event)
NOTHING(cuEventRecord, void* event, void* stream)
NOTHING(cuEventSynchronize, void* event)
NOTHING(cuGraphDestroy, void* graph)
NOTHING(cuGraphExecDestroy, void* graph)
NOTHING(cuGraphUpload, void* graph, void* stream)
NOTHING(cuGraphLaunch, void* graph, void* stream)
NOTHING(cuModuleUnload, void* module)
NOTHING(cuStreamDestroy_v2, void* stream)
NOTHING(cuMemFreeHost, void* memory)

int cuDriverGetVersion(int* version) {
    ANSWER;
    *version = (int)setting("version", 13000);
    return 0;
}

int cuGetErrorName(int code, const char** text) {
    static char name[32];
    snprintf(name, sizeof name, "CUDA_ERROR_%d", code);
    *text = name;
    return 0;
}

int cuGetErrorString(int code, const char** text) {
    *text = "the stub was told to fail";
    return 0;
}

int cuDeviceGetCount(int* count) {
    ANSWER;
    *count = (int)setting("count", 1);
    return 0;
}

int cuDeviceGet(int* device, int ordinal) {
    ANSWER;
    if (ordinal < 0 || ordinal >= setting("count", 1)) return INVALID_DEVICE;
    *device = ordinal;
    return 0;
}

int cuDeviceGetName(char* name, int length, int device) {
    ANSWER;
    snprintf(name, (size_t)length, "Stub %d", device);
    return 0;
}

int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    ANSWER;
    *bytes = (size_t)setting("memory", 8ll << 30);
    return 0;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
    ANSWER;
    switch (attribute) {
        case 13: case 36: *value = 1000000; break;  // clocks, in kHz
        case 16: *value = 108; break;               // multiprocessors
        case 37: *value = 5120; break;              // bits of the memory's bus
        case 75: *value = (int)setting("major", 8); break;
        case 76: *value = (int)setting("minor", 0); break;
        case 97: *value = most_shared(); break;     // shared memory that a block may ask for
        default: *value = 0;
    }
    return 0;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
    ANSWER;
    *context = HANDLE;
    return 0;
}

int cuCtxGetCurrent(void** context) {
    ANSWER;
    *context = HANDLE;
    return 0;
}

int cuEventCreate(void** event, unsigned flags) {
    NOT_IN_CAPTURE;
    *event = HANDLE;
    return 0;
}

int cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
    ANSWER;
    *milliseconds = 2.0f;
    return 0;
}

int cuStreamCreate(struct stream** stream, unsigned flags) {
    ANSWER;
    if (stream_count == STREAMS) return OUT_OF_MEMORY;
    *stream = &streams[stream_count++];
    return 0;
}

int cuStreamSynchronize(struct stream* stream) {
    NOT_IN_CAPTURE;
    stream->copying = 0;
    return 0;
}

int cuMemHostAlloc(void** memory, size_t bytes, unsigned flags) {
    NOT_IN_CAPTURE;
    *memory = malloc(bytes);
    return *memory ? 0 : OUT_OF_MEMORY;
}

int cuMemGetInfo_v2(size_t* left, size_t* total) {
    ANSWER;
    *total = (size_t)setting("memory", 8ll << 30);
    *left = *total - in_use;
    return 0;
}

// The length is kept before the memory, at a distance that keeps its alignment.
int cuMemAlloc_v2(address* memory, size_t bytes) {
    NOT_IN_CAPTURE;
    if (in_use + bytes > (size_t)setting("memory", 8ll << 30)) return OUT_OF_MEMORY;
    char* const block = aligned_alloc(256, (bytes + 511) / 256 * 256);
    if (!block) return OUT_OF_MEMORY;
    memset(block, 0, bytes + 256);
    *(size_t*)block = bytes;
    in_use += bytes;
    *memory = (address)(uintptr_t)(block + 256);
    return 0;
}

int cuMemFree_v2(address memory) {
    ANSWER;
    char* const block = (char*)(uintptr_t)memory - 256;
    in_use -= *(size_t*)block;
    free(block);
    return 0;
}

int cuMemcpyHtoDAsync_v2(address to, const void* from, size_t bytes, struct stream* stream) {
    NOT_IN_CAPTURE;
    stream->copying = 1;
    memcpy((void*)(uintptr_t)to, from, bytes);
    return 0;
}

int cuMemcpyDtoHAsync_v2(void* to, address from, size_t bytes, void* stream) {
    NOT_IN_CAPTURE;
    memcpy(to, (const void*)(uintptr_t)from, bytes);
    return 0;
}

int cuModuleLoadData(void** module, const void* image) {
    NOT_IN_CAPTURE;
    // The first word of a fatbin.
    if (*(const uint32_t*)image != 0xba55ed50u) return INVALID_VALUE;
    *module = HANDLE;
    return 0;
}

int cuModuleGetFunction(struct function** function, void* module, const char* name) {
    ANSWER;
    *function = calloc(1, sizeof **function);
    if (strlen(name) >= sizeof (*function)->name) return NOT_FOUND;
    strcpy((*function)->name, name);
    // 48 KiB less its fixed arrays, of which nobody knows here: a launch of 48 KiB fails where there is one.
    (*function)->shared = 0;
    return 0;
}

int cuFuncSetAttribute(struct function* function, int attribute, int value) {
    ANSWER;
    if (attribute == 8 && value > most_shared()) return INVALID_VALUE;
    if (attribute == 8) function->shared = value;
    return 0;
}

struct attribute {
    int id;
    int unused;
    int value[16];
};

struct launch {
    unsigned x, y, z, threads, threads_y, threads_z, shared;
    struct stream* stream;
    const struct attribute* attributes;
    unsigned attribute_count;
};

int cuLaunchKernelEx(const struct launch* l, struct function* function, void** arguments, void** extra) {
    ANSWER;
    const int grid = l->x && l->y && l->z && l->x < 1u << 31 && l->y < 1u << 16 && l->z < 1u << 16;
    const int block = l->threads && l->threads <= 1024 && l->threads_y == 1 && l->threads_z == 1;
    if (!grid || !block || (int)l->shared > function->shared || !arguments) return INVALID_VALUE;
    for (int i = 0; i < stream_count; i++) {
        if (&streams[i] != l->stream && streams[i].copying) return INVALID_VALUE;
    }
    for (unsigned i = 0; i < l->attribute_count; i++) {
        // Programmatic stream serialisation, which GPUs before Hopper do not know.
        if (l->attributes[i].id != 6 || l->attributes[i].value[0] != 1 || setting("major", 8) < 9) return INVALID_VALUE;
        answer("a launch that may start early");
    }
    return 0;
}

// Whoever reads the map finds its address there.
int cuTensorMapEncodeTiled(unsigned long long* map, int type, unsigned rank, void* start, const uint64_t* extents, const uint64_t* pitches,
                           const unsigned* box, const unsigned* steps, int interleave, int swizzle, int promotion, int fill) {
    ANSWER;
    const uintptr_t address = (uintptr_t)start;
    if ((uintptr_t)map % 64 || type != 6 || rank < 1 || rank > 5 || !address || address % 16 || interleave || fill) return INVALID_VALUE;
    for (unsigned i = 0; i < rank; i++) {
        if (!extents[i] || extents[i] > 1ull << 32 || !box[i] || box[i] > 256 || !steps[i] || steps[i] > 8) return INVALID_VALUE;
        if (i > 0 && (pitches[i - 1] % 16 || pitches[i - 1] >= 1ull << 40)) return INVALID_VALUE;
    }
    if (2 * box[0] % 16 || (swizzle && 2 * box[0] > 16u << swizzle)) return INVALID_VALUE;
    map[0] = address;
    return 0;
}

int cuStreamBeginCapture_v2(void* stream, int mode) {
    ANSWER;
    capturing = 1;
    return 0;
}

int cuStreamEndCapture(void* stream, void** graph) {
    ANSWER;
    capturing = 0;
    *graph = HANDLE;
    return 0;
}

int cuGraphInstantiateWithFlags(void** instance, void* graph, unsigned long long flags) {
    ANSWER;
    *instance = HANDLE;
    return 0;
}
