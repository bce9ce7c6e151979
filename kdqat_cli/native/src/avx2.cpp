// AVX2. Many rows use tables (tables.h), few rows use tiles. In a tile, products with {0, 1, 2} are summed in 16 bits,
// which takes two instructions for 32 products; general int8 takes three.
//
// vpmaddubsw multiplies 32 unsigned codes with 32 signed activations and adds neighbours: 16 sums of two, each at most
// 2·2·127 = 508 in magnitude. 64 of those still fit: 64·508 = 32,512 < 32,768. So after 64 steps of four inputs (16
// groups) vpmaddwd with ones widens the sums, adding the two that belong to one output, to int32. A half line (8
// outputs × 4 inputs) is one register; a tile of 6 rows × 1 panel keeps 12 sums, and loads 2 half lines and 6
// activations for 12 products.
//
// Q·K has no such bound: |q|·k, with the sign of q moved to k, keeps vpmaddubsw below 2·127·127 = 32,258, and each sum
// is widened at once.
//
// Tiles, measured on a busy AMD EPYC (Zen 4): CPU time, best of many runs, one thread, a 768-wide chain with its
// quantisation. 84 G products per second at 1 row, 142 at 4, about 145 at 128; a loop of only the two instructions
// reached 188. `python benchmarks/linears.py --kernel avx2 --threads 1` measures the same chain in elapsed time, which
// is close to these figures only on an idle machine.

#if defined(__x86_64__)

#include <immintrin.h>

#include "attention.h"
#include "tables.h"
#include "training.h"

namespace kdqat {
namespace {

struct Simd {
    using Floats = __m256;
    static constexpr int W = 8;
    static constexpr bool kFused = true;
    static Floats load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
    static Floats broadcast(float x) { return _mm256_set1_ps(x); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    static Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
    static Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
    static Floats round(Floats x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static Floats scale(Floats x, Floats exponent) {
        return _mm256_castsi256_ps(
            _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_cvtps_epi32(exponent), 23)));
    }
    static float total(Floats x) {
        __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        half = _mm_add_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
    }
    static float largest(Floats x) {
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
    }
    static Floats from_ints(const int32_t* p, int32_t less) {
        const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(values, _mm256_set1_epi32(less)));
    }
    static Floats from_bytes(const int8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static void store_bytes(int8_t* p, Floats x) {
        const __m256i values = _mm256_cvtps_epi32(x);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
    }
};

inline __m256i half_line(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

inline __m256i four(const int8_t* p) {
    int32_t value;
    std::memcpy(&value, p, 4);
    return _mm256_set1_epi32(value);
}

// sum += words, in the same register and in program order. With the intrinsic, GCC computes the products of all rows
// first and then moves sums through memory: 95 instead of 147 G products per second.
inline void add_words(__m256i& sum, __m256i words) { asm volatile("vpaddw %1, %0, %0" : "+x"(sum) : "x"(words)); }

struct Tiles {
    static constexpr int kRows = 6, kPanels = 1, kDirect = 5;
    static constexpr int kSafeGroups = 16;

    template <int R, int P, bool Packed>
    [[gnu::noinline]] static void dot(
        const int8_t* x, size_t stride, const uint8_t* codes, size_t, int groups, int32_t* acc) {
        static_assert(P == 1, "a second panel would not fit into 16 registers");
        const __m256i ones = _mm256_set1_epi16(1), mask = _mm256_set1_epi8(3);
        for (int done = 0; done < groups; done += kSafeGroups) {
            const int here = groups - done < kSafeGroups ? groups - done : kSafeGroups;
            __m256i sums[R][2];
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
            for (int g = 0; g < here; ++g, x += kGroup, codes += Packed ? kLine : 4 * kLine) {
#pragma GCC unroll 4
                for (int j = 0; j < 4; ++j) {
                    __m256i low, high;
                    if constexpr (Packed) {
                        low = _mm256_and_si256(_mm256_srli_epi16(half_line(codes), 2 * j), mask);
                        high = _mm256_and_si256(_mm256_srli_epi16(half_line(codes + 32), 2 * j), mask);
                    } else {
                        low = half_line(codes + j * kLine);
                        high = half_line(codes + j * kLine + 32);
                    }
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r) {
                        const __m256i a = four(x + static_cast<size_t>(r) * stride + 4 * j);
                        add_words(sums[r][0], _mm256_maddubs_epi16(low, a));
                        add_words(sums[r][1], _mm256_maddubs_epi16(high, a));
                    }
                }
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
                for (int h = 0; h < 2; ++h) {
                    __m256i* to = reinterpret_cast<__m256i*>(acc + r * kPanel + h * 8);
                    const __m256i wide = _mm256_madd_epi16(sums[r][h], ones);
                    _mm256_storeu_si256(to, done ? _mm256_add_epi32(_mm256_loadu_si256(to), wide) : wide);
                }
            }
        }
    }

    template <int P>
    [[gnu::noinline]] static void expand(const uint8_t* codes, size_t, int groups, uint8_t* out) {
        const __m256i mask = _mm256_set1_epi8(3);
        for (int half = 0; half < 2 * groups; ++half, codes += 32) {
            const __m256i packed = half_line(codes);
            uint8_t* to = out + (half / 2) * 4 * kLine + (half % 2) * 32;
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const __m256i w = _mm256_and_si256(_mm256_srli_epi16(packed, 2 * j), mask);
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + j * kLine), w);
            }
        }
    }
};

struct Scores {
    static constexpr int kQueries = 4;
    static constexpr uint32_t kKeyBias = 0;

    template <int Q>
    [[gnu::noinline]] static void dot(
        const int8_t* q, size_t stride, const uint8_t* keys, size_t step_bytes, int steps, int32_t* out) {
        const __m256i ones = _mm256_set1_epi16(1);
        __m256i sums[Q][2];
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i) sums[i][0] = sums[i][1] = _mm256_setzero_si256();
        for (int step = 0; step < steps; ++step, keys += step_bytes, q += 4) {
            const __m256i low = half_line(keys), high = half_line(keys + 32);
#pragma GCC unroll 8
            for (int i = 0; i < Q; ++i) {
                const __m256i a = four(q + static_cast<size_t>(i) * stride), size = _mm256_abs_epi8(a);
                const __m256i first = _mm256_maddubs_epi16(size, _mm256_sign_epi8(low, a));
                const __m256i second = _mm256_maddubs_epi16(size, _mm256_sign_epi8(high, a));
                sums[i][0] = _mm256_add_epi32(sums[i][0], _mm256_madd_epi16(first, ones));
                sums[i][1] = _mm256_add_epi32(sums[i][1], _mm256_madd_epi16(second, ones));
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * 16), sums[i][0]);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * 16 + 8), sums[i][1]);
        }
    }
};

bool available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

const Kernels avx2_kernels = {
    "avx2",           available,      quantize<Simd>,       linear_by_rows<Simd, Tiles>, table_bytes<Tiles>,
    normalize<Simd>,  multiply<Simd>, attend<Simd, Scores>, attend_bytes<Scores>,        dense<Simd>,
    steps_of<Simd>(),
};

}  // namespace kdqat

#endif
