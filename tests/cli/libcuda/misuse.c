// Uses the stand-in as no program should, one way at a time: what it lets pass unseen, the tests of the driver's door would not see either.
//
// Without an argument it prints a line per way: its name, the code that the last call must return, and the machine. With a name it does that, and
// exits with 0 if the code was that one.

#include <elf.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t address;
typedef void* handle;

struct attribute {
    int id, unused, value[16];
};
struct configuration {
    unsigned grid[3], block[3], shared;
    handle stream;
    struct attribute* attributes;
    unsigned attribute_count;
};

int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(handle*, int);
int cuDevicePrimaryCtxRelease_v2(int);
int cuCtxSetCurrent(handle);
int cuMemAlloc_v2(address*, size_t);
int cuMemFree_v2(address);
int cuMemHostAlloc(handle*, size_t, unsigned);
int cuMemFreeHost(handle);
int cuMemcpyHtoDAsync_v2(address, const void*, size_t, handle);
int cuMemcpyDtoHAsync_v2(void*, address, size_t, handle);
int cuStreamCreate(handle*, unsigned);
int cuStreamDestroy_v2(handle);
int cuStreamSynchronize(handle);
int cuStreamBeginCapture_v2(handle, int);
int cuStreamEndCapture(handle, handle*);
int cuGraphInstantiateWithFlags(handle*, handle, unsigned long long);
int cuGraphLaunch(handle, handle);
int cuGraphExecDestroy(handle);
int cuGraphDestroy(handle);
int cuEventCreate(handle*, unsigned);
int cuEventRecord(handle, handle);
int cuEventSynchronize(handle);
int cuEventElapsedTime_v2(float*, handle, handle);
int cuEventDestroy_v2(handle);
int cuModuleLoadData(handle*, const void*);
int cuModuleGetFunction(handle*, handle, const char*);
int cuModuleUnload(handle);
int cuFuncSetAttribute(handle, int, int);
int cuLaunchKernelEx(const struct configuration*, handle, void**, void**);
int cuTensorMapEncodeTiled(void*, int, unsigned, void*, const uint64_t*, const uint64_t*, const unsigned*, const unsigned*, int, int, int, int);

// A fatbin with one image: of PTX for compute capability 8.0, or of machine code for the one in `capability`.
struct image {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
    uint16_t kind, unused;
    uint32_t image_header_bytes;
    uint64_t image_bytes;
    uint32_t compressed, unused_too;
    uint16_t minor, major;
    uint32_t capability;
};
static struct image ptx = {0xba55ed50u, 1, 16, 32, 1, 0, 32, 0, 0, 0, 0, 9, 80};
static struct image code_for_90 = {0xba55ed50u, 1, 16, 32, 2, 0, 32, 0, 0, 0, 8, 1, 90};

// Machine code of one function, silu, whose arrays have 16 KiB, and which is passed so many parameters, the last an integer, the others pointers.
static struct {
    struct image head;
    Elf64_Ehdr elf;
    Elf64_Shdr sections[5];
    char names[128];
    uint32_t info[12];
} code;
static void compile(int parameters) {
    static const char* const names[5] = {"", ".names", ".text.activation_silu_f32", ".nv.shared.activation_silu_f32", ".nv.info.activation_silu_f32"};
    code.head = ptx;
    code.head.kind = 2;
    code.head.image_bytes = sizeof code - sizeof code.head;
    code.head.bytes = 32 + code.head.image_bytes;
    memcpy(code.elf.e_ident, ELFMAG, SELFMAG);
    code.elf.e_shoff = sizeof code.elf;
    code.elf.e_shentsize = sizeof *code.sections;
    code.elf.e_shnum = 5;
    code.elf.e_shstrndx = 1;
    for (unsigned i = 0, at = 0; i < 5; at += strlen(names[i++]) + 1) {
        strcpy(code.names + at, names[i]);
        code.sections[i].sh_name = at;
    }
    code.sections[1].sh_offset = (char*)code.names - (char*)&code.elf;
    code.sections[3].sh_size = 16 << 10;
    code.sections[4].sh_offset = (char*)code.info - (char*)&code.elf;
    code.sections[4].sh_size = 16 * parameters;
    for (int i = 0; i < parameters; i++) {
        const uint32_t one[] = {12 << 16 | 0x17 << 8 | 4, 0, i, (i < parameters - 1 ? 8 : 4) << 18};
        memcpy(code.info + 4 * i, one, sizeof one);
    }
}

enum { COUNT = 1024, BYTES = COUNT * 4 };
static handle context, stream, other, module, silu, graph, instance;
static address x, y;
static float values[COUNT], found[COUNT];

// Everything a program needs; what any of it answers shows in the log.
static void set_up(void) {
    cuInit(0);
    cuDevicePrimaryCtxRetain(&context, 0);
    cuCtxSetCurrent(context);
    cuStreamCreate(&stream, 1);
    cuStreamCreate(&other, 1);
    cuMemAlloc_v2(&x, BYTES);
    cuMemAlloc_v2(&y, BYTES);
    cuModuleLoadData(&module, &ptx);
    cuModuleGetFunction(&silu, module, "activation_silu_f32");
    for (int i = 0; i < COUNT; i++) values[i] = 20.0f;
}

static int tidy_up(void) {
    if (instance) cuGraphExecDestroy(instance), cuGraphDestroy(graph);
    return cuMemFree_v2(x) ?: cuMemFree_v2(y) ?: cuModuleUnload(module) ?: cuStreamDestroy_v2(stream) ?: cuStreamDestroy_v2(other) ?:
           cuDevicePrimaryCtxRelease_v2(0);
}

static int write(void) { return cuMemcpyHtoDAsync_v2(x, values, BYTES, stream); }
static int read_back(void) { return cuMemcpyDtoHAsync_v2(found, y, BYTES, stream); }
static int wait_for_it(void) { return cuStreamSynchronize(stream); }

// Launches y = silu(x), but for what is asked otherwise.
static int launch_as(unsigned blocks, unsigned threads, unsigned shared, handle on, int count, struct attribute* attribute) {
    void* arguments[] = {&y, &x, &count};
    const struct configuration asked = {{blocks, 1, 1}, {threads, 1, 1}, shared, on, attribute, attribute != NULL};
    const int code = cuLaunchKernelEx(&asked, silu, arguments, NULL);
    count = 0;
    return code;
}
static int launch(void) { return launch_as(1, 256, 0, stream, COUNT, NULL); }

static int record(void) {
    cuStreamBeginCapture_v2(stream, 1);
    launch();
    cuStreamEndCapture(stream, &graph);
    return cuGraphInstantiateWithFlags(&instance, graph, 0);
}

// silu(20) is 20 in f32.
static int is_there(void) { return found[0] == 20.0f && found[COUNT - 1] == 20.0f ? 0 : -1; }

static int as_one_should(void) { return write() ?: launch() ?: read_back() ?: wait_for_it() ?: is_there() ?: tidy_up(); }
static int as_one_should_by_a_graph(void) {
    return write() ?: wait_for_it() ?: record() ?: cuGraphLaunch(instance, stream) ?: read_back() ?: wait_for_it() ?: is_there() ?: tidy_up();
}
static int read_without_waiting(void) { return write() ?: launch() ?: read_back() ?: is_there(); }
static int capture_runs_nothing(void) { return write() ?: record() ?: read_back() ?: wait_for_it() ?: is_there(); }
static int no_context(void) { return cuCtxSetCurrent(NULL) ?: cuMemAlloc_v2(&x, 1); }
static int no_memory(void) { return cuMemAlloc_v2(&x, 0); }
static int change_before_it_is_copied(void) {
    write();
    values[5] = 1.0f;
    return wait_for_it();
}
static int launch_before_another_stream_copied(void) { return cuMemcpyHtoDAsync_v2(x, values, BYTES, other) ?: launch(); }
static int copy_before_another_stream_launched(void) { return launch() ?: cuMemcpyHtoDAsync_v2(x, values, BYTES, other); }
static int free_what_is_copied(void) {
    handle pinned;
    return cuMemHostAlloc(&pinned, BYTES, 0) ?: cuMemcpyHtoDAsync_v2(x, pinned, BYTES, stream) ?: cuMemFreeHost(pinned);
}
static int free_twice(void) { return cuMemFree_v2(x) ?: cuMemFree_v2(x); }
static int launch_on_freed_memory(void) { return cuMemFree_v2(x) ?: launch(); }
static int replay_on_freed_memory(void) { return record() ?: cuMemFree_v2(x) ?: cuGraphLaunch(instance, stream) ?: wait_for_it(); }
static int copy_beyond_memory(void) { return cuMemcpyHtoDAsync_v2(x + 16, values, BYTES, stream); }
static int compute_beyond_memory(void) { return launch_as(2, 256, 0, stream, 2 * COUNT, NULL) ?: wait_for_it(); }
static int everything_fails_after_a_fault(void) { return compute_beyond_memory(), cuMemAlloc_v2(&x, 1); }

static int in_capture(int (*call)(void)) { return cuStreamBeginCapture_v2(stream, 1) ?: call(); }
static int allocate(void) { return cuMemAlloc_v2(&x, 1); }
static int load(void) { return cuModuleLoadData(&module, &ptx); }
static int allocate_in_capture(void) { return in_capture(allocate); }
static int wait_in_capture(void) { return in_capture(wait_for_it); }
static int copy_in_capture(void) { return in_capture(write); }
static int load_in_capture(void) { return in_capture(load); }
static int end_a_broken_capture(void) { return in_capture(allocate), cuStreamEndCapture(stream, &graph); }
static int end_without_a_beginning(void) { return cuStreamEndCapture(stream, &graph); }
static int end_it(void) { return cuStreamEndCapture(stream, &graph); }

// What a call answers on another thread while this one captures.
struct asked {
    int (*call)(void);
    int code;
};
static void* ask(void* asked) {
    cuCtxSetCurrent(context);
    ((struct asked*)asked)->code = ((struct asked*)asked)->call();
    return NULL;
}
static int elsewhere(int (*call)(void)) {
    pthread_t thread;
    struct asked asked = {call, 0};
    cuStreamBeginCapture_v2(stream, 1);
    pthread_create(&thread, NULL, ask, &asked);
    pthread_join(thread, NULL);
    return asked.code;
}
static int end_on_another_thread(void) { return elsewhere(end_it); }
static int launch_on_another_thread(void) { return elsewhere(launch); }
static int copy_on_another_thread(void) { return elsewhere(write); }
static int begin_twice(void) { return cuStreamBeginCapture_v2(stream, 1) ?: cuStreamBeginCapture_v2(stream, 1); }

static int launch_on_no_stream(void) { return launch_as(1, 256, 0, NULL, COUNT, NULL); }
static int launch_no_block(void) { return launch_as(0, 256, 0, stream, COUNT, NULL); }
static int launch_other_threads(void) { return launch_as(1, 128, 0, stream, COUNT, NULL); }
static int share_more_than_was_asked_for(void) { return launch_as(1, 256, 50 << 10, stream, COUNT, NULL); }
static int ask_for_too_much_to_share(void) { return cuFuncSetAttribute(silu, 8, 200 << 10); }
static int start_early_before_hopper(void) {
    struct attribute early = {6, 0, {1}};
    return launch_as(1, 256, 0, stream, COUNT, &early);
}
static int load_code_for_another_gpu(void) { return cuModuleLoadData(&module, &code_for_90); }
static int load_no_code(void) { return cuModuleLoadData(&module, values); }
static int load_silu(int parameters) {
    compile(parameters);
    return cuModuleLoadData(&module, &code) ?: cuModuleGetFunction(&silu, module, "activation_silu_f32");
}
static int pass_other_parameters(void) { return load_silu(2); }
static int share_more_than_is_left(void) { return load_silu(3) ?: launch_as(1, 256, 40 << 10, stream, COUNT, NULL); }
static int ask_for_more_than_is_left(void) { return load_silu(3) ?: cuFuncSetAttribute(silu, 8, 160 << 10); }
static int get_what_is_elsewhere(void) { return load_silu(3) ?: cuModuleGetFunction(&silu, module, "activation_silu_f16"); }
static int get_no_function(void) { return cuModuleGetFunction(&silu, module, "no_such_entry"); }
static int launch_what_was_unloaded(void) { return cuModuleUnload(module) ?: launch(); }

// Describes 16 x 16 halves by boxes of so many, rows so many bytes apart.
static int describe(char* map, unsigned wide, unsigned high, uint64_t pitch, address start) {
    const uint64_t extents[] = {16, 16};
    const unsigned box[] = {wide, high}, steps[] = {1, 1};
    return cuTensorMapEncodeTiled(map, 6, 2, (void*)(uintptr_t)start, extents, &pitch, box, steps, 0, 1, 2, 0);
}
static _Alignas(64) char map[192];
static int describe_tensors_before_hopper(void) { return describe(map, 16, 16, 32, x); }
static int describe_as_one_should(void) { return describe(map, 16, 16, 32, x) ?: tidy_up(); }
static int describe_rows_wider_than_their_swizzle(void) { return describe(map, 24, 16, 32, x); }
static int describe_a_box_that_is_too_high(void) { return describe(map, 16, 257, 32, x); }
static int describe_rows_that_are_not_aligned(void) { return describe(map, 16, 16, 40, x); }
static int describe_what_is_not_aligned(void) { return describe(map, 16, 16, 32, x + 8); }
static int describe_at_an_odd_place(void) { return describe(map + 8, 16, 16, 32, x); }
static int pass_a_map_that_nobody_made(void) {
    int number = 0;
    void* arguments[] = {&y, map, map, &number, &number, &number, &number};
    const struct configuration asked = {{1, 1, 1}, {128, 1, 1}, 0, stream, NULL, 0};
    handle load_tensor;
    return cuModuleGetFunction(&load_tensor, module, "primitive_tensor_load_sm90") ?: cuLaunchKernelEx(&asked, load_tensor, arguments, NULL);
}
static int launch_half_a_cluster(void) {
    return cuModuleGetFunction(&silu, module, "primitive_cluster_sm90") ?: launch_as(3, 128, 0, stream, COUNT, NULL);
}

static int time_without_timing(void) {
    handle event;
    float time;
    return cuEventCreate(&event, 2) ?: cuEventRecord(event, stream) ?: wait_for_it() ?: cuEventElapsedTime_v2(&time, event, event);
}
static int time_without_waiting(void) {
    handle event;
    float time;
    return cuEventCreate(&event, 0) ?: cuEventRecord(event, stream) ?: cuEventElapsedTime_v2(&time, event, event);
}
static int destroy_twice(void) { return cuStreamDestroy_v2(other) ?: cuStreamDestroy_v2(other); }
static int destroy_something_else(void) { return cuEventDestroy_v2(stream); }

static const struct {
    const char* name;
    int (*run)(void);
    int code;
    const char* machine;
} ways[] = {
#define WAY(NAME, CODE) {#NAME, NAME, CODE, ""}
#define HOPPER_WAY(NAME, CODE) {#NAME, NAME, CODE, "gpu=h200"}
    WAY(as_one_should, 0), WAY(as_one_should_by_a_graph, 0), WAY(read_without_waiting, -1), WAY(capture_runs_nothing, -1),
    WAY(no_context, 201), WAY(no_memory, 1), WAY(change_before_it_is_copied, 700), WAY(launch_before_another_stream_copied, 1),
    WAY(copy_before_another_stream_launched, 1), WAY(free_what_is_copied, 1), WAY(free_twice, 1), WAY(launch_on_freed_memory, 1),
    WAY(replay_on_freed_memory, 719), WAY(copy_beyond_memory, 1), WAY(compute_beyond_memory, 719), WAY(everything_fails_after_a_fault, 719),
    WAY(allocate_in_capture, 900), WAY(wait_in_capture, 900), WAY(copy_in_capture, 900), WAY(load_in_capture, 900),
    WAY(end_a_broken_capture, 901), WAY(end_without_a_beginning, 903), WAY(end_on_another_thread, 908), WAY(begin_twice, 1),
    WAY(launch_on_another_thread, 908), WAY(copy_on_another_thread, 900),
    WAY(launch_on_no_stream, 400), WAY(launch_no_block, 1), WAY(launch_other_threads, 1), WAY(share_more_than_was_asked_for, 1),
    WAY(ask_for_too_much_to_share, 1), WAY(start_early_before_hopper, 1), WAY(load_code_for_another_gpu, 209), WAY(load_no_code, 200),
    WAY(get_no_function, 500), WAY(launch_what_was_unloaded, 400), WAY(describe_tensors_before_hopper, 801), WAY(time_without_timing, 400),
    WAY(time_without_waiting, 600), WAY(destroy_twice, 400), WAY(destroy_something_else, 400), WAY(pass_other_parameters, 500),
    WAY(share_more_than_is_left, 1), WAY(ask_for_more_than_is_left, 1), WAY(get_what_is_elsewhere, 500),
    HOPPER_WAY(describe_as_one_should, 0), HOPPER_WAY(describe_rows_wider_than_their_swizzle, 1),
    HOPPER_WAY(describe_a_box_that_is_too_high, 1), HOPPER_WAY(describe_rows_that_are_not_aligned, 1),
    HOPPER_WAY(describe_what_is_not_aligned, 1), HOPPER_WAY(describe_at_an_odd_place, 1), HOPPER_WAY(pass_a_map_that_nobody_made, 1),
    HOPPER_WAY(launch_half_a_cluster, 1),
};

int main(int count, char** words) {
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (count < 2) {
            printf("%s %d %s\n", ways[i].name, ways[i].code, ways[i].machine);
        } else if (strcmp(words[1], ways[i].name) == 0) {
            set_up();
            const int code = ways[i].run();
            if (code != ways[i].code) printf("%s: %d, not %d\n", ways[i].name, code, ways[i].code);
            return code != ways[i].code;
        }
    }
    return count > 1;
}
