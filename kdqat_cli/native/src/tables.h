// AVX2: ternary products of many rows by tables (the method of four Russians).
//
// Four inputs with codes in {-1, 0, 1} have 81 possible sums. A table holds all of them for 16 or 32 rows, whose values
// are side by side in 16-bit lanes. An output then gets its sum of four inputs with one load and one addition. These
// are 64 products per instruction; vpmaddubsw with vpaddw computes 16 (avx2.cpp). A group of 16 inputs has four tables,
// 21 KB for 32 rows, which stay in the first-level cache for all outputs. One byte of the packed codes holds the codes
// of the four inputs of one table.
//
// 16 groups are 256 inputs. Their sums are at most 256·127 = 32,512; after that, sums are widened to int32.
//
// Making a table costs as much time as about 100 outputs, and the tables serve 16 or 32 rows at a time. So tiles are
// faster for few rows or few outputs.
//
// Measured on a Xeon (Sapphire Rapids) with AVX-512 switched off: `python benchmarks/linears.py --as-avx2 --threads 1`,
// a 768-wide chain with its quantisation: 186 G products per second at 32 rows and 185 at 128; with tiles 137 and 142.

#pragma once

#include <immintrin.h>

#include "linear.h"

namespace kdqat {
namespace {

constexpr int kLanes = 16;        // 16-bit sums in a register
constexpr int kTables = 4;        // of a group
constexpr int kSums = 81;         // of a table
constexpr int kTableGroups = 16;  // after these, sums must be widened
constexpr int kMostRows = 2 * kLanes;
constexpr int kMostPanels = 96;              // 300 KB of sums: they stay in the second-level cache
constexpr int kOneFrom = 13, kTwoFrom = 21;  // rows for which one register, or two, are faster than tiles
constexpr int kLeastPanels = 4;              // and panels, likewise

// The memory of a member for one set of rows: tables, then for each output the sums of some groups and of all groups.
struct TableMemory {
    alignas(32) int16_t tables[kTables * kSums * kMostRows];
    int16_t some[kMostPanels * kPanel * kMostRows];
    int32_t all[kMostPanels * kPanel * kMostRows];
};

// 16 rows × 16 bytes → 16 columns × 16 rows.
inline void transpose_bytes(__m128i (&x)[16]) {
    // Each step interleaves rows that are half of the set apart; after four steps each byte is in its place.
#pragma GCC unroll 4
    for (int step = 0; step < 4; ++step) {
        __m128i y[16];
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            y[2 * i] = _mm_unpacklo_epi8(x[i], x[i + 8]);
            y[2 * i + 1] = _mm_unpackhi_epi8(x[i], x[i + 8]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) x[i] = y[i];
    }
}

// The tables of one group: tables[i][code][H·16 rows] = Σⱼ (digit j of code, less 1)·input 4j + i. `x` is at the group
// of the first row; rows from `count` on repeat the last.
template <int H>
inline void make_tables(const int8_t* x, size_t stride, int count, int16_t* tables) {
    for (int h = 0; h < H; ++h) {
        __m128i columns[16];
        for (int r = 0; r < kLanes; ++r) {
            const int row = h * kLanes + r < count ? h * kLanes + r : count - 1;
            columns[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + static_cast<size_t>(row) * stride));
        }
        transpose_bytes(columns);
        for (int i = 0; i < kTables; ++i) {
            __m256i a[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) a[j] = _mm256_cvtepi8_epi16(columns[4 * j + i]);
            const __m256i total = _mm256_add_epi16(_mm256_add_epi16(a[0], a[1]), _mm256_add_epi16(a[2], a[3]));
            __m256i sum = _mm256_sub_epi16(_mm256_setzero_si256(), total);
            int16_t* to = tables + (i * kSums * H + h) * kLanes;
            auto next = [&](__m256i value) {
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value);
                to += H * kLanes;
            };
#pragma GCC unroll 3
            for (int fourth = 0; fourth < 3; ++fourth) {
                __m256i third = sum;
                for (int k = 0; k < 3; ++k) {
                    __m256i second = third;
#pragma GCC unroll 3
                    for (int l = 0; l < 3; ++l) {
                        const __m256i more = _mm256_add_epi16(second, a[0]);
                        next(second);
                        next(more);
                        next(_mm256_add_epi16(more, a[0]));
                        second = _mm256_add_epi16(second, a[1]);
                    }
                    third = _mm256_add_epi16(third, a[2]);
                }
                sum = _mm256_add_epi16(sum, a[3]);
            }
        }
    }
}

// A line of codes, two bits each → the byte offsets of their sums in the tables: (1, 3, 9 and 27 times the codes +
// 1, added up)·2^Shift.
template <int Shift>
inline void places(const uint8_t* line, uint16_t* out) {
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i low = _mm256_setr_epi8(
        0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 0, 0, 0, 0, 0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 0, 0, 0, 0);
    const __m256i high = _mm256_setr_epi8(
        0, 9, 18, 0, 27, 36, 45, 0, 54, 63, 72, 0, 0, 0, 0, 0, 0, 9, 18, 0, 27, 36, 45, 0, 54, 63, 72, 0, 0, 0, 0, 0);
#pragma GCC unroll 2
    for (int i = 0; i < kLine; i += 32) {
        const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + i));
        const __m256i first = _mm256_shuffle_epi8(low, _mm256_and_si256(codes, mask));
        const __m256i second = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask));
        const __m256i sum = _mm256_add_epi8(first, second);
        const __m256i words[2] = {
            _mm256_cvtepu8_epi16(_mm256_castsi256_si128(sum)), _mm256_cvtepu8_epi16(_mm256_extracti128_si256(sum, 1))};
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) {
            _mm256_store_si256(reinterpret_cast<__m256i*>(out + i + k * kLanes), _mm256_slli_epi16(words[k], Shift));
        }
    }
}

// sums[output][H·16] = (First) or += Σ of one group, for all outputs of `panels` panels.
template <int H, bool First>
[[gnu::noinline]] void add_group(
    const int16_t* tables, const uint8_t* codes, size_t panel_bytes, int panels, int16_t* sums) {
    constexpr int kShift = H == 1 ? 5 : 6;
    const char* entries = reinterpret_cast<const char*>(tables);
    for (int panel = 0; panel < panels; ++panel, codes += panel_bytes) {
        // Prefetch for the next group: lines of two panels are too far apart for the hardware prefetcher.
        _mm_prefetch(codes + kLine, _MM_HINT_T0);
        alignas(32) uint16_t at[kLine];
        places<kShift>(codes, at);
#pragma GCC unroll 16
        for (int n = 0; n < kPanel; ++n, sums += H * kLanes) {
            __m256i sum[H];
#pragma GCC unroll 2
            for (int h = 0; h < H; ++h) {
                sum[h] = First ? _mm256_setzero_si256() : _mm256_load_si256(reinterpret_cast<const __m256i*>(sums) + h);
            }
#pragma GCC unroll 4
            for (int i = 0; i < kTables; ++i) {
                const __m256i* entry =
                    reinterpret_cast<const __m256i*>(entries + ((i * kSums) << kShift) + at[4 * n + i]);
#pragma GCC unroll 2
                for (int h = 0; h < H; ++h) sum[h] = _mm256_add_epi16(sum[h], _mm256_load_si256(entry + h));
            }
#pragma GCC unroll 2
            for (int h = 0; h < H; ++h) _mm256_store_si256(reinterpret_cast<__m256i*>(sums) + h, sum[h]);
        }
    }
}

inline __m256i widened(const int16_t* some, const int32_t* all) {
    const __m256i sum = _mm256_cvtepi16_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(some)));
    return all ? _mm256_add_epi32(sum, _mm256_load_si256(reinterpret_cast<const __m256i*>(all))) : sum;
}

// Sums of a panel, [output][rows] → acc[row][16].
inline void transpose_sums(const int16_t* some, const int32_t* all, int rows, int32_t* acc) {
    for (int first = 0; first < rows; first += 8) {
        for (int o = 0; o < kPanel; o += 8) {
            __m256 x[8], y[8];
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                const int at = (o + i) * rows + first;
                x[i] = _mm256_castsi256_ps(widened(some + at, all ? all + at : nullptr));
            }
#pragma GCC unroll 4
            for (int i = 0; i < 8; i += 2) {
                y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
                y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
            }
#pragma GCC unroll 2
            for (int i = 0; i < 8; i += 4) {
#pragma GCC unroll 2
                for (int k = 0; k < 2; ++k) {
                    x[i + 2 * k] = _mm256_shuffle_ps(y[i + k], y[i + k + 2], 0x44);
                    x[i + 2 * k + 1] = _mm256_shuffle_ps(y[i + k], y[i + k + 2], 0xEE);
                }
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                float* to = reinterpret_cast<float*>(acc) + (first + i) * kPanel + o;
                _mm256_storeu_ps(to, _mm256_permute2f128_ps(x[i], x[i + 4], 0x20));
                _mm256_storeu_ps(to + 4 * kPanel, _mm256_permute2f128_ps(x[i], x[i + 4], 0x31));
            }
        }
    }
}

// Kernels::linear for `first_row` and up to H·16 rows from there, `count` of them.
template <class S, int H>
void linear_tables(
    const Quantized& rows, int first_row, int count, const Matrix& matrix, int first, int last, Activation act,
    float* out, size_t out_stride, uint8_t* scratch) {
    constexpr int kRows = H * kLanes;
    const size_t panel_bytes = static_cast<size_t>(matrix.groups) * kLine;
    const int panels = last - first, values = panels * kPanel * kRows;
    TableMemory& memory = *reinterpret_cast<TableMemory*>(scratch);
    const uint8_t* codes = matrix.codes + static_cast<size_t>(first) * panel_bytes;
    const int8_t* x = rows.values + static_cast<size_t>(first_row) * rows.stride;
    bool wide = false;  // whether `all` holds sums
    for (int g = 0; g < matrix.groups; ++g, codes += kLine, x += kGroup) {
        make_tables<H>(x, rows.stride, count, memory.tables);
        if (g % kTableGroups) {
            add_group<H, false>(memory.tables, codes, panel_bytes, panels, memory.some);
            continue;
        }
        if (g) {
            for (int i = 0; i < values; i += 8) {
                const __m256i sum = widened(memory.some + i, wide ? memory.all + i : nullptr);
                _mm256_store_si256(reinterpret_cast<__m256i*>(memory.all + i), sum);
            }
            wide = true;
        }
        add_group<H, true>(memory.tables, codes, panel_bytes, panels, memory.some);
    }
    Quantized plain = rows;
    plain.sums = nullptr;  // the tables use signed codes
    alignas(64) int32_t acc[kRows * kPanel];
    for (int panel = 0; panel < panels; ++panel) {
        const int at = panel * kPanel * kRows;
        transpose_sums(memory.some + at, wide ? memory.all + at : nullptr, kRows, acc);
        finish_rows<S, 1>(plain, first_row, first_row + count, matrix, first + panel, act, acc, out, out_stride);
    }
}

// Computes many rows with tables, and the rest with tiles.
template <class S, class Tiles>
void linear_by_rows(
    const Quantized& rows, int count, const Matrix& matrix, int first, int last, Activation act, float* out,
    size_t out_stride, uint8_t* scratch) {
    int done = 0;
    while (last - first >= kLeastPanels && count - done >= kOneFrom) {
        const bool two = count - done >= kTwoFrom;
        const int here = smaller(count - done, two ? kMostRows : kLanes);
        const auto by_tables = two ? linear_tables<S, 2> : linear_tables<S, 1>;
        for (int panel = first; panel < last; panel += kMostPanels) {
            const int end = smaller(panel + kMostPanels, last);
            by_tables(rows, done, here, matrix, panel, end, act, out, out_stride, scratch);
        }
        done += here;
    }
    if (done == count) return;
    const size_t skip = static_cast<size_t>(done);
    const Quantized rest = {rows.values + skip * rows.stride, rows.stride, rows.scales + skip, rows.sums + skip};
    linear<S, Tiles>(rest, count - done, matrix, first, last, act, out + skip * out_stride, out_stride, scratch);
}

template <class Tiles>
size_t table_bytes(int width) {
    return larger(scratch_bytes<Tiles>(width), sizeof(TableMemory));
}

}  // namespace
}  // namespace kdqat
