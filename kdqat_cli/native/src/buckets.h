// Uniform weights in groups of consecutive values: levels and back, random words to round with, and the gradient of the
// range. Written once over a vector type, like floats.h; the plain loops are vectorised by the compiler.
//
// quantizers/uniform.py has the formulas. Random words are those of Philox 4x32-7 (Salmon, Moraes, Dror and Shaw, SC
// 2011), the variant with the fewest rounds that passes BigCrush: a function of a seed and a counter. So the word of a
// value depends on the place of the value alone, and every kernel and any number of threads draw the same.

#pragma once

#include "floats.h"

namespace kdqat {
namespace {

// The smallest and the largest value of a group; NaN if a value is not finite.
template <class S>
void extremes(const float* x, int64_t count, float* low, float* high) {
    if (count < S::W) {
        float check = 0.0f;
        *low = *high = x[0];
        for (int64_t i = 0; i < count; ++i) {
            *low = smaller(*low, x[i]);
            *high = larger(*high, x[i]);
            check += x[i] * 0.0f;
        }
        *low += check;
        *high += check;
        return;
    }
    Floats<S> least = S::load(x), most = least, check = S::broadcast(0.0f);
    auto take = [&](int64_t i) {
        const Floats<S> some = S::load(x + i);
        least = S::min(some, least);
        most = S::max(some, most);
        check = S::fma(some, S::broadcast(0.0f), check);
    };
    for (int64_t i = 0; i + S::W <= count; i += S::W) take(i);
    if (count % S::W) take(count - S::W);  // takes some values twice
    const float fault = S::total(check);
    *low = -S::largest(-least) + fault;
    *high = S::largest(most) + fault;
}

// level = (x - low) / step, rounded half to even; below 256. NaN gets any level.
inline void levels(const float* x, int64_t count, float low, float step, uint8_t* out) {
    constexpr float kShift = 12582912.0f;  // beyond 1.5·2^23 a float has no fraction left
    for (int64_t i = 0; i < count; ++i) {
        const float shifted = (x[i] - low) / step + kShift;
        uint32_t bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        out[i] = static_cast<uint8_t>(bits);
    }
}

// The words of values 256·block to 256·block + 255: value 64·w + l has word w of counter 64·block + l.
inline void random_words(uint64_t seed, uint64_t block, uint32_t* words) {
    constexpr int kCounters = kWords / 4, kRounds = 7;
    const uint64_t first = block * kCounters;  // the lower half does not overflow within a block
    const uint32_t low = static_cast<uint32_t>(first), high = static_cast<uint32_t>(first >> 32);
    for (uint32_t l = 0; l < kCounters; ++l) {
        uint32_t a = low + l, b = high, c = 0, d = 0;
        uint32_t key = static_cast<uint32_t>(seed), other = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 7
        for (int round = 0; round < kRounds; ++round) {
            const uint64_t p = uint64_t{0xD2511F53} * a, q = uint64_t{0xCD9E8D57} * c;
            a = static_cast<uint32_t>(q >> 32) ^ b ^ key;
            b = static_cast<uint32_t>(q);
            c = static_cast<uint32_t>(p >> 32) ^ d ^ other;
            d = static_cast<uint32_t>(p);
            key += 0x9E3779B9;
            other += 0xBB67AE85;
        }
        words[l] = a;
        words[kCounters + l] = b;
        words[2 * kCounters + l] = c;
        words[3 * kCounters + l] = d;
    }
}

// level = t rounded up where a random number in [0, 1), of the highest 24 bits of a word, is below the fraction of t,
// else down; t = (x - low) / step. NaN gets any level.
inline void drawn_levels(
    const float* x, const uint32_t* words, int64_t count, float low, float step, float most, uint8_t* out) {
    for (int64_t i = 0; i < count; ++i) {
        float t = (x[i] - low) / step;
        t = t > 0.0f ? t : 0.0f;
        t = t < most ? t : most;  // t of the largest value may be slightly larger than `most`
        const int32_t whole = static_cast<int32_t>(t);
        const float drawn = static_cast<float>(static_cast<int32_t>(words[i] >> 8)) * 0x1p-24f;
        out[i] = static_cast<uint8_t>(whole + (drawn < t - static_cast<float>(whole)));
    }
}

// Unless told not to, GCC fuses a product and a sum into one operation with one rounding; clang does so in a statement.
#if defined(__GNUC__) && !defined(__clang__)
#define KDQAT_ROUNDS_TWICE __attribute__((optimize("fp-contract=off")))
#else
#define KDQAT_ROUNDS_TWICE
#endif

// value = scale·level + offset, the product rounded too, as torch does it.
template <class Level>
KDQAT_ROUNDS_TWICE void values(const Level* levels, int64_t count, float scale, float offset, float* out) {
    for (int64_t i = 0; i < count; ++i) {
        const float product = scale * static_cast<float>(levels[i]);
        out[i] = product + offset;
    }
}

// out = grad; returns Σ grad·(value - x).
template <class S>
float moved(const float* grad, const float* x, const float* value, int64_t count, float* out) {
    return total_of<S>(static_cast<int>(count), [&](int i, int left) {
        const Floats<S> g = load_some<S>(grad + i, left);
        store_some<S>(out + i, g, left);
        return g * (load_some<S>(value + i, left) - load_some<S>(x + i, left));
    });
}

}  // namespace
}  // namespace kdqat
