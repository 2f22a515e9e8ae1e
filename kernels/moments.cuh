// Means and variances that survive a mean far from zero.
//
// The mean of squares less the square of the mean loses all digits once the mean is some thousand deviations. Here each thread sums its
// values less the first of them: whatever that one is, at most a factor of their number is lost, because its own distance from the others
// is part of the answer. Then the moments of threads, and of blocks, are joined without any cancellation: the mean of all, and around it
// the squared deviations of each part and of its mean (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The
// American Statistician 37, 1983, equations 2.1 and 3). Orders are fixed, so the bits are.
#pragma once

#include "gpu.cuh"

// How many values, their mean, and the sum of their squared deviations from it.
struct Moments {
    float count;
    float mean;
    float squares;
};

// Sums of a thread's values and of their squares, each less `shift`.
struct ShiftedSums {
    float shift;
    float sum;
    float squares;
};

DEVICE void add(ShiftedSums& sums, float x) {
    const float distance = x - sums.shift;
    sums.sum += distance;
    sums.squares += distance * distance;
}

DEVICE Moments moments_of(const ShiftedSums& sums, int count) {
    if (count == 0) return {0.0f, 0.0f, 0.0f};
    const float n = static_cast<float>(count);
    const float mean = sums.sum * (1.0f / n);
    const float squares = sums.squares - sums.sum * mean;
    // Rounding may leave less than nothing; NaN stays.
    return {n, sums.shift + mean, squares < 0.0f ? 0.0f : squares};
}

// What `part` adds to the squared deviations from the mean of all.
DEVICE float squares_around(float mean, const Moments& part) {
    const float distance = part.mean - mean;
    return fmaf(part.count * distance, distance, part.squares);
}

// The moments of two parts together, of which one may be empty: the same bits wherever it is called, so that no compiler chooses what is rounded.
DEVICE Moments join(const Moments& a, const Moments& b) {
    const float count = a.count + b.count;
    const float share = count > 0.0f ? b.count / count : 0.0f, distance = b.mean - a.mean;
    return {count, fmaf(distance, share, a.mean), fmaf(distance * distance, a.count * share, a.squares + b.squares)};
}

// The sum of all threads' values; every thread receives the same bits. All threads of the block must call.
DEVICE float block_sum(float value) {
    SHARED_ARRAY(float, sums, 1024 / WARP);
    value = warp_sum(value);
    sync_block();  // the readers of an earlier sum are done
    if (lane_index() == 0) sums[warp_index()] = value;
    sync_block();
    const int warps = static_cast<int>(blockDim.x) / WARP;
    float total = 0.0f;
    for (int warp = 0; warp < warps; warp++) total += sums[warp];
    return total;
}

// The moments of all threads' values. All threads of the block must call.
DEVICE Moments block_moments(const Moments& part) {
    const float count = block_sum(part.count);
    const float mean = block_sum(part.count * part.mean) / count;
    return {count, mean, block_sum(squares_around(mean, part))};
}
