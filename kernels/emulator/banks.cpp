// How many turns an access takes is counted by the words that its lanes want of each bank.
#include "banks.h"

#include <algorithm>

#include "fault.h"

namespace emulator {

// Bytes of a word, and of the widest access of a lane.
constexpr uint32_t BANKS = 32, WORD = 4, WIDEST = 16;

void Banks::touch(const Thread& self, uint32_t offset, uint32_t bytes, bool write, const void* pc) {
    if (bytes > WIDEST) return;  // what the host's compiler has joined, no GPU moves at once
    Latest& latest = warps_[self.warp()].latest[self.lane()];
    if (join(latest, offset, bytes, write)) return;
    Place& place = warps_[self.warp()].places[pc];
    place.write = write;
    const uint32_t time = place.times[self.lane()]++;
    if (time == place.requests.size()) place.requests.emplace_back();
    Request& request = place.requests[time];
    request.lanes |= 1u << self.lane();
    request.bytes = std::max(request.bytes, bytes);
    request.offset[self.lane()] = offset;
    latest = Latest{&place, time, offset, offset + bytes};
}

// Whether an access is the continuation of the lane's latest.
bool Banks::join(Latest& latest, uint32_t offset, uint32_t bytes, bool write) {
    if (!latest.place || latest.place->write != write || latest.end != offset) return false;
    const uint32_t all = offset + bytes - latest.first;
    uint32_t whole = all;
    while (whole & (whole - 1)) whole += whole & (~whole + 1);
    if (whole > WIDEST || latest.first % whole != 0) return false;
    latest.end = offset + bytes;
    Request& request = latest.place->requests[latest.request];
    request.bytes = std::max(request.bytes, all);
    return true;
}

// The turns of lanes `first ..`, as many as are served at once.
static uint32_t turns(const uint32_t (&offset)[WARP], uint32_t lanes, uint32_t bytes, uint32_t first, uint32_t count) {
    std::vector<uint32_t> wanted[BANKS];
    uint32_t most = 0;
    for (uint32_t lane = first; lane < first + count; lane++) {
        if (!(lanes >> lane & 1)) continue;
        for (uint32_t word = offset[lane] / WORD; word <= (offset[lane] + bytes - 1) / WORD; word++) {
            std::vector<uint32_t>& bank = wanted[word % BANKS];
            if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
            most = std::max(most, static_cast<uint32_t>(bank.size()));
        }
    }
    return most;
}

void Banks::meet(uint32_t warp) {
    for (auto& [pc, place] : warps_[warp].places) {
        for (const Request& request : place.requests) {
            const uint32_t at_once = request.bytes > 2 * WORD ? WARP / 4 : request.bytes > WORD ? WARP / 2 : WARP;
            for (uint32_t first = 0; first < WARP; first += at_once) {
                const uint32_t most = turns(request.offset, request.lanes, request.bytes, first, at_once);
                if (most <= 1) continue;
                Conflict& found = found_[pc];
                found.turns = std::max(found.turns, most);
                found.write = place.write;
            }
        }
    }
    warps_[warp] = Warp();
}

void Banks::end(Launch& launch) {
    for (uint32_t warp = 0; warp < MAX_THREADS / WARP; warp++) meet(warp);
    const std::lock_guard<std::mutex> hold(launch.lock);
    for (const auto& [pc, found] : found_) {
        Conflict& known = launch.conflicts[pc];
        if (found.turns > known.turns) known = found;
    }
    found_.clear();
}

std::string sentences(const Conflicts& conflicts) {
    // Looking up a place takes another program.
    static std::mutex lock;
    static std::map<const void*, std::string> places;
    const std::lock_guard<std::mutex> hold(lock);
    std::string lines;
    for (const auto& [pc, found] : conflicts) {
        std::string& place = places[pc];
        if (place.empty()) place = place_of(pc);
        lines += text("%s: %u turns, %s\n", place.c_str(), found.turns, found.write ? "written" : "read");
    }
    return lines;
}

}  // namespace emulator
