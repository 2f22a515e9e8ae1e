// A block of CUDA threads, run by one host thread.
//
// Every thread is a fiber. It runs until it must wait for others: at a barrier, or where the lanes of a warp meet. The last to arrive does the
// work for all, makes the others ready and goes on. Which ready fiber runs next is the schedule of the cluster (schedule.h).
#pragma once

#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "primitives.h"

namespace emulator {

struct Launch;
struct Block;
struct Cluster;
class Watch;
struct Failure;
struct Operands;
struct Mbarrier;
struct NamedBarrier;
struct Warpgroup;
struct Accumulator;
struct Factors;

constexpr uint32_t WARP = 32;
constexpr uint32_t MAX_THREADS = 1024;
constexpr uint32_t STACK_BYTES = 64 << 10;
// What the largest GPU lets one block ask for.
constexpr uint32_t MAX_SHARED_BYTES = 227 << 10;
// Arrays of fixed size are at most this much together; the arena has room for them and for gaps between.
constexpr uint32_t MAX_STATIC_BYTES = 48 << 10;
constexpr uint32_t REDZONE = 64;
constexpr uint32_t ARENA_BYTES = 384 << 10;
constexpr uint32_t ARENA_GUARD = 1 << 20;

// A copy.async that a thread has started.
struct Copy {
    unsigned char* shared;
    const void* global;
    uint16_t bytes;
    bool valid;
    uint32_t group;
};

// Registers that a product of the warpgroup (see products.h) works on by itself until it was waited for.
struct Lent {
    const char* start;
    const char* end;
    Accumulator* accumulator;     // null: fragments of A
    uint64_t product;             // the latest that works on them
};

// A tensor store that was not waited for, and when it was started.
struct Unread {
    uint32_t group;
    int32_t time;
};

enum class Waiting : uint8_t { no, block, warp, mbarrier, named, products, cluster };

struct Thread {
    Fiber fiber;
    Block* block = nullptr;
    uint32_t index = 0;
    Waiting waiting = Waiting::no;
    ldm_site site{};              // where it waits
    bool alone = false;           // it has waited for the grid before
    char* stack = nullptr;
    uint32_t open_group = 0;      // the group that copies join now
    std::vector<Copy> copies;     // in the order they were started
    const Mbarrier* mbarrier = nullptr;   // that it waits on
    uint32_t open_store_group = 0;        // the group that tensor stores join now
    int store_agent = -1;                 // the engine that carries them out
    std::vector<Unread> unread;
    uint32_t open_product_group = 0;      // the group that products join now
    uint64_t products = 0;                // started so far
    uint64_t awaited = 0;                 // products that it waits for
    bool products_fenced = false;
    const char* lent_start = nullptr;     // registers in flight lie between
    const char* lent_end = nullptr;
    std::vector<Lent> lent;

    uint32_t lane() const { return index % WARP; }
    uint32_t warp() const { return index / WARP; }
};

// What the lanes of a warp do together.
enum class Collective : uint8_t {
    none, sync, shuffle, load_matrix, load_matrix_transposed, multiply, multiply_half, store_matrix, store_matrix_transposed, uniform, elect,
    registers
};

const char* name_of(Collective collective);

// What one lane brings to a meeting, and takes from it.
struct Deposit {
    const void* a;
    const void* b;
    void* result;
    uint32_t word;
};

struct Warp {
    Collective collective = Collective::none;
    uint32_t shape = 0;           // must be the same for all lanes
    ldm_site site{};              // of the first to arrive
    uint32_t arrived = 0;
    uint32_t exited = 0;
    uint32_t at_barrier = 0;
    Deposit deposit[WARP];
};

struct SharedArray {
    const void* key;
    const char* name;
    uint32_t offset;
    uint32_t bytes;
};

// A place to run blocks in, one after another; kept between launches.
struct Block {
    Block();
    ~Block();
    Block(const Block&) = delete;

    // Makes the threads of block `index` of the launch ready, block `rank` of its cluster.
    void start(Launch& launch, Cluster& cluster, uint32_t rank, const uint32_t (&index)[3]);

    // Lets others run until somebody has made this thread ready.
    void wait(Thread& self, Waiting reason, ldm_site site);
    void make_ready(Thread& thread);
    // After `self` has made others ready: goes on with it, or under a random schedule with any of them.
    void go_on(Thread& self);
    // Faults unless dynamic shared memory is declared to begin where a swizzle does.
    void check_swizzled(ldm_site site, const void* pc) const;
    // Abandons the cluster; its fibers never run again.
    [[noreturn]] void stop();

    Launch* launch = nullptr;
    Cluster* cluster = nullptr;
    uint32_t rank = 0;
    std::unique_ptr<Watch> checker;
    Watch* watch = nullptr;       // the checker, or null: accesses are not checked
    std::unique_ptr<Failure> failure;
    std::unique_ptr<Operands> operands;
    std::unique_ptr<Factors> factors;     // made by the first product of a warpgroup
    uint32_t index[3] = {};
    uint32_t thread_count = 0;
    Thread threads[MAX_THREADS];
    Warp warps[MAX_THREADS / WARP];
    uint32_t at_barrier = 0;
    ldm_site barrier_site{};
    uint32_t exited = 0;
    std::vector<std::unique_ptr<Mbarrier>> mbarriers;
    std::vector<NamedBarrier> named_barriers;
    std::vector<Warpgroup> warpgroups;
    std::vector<int32_t> used_by_peers;   // of each thread of the cluster, when it last used this block's shared memory

    unsigned char* arena = nullptr;   // shared memory
    uint32_t arena_used = 0;
    bool swizzled = false;            // its dynamic part is declared to begin at a multiple of 1024 bytes, and not of 128
    std::vector<SharedArray> arrays;
    // Whether an address is in shared memory, or so close that it was meant to be.
    bool near_arena(const unsigned char* address) const {
        return static_cast<size_t>(address - arena + ARENA_GUARD) < ARENA_BYTES + 2 * size_t{ARENA_GUARD};
    }
    bool in_stacks(const void* address) const;
    // Of an address near shared memory: "byte 12 of `tile`".
    std::string name_of_shared(const unsigned char* address) const;
    // Where an address of shared memory lies in it, or faults.
    uint32_t offset_of(const void* shared, const char* what, ldm_site site) const;

private:
    static void thread_main();
    [[noreturn]] void exit_thread(Thread& self);

    char* stacks_ = nullptr;
};

// The CUDA thread that runs on this host thread, its block, and what watches it; null outside kernels.
struct Current {
    Thread* thread;
    Block* block;
    Watch* watch;
};
extern thread_local Current current __attribute__((tls_model("initial-exec")));

}  // namespace emulator
