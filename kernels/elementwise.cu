// One element at a time: sums, non-linearities and gates. What the fusion pass leaves of them; in the networks nearly all are folded into
// the products and normalisations before or after.
//
//   add           y = a + b
//   add_repeated  y[i] = x[i] + v[stride * image(i) + i % period], image(i) = i / image, or 0 if a row is given: then v begins at that row.
//                 Values per image and channel: stride = period = channels. Learnt positions: stride = 0, period = image.
//   scale_shift   y[i] = x[i] (1 + v[c]) + v[channels + c], c = i % channels, v beginning 2 channels image(i) on, or at the given row
//   average_pool  y[n, i, j, c] = (x[n, 2i, 2j, c] + x[n, 2i, 2j + 1, c] + x[n, 2i + 1, 2j, c] + x[n, 2i + 1, 2j + 1, c]) / 4
//   activation    y = f(x), f one of SiLU (arXiv:1702.03118), GELU (arXiv:1606.08415, by erf) and x sigmoid(1.702 x)
//   geglu         y[r, c] = x[r, c] gelu(x[r, width + c]) (arXiv:2002.05202)
//
// Tensors       dense, any size; v and x of one element type; row: one exact f32, or null; of an odd last line or column of pixels there is no
//               average
// Arithmetic    f32, rounded once to the element type
// Launch        256 threads; a thread per 16 bytes of the result (8 halves, 4 floats)
// Requirements  counts fit an int (checked by select); `_ragged` variants read v, or x of geglu and average_pool, element by element:
//               they are chosen where a period or a row is not whole packs
// Cost          every operand read once, the result written once; at most 25 instructions per element, so bound by memory
// Measured      not yet run on hardware
#include "activation.cuh"
#include "elements.cuh"

template <typename T>
DEVICE void add(T* y, const T* a, const T* b, int count) {
    wait_for_previous_grid();
    const Span span = span_of_thread<T>(count);
    if (span.count == 0) return;
    Pack<T> sum = load_span(a, span);
    const Pack<T> other = load_span(b, span);
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) sum.x[i] += other.x[i];
    store_span(y, span, sum);
}

template <typename T, bool RAGGED>
DEVICE void add_repeated(T* y, const T* x, const T* v, const float* row, int rows, int image, int period, int stride, int count) {
    wait_for_previous_grid();
    const Span span = span_of_thread<T>(count);
    if (span.count == 0) return;
    const int first = static_cast<int>(span.first);
    if (row != nullptr) v += static_cast<size_t>(row_of(row[0], rows)) * stride;
    const int step = row == nullptr ? stride : 0;
    Pack<T> sum = load_span(x, span);
    Pack<T> other;
    if (RAGGED) {
#pragma unroll
        for (int i = 0; i < Pack<T>::SIZE; i++) {
            const int at = first + i;
            other.x[i] = i < span.count ? to_float(v[at / image * step + at % period]) : 0.0f;
        }
    } else {
        other = load_pack(v + first / image * step + first % period);
    }
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) sum.x[i] += other.x[i];
    store_span(y, span, sum);
}

template <typename T, bool RAGGED>
DEVICE void scale_shift(T* y, const T* x, const T* v, const float* row, int rows, int image, int channels, int count) {
    wait_for_previous_grid();
    const Span span = span_of_thread<T>(count);
    if (span.count == 0) return;
    const int first = static_cast<int>(span.first);
    if (row != nullptr) v += static_cast<size_t>(row_of(row[0], rows)) * 2 * channels;
    const int step = row == nullptr ? 2 * channels : 0;
    Pack<T> result = load_span(x, span);
    Pack<T> scale, shift;
    if (RAGGED) {
#pragma unroll
        for (int i = 0; i < Pack<T>::SIZE; i++) {
            const T* from = v + (first + i) / image * step + (first + i) % channels;
            scale.x[i] = i < span.count ? to_float(from[0]) : 0.0f;
            shift.x[i] = i < span.count ? to_float(from[channels]) : 0.0f;
        }
    } else {
        const T* from = v + first / image * step + first % channels;
        scale = load_pack(from);
        shift = load_pack(from + channels);
    }
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) result.x[i] = result.x[i] * (1.0f + scale.x[i]) + shift.x[i];
    store_span(y, span, result);
}

template <typename T, bool RAGGED>
DEVICE void average_pool(T* y, const T* x, int height, int width, int channels, int count) {
    wait_for_previous_grid();
    const Span span = span_of_thread<T>(count);
    if (span.count == 0) return;
    const int row = width / 2 * channels, rows = height / 2;
    // The first of the four elements for element `at` of y.
    auto source = [&](int at) {
        const int line = at / row, column = at % row;
        const size_t above = static_cast<size_t>(line / rows) * height + line % rows * 2;
        return x + above * width * channels + column / channels * 2 * channels + column % channels;
    };
    const int first = static_cast<int>(span.first);
    const int below = width * channels;
    Pack<T> sum;
    if (RAGGED) {
#pragma unroll
        for (int i = 0; i < Pack<T>::SIZE; i++) {
            sum.x[i] = 0.0f;
            if (i >= span.count) continue;
            const T* from = source(first + i);
            sum.x[i] = (to_float(from[0]) + to_float(from[channels])) + (to_float(from[below]) + to_float(from[below + channels]));
        }
    } else {
        const T* from = source(first);
        const Pack<T> four[] = {load_pack(from), load_pack(from + channels), load_pack(from + below), load_pack(from + below + channels)};
#pragma unroll
        for (int i = 0; i < Pack<T>::SIZE; i++) sum.x[i] = (four[0].x[i] + four[1].x[i]) + (four[2].x[i] + four[3].x[i]);
    }
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) sum.x[i] *= 0.25f;
    store_span(y, span, sum);
}

template <typename T, Activation ACTIVATION>
DEVICE void activation(T* y, const T* x, int count) {
    wait_for_previous_grid();
    const Span span = span_of_thread<T>(count);
    if (span.count == 0) return;
    Pack<T> pack = load_span(x, span);
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) pack.x[i] = activate<ACTIVATION>(pack.x[i]);
    store_span(y, span, pack);
}

template <typename T, bool RAGGED>
DEVICE void geglu(T* y, const T* x, int width, int count) {
    wait_for_previous_grid();
    const Span span = span_of_thread<T>(count);
    if (span.count == 0) return;
    const int first = static_cast<int>(span.first);
    Pack<T> value, gate;
    if (RAGGED) {
#pragma unroll
        for (int i = 0; i < Pack<T>::SIZE; i++) {
            const int at = first + i;
            const T* from = x + static_cast<size_t>(at / width) * 2 * width + at % width;
            value.x[i] = i < span.count ? to_float(from[0]) : 0.0f;
            gate.x[i] = i < span.count ? to_float(from[width]) : 0.0f;
        }
    } else {
        const T* from = x + static_cast<size_t>(first / width) * 2 * width + first % width;
        value = load_pack(from);
        gate = load_pack(from + width);
    }
#pragma unroll
    for (int i = 0; i < Pack<T>::SIZE; i++) value.x[i] *= gelu(gate.x[i]);
    store_span(y, span, value);
}

// ---- entries ------------------------------------------------------------------------------------

ENTRY(256, 6, add_f16, half* y, const half* a, const half* b, int count) { add(y, a, b, count); }
ENTRY(256, 6, add_f32, float* y, const float* a, const float* b, int count) { add(y, a, b, count); }

#define REPEATED_F16 \
    half* y, const half* x, const half* v, const float* row, int rows, int image, int period, int stride, int count
#define REPEATED_F32 \
    float* y, const float* x, const float* v, const float* row, int rows, int image, int period, int stride, int count
ENTRY(256, 6, add_repeated_f16, REPEATED_F16) {
    add_repeated<half, false>(y, x, v, row, rows, image, period, stride, count);
}
ENTRY(256, 6, add_repeated_ragged_f16, REPEATED_F16) {
    add_repeated<half, true>(y, x, v, row, rows, image, period, stride, count);
}
ENTRY(256, 6, add_repeated_f32, REPEATED_F32) {
    add_repeated<float, false>(y, x, v, row, rows, image, period, stride, count);
}
ENTRY(256, 6, add_repeated_ragged_f32, REPEATED_F32) {
    add_repeated<float, true>(y, x, v, row, rows, image, period, stride, count);
}

#define SCALE_SHIFT_F16 half* y, const half* x, const half* v, const float* row, int rows, int image, int channels, int count
#define SCALE_SHIFT_F32 float* y, const float* x, const float* v, const float* row, int rows, int image, int channels, int count
ENTRY(256, 6, scale_shift_f16, SCALE_SHIFT_F16) { scale_shift<half, false>(y, x, v, row, rows, image, channels, count); }
ENTRY(256, 4, scale_shift_ragged_f16, SCALE_SHIFT_F16) { scale_shift<half, true>(y, x, v, row, rows, image, channels, count); }
ENTRY(256, 6, scale_shift_f32, SCALE_SHIFT_F32) { scale_shift<float, false>(y, x, v, row, rows, image, channels, count); }
ENTRY(256, 4, scale_shift_ragged_f32, SCALE_SHIFT_F32) { scale_shift<float, true>(y, x, v, row, rows, image, channels, count); }

#define AVERAGE_POOL_F16 half* y, const half* x, int height, int width, int channels, int count
#define AVERAGE_POOL_F32 float* y, const float* x, int height, int width, int channels, int count
ENTRY(256, 4, average_pool_f16, AVERAGE_POOL_F16) { average_pool<half, false>(y, x, height, width, channels, count); }
ENTRY(256, 4, average_pool_ragged_f16, AVERAGE_POOL_F16) { average_pool<half, true>(y, x, height, width, channels, count); }
ENTRY(256, 4, average_pool_f32, AVERAGE_POOL_F32) { average_pool<float, false>(y, x, height, width, channels, count); }
ENTRY(256, 4, average_pool_ragged_f32, AVERAGE_POOL_F32) { average_pool<float, true>(y, x, height, width, channels, count); }

ENTRY(256, 6, activation_silu_f16, half* y, const half* x, int count) { activation<half, SILU>(y, x, count); }
ENTRY(256, 6, activation_gelu_f16, half* y, const half* x, int count) { activation<half, GELU>(y, x, count); }
ENTRY(256, 6, activation_quick_gelu_f16, half* y, const half* x, int count) { activation<half, QUICK_GELU>(y, x, count); }
ENTRY(256, 6, activation_silu_f32, float* y, const float* x, int count) { activation<float, SILU>(y, x, count); }
ENTRY(256, 6, activation_gelu_f32, float* y, const float* x, int count) { activation<float, GELU>(y, x, count); }
ENTRY(256, 6, activation_quick_gelu_f32, float* y, const float* x, int count) { activation<float, QUICK_GELU>(y, x, count); }

ENTRY(256, 4, geglu_f16, half* y, const half* x, int width, int count) { geglu<half, false>(y, x, width, count); }
ENTRY(256, 4, geglu_ragged_f16, half* y, const half* x, int width, int count) { geglu<half, true>(y, x, width, count); }
ENTRY(256, 4, geglu_f32, float* y, const float* x, int width, int count) { geglu<float, false>(y, x, width, count); }
ENTRY(256, 4, geglu_ragged_f32, float* y, const float* x, int width, int count) { geglu<float, true>(y, x, width, count); }
