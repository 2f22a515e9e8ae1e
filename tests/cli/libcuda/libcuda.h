// A libcuda.so.1 without a GPU, whose launches compute: what its files share.
//
// It answers as NVIDIA's driver does and runs kernels by the emulator (kernels/emulator). Whatever a driver refuses, and whatever it lets pass
// but does not promise, is refused here, with a line `refused: FUNCTION: why` in the log:
//
//   - A stream is a queue that runs when somebody waits for it, and no sooner. So a copy reads the host's bytes late, and what was not waited
//     for is not there. Work that waits on two streams at once and meets in memory is refused: nothing says which comes first.
//   - A launch reads its parameters when it is made, by the signature of its entry, which must be that of the machine code too; a graph keeps
//     copies of them. Shared memory that a kernel has anyway counts against every limit.
//   - While a stream is captured nothing runs, and what the capture's mode forbids ends it.
//   - Handles are never used again, so what was destroyed stays known. What is left at the end is a line `leaked: ...`.
//
// FAKE_CUDA holds words. `cuInit=803` makes that function return that code, `cuMemAlloc_v2@3=2` only its third call; `run@5=700` lets the fifth
// kernel that runs fail, which is told when somebody waits. `refuse=NAME` refuses launches of every entry whose name holds NAME, `fault=NAME` lets
// them fail as an illegal instruction does, and `spoil=NAME` lets them store a wrong first element. `gpu=4090` (a100, 3090, 4090, h200) is a machine; `count=2`, `version=12020`,
// `major=9`, `minor=0` and `memory=BYTES` change it. `compute=0` lets launches do nothing on memory that is zero, `check=0` lets kernels run
// unwatched, and `eager=1` runs everything at once, as a GPU that is faster than its host. FAKE_CUDA_LOG names a file that gets a line per call.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace stand_in {

enum Code {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    OUT_OF_RESOURCES = 701,
    ILLEGAL_INSTRUCTION = 715,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_WRONG_THREAD = 908,
};

using Address = uint64_t;

// A word of FAKE_CUDA.
long long setting(const std::string& name, long long otherwise);
std::string word(const std::string& name);

void log(const std::string& line);
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

// One call of a function: it is logged, keeps other threads out, and answers what FAKE_CUDA says.
class Call {
  public:
    explicit Call(const char* function);
    ~Call();
    // What it returns before it does anything, if not 0.
    int told() const { return told_; }
    // The same for a call that needs a context, which may be one that an earlier failure has spoilt.
    int context() const;
    // The same for a call that captures forbid, which it ends.
    int outside_capture() const;
    int refuse(Code code, const std::string& why) const;

  private:
    const char* function_;
    int told_;
};

#define CALL \
    const Call call(__func__); \
    if (call.told()) return call.told()
#define CALL_IN_CONTEXT \
    CALL; \
    if (const int code = call.context()) return code
#define CALL_OUTSIDE_CAPTURE \
    CALL_IN_CONTEXT; \
    if (const int code = call.outside_capture()) return code

// What a handle is of. Objects are never deleted, so that a handle is never given out twice.
struct Object {
    bool live = true;
    virtual ~Object() = default;
    virtual const char* kind() const = 0;
};
void remember(Object* object);
Object* known(const void* handle);

// The live object of this kind that a handle is of, or null.
template <typename T>
T* find(const void* handle) {
    T* const object = dynamic_cast<T*>(known(handle));
    return object && object->live ? object : nullptr;
}

// The code that a failed launch or copy left behind: every later call returns it.
extern int spoilt;
void spoil(Code code, const std::string& why);

// The machine, by numbers of CUdevice_attribute among others.
struct Machine {
    const char* word;
    const char* name;
    int major, minor, multiprocessors, shared_kib, cache_mib, memory_gib, clock_khz, memory_khz, bus_bits;
};
const Machine& machine();
int capability();
// Bytes of shared memory that a block may ask for.
int most_shared();

// A block of the GPU's memory.
struct Block {
    Address start;
    size_t bytes;
    bool stored = false;   // a kernel may have stored there
    bool contains(Address address, size_t count) const { return address >= start && count <= bytes && address - start <= bytes - count; }
};
Block* block_of(Address address);
void report_memory();

// Bytes that a piece of work reads or writes.
struct Touch {
    Address start;
    size_t bytes;
    bool written;
};

struct Work {
    std::string name;
    std::vector<Touch> touches;
    std::function<void()> run;
    Address host = 0;      // what it copies from or to
    size_t host_bytes = 0;
};

struct Capture;
struct Stream : Object {
    std::deque<Work> queue;
    Capture* capture = nullptr;
    const char* kind() const override { return "stream"; }
};

// Puts work on a stream, unless it meets work of another stream that nobody has waited for.
int enqueue(const Call& call, Stream& stream, Work work);
// Does what waits on all streams.
void finish_all();
// Whether work that waits copies from or to these bytes of the host.
bool is_copied(Address host, size_t bytes);

// What is known of an entry: `parameters` has a letter for each, r and w a pointer to what is read or may be written, m a map, i and f.
struct Signature {
    const char* name;
    bool hopper;           // has code for compute capability 9.0 alone
    unsigned threads, cluster;
    const char* parameters;
};
extern const Signature signatures[];

// What machine code says of a function: the bytes of each parameter, the shared memory that it always has, the blocks of a cluster.
struct Compiled {
    std::map<unsigned, unsigned> parameters;
    unsigned shared = 0;
    unsigned cluster = 1;
};
// Finds the functions of a fatbin's code for this GPU; none where that is PTX or compressed. Answers as the driver does that loads it.
int read_image(const void* fatbin, std::map<std::string, Compiled>& found);

struct Module : Object {
    std::map<std::string, Compiled> functions;
    const char* kind() const override { return "module"; }
};

struct Function : Object {
    const Module* module;
    const Signature* signature;
    unsigned fixed = 0;    // bytes of shared memory that it always has
    unsigned shared = 0;   // bytes that it may be launched with besides
    const char* kind() const override { return "function"; }
};

// A launch with its parameters, each in the low bytes of 128.
using Parameter = std::array<uint64_t, 16>;
struct Launch {
    const Function* function;
    unsigned grid[3];
    unsigned shared;
    bool early;            // may start before the one before it has ended
    std::vector<Parameter> parameters;
};
std::vector<Touch> touches_of(const Launch& launch);
void run(const Launch& launch);

// Launches being recorded.
struct Capture {
    std::thread::id thread;
    int mode;
    bool invalid = false;
    std::vector<Launch> launches;
};
// Ends captures that a call breaks; whether there were any.
bool break_captures();

// Whether these bytes came from cuTensorMapEncodeTiled.
bool is_encoded(const Parameter& map);

}  // namespace stand_in
