/* The C interface of the engine. A call returns 0 on success; on failure it returns -1, and kdqat_error() has a message. */

#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KDQAT_API __attribute__((visibility("default")))

/* Ternary matrices of a layer; the last two belong to no layer (layer -1). */
enum {
    KDQAT_QUERY,
    KDQAT_KEY,
    KDQAT_VALUE,
    KDQAT_OUTPUT,
    KDQAT_UP,
    KDQAT_GATE,
    KDQAT_DOWN,
    KDQAT_PROJECTION, /* embedding -> hidden */
    KDQAT_POOLER,
    KDQAT_MATRICES
};

/* FP32 vectors of a layer; those from KDQAT_POSITIONS on belong to no layer (layer -1). */
enum {
    KDQAT_ATTENTION_GAIN,
    KDQAT_ATTENTION_BIAS,
    KDQAT_OUTPUT_GAIN,
    KDQAT_OUTPUT_BIAS,
    KDQAT_POSITIONS,
    KDQAT_TYPES,
    KDQAT_EMBEDDING_GAIN,
    KDQAT_EMBEDDING_BIAS,
    KDQAT_FINAL_GAIN,
    KDQAT_HEAD_WEIGHT,
    KDQAT_HEAD_BIAS,
    KDQAT_CLASSIFIER_WEIGHT,
    KDQAT_CLASSIFIER_BIAS,
    KDQAT_VECTORS
};

/* What the head does with the hidden states. */
enum {
    KDQAT_POOLED, /* first token, ternary pooler */
    KDQAT_DENSE,  /* first token, FP32 dense layer */
    KDQAT_MEAN    /* mean of the tokens */
};

typedef struct {
    int32_t hidden, embedding, layers, heads, head_size, inner, words, labels;
    int32_t positions, types; /* rows of those tables; 0: there is no table */
    int32_t pre_norm, gated;  /* 1: T5's order (RMSNorm first, no biases); 1: T5's gated feed-forward */
    int32_t head;             /* KDQAT_POOLED, ... */
    int32_t activation, head_activation; /* kernels.h: enum Activation */
    float epsilon, embedding_epsilon, scaling;
    float clip; /* activations are clamped to it; infinity: no clamp */
} kdqat_config;

typedef struct kdqat_model kdqat_model;
typedef struct kdqat_chain kdqat_chain;

KDQAT_API const char* kdqat_error(void);

/* The kernels that this CPU can run, the fastest first: their number, and a name by index. */
KDQAT_API int kdqat_kernels(void);
KDQAT_API const char* kdqat_kernel(int index);
/* 1 if the CPU has x86's VNNI, with registers of 512 or of 256 bits. */
KDQAT_API int kdqat_vnni(void);

/* A new model is empty. Fill it part by part and complete it; then it is only read. Sizes are checked against `config`. */
KDQAT_API kdqat_model* kdqat_model_new(const kdqat_config* config, const char* kernel, int threads);
/* The number of threads: as many as were asked for, at most 256, or fewer if the system cannot start them. */
KDQAT_API int kdqat_model_threads(const kdqat_model* model);
KDQAT_API int kdqat_model_words(
    kdqat_model* model, const uint8_t* trits, int64_t bytes, int rows, int columns, const float* scales);
KDQAT_API int kdqat_model_matrix(
    kdqat_model* model, int layer, int which, const uint8_t* trits, int64_t bytes, int outputs, int inputs, float scale,
    const float* bias);
KDQAT_API int kdqat_model_vector(kdqat_model* model, int layer, int which, const float* values, int64_t count);
KDQAT_API int kdqat_model_complete(kdqat_model* model);
/* `words`, `types` and `positions` hold the sequences one after the other; `relative` is (heads, 2 span - 1) or null.
 * Only one call may run at a time. */
KDQAT_API int kdqat_model_forward(
    kdqat_model* model, const int32_t* words, const int32_t* types, const int32_t* positions, const int32_t* lengths,
    int sequences, const float* relative, int span, float* logits);
KDQAT_API void kdqat_model_free(kdqat_model* model);

/* A chain of ternary linear layers, each on the quantised output of the layer before, for benchmarks and tests. */
KDQAT_API kdqat_chain* kdqat_chain_new(const char* kernel, int threads);
KDQAT_API int kdqat_chain_add(
    kdqat_chain* chain, const uint8_t* trits, int64_t bytes, int outputs, int inputs, float scale, const float* bias,
    int activation);
/* x (rows, inputs of the first) -> out (rows, outputs of the last). */
KDQAT_API int kdqat_chain_run(kdqat_chain* chain, const float* x, int rows, float clip, float* out);
KDQAT_API void kdqat_chain_free(kdqat_chain* chain);

/* Training steps on FP32 tensors, with `threads` threads. */

/* Rounds rows of `width` values, the last dimension of (a, b, c, width); the first three dimensions have `strides`.
 * Writes int8 codes; into `values`, if not null, code * scale; into `inside`, if not null, whether |x| < clip; all
 * contiguous. A scale is max|x| / 127 after the clamp: of a row, or of all rows with `shared`. `reached` receives whether
 * a value reaches the clamp. */
KDQAT_API int kdqat_round(
    const char* kernel, int threads, const float* x, const int64_t* sizes, const int64_t* strides, int width,
    float clip, int shared, int8_t* codes, float* values, uint8_t* inside, float* scales, int32_t* reached);
/* A student's linear layer: out (rows, outputs) = (sum of code * sign) * (scale of the row * alpha) + bias, with exact
 * sums, and the product and the last sum rounded once. `codes` is (rows, inputs), and `signs`, of -1, 0 and 1, (outputs,
 * inputs). `bias` may be null. */
KDQAT_API int kdqat_product(
    const char* kernel, int threads, const int8_t* codes, const float* scales, int rows, int inputs,
    const int8_t* signs, int outputs, float alpha, const float* bias, float* out);
/* The sum of weight * KL(teacher || student) over the rows of scores (batch, heads, length, length), and its gradient
 * with respect to the student's scores. The softmax is of score / temperature over the keys of `mask` (batch, length).
 * `weight` is (batch, length), one per query; a query of weight 0 is left out. Probabilities below `floor` are raised to
 * `floor` and get no gradient; 0: no floor. */
KDQAT_API int kdqat_divergence(
    const char* kernel, int threads, const float* student, const float* teacher, const uint8_t* mask,
    const float* weight, int batch, int heads, int length, float temperature, float floor, float* slope,
    double* sum);
/* Groups of `size` consecutive values (the last may be shorter) -> levels of at most `most`, steps and minima
 * (quantizers/uniform.py has the formula). A group with a range below `constant` has level 0. Rounds to nearest, or, with
 * a seed, stochastically: buckets.h says how a value's random word follows from the seed and its place. */
KDQAT_API int kdqat_levels(
    const char* kernel, int threads, const float* x, int64_t count, int64_t size, int most, float constant,
    const uint64_t* seed, uint8_t* levels, float* scales, float* offsets);
/* The gradient with respect to x, from `grad`, the gradient with respect to `value`, which x was quantised to in groups of
 * `size`, where the extremes of a group determine its range (quantizers/uniform.py has the formula). A group with a range
 * below `constant` gets `grad`. */
KDQAT_API int kdqat_range_gradient(
    const char* kernel, int threads, const float* grad, const float* x, const float* value, int64_t count, int64_t size,
    float constant, float* out);
/* scale * level + offset of groups of `size` levels. Levels are int8_t if `negative`, else uint8_t. `offsets` may be
 * null. */
KDQAT_API int kdqat_values(
    const char* kernel, int threads, const void* levels, int negative, int64_t count, int64_t size, const float* scales,
    const float* offsets, float* values);
/* Dropout: x * factor where bits < threshold, else 0; `kept` receives the mask. kdqat_keep takes the mask instead. */
KDQAT_API int kdqat_drop(
    const char* kernel, int threads, const float* x, const int16_t* bits, int64_t count, int threshold, float factor,
    float* out, uint8_t* kept);
KDQAT_API int kdqat_keep(
    const char* kernel, int threads, const float* x, const uint8_t* kept, int64_t count, float factor, float* out);

/* Decodes canonical Huffman codes (codecs/huffman.py has the format): blocks of `block` levels each (the last may be
 * shorter) with `sizes` bytes each and `bytes` in total. `table` has, per 12 bits, a level plus 256 times the length of
 * its code. */
KDQAT_API int kdqat_huffman(
    const uint8_t* blocks, int64_t bytes, const uint16_t* sizes, const uint16_t* table, int64_t block, int64_t count,
    uint8_t* levels);
/* Encodes levels: `codes` has, per level, its code plus 2^12 times the length of the code, which is 1 to 12. Writes the size
 * of each block, and the blocks without gaps, in `capacity` bytes: 8 more than they take. */
KDQAT_API int kdqat_huffman_encode(
    const uint8_t* levels, int64_t count, int64_t block, const uint16_t* codes, uint16_t* sizes, uint8_t* blocks,
    int64_t capacity);

/* Single steps, for tests. */
KDQAT_API int kdqat_quantize(
    const char* kernel, const float* x, int rows, int width, float clip, int8_t* out, float* scales, int32_t* sums);
KDQAT_API int kdqat_activate(const char* kernel, const float* x, int count, int activation, float* out);
/* One head; all int8 (length, size), scales (length), context (length, size). */
KDQAT_API int kdqat_attend(
    const char* kernel, const int8_t* query, const int8_t* key, const int8_t* value, const float* query_scales,
    const float* key_scales, const float* value_scales, int length, int size, float scaling, float clip,
    const float* relative, float* context);

#ifdef __cplusplus
}
#endif
