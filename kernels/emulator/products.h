// Products of a warpgroup (wgmma), which run by themselves from when all its threads have started them until they are waited for.
#pragma once

#include <stdint.h>

#include <deque>
#include <list>
#include <vector>

#include "block.h"

namespace emulator {

constexpr uint32_t WARPGROUP = 128;
constexpr uint32_t PRODUCT_ROWS = 64;
constexpr uint32_t PRODUCT_DEPTH = 16;
constexpr uint32_t MAX_PRODUCT_COLUMNS = 256;

// What a matrix descriptor says: a tile of 128-byte swizzle in shared memory, see hopper.cuh.
struct Descriptor {
    uint32_t start, leading, stride;
};

// The accumulators of a warpgroup while products work on them: 64 x columns, in order.
struct Accumulator {
    uint32_t columns;
    uint32_t returned = 0;                // threads that have them back
    float* registers[WARPGROUP] = {};     // each thread's, of those that do not
    std::vector<float> value;
};

struct Product {
    uint32_t columns;
    bool transposed, accumulate, from_registers;
    uint64_t a, b;                        // descriptors; a is 0 where A is in registers
    uint32_t group;
    Accumulator* accumulator;
    uint32_t started = 0;                 // threads that have
    int32_t time = 0;                     // when the last of them did
    std::vector<uint32_t> fragments;      // of A, four of each thread
};

// The operands of a product as floats: a block's scratch memory.
struct alignas(32) Factors {
    float a[PRODUCT_ROWS][PRODUCT_DEPTH];
    float b[PRODUCT_DEPTH][MAX_PRODUCT_COLUMNS];
};

// Four warps of a block.
struct Warpgroup {
    uint32_t agent = 0;                   // what reads shared memory for it
    bool has_agent = false;
    uint64_t first = 0;                   // number of the oldest product below
    uint64_t computed = 0;                // products that are
    std::deque<Product> products;
    std::list<Accumulator> accumulators;
    std::vector<Thread*> waiting;
    uint32_t registers = 0;               // a thread, as registers_decrease or _increase has set them; 0: as launched
    uint32_t warps_set = 0;               // that have come to the latest of these
};

// Where the 16 bytes of row `row`, of 8 halves from `8 * chunk` on, of a K-major tile lie, or of 8 halves from column `8 * chunk` on of row k
// of one that is not.
uint32_t place_k_major(const Descriptor& of, uint32_t row, uint32_t chunk);
uint32_t place_mn_major(const Descriptor& of, uint32_t k, uint32_t chunk);
Descriptor decode(uint64_t descriptor);

// Computes a product that all threads have started.
void compute(Block& block, Product& product);

// A warp has come to registers_decrease or _increase.
void set_registers(Block& block, const Thread& self, uint32_t count, ldm_site site, const void* pc);
// At the block's end: faults if its warpgroups have set more registers than it was launched with, and one would wait for them for ever.
void check_registers(Block& block);

// Whether an address is in registers that a product of the thread's works on; then faults.
void check_lent(const Thread& thread, const void* address, uint32_t bytes, const void* pc);

}  // namespace emulator
