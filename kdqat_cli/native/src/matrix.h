// A ternary matrix that owns its codes, and the word embedding.

#pragma once

#include <memory>
#include <vector>

#include "kernels.h"

namespace kdqat {

struct FreeAligned {
    void operator()(uint8_t* p) const;
};
using Bytes = std::unique_ptr<uint8_t[], FreeAligned>;

// Memory that begins at a cache line; throws std::bad_alloc.
Bytes aligned_bytes(size_t count);

class TernaryMatrix {
public:
    TernaryMatrix() = default;
    // From five codes per byte (codecs/trits.py), row by row; `bias` may be null. Throws std::invalid_argument if a
    // byte is invalid or the number of codes is not outputs·inputs.
    TernaryMatrix(const uint8_t* trits, int64_t bytes, int outputs, int inputs, float scale, const float* bias);
    // From codes -1, 0 and 1, row by row; `bias` may be null. Other codes give wrong products.
    TernaryMatrix(const int8_t* codes, int outputs, int inputs, float scale, const float* bias);

    bool empty() const { return !codes_; }
    const Matrix& view() const { return view_; }

private:
    // `digits_of(row, to)` writes the codes + 1 of a row; it may write 8 bytes more on either side of `to`.
    template <class DigitsOf>
    void fill(int outputs, int inputs, float scale, const float* bias, DigitsOf&& digits_of);

    Bytes codes_;
    std::vector<float> bias_;
    Matrix view_ = {};
};

// The word embedding: rows of five codes per byte, as in the file, with one scale per row. Rows are only looked up.
class TernaryTable {
public:
    TernaryTable() = default;
    TernaryTable(const uint8_t* trits, int64_t bytes, int rows, int columns, const float* scales);

    bool empty() const { return scales_.empty(); }
    int rows() const { return static_cast<int>(scales_.size()); }
    // out[i] = code·scale of one row.
    void look_up(int row, float* out) const;

private:
    std::vector<uint8_t> trits_;
    std::vector<float> scales_;
    int columns_ = 0;
};

}  // namespace kdqat
