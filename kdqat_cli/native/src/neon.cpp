// NEON with dot product (ARMv8.2): sdot adds four products of signed bytes to each of four int32 sums.
//
// Codes 0, 1 and 2 are valid signed bytes. A line is four registers of 4 outputs × 4 inputs. Sixteen activations of a
// row (one group) fill a register; four at a time are broadcast to another register. A tile of 4 rows × 1 panel keeps
// 16 sums. |sum| <= 2·127·inputs, as with VNNI. Tested under qemu (`make test-arm`); its speed was not measured.

#if defined(__aarch64__)

#include <arm_neon.h>

#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "attention.h"
#include "generic.h"
#include "linear.h"
#include "training.h"

namespace kdqat {
namespace {

struct Simd : GenericSimd {
    static constexpr bool kFused = true;
    static Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
    static Floats max(Floats a, Floats b) { return vmaxq_f32(a, b); }
    static Floats min(Floats a, Floats b) { return vminq_f32(a, b); }
    static Floats round(Floats x) { return vrndnq_f32(x); }
    static float largest(Floats x) { return vmaxvq_f32(x); }
    static Floats from_bytes(const int8_t* p) {
        int32_t bytes;
        std::memcpy(&bytes, p, 4);
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes))))));
    }
    static void store_bytes(int8_t* p, Floats x) {
        const int16x4_t words = vqmovn_s32(vcvtq_s32_f32(x));
        const int32_t bytes = vget_lane_s32(vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(words, words))), 0);
        std::memcpy(p, &bytes, 4);
    }
};

template <int R>
inline void add_products(int32x4_t (&sums)[R][4], const uint8x16_t (&w)[4], const int8x16_t (&a)[R], int j) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        // The lane must be a constant, so all activations of step j are first broadcast to a register.
        const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(vreinterpretq_s32_s8(a[r])[j]));
#pragma GCC unroll 8
        for (int n = 0; n < 4; ++n) sums[r][n] = vdotq_s32(sums[r][n], vreinterpretq_s8_u8(w[n]), four);
    }
}

struct Tiles {
    static constexpr int kRows = 4, kPanels = 1, kDirect = 4;

    template <int R, int P, bool Packed>
    [[gnu::noinline]] static void dot(
        const int8_t* x, size_t stride, const uint8_t* codes, size_t, int groups, int32_t* acc) {
        static_assert(P == 1, "a second panel would not fit into 32 registers");
        int32x4_t sums[R][4];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int n = 0; n < 4; ++n) sums[r][n] = vdupq_n_s32(0);
        const uint8x16_t mask = vdupq_n_u8(3);
        for (int g = 0; g < groups; ++g, x += kGroup) {
            int8x16_t a[R];
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) a[r] = vld1q_s8(x + static_cast<size_t>(r) * stride);
            uint8x16_t w[4], packed[4];
            if constexpr (Packed) {
#pragma GCC unroll 8
                for (int n = 0; n < 4; ++n) packed[n] = vld1q_u8(codes + 16 * n);
                codes += kLine;
            }
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
#pragma GCC unroll 8
                for (int n = 0; n < 4; ++n) {
                    if constexpr (Packed) {
                        w[n] = vandq_u8(packed[n], mask);
                        packed[n] = vshrq_n_u8(packed[n], 2);
                    } else {
                        w[n] = vld1q_u8(codes + 16 * n);
                    }
                }
                if constexpr (!Packed) codes += kLine;
                add_products<R>(sums, w, a, j);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int n = 0; n < 4; ++n) vst1q_s32(acc + r * kPanel + 4 * n, sums[r][n]);
    }

    template <int P>
    [[gnu::noinline]] static void expand(const uint8_t* codes, size_t, int groups, uint8_t* out) {
        const uint8x16_t mask = vdupq_n_u8(3);
        for (int quarter = 0; quarter < 4 * groups; ++quarter, codes += 16) {
            uint8x16_t packed = vld1q_u8(codes);
            uint8_t* to = out + (quarter / 4) * 4 * kLine + (quarter % 4) * 16;
            for (int j = 0; j < 4; ++j, packed = vshrq_n_u8(packed, 2))
                vst1q_u8(to + j * kLine, vandq_u8(packed, mask));
        }
    }
};

struct Scores {
    static constexpr int kQueries = 4;
    static constexpr uint32_t kKeyBias = 0;

    template <int Q>
    [[gnu::noinline]] static void dot(
        const int8_t* q, size_t stride, const uint8_t* keys, size_t step_bytes, int steps, int32_t* out) {
        int32x4_t sums[Q][4];
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i)
#pragma GCC unroll 8
            for (int n = 0; n < 4; ++n) sums[i][n] = vdupq_n_s32(0);
        for (int step = 0; step < steps; ++step, keys += step_bytes, q += 4) {
            int8x16_t k[4];
#pragma GCC unroll 8
            for (int n = 0; n < 4; ++n) k[n] = vreinterpretq_s8_u8(vld1q_u8(keys + 16 * n));
#pragma GCC unroll 8
            for (int i = 0; i < Q; ++i) {
                int32_t value;
                std::memcpy(&value, q + static_cast<size_t>(i) * stride, 4);
                const int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(value));
#pragma GCC unroll 8
                for (int n = 0; n < 4; ++n) sums[i][n] = vdotq_s32(sums[i][n], k[n], a);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < Q; ++i)
#pragma GCC unroll 8
            for (int n = 0; n < 4; ++n) vst1q_s32(out + i * 16 + 4 * n, sums[i][n]);
    }
};

bool available() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & (1UL << 20)) != 0;  // HWCAP_ASIMDDP
#else
    return true;  // every Apple processor with this instruction set has it
#endif
}

}  // namespace

const Kernels neon_kernels = {
    "neon-dot",           available,       quantize<Simd>,   linear<Simd, Tiles>,
    scratch_bytes<Tiles>, normalize<Simd>, multiply<Simd>,   attend<Simd, Scores>,
    attend_bytes<Scores>, dense<Simd>,     steps_of<Simd>(),
};

}  // namespace kdqat

#endif
