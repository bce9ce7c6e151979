// Training steps in one pass over a tensor, for which torch needs several. Written once over a vector type, like
// floats.h.
//
// A training that diverges must be noticed: a row with an infinity or NaN gets a scale or a divergence that is not
// finite either.

#pragma once

#include <limits>

#include "buckets.h"
#include "floats.h"

namespace kdqat {
namespace {

// The largest |x| of a row; not finite if the row is not finite.
template <class S>
float largest(const float* row, int width) {
    Floats<S> most = S::broadcast(0.0f), check = S::broadcast(0.0f);
    for (int i = 0; i < width; i += S::W) {
        const Floats<S> x = load_some<S>(row + i, width - i);
        most = S::max(S::max(x, -x), most);
        check = S::fma(x, S::broadcast(0.0f), check);
    }
    return S::largest(most) + S::total(check);
}

// One row with a given scale; `values` (the products code·scale) and `inside` (|x| < clip) may be null.
template <class S>
void round_row(const float* row, int width, float clip, float scale, int8_t* codes, float* values, uint8_t* inside) {
    const Floats<S> divisor = S::broadcast(scale), top = S::broadcast(127.0f);
    for (int i = 0; i < width; i += S::W) {
        const int left = width - i;
        const Floats<S> x = load_some<S>(row + i, left) / divisor;
        const Floats<S> rounded = S::round(S::max(S::min(x, top), -top));
        if (left >= S::W) {
            S::store_bytes(codes + i, rounded);
        } else {
            int8_t last[S::W];
            S::store_bytes(last, rounded);
            std::memcpy(codes + i, last, static_cast<size_t>(left));
        }
        if (values) store_some<S>(values + i, rounded * divisor, left);
    }
    if (inside) {
        for (int i = 0; i < width; ++i) inside[i] = fabsf(row[i]) < clip;
    }
}

// The end of `divergence` with a floor ε for probabilities: Σ a·(log a - log b) with a = max(p_t, ε) and b = max(p_s,
// ε), and slope = (p_s·Σc - c)·factor with c = a where p_s >= ε, else 0. log_own(i) and log_taught(i) give
// vectors of log p; `own` and `slope` hold exponentials, whose products with `inverse_s` and `inverse_t` are p_s and
// p_t.
template <class S, class LogOwn, class LogTaught>
float floored(
    LogOwn&& log_own, LogTaught&& log_taught, const float* keep, int length, float inverse_s, float inverse_t,
    float factor, float floor, float* slope, float* own) {
    const Floats<S> least = S::broadcast(floor), log_least = S::broadcast(logf(floor));
    Floats<S> total = S::broadcast(0.0f), check = S::broadcast(0.0f);  // the floor would hide what is not finite
    for (int i = 0; i < length; i += S::W) {
        const int left = length - i;
        const Floats<S> p_s = load_some<S>(own + i, left) * S::broadcast(inverse_s);
        const Floats<S> p_t = load_some<S>(slope + i, left) * S::broadcast(inverse_t);
        const Floats<S> a = S::max(p_t, least) * load_some<S>(keep + i, left);
        const Floats<S> t = log_taught(i), s = log_own(i);
        total = S::fma(a, S::max(t, log_least) - S::max(s, log_least), total);
        check = S::fma(t, S::broadcast(0.0f), S::fma(s, S::broadcast(0.0f), check));
        store_some<S>(own + i, p_s, left);
        store_some<S>(slope + i, a, left);
    }
    for (int i = 0; i < length; ++i) slope[i] = own[i] < floor ? 0.0f : slope[i];
    Floats<S> followed = S::broadcast(0.0f);
    for (int i = 0; i < length; i += S::W) followed = followed + load_some<S>(slope + i, length - i);
    const Floats<S> share = S::broadcast(S::total(followed));
    for (int i = 0; i < length; i += S::W) {
        const int left = length - i;
        const Floats<S> c = load_some<S>(slope + i, left);
        store_some<S>(slope + i, (load_some<S>(own + i, left) * share - c) * S::broadcast(factor), left);
    }
    return S::total(total + check);
}

// KL(p_t ‖ p_s) of one query, p = softmax(sharpness·score) over the keys where `keep` is 1 (and `top` infinite;
// elsewhere 0, and the smallest float), and slope = (p_s - p_t)·factor; with a floor that is not 0 see `floored`.
// `spare` holds two rows.
template <class S>
float divergence(
    const float* student, const float* teacher, const float* keep, const float* top, int length, float sharpness,
    float factor, float floor, float* slope, float* spare) {
    constexpr float kLowest = -std::numeric_limits<float>::max();
    const Floats<S> sharp = S::broadcast(sharpness), lowest = S::broadcast(kLowest);
    auto score = [&](const float* from, int i) {
        return S::min(load_some<S>(from + i, length - i) * sharp, load_some<S>(top + i, length - i));
    };
    Floats<S> most_s = lowest, most_t = lowest;
    for (int i = 0; i < length; i += S::W) {
        if (i + S::W > length) {  // the rest of the vector has no keys
            float rest[2] = {kLowest, kLowest};
            for (int j = i; j < length; ++j) {
                rest[0] = larger(rest[0], smaller(student[j] * sharpness, top[j]));
                rest[1] = larger(rest[1], smaller(teacher[j] * sharpness, top[j]));
            }
            most_s = S::max(most_s, S::broadcast(rest[0]));
            most_t = S::max(most_t, S::broadcast(rest[1]));
            break;
        }
        most_s = S::max(score(student, i), most_s);
        most_t = S::max(score(teacher, i), most_t);
    }
    const float largest_s = S::largest(most_s), largest_t = S::largest(most_t);
    Floats<S> total_s = S::broadcast(0.0f), total_t = S::broadcast(0.0f);
    for (int i = 0; i < length; i += S::W) {
        const int left = length - i;
        const Floats<S> kept = load_some<S>(keep + i, left);
        const Floats<S> s = score(student, i), t = score(teacher, i);
        const Floats<S> own = exp<S>(s - S::broadcast(largest_s)) * kept;
        const Floats<S> taught = exp<S>(t - S::broadcast(largest_t)) * kept;
        store_some<S>(spare + i, t - s, left);
        store_some<S>(spare + length + i, own, left);
        store_some<S>(slope + i, taught, left);
        total_s = total_s + own;
        total_t = total_t + taught;
    }
    const float sum_s = S::total(total_s), sum_t = S::total(total_t);
    if (floor > 0.0f) {
        const float log_s = largest_s + logf(sum_s), log_t = largest_t + logf(sum_t);
        auto log_own = [&](int i) { return score(student, i) - S::broadcast(log_s); };
        auto log_taught = [&](int i) { return score(teacher, i) - S::broadcast(log_t); };
        return floored<S>(
            log_own, log_taught, keep, length, 1.0f / sum_s, 1.0f / sum_t, factor, floor, slope, spare + length);
    }
    const Floats<S> inverse_s = S::broadcast(1.0f / sum_s), inverse_t = S::broadcast(1.0f / sum_t);
    Floats<S> total = S::broadcast(0.0f);
    for (int i = 0; i < length; i += S::W) {
        const int left = length - i;
        const Floats<S> taught = load_some<S>(slope + i, left) * inverse_t;
        total = S::fma(taught, load_some<S>(spare + i, left), total);
        const Floats<S> own = load_some<S>(spare + length + i, left) * inverse_s;
        store_some<S>(slope + i, (own - taught) * S::broadcast(factor), left);
    }
    const float shift = largest_s - largest_t + logf(sum_s) - logf(sum_t);
    return S::total(total) + shift;
}

// out = x·factor where bits < threshold, else 0; `kept` receives the mask.
inline void drop(
    const float* x, const int16_t* bits, int64_t count, int threshold, float factor, float* out, uint8_t* kept) {
    for (int64_t i = 0; i < count; ++i) kept[i] = bits[i] < threshold;
    for (int64_t i = 0; i < count; ++i) out[i] = bits[i] < threshold ? x[i] * factor : 0.0f;
}

// out = x·factor where `kept` is 1, else 0.
inline void keep(const float* x, const uint8_t* kept, int64_t count, float factor, float* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = kept[i] ? x[i] * factor : 0.0f;
}

template <class S>
constexpr Steps steps_of() {
    return {
        largest<S>,   round_row<S>, divergence<S>,   extremes<S>,    levels, random_words,
        drawn_levels, moved<S>,     values<uint8_t>, values<int8_t>, drop,   keep,
    };
}

}  // namespace
}  // namespace kdqat
