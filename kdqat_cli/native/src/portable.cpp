// Plain C++ for any processor: the reference that the other kernels are tested against. All sums are int32.

#include "attention.h"
#include "generic.h"
#include "linear.h"
#include "training.h"

namespace kdqat {
namespace {

struct Tiles {
    static constexpr int kRows = 4, kPanels = 1, kDirect = 0;

    template <int R, int P, bool Packed>
    static inline void dot(const int8_t* x, size_t stride, const uint8_t* codes, size_t, int groups, int32_t* acc) {
        static_assert(P == 1 && !Packed, "the portable form expands every panel");
        for (int i = 0; i < R * kPanel; ++i) acc[i] = 0;
        for (int step = 0; step < 4 * groups; ++step, codes += kLine, x += 4) {
            for (int r = 0; r < R; ++r) {
                const int8_t* a = x + static_cast<size_t>(r) * stride;
                for (int n = 0; n < kPanel; ++n) {
                    for (int i = 0; i < 4; ++i) acc[r * kPanel + n] += codes[4 * n + i] * a[i];
                }
            }
        }
    }

    template <int P>
    static inline void expand(const uint8_t* codes, size_t, int groups, uint8_t* out) {
        for (int g = 0; g < groups; ++g, codes += kLine) {
            for (int j = 0; j < 4; ++j, out += kLine) {
                for (int i = 0; i < kLine; ++i) out[i] = codes[i] >> (2 * j) & 3;
            }
        }
    }
};

struct Scores {
    static constexpr int kQueries = 4;
    static constexpr uint32_t kKeyBias = 0;

    template <int Q>
    static inline void dot(
        const int8_t* q, size_t stride, const uint8_t* keys, size_t step_bytes, int steps, int32_t* out) {
        for (int i = 0; i < Q * 16; ++i) out[i] = 0;
        for (int step = 0; step < steps; ++step, keys += step_bytes, q += 4) {
            for (int i = 0; i < Q; ++i) {
                for (int j = 0; j < 64; ++j) {
                    out[i * 16 + j / 4] +=
                        static_cast<int8_t>(keys[j]) * q[static_cast<size_t>(i) * stride + static_cast<size_t>(j % 4)];
                }
            }
        }
    }
};

bool available() { return true; }

}  // namespace

const Kernels portable_kernels = {
    "portable",
    available,
    quantize<GenericSimd>,
    linear<GenericSimd, Tiles>,
    scratch_bytes<Tiles>,
    normalize<GenericSimd>,
    multiply<GenericSimd>,
    attend<GenericSimd, Scores>,
    attend_bytes<Scores>,
    dense<GenericSimd>,
    steps_of<GenericSimd>(),
};

}  // namespace kdqat
