// AVX-512 with VNNI: vectors of 16 floats, and integer tiles in registers. avx512vnni.cpp has their cost;
// avx512amx.cpp uses them where AMX is not faster.

#pragma once

#include <immintrin.h>

#include "attention.h"
#include "linear.h"

namespace kdqat {
namespace {

struct Simd {
    using Floats = __m512;
    static constexpr int W = 16;
    static constexpr bool kFused = true;
    static Floats load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
    static Floats broadcast(float x) { return _mm512_set1_ps(x); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
    static Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
    static Floats round(Floats x) {  // below 2^22, as in generic.h: vrndscaleps takes twice the time
        const Floats shift = broadcast(12582912.0f);
        return _mm512_sub_ps(_mm512_add_ps(x, shift), shift);
    }
    static Floats scale(Floats x, Floats exponent) { return _mm512_scalef_ps(x, exponent); }
    static float total(Floats x) { return _mm512_reduce_add_ps(x); }
    static float largest(Floats x) { return _mm512_reduce_max_ps(x); }
    static Floats from_ints(const int32_t* p, int32_t less) {
        return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(less)));
    }
    static Floats from_bytes(const int8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static void store_bytes(int8_t* p, Floats x) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
    }
};

inline __m512i four(const int8_t* p) {
    int32_t value;
    std::memcpy(&value, p, 4);
    return _mm512_set1_epi32(value);
}

struct Tiles {
    static constexpr int kRows = 8, kPanels = 3, kDirect = kAlways;

    template <int R, int P, bool Packed>
    [[gnu::noinline]] static void dot(
        const int8_t* x, size_t stride, const uint8_t* codes, size_t panel_bytes, int groups, int32_t* acc) {
        static_assert(Packed, "codes are never expanded here");
        // With few sums, each would wait for its previous product, so each sum has two parts.
        constexpr int kParts = R * P <= 8 ? 2 : 1;
        __m512i sums[kParts][R][P];
#pragma GCC unroll 8
        for (int i = 0; i < kParts; ++i)
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                for (int p = 0; p < P; ++p) sums[i][r][p] = _mm512_setzero_si512();
        const __m512i mask = _mm512_set1_epi8(3);
        for (int g = 0; g < groups; ++g, x += kGroup) {
            __m512i packed[P];
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) {
                const uint8_t* line = codes + static_cast<size_t>(p) * panel_bytes;
                packed[p] = _mm512_loadu_si512(line);
                if constexpr (R == 1) _mm_prefetch(line + P * panel_bytes, _MM_HINT_T0);  // of the next strip
            }
            codes += kLine;
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                __m512i w[P];
#pragma GCC unroll 8
                for (int p = 0; p < P; ++p) {
                    w[p] = _mm512_and_si512(_mm512_srli_epi16(packed[p], static_cast<unsigned>(2 * j)), mask);
                }
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r) {
                    const __m512i a = four(x + static_cast<size_t>(r) * stride + 4 * j);
#pragma GCC unroll 8
                    for (int p = 0; p < P; ++p) {
                        __m512i& sum = sums[j % kParts][r][p];
                        sum = _mm512_dpbusd_epi32(sum, w[p], a);
                    }
                }
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) {
                const __m512i sum =
                    kParts == 2 ? _mm512_add_epi32(sums[0][r][p], sums[kParts - 1][r][p]) : sums[0][r][p];
                _mm512_storeu_si512(acc + (r * P + p) * kPanel, sum);
            }
    }
};

struct Scores {
    static constexpr int kQueries = 8;
    static constexpr uint32_t kKeyBias = 0x80;  // k + 128, in unsigned bytes

    template <int Q>
    [[gnu::noinline]] static void dot(
        const int8_t* q, size_t stride, const uint8_t* keys, size_t step_bytes, int steps, int32_t* out) {
        __m512i sums[Q];
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i) sums[i] = _mm512_setzero_si512();
        for (int step = 0; step < steps; ++step, keys += step_bytes, q += 4) {
            const __m512i k = _mm512_loadu_si512(keys);
#pragma GCC unroll 8
            for (int i = 0; i < Q; ++i)
                sums[i] = _mm512_dpbusd_epi32(sums[i], k, four(q + static_cast<size_t>(i) * stride));
        }
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i) _mm512_storeu_si512(out + i * 16, sums[i]);
    }
};

inline bool has_vnni() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vnni");
}

}  // namespace
}  // namespace kdqat
