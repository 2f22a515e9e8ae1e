// Elements sixteen bytes at a time: what the kernels share that only stream through memory.
//
// A tensor begins at a multiple of 16 bytes, so pack i of the whole tensor always does; only the last may be cut short. Pack i of a row does
// only where rows are whole packs: kernels that walk rows have a variant for each case.
#pragma once

#include "gpu.cuh"

// As many elements as 16 bytes hold, widened to f32.
template <typename T>
struct Pack {
    static constexpr int SIZE = 16 / static_cast<int>(sizeof(T));
    float x[SIZE];
};

DEVICE void load_pack(Pack<half>& pack, const half* from) {
    const Vector16 vector = load_16(from);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        pack.x[2 * i] = low_half(vector.word[i]);
        pack.x[2 * i + 1] = high_half(vector.word[i]);
    }
}
DEVICE void store_pack(half* to, const Pack<half>& pack) {
    Vector16 vector;
#pragma unroll
    for (int i = 0; i < 4; i++) vector.word[i] = pack_halves(pack.x[2 * i], pack.x[2 * i + 1]);
    store_16(to, vector);
}

// Four floats that the compiler moves by one instruction.
struct alignas(16) Floats4 {
    float x[4];
};
DEVICE void load_pack(Pack<float>& pack, const float* from) {
    const Floats4 floats = *reinterpret_cast<const Floats4*>(from);
#pragma unroll
    for (int i = 0; i < 4; i++) pack.x[i] = floats.x[i];
}
DEVICE void store_pack(float* to, const Pack<float>& pack) {
    Floats4 floats;
#pragma unroll
    for (int i = 0; i < 4; i++) floats.x[i] = pack.x[i];
    *reinterpret_cast<Floats4*>(to) = floats;
}

// The first `count` elements of a pack, wherever it begins; the others become zero.
template <typename T>
DEVICE void load_pack(Pack<T>& pack, const T* from, int count) {
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) pack.x[i] = i < count ? to_float(from[i]) : 0.0f;
}
template <typename T>
DEVICE void store_pack(T* to, const Pack<T>& pack, int count) {
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) {
        if (i < count) to[i] = from_float<T>(pack.x[i]);
    }
}

// Where this thread's pack of a tensor of `count` elements begins, and how many of them it has: none beyond the end.
struct Span {
    size_t first;
    int count;
};
template <typename T>
DEVICE Span span_of_thread(int count) {
    const size_t first = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * Pack<T>::SIZE;
    const long long left = static_cast<long long>(count) - static_cast<long long>(first);
    const int most = Pack<T>::SIZE;
    return {first, left >= most ? most : left > 0 ? static_cast<int>(left) : 0};
}

// The thread's pack of a tensor, and back: by one instruction unless it is the tensor's last and cut short.
template <typename T>
DEVICE Pack<T> load_span(const T* tensor, const Span& span) {
    Pack<T> pack;
    if (span.count == Pack<T>::SIZE) {
        load_pack(pack, tensor + span.first);
    } else {
        load_pack(pack, tensor + span.first, span.count);
    }
    return pack;
}
template <typename T>
DEVICE void store_span(T* tensor, const Span& span, const Pack<T>& pack) {
    if (span.count == Pack<T>::SIZE) {
        store_pack(tensor + span.first, pack);
    } else {
        store_pack(tensor + span.first, pack, span.count);
    }
}

// The row of a table that an exact index selects: an index outside takes the first or the last, NaN the first.
DEVICE int row_of(float index, int rows) {
    if (!(index > 0.0f)) return 0;
    return index < static_cast<float>(rows) ? static_cast<int>(index) : rows - 1;
}
