// Launches: blocks over host threads.
#include "launch.h"

#include <string.h>

#include <memory>
#include <new>
#include <system_error>
#include <thread>

#include "banks.h"
#include "block.h"
#include "fault.h"
#include "schedule.h"
#include "watch.h"

namespace emulator {

void Launch::fail(const std::string& line) {
    const std::lock_guard<std::mutex> hold(lock);
    if (!failed.exchange(true)) report = line;
}

std::vector<Released> Launch::arrive(int* counter, int count, Released block, ldm_site site, std::string& wrong) {
    const std::lock_guard<std::mutex> hold(lock);
    const auto [at, first] = arrivals.try_emplace(counter, Arrivals{count, site, {}});
    Arrivals& all = at->second;
    if (first && *counter != 0) wrong = text("the counter was %d before the first block arrived", *counter);
    if (all.count != count) wrong = text("the block is one of %d at a counter where others are of %d", count, all.count);
    if (!wrong.empty()) return {};
    all.site = site;
    all.blocks.push_back(block);
    *counter = static_cast<int>(all.blocks.size()) % count;
    if (*counter != 0) return {};
    std::vector<Released> blocks = std::move(all.blocks);
    arrivals.erase(at);
    return blocks;
}

namespace {

const ldm_entry* find(const char* name) {
    for (const ldm_entry* const* table = ldm_entry_tables; *table; table++) {
        for (const ldm_entry* entry = *table; entry->name; entry++) {
            if (strcmp(entry->name, name) == 0) return entry;
        }
    }
    return nullptr;
}

// Places to run clusters in, kept because their stacks have been touched and their memory is warm.
std::mutex spare_lock;
std::vector<std::unique_ptr<Cluster>>& spare() {
    static std::vector<std::unique_ptr<Cluster>> all;
    return all;
}

std::unique_ptr<Cluster> take(uint32_t size) {
    const std::lock_guard<std::mutex> hold(spare_lock);
    std::unique_ptr<Cluster> cluster;
    if (spare().empty()) {
        cluster = std::make_unique<Cluster>();
    } else {
        cluster = std::move(spare().back());
        spare().pop_back();
    }
    cluster->make_room(size);
    return cluster;
}

void give_back(std::unique_ptr<Cluster> cluster) {
    const std::lock_guard<std::mutex> hold(spare_lock);
    spare().push_back(std::move(cluster));
}

void work(Launch& launch) {
    const uint32_t size = launch.request->cluster;
    std::unique_ptr<Cluster> cluster;
    try {
        cluster = take(size);
    } catch (const std::bad_alloc&) {
        return launch.fail(std::string(name_of(Fault::bad_launch)) + ": there is no memory for a block's threads");
    }
    const uint32_t grid[3] = {launch.request->grid[0] / size, launch.request->grid[1], launch.request->grid[2]};
    while (!launch.failed.load(std::memory_order_relaxed)) {
        const uint64_t turn = launch.next.fetch_add(1);
        if (turn >= launch.clusters) break;
        const uint64_t which = launch.order.empty() ? turn : launch.order[turn];
        const uint32_t index[3] = {static_cast<uint32_t>(which % grid[0]) * size, static_cast<uint32_t>(which / grid[0] % grid[1]),
                                   static_cast<uint32_t>(which / grid[0] / grid[1])};
        cluster->run(launch, index);
    }
    give_back(std::move(cluster));
}

// Why the launch cannot start, or "".
std::string refusal(const ldm_launch& request, const ldm_entry* entry) {
    if (!entry) return text("there is no entry of this name");
    const uint32_t* const grid = request.grid;
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535) {
        return text("a grid of %u x %u x %u blocks", grid[0], grid[1], grid[2]);
    }
    if (request.cluster == 0 || grid[0] % request.cluster != 0) {
        return text("%u blocks along x in clusters of %u", grid[0], request.cluster);
    }
    if (request.threads == 0 || request.threads > MAX_THREADS || request.threads % WARP != 0) {
        return text("%u threads per block, where whole warps and at most %u are possible", request.threads, MAX_THREADS);
    }
    // Engines need numbers too, see knowledge.h.
    if (request.cluster > MAX_CLUSTER || request.cluster * request.threads >= MAX_AGENTS) {
        return text("clusters of %u blocks of %u threads, where %u threads are possible", request.cluster, request.threads, MAX_AGENTS - 1);
    }
    if (request.shared_bytes > MAX_SHARED_BYTES) {
        return text("%u bytes of shared memory per block, where %u are possible", request.shared_bytes, MAX_SHARED_BYTES);
    }
    return "";
}

// A random order of the clusters; of very many, the first few hundred thousand among themselves.
std::vector<uint32_t> random_order(uint64_t clusters, uint64_t seed) {
    constexpr uint64_t MOST = 1 << 20;
    if (clusters > MOST) return {};
    std::vector<uint32_t> order(clusters);
    for (uint64_t i = 0; i < clusters; i++) {
        const uint64_t other = next_random(seed) % (i + 1);
        order[i] = order[other];
        order[other] = static_cast<uint32_t>(i);
    }
    return order;
}

void run(Launch& launch) {
    const uint64_t wanted = launch.request->workers == 0 ? 1 : launch.request->workers;
    std::vector<std::thread> helpers;
    for (uint64_t i = 1; i < wanted && i < launch.clusters; i++) {
        try {
            helpers.emplace_back(work, std::ref(launch));
        } catch (const std::system_error&) {
            break;  // fewer threads do the same work
        }
    }
    work(launch);
    for (std::thread& helper : helpers) helper.join();
}

}  // namespace
}  // namespace emulator

using namespace emulator;

int32_t ldm_emulator_launch(const ldm_launch* request, char* report, size_t report_bytes) {
    Launch launch;
    launch.request = request;
    launch.entry = find(request->entry);
    const std::string problem = refusal(*request, launch.entry);
    if (!problem.empty()) {
        launch.fail(std::string(name_of(Fault::bad_launch)) + ": " + request->entry + ": " + problem);
    } else {
        launch.blocks = uint64_t{request->grid[0]} * request->grid[1] * request->grid[2];
        launch.clusters = launch.blocks / request->cluster;
        if (request->seed != 0) launch.order = random_order(launch.clusters, request->seed);
        if (request->check) {
            // One number more than blocks, for what several blocks have read.
            launch.first_number = new_block_numbers(launch.blocks + 1);
            launch.regions = regions_of(*request);
        }
        run(launch);
        for (const auto& [counter, all] : launch.arrivals) {
            launch.fail(text("%s: %s at %s: %zu of %d blocks have arrived at a counter when all have ended", name_of(Fault::counter_left),
                             request->entry, place_of(all.site).c_str(), all.blocks.size(), all.count));
        }
    }
    if (!launch.failed) launch.report = sentences(launch.conflicts);
    if (report_bytes > 0) {
        const size_t length = launch.report.size() < report_bytes ? launch.report.size() : report_bytes - 1;
        memcpy(report, launch.report.data(), length);
        report[length] = 0;
    }
    return launch.failed ? 1 : 0;
}
