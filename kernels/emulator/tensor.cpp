// Tensor copies run by themselves: started by one thread, carried out when the schedule gives the engine its turn. Until then a load's
// destination is NaN, and a store has read nothing.
#include "tensor.h"

#include <string.h>

#include <algorithm>

#include "barriers.h"
#include "fault.h"
#include "hopper_primitives.h"
#include "schedule.h"
#include "watch.h"

namespace emulator {
namespace {

constexpr uint32_t HALF = 2;

// Elements of dimension `d` that a box holds.
uint32_t count(const Map& map, uint32_t d) { return d == 0 ? map.box[d] : map.box[d] / map.step[d]; }

uint32_t rows(const Map& map) {
    uint32_t rows = 1;
    for (uint32_t d = 1; d < map.rank; d++) rows *= count(map, d);
    return rows;
}

// What no encoder of the driver would accept, or "".
std::string refusal(const Map& map, uint32_t rank) {
    if (map.rank != rank) return text("it has rank %u, the copy %u", map.rank, rank);
    if (map.swizzle != 0 && map.swizzle != 32 && map.swizzle != 64 && map.swizzle != 128) return text("it has a swizzle of %u bytes", map.swizzle);
    if (map.address % 16 != 0) return "its tensor is not at a multiple of 16 bytes";
    for (uint32_t d = 0; d < rank; d++) {
        if (map.box[d] == 0 || map.box[d] > 256) return text("its box has %u elements in dimension %u", map.box[d], d);
        if (map.step[d] == 0 || map.step[d] > 8 || map.box[d] % map.step[d] != 0) {
            return text("its step is %u in dimension %u, of a box of %u elements", map.step[d], d, map.box[d]);
        }
        if (map.extent[d] == 0 || map.extent[d] >> 32 != 0) return text("dimension %u has no extent, or one beyond 32 bits", d);
        if (d > 0 && map.pitch[d - 1] % 16 != 0) return text("the pitch of dimension %u is no multiple of 16 bytes", d);
    }
    const uint32_t inner = map.box[0] * HALF;
    if (inner % 16 != 0) return text("a row of its box has %u bytes, which is no multiple of 16", inner);
    if (map.swizzle != 0 && inner != map.swizzle) return text("a row of its box has %u bytes, its swizzle %u", inner, map.swizzle);
    return "";
}

// Calls `row` for every row of a box in its order: which it is, where it lies in the tensor, and which of its elements are inside.
template <typename Row>
void for_rows(const Box& box, Row row) {
    const Map& map = box.map;
    const int64_t extent = static_cast<int64_t>(map.extent[0]), first = box.at[0];
    const int64_t low = std::min(std::max<int64_t>(-first, 0), int64_t{map.box[0]});
    const int64_t high = std::max(std::min(extent - first, int64_t{map.box[0]}), low);
    uint32_t at[MAX_RANK] = {};
    const uint32_t all = rows(map);
    for (uint32_t index = 0; index < all; index++) {
        bool inside = high > low;
        int64_t address = static_cast<int64_t>(map.address) + first * HALF;
        for (uint32_t d = 1; d < map.rank; d++) {
            const int64_t place = int64_t{box.at[d]} + int64_t{at[d]} * map.step[d];
            inside &= place >= 0 && place < static_cast<int64_t>(map.extent[d]);
            address += place * static_cast<int64_t>(map.pitch[d - 1]);
        }
        row(index, address, inside ? static_cast<uint32_t>(low) : 0, inside ? static_cast<uint32_t>(high) : 0);
        for (uint32_t d = 1; d < map.rank && ++at[d] == count(map, d); d++) at[d] = 0;
    }
}

// What a copy is started with, checked but for who may touch the memory.
struct Request {
    Box box;
    uint32_t offset, bytes;
};

Request request(const void* map, const void* shared, const int* at, int rank, const char* what, ldm_site site, const void* pc) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    Request request{};
    Map& of = request.box.map;
    memcpy(&of, map, sizeof of);
    const std::string problem = refusal(of, static_cast<uint32_t>(rank));
    if (!problem.empty()) raise(Fault::bad_tensor_map, std::string(what) + " by a tensor map of which " + problem, site, pc);
    std::copy(at, at + rank, request.box.at);
    request.offset = block.offset_of(shared, what, site);
    request.bytes = rows(of) * of.box[0] * HALF;
    const uint32_t alignment = of.swizzle == 0 ? 128 : of.swizzle * 8;
    if (request.offset % alignment != 0) {
        raise(Fault::misaligned, text("%s at an address of shared memory that is no multiple of %u, with a swizzle of %u bytes", what, alignment, of.swizzle),
              site, pc);
    }
    if (alignment > 128) block.check_swizzled(site, pc);
    if (block.watch) {
        const bool write = strcmp(what, "a tensor store") == 0;
        for_rows(request.box, [&](uint32_t, int64_t address, uint32_t low, uint32_t high) {
            if (high == low) return;
            const unsigned char* const start = reinterpret_cast<const unsigned char*>(address + int64_t{low} * HALF);
            block.watch->global(self, Access{start, (high - low) * HALF, write, pc});
        });
    }
    return request;
}

}  // namespace

void carry_out(const TensorLoad& load) {
    const Map& map = load.box.map;
    const uint32_t inner = map.box[0] * HALF;
    for (const Target& target : load.targets) {
        for_rows(load.box, [&](uint32_t row, int64_t address, uint32_t low, uint32_t high) {
            unsigned char line[512] = {};
            if (high > low) memcpy(line + low * HALF, reinterpret_cast<const void*>(address + int64_t{low} * HALF), (high - low) * HALF);
            for (uint32_t chunk = 0; chunk < inner; chunk += 16) {
                memcpy(target.block->arena + swizzled(load.offset + row * inner + chunk, map.swizzle), line + chunk, 16);
            }
        });
        if (target.block->watch) target.block->watch->land(load.offset, load.bytes);
        complete(*target.block, *target.barrier, load.bytes);
    }
}

void carry_out(const TensorStore& store) {
    const Map& map = store.box.map;
    const uint32_t inner = map.box[0] * HALF;
    for_rows(store.box, [&](uint32_t row, int64_t address, uint32_t low, uint32_t high) {
        unsigned char line[512];
        for (uint32_t chunk = 0; chunk < inner; chunk += 16) {
            memcpy(line + chunk, store.thread->block->arena + swizzled(store.offset + row * inner + chunk, map.swizzle), 16);
        }
        if (high > low) memcpy(reinterpret_cast<void*>(address + int64_t{low} * HALF), line + low * HALF, (high - low) * HALF);
    });
}

void check_no_tensor_copies(Block& block) {
    for (const TensorLoad& load : block.cluster->loads) {
        for (const Target& target : load.targets) {
            if (target.block != &block) continue;
            raise_in_block(block, Fault::async_unfinished,
                           "the block has ended while a tensor load is under way to " + block.name_of_shared(block.arena + load.offset));
        }
    }
    for (uint32_t i = 0; i < block.thread_count; i++) {
        if (block.threads[i].unread.empty()) continue;
        raise_in_block(block, Fault::async_unfinished, text("the block has ended, and thread %u has not waited for what its tensor stores read", i));
    }
}

}  // namespace emulator

using namespace emulator;

void ldm_prefetch_map(const void*) {}

void ldm_tensor_load(void* shared, const void* map, void* barrier, const int* at, int rank, int mask, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    const void* const pc = __builtin_return_address(0);
    const Request of = request(map, shared, at, rank, "a tensor load", site, pc);
    const uint32_t barrier_offset = block.offset_of(barrier, "a barrier", site);
    TensorLoad load{of.box, of.offset, of.bytes, {}};
    // Without a mask to this block alone.
    const uint32_t ranks = mask < 0 ? 1u << block.rank : static_cast<uint32_t>(mask);
    for (uint32_t rank = 0; ranks >> rank != 0; rank++) {
        if ((ranks >> rank & 1) == 0) continue;
        Block& to = peer(block, static_cast<int>(rank), site, pc);
        if (&to != &block) touch_peer(to, self, site, pc);
        Mbarrier* const counts = barrier_at(to, barrier_offset);
        if (!counts) {
            raise(Fault::barrier_uninitialised,
                  text("a tensor load counts at %s%s, where there is no barrier", to.name_of_shared(to.arena + barrier_offset).c_str(),
                       &to == &block ? "" : " of another block of the cluster"),
                  site, pc);
        }
        check_made(*counts, to, self, true, site, pc);
        if (to.watch) to.watch->start_load(self, of.offset, of.bytes, counts->agent, site, pc);
        memset(to.arena + of.offset, 0xff, of.bytes);
        load.targets.push_back(Target{&to, counts});
    }
    block.cluster->knowledge.advance();
    block.cluster->loads.push_back(std::move(load));
}

void ldm_tensor_store(const void* map, const void* shared, const int* at, int rank, ldm_site site) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    const void* const pc = __builtin_return_address(0);
    const Request of = request(map, shared, at, rank, "a tensor store", site, pc);
    Knowledge& knowledge = block.cluster->knowledge;
    if (self.store_agent < 0) self.store_agent = knowledge.new_agent();
    if (self.store_agent < 0) raise(Fault::bad_launch, text("more than %u threads, barriers and storing threads in a cluster", MAX_AGENTS), site, pc);
    if (block.watch) {
        block.watch->engine_read(self, of.offset, of.bytes, static_cast<uint32_t>(self.store_agent), "a tensor store", site, pc);
    }
    block.cluster->stores.push_back(TensorStore{of.box, of.offset, of.bytes, &self, self.open_store_group});
    self.unread.push_back(Unread{self.open_store_group, knowledge.now()});
    knowledge.advance();
}

void ldm_tensor_store_commit() { current.thread->open_store_group++; }

void ldm_tensor_store_wait_read(int pending) {
    Block& block = *current.block;
    Thread& self = *current.thread;
    std::vector<TensorStore>& stores = block.cluster->stores;
    const auto waited_for = [&](const TensorStore& store) {
        return store.thread == &self && store.group + static_cast<uint32_t>(pending) < self.open_store_group;
    };
    for (const TensorStore& store : stores) {
        if (waited_for(store)) carry_out(store);
    }
    stores.erase(std::remove_if(stores.begin(), stores.end(), waited_for), stores.end());
    const auto read = [&](const Unread& unread) { return unread.group + static_cast<uint32_t>(pending) < self.open_store_group; };
    for (const Unread& unread : self.unread) {
        if (block.watch && read(unread)) block.watch->learn(self, static_cast<uint32_t>(self.store_agent), unread.time);
    }
    self.unread.erase(std::remove_if(self.unread.begin(), self.unread.end(), read), self.unread.end());
}
