// Tensor maps: held to what the driver's manual says of cuTensorMapEncodeTiled, and written as the emulator's copy engine reads them.
#include "emulator/tensor.h"

#include <string.h>

#include <set>

#include "libcuda.h"

namespace stand_in {
namespace {

constexpr int FLOAT16 = 6;
constexpr uint64_t HALF = 2;

std::set<Parameter>& encoded() {
    static std::set<Parameter>& all = *new std::set<Parameter>;
    return all;
}

}  // namespace

bool is_encoded(const Parameter& map) { return encoded().count(map) != 0; }

}  // namespace stand_in

using namespace stand_in;

extern "C" int cuTensorMapEncodeTiled(void* to, int type, unsigned rank, void* start, const uint64_t* extents, const uint64_t* pitches,
                                      const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int promotion, int fill) {
    CALL;
    const Address address = reinterpret_cast<uintptr_t>(start);
    const auto refused = [&](const std::string& why) { return call.refuse(INVALID_VALUE, why); };
    if (capability() < 90) return call.refuse(NOT_SUPPORTED, "this GPU copies no tensors");
    if (reinterpret_cast<uintptr_t>(to) % 64 != 0) return refused("the map is not at a multiple of 64");
    if (type != FLOAT16 || interleave != 0 || fill != 0) return refused("another kind of map");
    if (promotion < 0 || promotion > 3 || swizzle < 0 || swizzle > 3) return refused("no such promotion or swizzle");
    if (rank < 1 || rank > emulator::MAX_RANK) return refused(text("a rank of %u", rank));
    if (address == 0 || address % 16 != 0 || !block_of(address)) return refused(text("%#lx is no multiple of 16 in this GPU's memory", address));
    emulator::Map map{};
    map.address = address;
    map.rank = rank;
    map.swizzle = swizzle == 0 ? 0 : 16u << swizzle;
    for (unsigned i = 0; i < emulator::MAX_RANK; i++) {
        map.extent[i] = i < rank ? extents[i] : 1;
        map.box[i] = i < rank ? box[i] : 1;
        map.step[i] = i < rank ? steps[i] : 1;
        if (map.extent[i] == 0 || map.extent[i] > uint64_t{1} << 32) return refused(text("an extent of %lu along axis %u", map.extent[i], i));
        if (map.box[i] == 0 || map.box[i] > 256) return refused(text("a box of %u along axis %u", map.box[i], i));
        if (map.step[i] == 0 || map.step[i] > 8) return refused(text("a step of %u along axis %u", map.step[i], i));
        if (i == 0 || i >= rank) continue;
        const uint64_t pitch = map.pitch[i - 1] = pitches[i - 1];
        if (pitch % 16 != 0 || pitch >= uint64_t{1} << 40) return refused(text("a pitch of %lu bytes along axis %u", pitch, i));
    }
    const uint64_t row = map.box[0] * HALF;
    if (row % 16 != 0 || (swizzle && row > map.swizzle)) return refused(text("rows of a box of %lu bytes, swizzle %u", row, map.swizzle));
    Parameter words;
    static_assert(sizeof words == sizeof map, "the size of a CUtensorMap");
    memcpy(words.data(), &map, sizeof map);
    encoded().insert(words);
    memcpy(to, &map, sizeof map);
    return 0;
}
