// Softmax attention over 8-bit queries, keys, probabilities and values: one head of one sequence.
//
// Scores are exact integer sums times the scales. Softmax is FP32. Its largest probability e / Σe is 1 / Σe, at the
// largest score, so the quantised probabilities are round(127·e) and need no division: their scale is 1 / (127·Σe). (If
// probabilities are clipped at c, e is clipped at c·Σe, which replaces the 1.) The scales of V differ along the sum
// over keys, so V is multiplied by its scales once per head, and the sum is FP32. This is 1/12 of the products of a
// BERT at length 512, and less for shorter sequences.
//
// `Scores` gives kQueries, the queries of a tile; kKeyBias, which is flipped in every byte of K (unsigned × signed
// products want K from 0 to 255; 128·Σq is then subtracted); and dot<Q>(): 16 keys × Q queries. K is laid out as
// [size/4][keys][4], padded with zeros.

#pragma once

#include "floats.h"

namespace kdqat {
namespace {

// Sizes of the scratch: scores (queries × keys_up) and values (keys × size_up) as floats, then K as bytes.
struct AttendScratch {
    size_t keys_up, size_up, score_count, value_count, key_bytes;
    int steps;
    float *scores, *values;
    uint8_t* keys;
};

template <class Scores>
inline AttendScratch attend_sizes(int length, int size) {
    AttendScratch s = {};
    s.keys_up = static_cast<size_t>(up_to(length, 16));
    s.size_up = static_cast<size_t>(up_to(size, 32));
    s.steps = (size + 3) / 4;
    s.score_count = Scores::kQueries * s.keys_up;
    s.value_count = static_cast<size_t>(length) * s.size_up;
    s.key_bytes = static_cast<size_t>(s.steps) * s.keys_up * 4;
    return s;
}

template <class Scores>
size_t attend_bytes(int length, int size) {
    const AttendScratch s = attend_sizes<Scores>(length, size);
    return (s.score_count + s.value_count) * sizeof(float) + s.key_bytes;
}

template <class S, class Scores>
inline void lay_out(const Head& head, const AttendScratch& s) {
    std::memset(s.keys, 0, s.key_bytes);
    for (int j = 0; j < head.length; ++j) {
        const size_t row = static_cast<size_t>(j);
        const int8_t* key = head.key + row * head.stride;
        for (int d = 0; d < head.size; d += 4) {
            uint8_t* to = s.keys + (static_cast<size_t>(d / 4) * s.keys_up + row) * 4;
            if (d + 4 <= head.size) {
                uint32_t four;
                std::memcpy(&four, key + d, 4);
                four ^= Scores::kKeyBias * 0x01010101u;
                std::memcpy(to, &four, 4);
            } else {
                for (int i = 0; d + i < head.size; ++i)
                    to[i] = static_cast<uint8_t>(static_cast<uint8_t>(key[d + i]) ^ Scores::kKeyBias);
            }
        }
        const int8_t* value = head.value + row * head.stride;
        const float scale = head.value_scales[row * head.heads];
        float* to = s.values + row * s.size_up;
        int d = 0;
        for (; d + S::W <= head.size; d += S::W) S::store(to + d, S::from_bytes(value + d) * S::broadcast(scale));
        for (; d < static_cast<int>(s.size_up); ++d)
            to[d] = d < head.size ? static_cast<float>(value[d]) * scale : 0.0f;
    }
}

// Scores of one query, in place → quantised exponentials; returns the scale of the probabilities.
template <class S>
inline float soften(float* scores, int length, float clip) {
    Floats<S> top = S::broadcast(-INFINITY);
    int j = 0;
    for (; j + S::W <= length; j += S::W) top = S::max(S::load(scores + j), top);
    float largest = S::largest(top);
    for (; j < length; ++j) largest = scores[j] > largest ? scores[j] : largest;
    const Floats<S> shift = S::broadcast(largest);
    Floats<S> total = S::broadcast(0.0f);
    for (j = 0; j + S::W <= length; j += S::W) {
        const Floats<S> e = exp<S>(S::load(scores + j) - shift);
        total = total + e;
        S::store(scores + j, e);
    }
    float sum = S::total(total);
    if (j < length) {
        float last[S::W] = {};
        S::store(last, exp<S>(load_some<S>(scores + j, length - j) - shift));
        for (int i = 0; j + i < length; ++i) sum += scores[j + i] = last[i];
    }
    const float cut = clip * sum < 1.0f ? clip * sum : 1.0f;
    const Floats<S> limit = S::broadcast(cut), levels = S::broadcast(127.0f / cut);
    for (j = 0; j < length; j += S::W) {
        const Floats<S> e = S::min(load_some<S>(scores + j, length - j), limit);
        store_some<S>(scores + j, S::round(e * levels), length - j);
    }
    return cut / (127.0f * sum);
}

template <class S, int Q, int C>
inline void weigh(
    const float* weights, size_t weights_stride, const float* values, size_t values_stride, int length,
    const float* scales, int count, float* out, size_t out_stride) {
    Floats<S> sums[Q][C];
    for (int q = 0; q < Q; ++q)
        for (int c = 0; c < C; ++c) sums[q][c] = S::broadcast(0.0f);
    for (int j = 0; j < length; ++j, values += values_stride) {
        Floats<S> v[C];
        for (int c = 0; c < C; ++c) v[c] = S::load(values + c * S::W);
        for (int q = 0; q < Q; ++q) {
            const Floats<S> p = S::broadcast(weights[static_cast<size_t>(q) * weights_stride + static_cast<size_t>(j)]);
            for (int c = 0; c < C; ++c) sums[q][c] = S::fma(p, v[c], sums[q][c]);
        }
    }
    for (int q = 0; q < Q; ++q)
        for (int c = 0; c < C && c * S::W < count; ++c) {
            float* to = out + static_cast<size_t>(q) * out_stride + c * S::W;
            store_some<S>(to, sums[q][c] * S::broadcast(scales[q]), count - c * S::W);
        }
}

template <class S, class Scores, int Q>
inline void attend_queries(const Head& head, const AttendScratch& s, int first) {
    alignas(64) int32_t dots[Q * 16];
    float scales[Q];
    const size_t top = static_cast<size_t>(first);
    const int8_t* query = head.query + top * head.stride;
    for (int j = 0; j < head.length; j += 16) {
        const int keys = head.length - j < 16 ? head.length - j : 16;
        Scores::template dot<Q>(query, head.stride, s.keys + static_cast<size_t>(j) * 4, s.keys_up * 4, s.steps, dots);
        float key_scales[16] = {};
        for (int i = 0; i < keys; ++i) key_scales[i] = head.key_scales[static_cast<size_t>(j + i) * head.heads];
        for (int q = 0; q < Q; ++q) {
            const size_t row = (top + static_cast<size_t>(q)) * head.heads;
            const int32_t flipped = Scores::kKeyBias ? 128 * head.query_sums[row] : 0;
            const Floats<S> scale = S::broadcast(head.query_scales[row] * head.scaling);
            float* to = s.scores + static_cast<size_t>(q) * s.keys_up + j;
            for (int i = 0; i < 16; i += S::W) {
                S::store(to + i, S::from_ints(dots + q * 16 + i, flipped) * (scale * S::load(key_scales + i)));
            }
            if (head.relative) {
                const float* bias = head.relative + (j - first - q);
                for (int i = 0; i < keys; ++i) to[i] += bias[i];
            }
        }
    }
    for (int q = 0; q < Q; ++q)
        scales[q] = soften<S>(s.scores + static_cast<size_t>(q) * s.keys_up, head.length, head.clip);
    constexpr int kColumns = S::W == 4 ? 4 : 2;  // vectors of the context in one pass: at most 32 values
    for (int d = 0; d < head.size; d += kColumns * S::W) {
        weigh<S, Q, kColumns>(
            s.scores, s.keys_up, s.values + d, s.size_up, head.length, scales, head.size - d,
            head.context + top * head.context_stride + d, head.context_stride);
    }
}

template <class S, class Scores, int Q = Scores::kQueries>
inline void attend_rest(const Head& head, const AttendScratch& s, int first, int count) {
    if constexpr (Q == 1) {
        attend_queries<S, Scores, 1>(head, s, first);
    } else if (count == Q) {
        attend_queries<S, Scores, Q>(head, s, first);
    } else {
        attend_rest<S, Scores, Q - 1>(head, s, first, count);
    }
}

template <class S, class Scores>
void attend(const Head& head, uint8_t* memory) {
    AttendScratch s = attend_sizes<Scores>(head.length, head.size);
    s.scores = reinterpret_cast<float*>(memory);
    s.values = s.scores + s.score_count;
    s.keys = reinterpret_cast<uint8_t*>(s.values + s.value_count);
    lay_out<S, Scores>(head, s);
    int first = 0;
    for (; first + Scores::kQueries <= head.length; first += Scores::kQueries) {
        attend_queries<S, Scores, Scores::kQueries>(head, s, first);
    }
    if (first < head.length) attend_rest<S, Scores>(head, s, first, head.length - first);
}

}  // namespace
}  // namespace kdqat
