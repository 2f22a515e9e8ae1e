// What surrounds the network in a step of a sampler.
//
//   timestep_embedding  y[n] = (cos(t f_0), .., cos(t f_h-1), sin(t f_0), ..), f_i = 10000^(-i / h) (arXiv:2006.11239, appendix B)
//   guidance            g = u + s (c - u); y = (r std(c) / std(g) + 1 - r) g, or g if r = 0 (arXiv:2207.12598, equation 6;
//                       arXiv:2305.08891, equations 15 and 16); u and c are the halves of the batch, std is over an image, Bessel-corrected
//   combine             y = sum_j c[row, j] v_j over up to 8 terms; a term whose coefficient is zero is not read
//   update              to_i = combine with coefficients c_i, for up to 4 i, of what the terms were before; before that kept_i = from_i. Any of the
//                       terms and of what is kept may be one of those that are assigned
//   blend               y = m a + (1 - m) b
//   count_not_finite    y[n] = how many elements of image n are infinite or NaN
//
// Tensors       dense; t, settings (s, r), coefficients, row and the counts are f32 at either precision
// Arithmetic    f32. The angle t f_i, up to 1000, is f32 as in the published networks, and its sine that of the whole angle. Deviations: see
//               moments.cuh
// Launch        timestep_embedding: 256 threads, one per frequency and image. guidance: 512 threads, blocks (packs of an image, image); with
//               r != 0 each block takes the deviations of its whole image itself, which lies in L2. combine, update and blend: 256 threads, one per
//               pack. count_not_finite: 1024 threads, one block per image
// Requirements  counts fit an int; `_ragged` where an image is not whole packs (both checked by select)
// Cost          operands read once, the result written once; guidance with r != 0 reads an image once more per 8 KiB of it
// Measured      not yet run on hardware
#include "elements.cuh"
#include "moments.cuh"

// Both to about an f32's last place, for angles up to some 10^5: the library's own keep a table on the stack for larger ones. The angle less
// its nearest multiple of pi / 2 is exact but for the digits of pi / 2 behind an f32's, which are taken off next; on the remaining
// quarter of a circle, Taylor's polynomials end below 2e-9.
DEVICE void cosine_and_sine(float angle, float& cosine, float& sine) {
    const float quarters = floorf(angle * 0.63661977f + 0.5f);
    const float r = fmaf(quarters, 4.37113900e-8f, fmaf(-quarters, 1.57079637f, angle));
    const float square = r * r;
    const float c_tail = 1.0f / 24 + square * (-1.0f / 720 + square * (1.0f / 40320 - square * (1.0f / 3628800)));
    const float s_tail = -1.0f / 6 + square * (1.0f / 120 + square * (-1.0f / 5040 + square * (1.0f / 362880)));
    const float c = 1.0f + square * (-0.5f + square * c_tail);
    const float s = r + r * square * s_tail;
    const float quadrant = quarters - 4.0f * floorf(0.25f * quarters);
    const bool odd = quadrant == 1.0f || quadrant == 3.0f;
    cosine = odd ? s : c;
    sine = odd ? c : s;
    if (quadrant == 1.0f || quadrant == 2.0f) cosine = -cosine;
    if (quadrant >= 2.0f) sine = -sine;
}

template <typename T>
DEVICE void timestep_embedding(T* y, const float* timestep, int half_features, int count) {
    wait_for_previous_grid();
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= count) return;
    const int n = i / half_features;
    const int f = i % half_features;
    const float ln_10000 = 9.210340371976184f;
    const float angle = timestep[n] * expf(-ln_10000 * static_cast<float>(f) / static_cast<float>(half_features));
    float cosine, sine;
    cosine_and_sine(angle, cosine, sine);
    T* to = y + static_cast<size_t>(n) * 2 * half_features + f;
    to[0] = from_float<T>(cosine);
    to[half_features] = from_float<T>(sine);
}

// u becomes u + scale (c - u).
template <typename T>
DEVICE void guide(Pack<T>& u, const Pack<T>& c, float scale) {
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) u.x[i] += scale * (c.x[i] - u.x[i]);
}

// The ratio of the deviations of an image's conditional answer and of its guided one. All threads of the block must call.
template <typename T, bool RAGGED>
DEVICE float ratio_of_deviations(const T* without, const T* with, float scale, int image) {
    const int step = static_cast<int>(blockDim.x) * Pack<T>::SIZE;
    ShiftedSums conditional = {0.0f, 0.0f, 0.0f};
    ShiftedSums guided = conditional;
    int count = 0;
    for (int first = static_cast<int>(threadIdx.x) * Pack<T>::SIZE; first < image; first += step) {
        const Span span = {static_cast<size_t>(first), min(image - first, Pack<T>::SIZE)};
        const Pack<T> c = load_span<T, RAGGED>(with, span);
        Pack<T> g = load_span<T, RAGGED>(without, span);
        guide(g, c, scale);
        if (count == 0) {
            conditional.shift = c.x[0];
            guided.shift = g.x[0];
        }
#pragma unroll
        for (int i = 0; i < Pack<T>::SIZE; i++) {
            if (i >= span.count) continue;
            add(conditional, c.x[i]);
            add(guided, g.x[i]);
        }
        count += span.count;
    }
    const Moments c = block_moments(moments_of(conditional, count));
    const Moments g = block_moments(moments_of(guided, count));
    return sqrtf(c.squares / g.squares);
}

template <typename T, bool RAGGED>
DEVICE void guidance(T* y, const T* answers, const float* settings, int image) {
    wait_for_previous_grid();
    const T* without = answers + static_cast<size_t>(blockIdx.y) * image;
    const T* with = without + static_cast<size_t>(gridDim.y) * image;
    const float scale = settings[0];
    const float rescale = settings[1];
    float factor = 1.0f;
    if (rescale != 0.0f) factor = rescale * ratio_of_deviations<T, RAGGED>(without, with, scale, image) + 1.0f - rescale;
    const Span span = span_of_thread<T>(image);
    if (span.count == 0) return;
    Pack<T> g = load_span<T, RAGGED>(without, span);
    guide(g, load_span<T, RAGGED>(with, span), scale);
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) g.x[i] *= factor;
    store_span<T, RAGGED>(y + static_cast<size_t>(blockIdx.y) * image, span, g);
}

// The terms of a combination; those past the last are null.
#define TERMS 8
template <typename T>
struct Terms {
    const T* v[TERMS];
};

template <typename T>
DEVICE void combine(T* y, const float* coefficients, const float* row, const Terms<T>& terms, int rows, int used, int count) {
    wait_for_previous_grid();
    const Span span = span_of_thread<T>(count);
    if (span.count == 0) return;
    if (row != nullptr) coefficients += row_of(row[0], rows) * used;
    Pack<T> sum;
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) sum.x[i] = 0.0f;
#pragma unroll
    for (int j = 0; j < TERMS; j++) {
        const float coefficient = j < used ? coefficients[j] : 0.0f;
        if (coefficient == 0.0f) continue;
        const Pack<T> term = load_span(terms.v[j], span);
#pragma unroll
        for (int i = 0; i < Pack<T>::SIZE; i++) sum.x[i] += coefficient * term.x[i];
    }
    store_span(y, span, sum);
}

// Moves the thread's pack as it is, the bits of a NaN too.
template <typename T>
DEVICE void copy_span(T* to, const T* from, const Span& span) {
    to += span.first;
    from += span.first;
    if (span.count == Pack<T>::SIZE) {
        *reinterpret_cast<Vector16*>(to) = *reinterpret_cast<const Vector16*>(from);
        return;
    }
    for (int i = 0; i < span.count; i++) to[i] = from[i];
}

// The vectors that an update assigns; null: there is none.
#define VECTORS 4
template <typename T>
struct Update {
    T* to[VECTORS];
    const float* coefficients[VECTORS];
    T* kept[VECTORS];
    const T* from[VECTORS];
};

template <typename T>
DEVICE void update(const Update<T>& vectors, const float* row, const Terms<T>& terms, int rows, int used, int count) {
    wait_for_previous_grid();
    const Span span = span_of_thread<T>(count);
    if (span.count == 0) return;
    const int first = row_of(row[0], rows) * used;
    Pack<T> sums[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS * Pack<T>::SIZE; i++) sums[i / Pack<T>::SIZE].x[i % Pack<T>::SIZE] = 0.0f;
#pragma unroll
    for (int j = 0; j < TERMS; j++) {
        float coefficients[VECTORS];
        bool read = false;
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            coefficients[i] = j < used && vectors.to[i] != nullptr ? vectors.coefficients[i][first + j] : 0.0f;
            read = read || coefficients[i] != 0.0f;
        }
        if (!read) continue;
        const Pack<T> term = load_span(terms.v[j], span);
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            if (coefficients[i] == 0.0f) continue;
#pragma unroll
            for (int k = 0; k < Pack<T>::SIZE; k++) sums[i].x[k] += coefficients[i] * term.x[k];
        }
    }
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        if (vectors.kept[i] != nullptr) copy_span(vectors.kept[i], vectors.from[i], span);
    }
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        if (vectors.to[i] != nullptr) store_span(vectors.to[i], span, sums[i]);
    }
}

template <typename T>
DEVICE void blend(T* y, const T* mask, const T* inside, const T* outside, int count) {
    wait_for_previous_grid();
    const Span span = span_of_thread<T>(count);
    if (span.count == 0) return;
    const Pack<T> m = load_span(mask, span);
    const Pack<T> a = load_span(inside, span);
    Pack<T> b = load_span(outside, span);
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) b.x[i] = m.x[i] * a.x[i] + (1.0f - m.x[i]) * b.x[i];
    store_span(y, span, b);
}

template <typename T, bool RAGGED>
DEVICE void count_not_finite(float* counts, const T* x, int image) {
    wait_for_previous_grid();
    x += static_cast<size_t>(blockIdx.x) * image;
    const int step = static_cast<int>(blockDim.x) * Pack<T>::SIZE;
    int count = 0;
    for (int first = static_cast<int>(threadIdx.x) * Pack<T>::SIZE; first < image; first += step) {
        const Pack<T> pack = load_span<T, RAGGED>(x, {static_cast<size_t>(first), min(image - first, Pack<T>::SIZE)});
#pragma unroll
        for (int i = 0; i < Pack<T>::SIZE; i++) count += fabsf(pack.x[i]) <= 3.402823466e38f ? 0 : 1;
    }
    // Exact up to 2^24, which no image of this project has elements for.
    const float total = block_sum(static_cast<float>(count));
    if (threadIdx.x == 0) counts[blockIdx.x] = total;
}

// ---- entries ------------------------------------------------------------------------------------

ENTRY(256, 4, timestep_embedding_f16, half* y, const float* timestep, int half_features, int count) {
    timestep_embedding(y, timestep, half_features, count);
}
ENTRY(256, 4, timestep_embedding_f32, float* y, const float* timestep, int half_features, int count) {
    timestep_embedding(y, timestep, half_features, count);
}

ENTRY(512, 2, guidance_f16, half* y, const half* answers, const float* settings, int image) {
    guidance<half, false>(y, answers, settings, image);
}
ENTRY(512, 2, guidance_ragged_f16, half* y, const half* answers, const float* settings, int image) {
    guidance<half, true>(y, answers, settings, image);
}
ENTRY(512, 2, guidance_f32, float* y, const float* answers, const float* settings, int image) {
    guidance<float, false>(y, answers, settings, image);
}
ENTRY(512, 2, guidance_ragged_f32, float* y, const float* answers, const float* settings, int image) {
    guidance<float, true>(y, answers, settings, image);
}

#define COMBINE_F16 \
    half* y, const float* coefficients, const float* row, const half* v0, const half* v1, const half* v2, const half* v3, \
        const half* v4, const half* v5, const half* v6, const half* v7, int rows, int used, int count
#define COMBINE_F32 \
    float* y, const float* coefficients, const float* row, const float* v0, const float* v1, const float* v2, const float* v3, \
        const float* v4, const float* v5, const float* v6, const float* v7, int rows, int used, int count
ENTRY(256, 4, combine_f16, COMBINE_F16) {
    combine<half>(y, coefficients, row, {{v0, v1, v2, v3, v4, v5, v6, v7}}, rows, used, count);
}
ENTRY(256, 4, combine_f32, COMBINE_F32) {
    combine<float>(y, coefficients, row, {{v0, v1, v2, v3, v4, v5, v6, v7}}, rows, used, count);
}

#define UPDATE_F16 \
    half *to0, half *to1, half *to2, half *to3, const float *c0, const float *c1, const float *c2, const float *c3, half *kept0, half *kept1, \
        half *kept2, half *kept3, const half *from0, const half *from1, const half *from2, const half *from3, const float *row, const half *v0, \
        const half *v1, const half *v2, const half *v3, const half *v4, const half *v5, const half *v6, const half *v7, int rows, int used, int count
#define UPDATE_F32 \
    float *to0, float *to1, float *to2, float *to3, const float *c0, const float *c1, const float *c2, const float *c3, float *kept0, float *kept1, \
        float *kept2, float *kept3, const float *from0, const float *from1, const float *from2, const float *from3, const float *row, const float *v0, \
        const float *v1, const float *v2, const float *v3, const float *v4, const float *v5, const float *v6, const float *v7, int rows, int used, int count
#define UPDATED \
    {{to0, to1, to2, to3}, {c0, c1, c2, c3}, {kept0, kept1, kept2, kept3}, {from0, from1, from2, from3}}, row, \
        {{v0, v1, v2, v3, v4, v5, v6, v7}}, rows, used, count
ENTRY(256, 4, update_f16, UPDATE_F16) { update<half>(UPDATED); }
ENTRY(256, 4, update_f32, UPDATE_F32) { update<float>(UPDATED); }

ENTRY(256, 4, blend_f16, half* y, const half* mask, const half* inside, const half* outside, int count) {
    blend(y, mask, inside, outside, count);
}
ENTRY(256, 4, blend_f32, float* y, const float* mask, const float* inside, const float* outside, int count) {
    blend(y, mask, inside, outside, count);
}

ENTRY(1024, 1, count_not_finite_f16, float* counts, const half* x, int image) {
    count_not_finite<half, false>(counts, x, image);
}
ENTRY(1024, 1, count_not_finite_ragged_f16, float* counts, const half* x, int image) {
    count_not_finite<half, true>(counts, x, image);
}
ENTRY(1024, 1, count_not_finite_f32, float* counts, const float* x, int image) {
    count_not_finite<float, false>(counts, x, image);
}
ENTRY(1024, 1, count_not_finite_ragged_f32, float* counts, const float* x, int image) {
    count_not_finite<float, true>(counts, x, image);
}
