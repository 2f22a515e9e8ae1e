// Normalisation over channels (Ba, Kiros and Hinton, arXiv:1607.06450).
//
//   y[r, c] = (x[r, c] - mean) / sqrt(variance + eps) weight[c] + bias[c], mean and variance over the channels of a row
//
// Tensors       x, y: [R, C]; weight, bias: [C], f32
// Arithmetic    f32; the variance is the mean of squared distances from the mean, so a mean far from zero costs nothing
// Launch        256 threads, a warp per row. `_512` and `_1536` entries keep rows of up to as many channels in registers; `_any` reads its row
//               three times, of which the caches serve two
// Requirements  `_512`, `_1536`: C is whole 16-byte packs (src/cuda/layer_norm.rs checks)
// Cost          x read once, y written once, and the factors from L1: bound by memory
// Measured      not yet run on hardware
#include "elements.cuh"

// This warp's row, or -1 beyond the last.
DEVICE int row_of_warp(int rows) {
    const int row = static_cast<int>(blockIdx.x) * (static_cast<int>(blockDim.x) / WARP) + warp_index();
    return row < rows ? row : -1;
}

// Rows of at most `PACKS` packs per lane: pack `lane + 32 i` is lane's i-th.
template <typename T, int PACKS>
DEVICE void layer_norm(T* y, const T* x, const float* weight, const float* bias, int rows, int channels, float eps) {
    wait_for_previous_grid();
    let_next_grid_start();
    constexpr int SIZE = Pack<T>::SIZE;
    const int row = row_of_warp(rows);
    if (row < 0) return;
    x += static_cast<size_t>(row) * channels;
    y += static_cast<size_t>(row) * channels;
    typename Stored<T, true>::Type raw[PACKS];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int channel = (lane_index() + WARP * i) * SIZE;
        if (channel < channels) load(raw[i], x + channel);
    }
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        if ((lane_index() + WARP * i) * SIZE >= channels) break;
        float values[SIZE];
        widen(raw[i], values);
#pragma unroll
        for (int j = 0; j < SIZE; j++) sum += values[j];
    }
    const float count = static_cast<float>(channels);
    const float mean = warp_sum(sum) / count;
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        if ((lane_index() + WARP * i) * SIZE >= channels) break;
        float values[SIZE];
        widen(raw[i], values);
#pragma unroll
        for (int j = 0; j < SIZE; j++) squares += (values[j] - mean) * (values[j] - mean);
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / count + eps);
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int channel = (lane_index() + WARP * i) * SIZE;
        if (channel >= channels) break;
        float values[SIZE];
        widen(raw[i], values);
#pragma unroll
        for (int j = 0; j < SIZE; j += 4) {
            Floats4 w, b;
            load(w, weight + channel + j);
            load(b, bias + channel + j);
#pragma unroll
            for (int k = 0; k < 4; k++) values[j + k] = (values[j + k] - mean) * scale * w.x[k] + b.x[k];
        }
        store(y + channel, values);
    }
}

// Rows of any length.
template <typename T>
DEVICE void layer_norm_any(T* y, const T* x, const float* weight, const float* bias, int rows, int channels, float eps) {
    wait_for_previous_grid();
    let_next_grid_start();
    const int row = row_of_warp(rows);
    if (row < 0) return;
    x += static_cast<size_t>(row) * channels;
    y += static_cast<size_t>(row) * channels;
    const float count = static_cast<float>(channels);
    float sum = 0.0f;
    for (int c = lane_index(); c < channels; c += WARP) sum += to_float(x[c]);
    const float mean = warp_sum(sum) / count;
    float squares = 0.0f;
    for (int c = lane_index(); c < channels; c += WARP) {
        const float distance = to_float(x[c]) - mean;
        squares += distance * distance;
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / count + eps);
    for (int c = lane_index(); c < channels; c += WARP) {
        y[c] = from_float<T>((to_float(x[c]) - mean) * scale * weight[c] + bias[c]);
    }
}

// ---- entries ------------------------------------------------------------------------------------

#define ROWS_F16 half* y, const half* x, const float* weight, const float* bias, int rows, int channels, float eps
#define ROWS_F32 float* y, const float* x, const float* weight, const float* bias, int rows, int channels, float eps

ENTRY(256, 4, layer_norm_f16_512, ROWS_F16) { layer_norm<half, 2>(y, x, weight, bias, rows, channels, eps); }
ENTRY(256, 4, layer_norm_f16_1536, ROWS_F16) { layer_norm<half, 6>(y, x, weight, bias, rows, channels, eps); }
ENTRY(256, 4, layer_norm_f16_any, ROWS_F16) { layer_norm_any(y, x, weight, bias, rows, channels, eps); }

ENTRY(256, 4, layer_norm_f32_512, ROWS_F32) { layer_norm<float, 4>(y, x, weight, bias, rows, channels, eps); }
ENTRY(256, 3, layer_norm_f32_1536, ROWS_F32) { layer_norm<float, 12>(y, x, weight, bias, rows, channels, eps); }
ENTRY(256, 4, layer_norm_f32_any, ROWS_F32) { layer_norm_any(y, x, weight, bias, rows, channels, eps); }
