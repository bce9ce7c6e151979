#include "matrix.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

namespace kdqat {
namespace {

constexpr int kTrits = 5;
constexpr int kBytes = 243;  // 3^5: larger bytes are invalid

// Row b: the five digits (code + 1) of byte b, padded to eight so that one store writes them.
struct Digits {
    uint8_t of[256][8];
    constexpr Digits() : of() {
        for (int byte = 0; byte < kBytes; ++byte) {
            for (int i = 0, rest = byte; i < kTrits; ++i, rest /= 3) of[byte][i] = static_cast<uint8_t>(rest % 3);
        }
    }
};
constexpr Digits kDigits;

void check(const uint8_t* trits, int64_t bytes, int64_t rows, int64_t columns) {
    if (rows < 1 || columns < 1) throw std::invalid_argument("a matrix has no rows or no columns");
    if (bytes != (rows * columns + kTrits - 1) / kTrits) throw std::invalid_argument("a matrix has another size");
    for (int64_t i = 0; i < bytes; ++i) {
        if (trits[i] >= kBytes) throw std::invalid_argument("a byte is too large for five ternary codes");
    }
}

// Digits `first` to `first + count` of a stream; `out` has room for 8 more on either side.
void unpack(const uint8_t* trits, int64_t first, int64_t count, uint8_t* out) {
    const int64_t skipped = first % kTrits;
    out -= skipped;
    for (int64_t byte = first / kTrits, end = (first + count + kTrits - 1) / kTrits; byte < end;
         ++byte, out += kTrits) {
        std::memcpy(out, kDigits.of[trits[byte]], 8);
    }
}

}  // namespace

void FreeAligned::operator()(uint8_t* p) const { std::free(p); }

Bytes aligned_bytes(size_t count) {
    const size_t whole = (count + kLine - 1) / kLine * kLine;
    void* memory = std::aligned_alloc(kLine, whole ? whole : kLine);
    if (!memory) throw std::bad_alloc();
    return Bytes(static_cast<uint8_t*>(memory));
}

template <class DigitsOf>
void TernaryMatrix::fill(int outputs, int inputs, float scale, const float* bias, DigitsOf&& digits_of) {
    view_.outputs = outputs;
    view_.inputs = inputs;
    view_.panels = up_to(outputs, kPanel) / kPanel;
    view_.groups = up_to(inputs, kGroup) / kGroup;
    view_.scale = scale;
    const size_t panel_bytes = static_cast<size_t>(view_.groups) * kLine;
    codes_ = aligned_bytes(static_cast<size_t>(view_.panels) * panel_bytes);
    bias_.assign(static_cast<size_t>(view_.panels) * kPanel, 0.0f);
    if (bias) std::memcpy(bias_.data(), bias, static_cast<size_t>(outputs) * sizeof(float));
    view_.codes = codes_.get();
    view_.bias = bias_.data();

    // One row of digits at a time, padded with ones (code 0).
    const size_t width = static_cast<size_t>(view_.groups) * kGroup;
    std::vector<uint8_t> row(width + 24);
    uint8_t* digits = row.data() + 8;
    for (int o = 0; o < view_.panels * kPanel; ++o) {
        uint8_t* to =
            codes_.get() + static_cast<size_t>(o / kPanel) * panel_bytes + static_cast<size_t>(o % kPanel) * 4;
        if (o < outputs) {
            digits_of(o, digits);
            std::memset(digits + inputs, 1, width - static_cast<size_t>(inputs));
        } else {
            std::memset(digits, 1, width);
        }
        for (int g = 0; g < view_.groups; ++g, to += kLine) {
            std::array<uint32_t, 4> four;
            std::memcpy(four.data(), digits + g * kGroup, kGroup);
            const uint32_t line = four[0] | four[1] << 2 | four[2] << 4 | four[3] << 6;
            std::memcpy(to, &line, 4);
        }
    }
}

TernaryMatrix::TernaryMatrix(
    const uint8_t* trits, int64_t bytes, int outputs, int inputs, float scale, const float* bias) {
    check(trits, bytes, outputs, inputs);
    fill(outputs, inputs, scale, bias, [&](int row, uint8_t* to) {
        unpack(trits, static_cast<int64_t>(row) * inputs, inputs, to);
    });
}

TernaryMatrix::TernaryMatrix(const int8_t* codes, int outputs, int inputs, float scale, const float* bias) {
    fill(outputs, inputs, scale, bias, [&](int row, uint8_t* to) {
        const int8_t* from = codes + static_cast<size_t>(row) * static_cast<size_t>(inputs);
        for (int i = 0; i < inputs; ++i) to[i] = static_cast<uint8_t>(from[i] + 1);
    });
}

TernaryTable::TernaryTable(const uint8_t* trits, int64_t bytes, int rows, int columns, const float* scales)
    : columns_(columns) {
    check(trits, bytes, rows, columns);
    trits_.assign(trits, trits + bytes);
    scales_.assign(scales, scales + rows);
}

void TernaryTable::look_up(int row, float* out) const {
    const int64_t first = static_cast<int64_t>(row) * columns_;
    const float scale = scales_[static_cast<size_t>(row)];
    const float values[3] = {-scale, 0.0f, scale};
    int64_t byte = first / kTrits;
    for (int i = 0, digit = static_cast<int>(first % kTrits); i < columns_; ++byte, digit = 0) {
        const uint8_t* digits = kDigits.of[trits_[static_cast<size_t>(byte)]];
        for (; digit < kTrits && i < columns_; ++digit, ++i) out[i] = values[digits[digit]];
    }
}

}  // namespace kdqat
