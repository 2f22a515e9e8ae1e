// Elements sixteen bytes at a time: what the kernels share that only stream through memory.
//
// A tensor begins at a multiple of 16 bytes, so pack i of the whole tensor always does; only the last may be cut short. Pack i of a row does
// only where rows are whole packs: kernels that walk rows have a variant for each case.
#pragma once

#include "gpu.cuh"

// Four floats that the compiler moves by one instruction.
struct alignas(16) Floats4 {
    float x[4];
};

// Elements as they lie in memory, moved by one instruction: a pack, which is 16 bytes of them, or a single one.
template <typename T, bool PACK>
struct Stored {
    using Type = T;
    static constexpr int SIZE = 1;
};
template <>
struct Stored<half, true> {
    using Type = Vector16;
    static constexpr int SIZE = 8;
};
template <>
struct Stored<float, true> {
    using Type = Floats4;
    static constexpr int SIZE = 4;
};

DEVICE void load(Vector16& stored, const half* from) { stored = load_16(from); }
DEVICE void load(Floats4& stored, const float* from) { stored = *reinterpret_cast<const Floats4*>(from); }
DEVICE void load(half& stored, const half* from) { stored = *from; }
DEVICE void load(float& stored, const float* from) { stored = *from; }

DEVICE void widen(const Vector16& stored, float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = low_half(stored.word[i]);
        x[2 * i + 1] = high_half(stored.word[i]);
    }
}
DEVICE void widen(const Floats4& stored, float (&x)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = stored.x[i];
}
DEVICE void widen(half stored, float (&x)[1]) { x[0] = to_float(stored); }
DEVICE void widen(float stored, float (&x)[1]) { x[0] = stored; }

// Rounds to the element type, and stores by one instruction.
DEVICE void store(half* to, const float (&x)[8]) {
    Vector16 stored;
#pragma unroll
    for (int i = 0; i < 4; i++) stored.word[i] = pack_halves(x[2 * i], x[2 * i + 1]);
    store_16(to, stored);
}
DEVICE void store(float* to, const float (&x)[4]) {
    Floats4 stored;
#pragma unroll
    for (int i = 0; i < 4; i++) stored.x[i] = x[i];
    *reinterpret_cast<Floats4*>(to) = stored;
}
template <typename T>
DEVICE void store(T* to, const float (&x)[1]) {
    *to = from_float<T>(x[0]);
}

// A pack, widened to f32.
template <typename T>
struct Pack {
    static constexpr int SIZE = Stored<T, true>::SIZE;
    float x[SIZE];
};

template <typename T>
DEVICE Pack<T> load_pack(const T* from) {
    typename Stored<T, true>::Type stored;
    load(stored, from);
    Pack<T> pack;
    widen(stored, pack.x);
    return pack;
}

// Its first `count` elements, wherever it begins; the others become zero.
template <typename T>
DEVICE Pack<T> load_pack(const T* from, int count) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) pack.x[i] = i < count ? to_float(from[i]) : 0.0f;
    return pack;
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

// The thread's pack of a tensor, and back: by one instruction unless it is the tensor's last and cut short, or the tensor `RAGGED`, which
// is one that begins anywhere.
template <typename T, bool RAGGED = false>
DEVICE Pack<T> load_span(const T* tensor, const Span& span) {
    if (!RAGGED && span.count == Pack<T>::SIZE) return load_pack(tensor + span.first);
    return load_pack(tensor + span.first, span.count);
}
template <typename T, bool RAGGED = false>
DEVICE void store_span(T* tensor, const Span& span, const Pack<T>& pack) {
    if (!RAGGED && span.count == Pack<T>::SIZE) {
        store(tensor + span.first, pack.x);
    } else {
#pragma unroll
        for (int i = 0; i < Pack<T>::SIZE; i++) {
            if (i < span.count) tensor[span.first + i] = from_float<T>(pack.x[i]);
        }
    }
}

// The row of a table that an exact index selects: an index outside takes the first or the last, NaN the first.
DEVICE int row_of(float index, int rows) {
    if (!(index > 0.0f)) return 0;
    return index < static_cast<float>(rows) ? static_cast<int>(index) : rows - 1;
}
