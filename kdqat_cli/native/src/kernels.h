// What the kernel file of an instruction set gives the model, and the memory layouts that both use.
//
// Weights. A ternary matrix W (O, I) is held as codes c + 1 in {0, 1, 2}, two bits each. Sixteen outputs make a panel,
// sixteen inputs a group; a group of a panel is one line of 64 bytes:
//
//     bits 2j, 2j+1 of byte 4n + i  =  1 + code of output 16·panel + n, input 16·group + 4j + i      (i, j < 4, n < 16)
//
// so that a shift by 2j and a mask give four consecutive inputs of one output side by side, as the byte products of
// every instruction set need them. Outputs and inputs are padded with code 0.
//
// Activations. A row is quantised to int8 with one scale; Σ (c + 1)·q = Σ c·q + Σ q, and Σ q is kept with the row.

#pragma once

#include <cstddef>
#include <cstdint>

namespace kdqat {

constexpr int kPanel = 16;
constexpr int kGroup = 16;
constexpr int kLine = 64;
constexpr int kWords = 256;  // random words that are made together

constexpr int up_to(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

enum class Activation : int32_t { none, gelu, gelu_tanh, relu, tanh };

// A ternary matrix; `bias` holds panels·16 values.
struct Matrix {
    const uint8_t* codes;
    int outputs, inputs, panels, groups;
    float scale;
    const float* bias;
};

// Rows of int8 with one scale and one sum each, `stride` bytes apart, padded with zeros to whole lines.
struct Quantized {
    int8_t* values;
    size_t stride;
    float* scales;
    int32_t* sums;
};

struct Norm {
    const float* gain;
    const float* bias;  // null: RMSNorm, which has no mean and no bias
    float epsilon;
};

// Attention of one head over one sequence; every row pointer is at the sequence's first token and the head's first
// value, rows are `stride` values apart, scales and sums `heads` values.
struct Head {
    const int8_t *query, *key, *value;
    const float *query_scales, *key_scales, *value_scales;
    const int32_t* query_sums;
    size_t stride, heads;
    int length, size;
    float scaling;
    float clip;             // upper limit of the probabilities
    const float* relative;  // relative[key - query] is added to the score; null: nothing is
    float* context;         // (length, size), rows `context_stride` values apart
    size_t context_stride;
};

// Training steps on whole tensors (training.h and buckets.h say what each computes).
struct Steps {
    float (*largest)(const float* row, int width);
    void (*round_row)(
        const float* row, int width, float clip, float scale, int8_t* codes, float* values, uint8_t* inside);
    float (*divergence)(
        const float* student, const float* teacher, const float* keep, const float* top, int length, float sharpness,
        float factor, float floor, float* slope, float* spare);
    void (*extremes)(const float* x, int64_t count, float* low, float* high);
    void (*levels)(const float* x, int64_t count, float low, float step, uint8_t* out);
    void (*random)(uint64_t seed, uint64_t block, uint32_t* words);
    void (*drawn_levels)(
        const float* x, const uint32_t* words, int64_t count, float low, float step, float most, uint8_t* out);
    float (*moved)(const float* grad, const float* x, const float* value, int64_t count, float* out);
    void (*values)(const uint8_t* levels, int64_t count, float scale, float offset, float* out);
    void (*signed_values)(const int8_t* levels, int64_t count, float scale, float offset, float* out);
    void (*drop)(
        const float* x, const int16_t* bits, int64_t count, int threshold, float factor, float* out, uint8_t* kept);
    void (*keep)(const float* x, const uint8_t* kept, int64_t count, float factor, float* out);
};

struct Kernels {
    const char* name;
    bool (*available)();

    // Rows of `width` floats → int8 (see Quantized). s = max|x| / 127, q = round half to even of x / s, after a clamp
    // to ±clip; values from `width` to `padded` become 0; `out.sums` may be null.
    void (*quantize)(const float* rows, size_t stride, int count, int width, int padded, float clip, Quantized out);

    // out[row][o] = act((Σ code·q)·s·scale + bias[o]) for the outputs of panels `first` to `last` (exclusive), the sum
    // exact. `scratch` holds at least scratch_bytes(the larger of the matrix's inputs and outputs).
    void (*linear)(
        const Quantized& rows, int count, const Matrix& matrix, int first, int last, Activation act, float* out,
        size_t out_stride, uint8_t* scratch);
    size_t (*scratch_bytes)(int width);

    // sum = a + b, out = norm(sum), row by row; `b` may be null (nothing is added) and `sum` too (not kept).
    void (*normalize)(
        const float* a, const float* b, float* sum, float* out, size_t stride, int count, int width, Norm norm);

    // a ·= b, element by element.
    void (*multiply)(float* a, const float* b, size_t stride, int count, int width);

    // Softmax attention over 8-bit Q, K, probabilities and V; `scratch` holds at least attend_bytes(length, size).
    void (*attend)(const Head& head, uint8_t* scratch);
    size_t (*attend_bytes)(int length, int size);

    // out[o] = act(Σ weight[o][i]·x[i] + bias[o]) in FP32, `bias` may be null.
    void (*dense)(
        const float* x, const float* weight, const float* bias, int outputs, int inputs, Activation act, float* out);

    Steps training;
};

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512vnni_kernels;
extern const Kernels avx512amx_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#endif

}  // namespace kdqat
