// A product is started by every thread on its own, and computed when the first thread that waits for it finds that all have. Accumulators are
// taken from their threads' registers when the first product on them starts, which then hold NaN, and each thread gets its own back when it
// has waited for the last. Accesses in between are faults.
#include "products.h"

#include <string.h>

#include <algorithm>

#include "fault.h"
#include "hopper_primitives.h"
#include "schedule.h"
#include "tensor.h"
#include "watch.h"

namespace emulator {

Descriptor decode(uint64_t descriptor) {
    const auto field = [&](int from) { return static_cast<uint32_t>(descriptor >> from & 0x3fff) << 4; };
    return Descriptor{field(0), field(16), field(32)};
}

uint32_t place_k_major(const Descriptor& of, uint32_t row, uint32_t chunk) {
    return swizzled(of.start + row / 8 * of.stride + row % 8 * 128 + chunk * 16, 128);
}

uint32_t place_mn_major(const Descriptor& of, uint32_t k, uint32_t chunk) {
    return swizzled(of.start + chunk / 8 * of.leading + k / 8 * of.stride + k % 8 * 128 + chunk % 8 * 16, 128);
}

void check_lent(const Thread& thread, const void* address, uint32_t bytes, const void* pc) {
    const char* const from = static_cast<const char*>(address);
    for (const Lent& lent : thread.lent) {
        if (from + bytes <= lent.start || from >= lent.end) continue;
        raise(Fault::wgmma_registers,
              text("%s of a product that was not waited for", lent.accumulator ? "an accumulator" : "a fragment of A"), {}, pc);
    }
}

static void bound_lent(Thread& self) {
    self.lent_start = self.lent_end = nullptr;
    for (const Lent& lent : self.lent) {
        if (!self.lent_start || lent.start < self.lent_start) self.lent_start = lent.start;
        if (lent.end > self.lent_end) self.lent_end = lent.end;
    }
}

// Where in 64 x columns values the eighth of them is that this thread's element i = 4 j + e is: two elements are neighbours.
static float* place(Accumulator& of, uint32_t lane, uint32_t pair) {
    const uint32_t row = lane / WARP * 16 + lane % WARP / 4 + pair % 2 * 8;
    return of.value.data() + row * of.columns + pair / 2 * 8 + lane % 4 * 2;
}

static void take(Accumulator& from, float* registers, uint32_t lane) {
    from.registers[lane] = registers;
    for (uint32_t pair = 0; pair < from.columns / 4; pair++) memcpy(place(from, lane, pair), registers + 2 * pair, 8);
    memset(registers, 0xff, from.columns / 2 * sizeof(float));
}

static void give_back(Accumulator& of, uint32_t lane) {
    for (uint32_t pair = 0; pair < of.columns / 4; pair++) memcpy(of.registers[lane] + 2 * pair, place(of, lane, pair), 8);
    of.registers[lane] = nullptr;
}

// Reads every 16 bytes of the operands in shared memory as `self` may, and, for the whole warpgroup, marks them as read by its engine.
static void watch_operands(Block& block, Thread& self, const Warpgroup& group, const Product& product, bool mark, ldm_site site, const void* pc) {
    ProductReads reads(*block.watch, self, mark ? static_cast<int>(group.agent) : -1);
    const auto read = [&](uint32_t offset) { block.watch->product_read(reads, offset, site, pc); };
    if (!product.from_registers) {
        const Descriptor a = decode(product.a);
        for (uint32_t row = 0; row < PRODUCT_ROWS; row++) {
            for (uint32_t chunk = 0; chunk < PRODUCT_DEPTH / 8; chunk++) read(place_k_major(a, row, chunk));
        }
    }
    const Descriptor b = decode(product.b);
    if (product.transposed) {
        for (uint32_t k = 0; k < PRODUCT_DEPTH; k++) {
            for (uint32_t chunk = 0; chunk < product.columns / 8; chunk++) read(place_mn_major(b, k, chunk));
        }
    } else {
        for (uint32_t row = 0; row < product.columns; row++) {
            for (uint32_t chunk = 0; chunk < PRODUCT_DEPTH / 8; chunk++) read(place_k_major(b, row, chunk));
        }
    }
}

static void check_descriptor(uint64_t descriptor, const char* which, ldm_site site, const void* pc) {
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) {
        raise(Fault::bad_descriptor, text("the descriptor of %s is not of a tile of 128-byte swizzle", which), site, pc);
    }
    if (decode(descriptor).start & 0x380) {
        raise(Fault::bad_descriptor, text("the tile of %s does not begin at a multiple of 1024 bytes, where the swizzle does", which), site, pc);
    }
}

// All warps of a warpgroup must set the same number.
void set_registers(Block& block, const Thread& self, uint32_t count, ldm_site site, const void* pc) {
    Warpgroup& group = block.warpgroups[self.index / WARPGROUP];
    if (group.warps_set % (WARPGROUP / WARP) != 0 && group.registers != count) {
        raise(Fault::register_count, text("other warps of the warpgroup have set %u registers, this one %u", group.registers, count), site, pc);
    }
    group.registers = count;
    group.warps_set++;
}

void check_registers(Block& block) {
    const uint32_t each = block.launch->entry->registers, pool = each * block.thread_count;
    // What was set differs from what each has; the last warpgroup need not be whole.
    uint32_t sum = pool;
    for (const Warpgroup& group : block.warpgroups) {
        if (group.registers != 0) sum += (group.registers - each) * WARPGROUP;
    }
    if (sum <= pool) return;
    raise_in_block(block, Fault::register_count,
                   text("the block's warpgroups have %u registers together, where it was launched with %u at most", sum, pool));
}

}  // namespace emulator

using namespace emulator;

static Warpgroup& group_of(Block& block, const Thread& self) { return block.warpgroups[self.index / WARPGROUP]; }

uint32_t ldm_shared_address(const void* shared) {
    const Block& block = *current.block;
    return block.offset_of(shared, "a descriptor of memory", ldm_site{});
}

void ldm_wgmma_fence() { current.thread->products_fenced = true; }

void ldm_wgmma_commit() { current.thread->open_product_group++; }

void ldm_product(float* d, int columns, const uint32_t* fragments, uint64_t a, uint64_t b, bool transposed, bool accumulate, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    Warpgroup& group = group_of(block, self);
    const void* const pc = __builtin_return_address(0);
    const uint32_t lane = self.index % WARPGROUP, width = static_cast<uint32_t>(columns);
    if (block.thread_count / WARPGROUP * WARPGROUP <= self.index) raise(Fault::divergent_product, "the warp is in no whole warpgroup", site, pc);
    if (!self.products_fenced) {
        raise(Fault::wgmma_fence, "a product is started without wgmma_fence since its registers were the thread's own", site, pc);
    }
    if (!fragments) check_descriptor(a, "A", site, pc);
    check_descriptor(b, "B", site, pc);
    block.check_swizzled(site, pc);
    const bool first = self.products == group.first + group.products.size();
    if (first) {
        Accumulator* held = nullptr;
        for (Accumulator& other : group.accumulators) {
            if (other.registers[lane] == d) held = &other;
        }
        if (!held) {
            group.accumulators.emplace_back();
            held = &group.accumulators.back();
            held->columns = width;
            held->value.resize(PRODUCT_ROWS * width);
        }
        group.products.push_back(Product{width, transposed, accumulate, fragments != nullptr, a, b, self.open_product_group, held, 0, 0, {}});
    }
    Product& product = group.products[self.products - group.first];
    Accumulator& held = *product.accumulator;
    if (product.columns != width || product.transposed != transposed || product.accumulate != accumulate || product.a != a || product.b != b ||
        product.from_registers != (fragments != nullptr) || product.group != self.open_product_group ||
        (held.registers[lane] && held.registers[lane] != d) || held.columns != width) {
        raise(Fault::divergent_product, "the thread starts another product than others of its warpgroup", site, pc);
    }
    if (!held.registers[lane]) {
        take(held, d, lane);
        self.lent.push_back(Lent{reinterpret_cast<const char*>(d), reinterpret_cast<const char*>(d + width / 2), &held, self.products});
    }
    for (Lent& lent : self.lent) {
        if (lent.accumulator == &held) lent.product = self.products;
    }
    if (fragments) {
        product.fragments.resize(WARPGROUP * 4);
        memcpy(&product.fragments[lane * 4], fragments, 16);
        self.lent.push_back(Lent{reinterpret_cast<const char*>(fragments), reinterpret_cast<const char*>(fragments + 4), nullptr, self.products});
    }
    bound_lent(self);
    self.products++;
    const bool last = ++product.started == WARPGROUP;
    if (last && !group.has_agent) {
        const int agent = block.cluster->knowledge.new_agent();
        if (agent < 0) raise(Fault::bad_launch, text("more than %u threads, barriers and warpgroups in a cluster", MAX_AGENTS), site, pc);
        group.agent = static_cast<uint32_t>(agent);
        group.has_agent = true;
    }
    // A warp starts a product together, so one of its lanes is looked at.
    if (block.watch && (last || self.lane() == 0)) watch_operands(block, self, group, product, last, site, pc);
    if (!last) return;
    product.time = block.cluster->knowledge.now();
    block.cluster->knowledge.advance();
    const uint64_t started = self.products;
    const auto may_go_on = [&](Thread* thread) {
        if (thread->awaited > started) return false;
        block.make_ready(*thread);
        return true;
    };
    group.waiting.erase(std::remove_if(group.waiting.begin(), group.waiting.end(), may_go_on), group.waiting.end());
}

void ldm_wgmma_wait(int pending, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    Warpgroup& group = group_of(block, self);
    // The products waited for are those before `until`.
    uint64_t until = self.products;
    while (until > group.first && group.products[until - 1 - group.first].group + static_cast<uint32_t>(pending) >= self.open_product_group) until--;
    if (until <= group.first) return;
    if (group.products[until - 1 - group.first].started < WARPGROUP) {
        self.awaited = until;
        group.waiting.push_back(&self);
        block.wait(self, Waiting::products, site);
    }
    for (; group.computed < until; group.computed++) compute(block, group.products[group.computed - group.first]);
    if (block.watch) block.watch->learn(self, group.agent, group.products[until - 1 - group.first].time);
    const auto waited_for = [&](const Lent& lent) {
        if (lent.product >= until) return false;
        if (lent.accumulator) {
            give_back(*lent.accumulator, self.index % WARPGROUP);
            lent.accumulator->returned++;
        }
        self.products_fenced = false;
        return true;
    };
    self.lent.erase(std::remove_if(self.lent.begin(), self.lent.end(), waited_for), self.lent.end());
    bound_lent(self);
    group.accumulators.remove_if([](const Accumulator& held) { return held.returned == WARPGROUP; });
    // Products that every thread has waited for are forgotten with the last accumulator.
    if (group.accumulators.empty()) {
        group.first += group.products.size();
        group.products.clear();
    }
}
