// What is wrong with an access, found by where it goes.
#include "watch.h"

#include <string.h>

#include <algorithm>
#include <tuple>

#include "fault.h"
#include "schedule.h"

namespace emulator {

std::vector<Region> regions_of(const ldm_launch& request) {
    std::vector<Region> regions;
    for (uint32_t i = 0; i < request.region_count; i++) {
        const ldm_region& region = request.regions[i];
        const unsigned char* const start = static_cast<const unsigned char*>(region.address);
        if (region.bytes == 0) continue;
        const bool writable = region.writable != 0;
        regions.push_back(Region{start, start + region.bytes, writable, region.early != 0, writable ? touched(start) : nullptr});
    }
    std::stable_partition(regions.begin(), regions.end(), [](const Region& region) { return region.writable; });
    return regions;
}

void Watch::start_block(Block& block) {
    block_ = &block;
    const Launch& launch = *block.launch;
    const uint32_t dynamic = launch.request->shared_bytes;
    shadow_.clear();
    clock_.start(block.cluster->knowledge, block.rank * block.thread_count);
    shadow_.allocate(0, dynamic);
    const uint32_t* const grid = launch.request->grid;
    number_ = launch.first_number + static_cast<uint32_t>(block.index[0] + grid[0] * (block.index[1] + uint64_t{grid[1]} * block.index[2]));
    latest_ = nullptr;
    acquired_.clear();
    banks_ = launch.request->check > 1 ? std::make_unique<Banks>() : nullptr;
}

void Watch::end_block() {
    if (banks_) banks_->end(*block_->launch);
}

void Watch::lanes_met(uint32_t warp) {
    if (banks_) banks_->meet(warp);
}

void Watch::block_met() {
    clock_.block_met();
    if (!banks_) return;
    for (uint32_t warp = 0; warp < block_->thread_count / WARP; warp++) banks_->meet(warp);
}

Released Watch::released(const Thread& self) {
    Released released{number_, clock_.block_floor(), {}};
    if (block_->cluster->knowledge.used()) tell(self, released.known);
    return released;
}

// A block may be met again, and more than once at one counter, where each of its warpgroups brings something: what the one knew then, the other
// need not. Of this block's own it is knowledge like any other.
void Watch::acquire(Thread& self, const std::vector<Released>& blocks) {
    for (const Released& other : blocks) {
        if (other.block == number_) {
            learn(self, other.known);
        } else {
            acquired_[other.block].push_back(Acquired{other, clock_.stamp(self.index)});
        }
    }
}

// Whether what a block of this launch did happened before what `self` does now.
bool Watch::known(Thread& self, uint32_t block, Stamp stamp) const {
    if (block == number_) return clock_.ordered(stamp, self.index);
    const auto found = acquired_.find(block);
    if (found == acquired_.end()) return false;
    const auto knows = [&](const Acquired& at) { return at.other.holds(stamp) && clock_.ordered(at.since, self.index); };
    return std::any_of(found->second.begin(), found->second.end(), knows);
}

void Watch::access(Thread& self, const Access& access) {
    if (block_->near_arena(access.address)) return shared(self, access);
    global(self, access);
}

void Watch::shared(Thread& self, const Access& access) {
    const size_t offset = static_cast<size_t>(access.address - block_->arena);
    const char* const what = access.write ? "a write to" : "a read of";
    if (offset >= ARENA_BYTES - access.bytes) return judge(access, Verdict{Finding::unallocated, 0}, what, {});
    const uint32_t at = static_cast<uint32_t>(offset);
    const Verdict verdict =
        access.write ? shadow_.write(clock_, self.index, at, access.bytes) : shadow_.read(clock_, self.index, at, access.bytes);
    if (verdict.finding != Finding::none) judge(access, verdict, what, {});
    if (banks_) banks_->touch(self, at, access.bytes, access.write, access.pc);
}

void Watch::start_copy(Thread& self, const Access& access) {
    const uint32_t at = static_cast<uint32_t>(access.address - block_->arena);
    const Verdict verdict = shadow_.start_copy(clock_, self.index, at, access.bytes);
    if (verdict.finding != Finding::none) judge(access, verdict, "an asynchronous copy to", {});
    if (banks_) banks_->touch(self, at, access.bytes, true, access.pc);
}

void Watch::finish_copy(Thread& self, const unsigned char* address, uint32_t bytes) {
    shadow_.finish_copy(clock_, self.index, static_cast<uint32_t>(address - block_->arena), bytes);
}

// Says what a verdict on shared memory means.
void Watch::judge(const Access& access, Verdict verdict, const std::string& what, ldm_site site) {
    const std::string where = what + " " + block_->name_of_shared(access.address);
    const std::string other = verdict.other == 0 ? "" : name_of(verdict.other);
    const auto fault = [&](Fault fault, const std::string& why) { raise(fault, where + why, site, access.pc); };
    switch (verdict.finding) {
        case Finding::none: return;
        case Finding::unallocated: return fault(Fault::shared_out_of_bounds, "");
        case Finding::barrier: return fault(Fault::barrier_touched, ", which is a barrier");
        case Finding::uninitialised: return fault(Fault::shared_uninitialised, ", which nobody has written");
        case Finding::in_flight:
            return fault(access.write ? Fault::async_write_write : Fault::async_read_before_wait, " while a copy started by " + other + " is under way");
        case Finding::after_write:
            return fault(access.write ? Fault::race_write_after_write : Fault::race_read_after_write, ", which " + other + " wrote with no barrier since");
        case Finding::after_read: return fault(Fault::race_write_after_read, ", which " + other + " read with no barrier since");
        case Finding::unfenced: return fault(Fault::missing_proxy_fence, ", which " + other + " wrote without fence_async_shared before a barrier");
        case Finding::unfenced_read: return fault(Fault::missing_proxy_fence, ", which " + other + " read without fence_async_shared before a barrier");
        case Finding::engine_reads: return fault(Fault::async_overwrite, ", which " + other + " may still read");
    }
}

// Both answer whether all is well; if not, `verdict` says with whom the access collides, `other` being negative for another block.
bool Watch::read_global(Thread& self, Touched& at, Verdict& verdict) {
    const uint32_t first = block_->launch->first_number;
    if (at.writer >= first && !known(self, at.writer, at.write)) {
        verdict = Verdict{Finding::after_write, at.writer == number_ ? at.write : -1};
        return false;
    }
    const Stamp mine = clock_.stamp(self.index);
    if (at.reader == number_) {
        at.readers = with_reader(at.readers, mine, clock_.block_floor());
    } else {
        at.reader = at.reader < first ? number_ : first + static_cast<uint32_t>(block_->launch->blocks);
        at.readers = {mine, 0};
    }
    return true;
}

bool Watch::write_global(Thread& self, Touched& at, Verdict& verdict) {
    const uint32_t first = block_->launch->first_number;
    const std::tuple<uint32_t, Stamp, Finding> earlier[] = {{at.writer, at.write, Finding::after_write},
                                                            {at.reader, at.readers.latest, Finding::after_read},
                                                            {at.reader, at.readers.other, Finding::after_read}};
    for (const auto& [block, stamp, finding] : earlier) {
        if (block < first || known(self, block, stamp)) continue;
        verdict = Verdict{finding, block == number_ ? stamp : -1};
        return false;
    }
    at.writer = number_;
    at.write = clock_.stamp(self.index);
    return true;
}

// Finds the region that an access is in, or faults. False: it reads a constant of the program.
bool Watch::locate(Thread& self, const Access& access) {
    const auto inside = [&](const Region& region) {
        return access.address >= region.start && access.address + access.bytes <= region.end && (region.writable || !access.write);
    };
    if (!latest_ || !inside(*latest_)) {
        const std::vector<Region>& regions = block_->launch->regions;
        const auto found = std::find_if(regions.begin(), regions.end(), inside);
        if (found == regions.end()) {
            if (!access.write && in_constants(access.address)) return false;
            unknown_address(access);
        }
        latest_ = &*found;
    }
    if (!self.alone && !latest_->early) {
        raise(Fault::early_access,
              text("%s a tensor that is no weight, by a thread that has not called wait_for_previous_grid", access.write ? "a write to" : "a read of"),
              {}, access.pc);
    }
    return true;
}

// Counting is one step that nobody comes between, so no two blocks race there.
void Watch::counter(Thread& self, const Access& access) {
    if (reinterpret_cast<uintptr_t>(access.address) % access.bytes != 0) {
        raise(Fault::misaligned, "a counter that is not at a multiple of 4 bytes", {}, access.pc);
    }
    locate(self, access);
}

void Watch::global(Thread& self, const Access& access) {
    if (!locate(self, access) || !latest_->touched) return;
    const size_t offset = static_cast<size_t>(access.address - latest_->start);
    for (size_t granule = offset / 2; granule <= (offset + access.bytes - 1) / 2; granule++) {
        Verdict verdict;
        Touched& at = latest_->touched[granule];
        if (access.write ? write_global(self, at, verdict) : read_global(self, at, verdict)) continue;
        const std::string where = text("%s byte %zu of a tensor of %zu bytes", access.write ? "a write to" : "a read of", offset,
                                       static_cast<size_t>(latest_->end - latest_->start));
        const char* const did = verdict.finding == Finding::after_read ? "read" : "wrote";
        if (verdict.other < 0) raise(Fault::block_race, where + ", which another block " + did, {}, access.pc);
        const Fault fault = !access.write                                    ? Fault::race_read_after_write
                            : verdict.finding == Finding::after_read ? Fault::race_write_after_read
                                                                     : Fault::race_write_after_write;
        raise(fault, where + text(", which thread %d %s with no barrier since", static_cast<int>(verdict.other & AGENT_MASK), did), {}, access.pc);
    }
}

void Watch::unknown_address(const Access& access) {
    if (block_->in_stacks(access.address)) {
        raise(Fault::foreign_local_memory, access.write ? "a write to local memory of another thread" : "a read of local memory of another thread",
              {}, access.pc);
    }
    // The tensor that the address is closest to, which is most likely meant.
    const Region* nearest = nullptr;
    size_t distance = SIZE_MAX;
    for (const Region& region : block_->launch->regions) {
        if (access.address >= region.start && access.address + access.bytes <= region.end) {
            raise(Fault::global_read_only,
                  text("a write to byte %td of a tensor of %td bytes that the launch only reads", access.address - region.start,
                       region.end - region.start),
                  {}, access.pc);
        }
        const size_t off = static_cast<size_t>(access.address < region.start ? region.start - access.address : access.address - region.end);
        if (off < distance) {
            distance = off;
            nearest = &region;
        }
    }
    const char* const what = access.write ? "a write of" : "a read of";
    std::string detail = text("%s %u bytes", what, access.bytes);
    if (access.address == nullptr) {
        detail += " at a null pointer";
    } else if (nearest) {
        detail += text(" at byte %td of a tensor of %td bytes", access.address - nearest->start, nearest->end - nearest->start);
    } else {
        detail += " where the launch names no tensor";
    }
    raise(Fault::global_out_of_bounds, detail, {}, access.pc);
}

}  // namespace emulator
