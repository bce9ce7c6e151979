// The ternary linear layer: integer tiles of an instruction set, and the code around them.
//
// A `Tiles` gives
//     kRows, kPanels    the largest tile: rows of activations × panels of outputs whose sums stay in registers
//     kDirect           up to this number of rows, codes are shifted and masked where they are used; for more rows, a
//                       strip of panels is first expanded to bytes (kAlways: never, 0: always)
//     dot<R, P, Packed> acc[R][16·P] = Σ (code + 1)·q over all groups
//     expand            a strip of P panels → bytes, in the order in which dot reads them: [group][j][panel][64]
// This file divides rows and panels into tiles and turns sums into floats.

#pragma once

#include <limits>
#include <type_traits>

#include "floats.h"

namespace kdqat {
namespace {

constexpr int kAlways = std::numeric_limits<int>::max();

template <class Tiles, int P, bool Packed, int R = Tiles::kRows>
inline void dot_rows(
    int count, const int8_t* x, size_t stride, const uint8_t* codes, size_t panel_bytes, int groups, int32_t* acc) {
    if constexpr (R == 1) {
        Tiles::template dot<1, P, Packed>(x, stride, codes, panel_bytes, groups, acc);
    } else if (count == R) {
        Tiles::template dot<R, P, Packed>(x, stride, codes, panel_bytes, groups, acc);
    } else {
        dot_rows<Tiles, P, Packed, R - 1>(count, x, stride, codes, panel_bytes, groups, acc);
    }
}

// Sums of rows `first` to `last` and P panels, acc[row - first][16·P] → out[row][16·panel ...].
template <class S, int P>
inline void finish_rows(
    const Quantized& rows, int first, int last, const Matrix& matrix, int panel, Activation act, const int32_t* acc,
    float* out, size_t out_stride) {
    const float* bias = matrix.bias + panel * kPanel;
    out += panel * kPanel;
    with(act, [&](auto kind) {
        for (int r = first; r < last; ++r, acc += P * kPanel) {
            float* to = out + static_cast<size_t>(r) * out_stride;
            const Floats<S> scale = S::broadcast(rows.scales[r] * matrix.scale);
            const int32_t sum = rows.sums ? rows.sums[r] : 0;
            for (int i = 0; i < P * kPanel; i += S::W) {
                const Floats<S> x = S::fma(S::from_ints(acc + i, sum), scale, S::load(bias + i));
                S::store(to + i, activate<S, decltype(kind)::value>(x));
            }
        }
    });
}

template <class S, class Tiles, int P>
void linear_strip(
    const Quantized& rows, int count, const Matrix& matrix, int panel, Activation act, float* out, size_t out_stride,
    uint8_t* scratch) {
    const size_t panel_bytes = static_cast<size_t>(matrix.groups) * kLine;
    const uint8_t* codes = matrix.codes + static_cast<size_t>(panel) * panel_bytes;
    const bool packed = count <= Tiles::kDirect;
    if constexpr (Tiles::kDirect != kAlways) {
        if (!packed) {
            Tiles::template expand<P>(codes, panel_bytes, matrix.groups, scratch);
            codes = scratch;
        }
    }
    alignas(64) int32_t acc[Tiles::kRows * P * kPanel];
    const int tiles = (count + Tiles::kRows - 1) / Tiles::kRows;
    for (int tile = 0; tile < tiles; ++tile) {
        // Tiles of similar size: a last tile of one row would take as long as a full one.
        const int first = count * tile / tiles, last = count * (tile + 1) / tiles;
        const int8_t* x = rows.values + static_cast<size_t>(first) * rows.stride;
        auto dots = [&](auto kind) {
            dot_rows<Tiles, P, decltype(kind)::value>(
                last - first, x, rows.stride, codes, panel_bytes, matrix.groups, acc);
        };
        if constexpr (Tiles::kDirect == kAlways) {
            dots(std::true_type{});
        } else if constexpr (Tiles::kDirect == 0) {
            dots(std::false_type{});
        } else {
            packed ? dots(std::true_type{}) : dots(std::false_type{});
        }
        finish_rows<S, P>(rows, first, last, matrix, panel, act, acc, out, out_stride);
    }
}

template <class S, class Tiles>
void linear(
    const Quantized& rows, int count, const Matrix& matrix, int first, int last, Activation act, float* out,
    size_t out_stride, uint8_t* scratch) {
    int panel = first;
    for (; panel + Tiles::kPanels <= last; panel += Tiles::kPanels) {
        linear_strip<S, Tiles, Tiles::kPanels>(rows, count, matrix, panel, act, out, out_stride, scratch);
    }
    for (; panel < last; ++panel) {
        linear_strip<S, Tiles, 1>(rows, count, matrix, panel, act, out, out_stride, scratch);
    }
}

template <class Tiles>
size_t scratch_bytes(int width) {
    const size_t groups = static_cast<size_t>(up_to(width, kGroup) / kGroup);
    return Tiles::kDirect == kAlways ? 0 : groups * 4 * kLine * Tiles::kPanels;
}

}  // namespace
}  // namespace kdqat
