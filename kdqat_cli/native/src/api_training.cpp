// The training steps, with their rows divided among threads; training.h computes one row. Uniform weights are in
// api_buckets.cpp.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "api.h"
#include "guard.h"
#include "matrix.h"
#include "share.h"

using namespace kdqat;

namespace {

// What a member needs for a block of rows: the rows padded with zeros to whole lines, and room for their results where
// the number of outputs is not one of whole panels.
struct Block {
    Block(size_t stride, size_t out_stride, size_t scratch_bytes)
        : bytes(kBlockRows * stride), whole(kBlockRows * out_stride), scratch(aligned_bytes(scratch_bytes)) {}

    void take(const int8_t* codes, const float* of_rows, int count, size_t width, size_t stride) {
        for (int r = 0; r < count; ++r, codes += width) {
            std::memcpy(bytes.data() + static_cast<size_t>(r) * stride, codes, width);
            sums[r] = 0;
            for (size_t i = 0; i < width; ++i) sums[r] += codes[i];
            scales[r] = of_rows[r];
        }
    }

    std::vector<int8_t> bytes;
    std::vector<float> whole;
    Bytes scratch;
    float scales[kBlockRows];
    int32_t sums[kBlockRows];
};

}  // namespace

int kdqat_round(
    const char* kernel, int threads, const float* x, const int64_t* sizes, const int64_t* strides, int width,
    float clip, int shared, int8_t* codes, float* values, uint8_t* inside, float* scales, int32_t* reached) {
    return guarded([&] {
        const Steps& steps = kernels_named(kernel).training;
        const int64_t count = sizes[0] * sizes[1] * sizes[2];
        const int pieces = pieces_of(count, threads);
        std::vector<float> most(static_cast<size_t>(pieces));
        std::vector<int32_t> beyond(static_cast<size_t>(pieces));
        auto row = [&](int64_t r) {
            const int64_t a = r / (sizes[1] * sizes[2]), b = r / sizes[2] % sizes[1], c = r % sizes[2];
            return x + a * strides[0] + b * strides[1] + c * strides[2];
        };
        // At least the smallest normal number, so that a row of zeros gives 0 and not 0/0. NaN stays NaN.
        auto scale_of = [&](float magnitude) {
            const float scale = (magnitude > clip ? clip : magnitude) / 127.0f;
            return scale < FLT_MIN ? FLT_MIN : scale;
        };
        run_training(threads, 2, [&](Member& member) {
            float common = 0.0f;
            if (shared) {
                member.share_out(pieces, [&](int piece) {
                    const Rows mine = rows_of(count, piece, pieces);
                    float here = 0.0f;
                    for (int64_t r = mine.first; r < mine.last; ++r) {
                        const float largest = steps.largest(row(r), width);
                        here = largest > here || std::isnan(largest) ? largest : here;
                        if (std::isnan(here)) break;
                    }
                    most[static_cast<size_t>(piece)] = here;
                });
                for (const float here : most) common = here > common || std::isnan(here) ? here : common;
            }
            member.share_out(pieces, [&](int piece) {
                const Rows mine = rows_of(count, piece, pieces);
                bool touched = false;
                for (int64_t r = mine.first; r < mine.last; ++r) {
                    const float largest = shared ? common : steps.largest(row(r), width);
                    const float scale = scale_of(largest);
                    if (!shared) scales[r] = scale;
                    touched = touched || largest >= clip;
                    const int64_t at = r * width;
                    steps.round_row(
                        row(r), width, clip, scale, codes + at, values ? values + at : nullptr,
                        inside ? inside + at : nullptr);
                }
                beyond[static_cast<size_t>(piece)] = touched;
            });
            if (shared && member.rank == 0) scales[0] = scale_of(common);
        });
        *reached = 0;
        for (const int32_t touched : beyond) *reached |= touched;
    });
}

int kdqat_product(
    const char* kernel, int threads, const int8_t* codes, const float* scales, int rows, int inputs,
    const int8_t* signs, int outputs, float alpha, const float* bias, float* out) {
    return guarded([&] {
        const Kernels& kernels = kernels_named(kernel);
        const TernaryMatrix weight(signs, outputs, inputs, alpha, bias);
        const Matrix& matrix = weight.view();
        const size_t width = static_cast<size_t>(inputs), results = static_cast<size_t>(outputs);
        const size_t stride = static_cast<size_t>(up_to(inputs, kLine)) + kLine;  // no power of two: rows share sets
        const size_t out_stride = static_cast<size_t>(matrix.panels) * kPanel;
        const int blocks = (rows + kBlockRows - 1) / kBlockRows;
        std::vector<Block> memory;
        for (int i = 0; i < threads; ++i) {
            const size_t scratch = kernels.scratch_bytes(std::max(inputs, outputs));
            memory.emplace_back(stride, out_stride == results ? 0 : out_stride, scratch);
        }
        run_training(threads, 1, [&](Member& member) {
            Block& mine = memory[static_cast<size_t>(member.rank)];
            member.share_out(blocks, [&](int block) {
                const size_t first = static_cast<size_t>(block) * kBlockRows;
                const int count = std::min(kBlockRows, rows - block * kBlockRows);
                mine.take(codes + first * width, scales + first, count, width, stride);
                float* to = mine.whole.empty() ? out + first * results : mine.whole.data();
                const Quantized all = {mine.bytes.data(), stride, mine.scales, mine.sums};
                kernels.linear(
                    all, count, matrix, 0, matrix.panels, Activation::none, to, out_stride, mine.scratch.get());
                for (size_t r = 0; !mine.whole.empty() && r < static_cast<size_t>(count); ++r) {
                    std::memcpy(out + (first + r) * results, to + r * out_stride, results * sizeof(float));
                }
            });
        });
    });
}

int kdqat_divergence(
    const char* kernel, int threads, const float* student, const float* teacher, const uint8_t* mask,
    const float* weight, int batch, int heads, int length, float temperature, float floor, float* slope,
    double* sum) {
    return guarded([&] {
        const Steps& steps = kernels_named(kernel).training;
        const size_t width = static_cast<size_t>(length);
        std::vector<float> keep(static_cast<size_t>(batch) * width), top(keep.size());
        for (size_t i = 0; i < keep.size(); ++i) {
            keep[i] = mask[i] ? 1.0f : 0.0f;
            top[i] = mask[i] ? std::numeric_limits<float>::infinity() : -FLT_MAX;
        }
        const int64_t count = static_cast<int64_t>(batch) * heads;
        std::vector<double> sums(static_cast<size_t>(count));  // one per head, added in a fixed order
        run_training(threads, 1, [&](Member& member) {
            std::vector<float> spare(2 * width + 64);
            member.share_out(static_cast<int>(count), [&](int head) {
                const size_t of_row = static_cast<size_t>(head / heads) * width;
                double total = 0.0;
                for (size_t query = 0; query < width; ++query) {
                    const size_t at = (static_cast<size_t>(head) * width + query) * width;
                    const float share = weight[of_row + query];
                    if (share == 0.0f) {
                        std::fill(slope + at, slope + at + width, 0.0f);
                        continue;
                    }
                    total += static_cast<double>(share) *
                             static_cast<double>(steps.divergence(
                                 student + at, teacher + at, &keep[of_row], &top[of_row], length, 1.0f / temperature,
                                 share / temperature, floor, slope + at, spare.data()));
                }
                sums[static_cast<size_t>(head)] = total;
            });
        });
        *sum = 0.0;
        for (const double part : sums) *sum += part;
    });
}

int kdqat_drop(
    const char* kernel, int threads, const float* x, const int16_t* bits, int64_t count, int threshold, float factor,
    float* out, uint8_t* kept) {
    return guarded([&] {
        const Steps& steps = kernels_named(kernel).training;
        share_values(threads, count, [&](int64_t at, int64_t size) {
            steps.drop(x + at, bits + at, size, threshold, factor, out + at, kept + at);
        });
    });
}

int kdqat_keep(
    const char* kernel, int threads, const float* x, const uint8_t* kept, int64_t count, float factor, float* out) {
    return guarded([&] {
        const Steps& steps = kernels_named(kernel).training;
        share_values(
            threads, count, [&](int64_t at, int64_t size) { steps.keep(x + at, kept + at, size, factor, out + at); });
    });
}
