// Checks kernels through the C interface, for a processor without Python: integer products against plain sums, and all
// float results against the portable kernel. Built and run by cross.sh.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../kdqat_cli/native/src/api.h"

namespace {

std::mt19937 draw(0);
int failures = 0;

int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(draw); }

void expect(bool holds, const char* kernel, const char* what, int a, int b, int c) {
    if (holds) return;
    ++failures;
    std::printf("FAILED %s: %s (%d, %d, %d)\n", kernel, what, a, b, c);
}

std::vector<uint8_t> pack(const std::vector<int8_t>& codes) {
    std::vector<uint8_t> trits((codes.size() + 4) / 5);
    for (size_t i = codes.size(); i-- > 0;) trits[i / 5] = static_cast<uint8_t>(trits[i / 5] * 3 + codes[i] + 1);
    return trits;
}

void products(const char* kernel, int inputs, int outputs, int rows, int threads) {
    std::vector<int8_t> codes(static_cast<size_t>(inputs) * outputs);
    for (int8_t& code : codes) code = static_cast<int8_t>(between(-1, 1));
    std::vector<float> x(static_cast<size_t>(rows) * inputs), out(static_cast<size_t>(rows) * outputs);
    const bool extreme = between(0, 3) == 0;
    for (float& value : x) value = static_cast<float>(extreme ? 127 * (2 * between(0, 1) - 1) : between(-127, 127));
    for (int r = 0; r < rows; ++r) x[static_cast<size_t>(r) * inputs] = 127;
    const std::vector<uint8_t> trits = pack(codes);
    kdqat_chain* chain = kdqat_chain_new(kernel, threads);
    kdqat_chain_add(chain, trits.data(), static_cast<int64_t>(trits.size()), outputs, inputs, 1.0f, nullptr, 0);
    kdqat_chain_run(chain, x.data(), rows, INFINITY, out.data());
    kdqat_chain_free(chain);
    bool equal = true;
    for (int r = 0; r < rows; ++r) {
        for (int o = 0; o < outputs; ++o) {
            long sum = 0;
            for (int i = 0; i < inputs; ++i) {
                sum += codes[static_cast<size_t>(o) * inputs + i] *
                       static_cast<long>(x[static_cast<size_t>(r) * inputs + i]);
            }
            equal = equal && out[static_cast<size_t>(r) * outputs + o] == static_cast<float>(sum);
        }
    }
    expect(equal, kernel, "products (inputs, outputs, rows)", inputs, outputs, rows);
}

void quantiser(const char* kernel, int width) {
    const int rows = 5;
    std::vector<float> x(static_cast<size_t>(rows) * width);
    std::normal_distribution<float> normal;
    for (float& value : x) value = normal(draw);
    std::fill(x.begin(), x.begin() + width, 0.0f);
    std::vector<int8_t> values[2];
    std::vector<float> scales[2];
    std::vector<int32_t> sums[2];
    const char* names[2] = {kernel, "portable"};
    for (int i = 0; i < 2; ++i) {
        values[i].resize(x.size());
        scales[i].resize(rows);
        sums[i].resize(rows);
        kdqat_quantize(names[i], x.data(), rows, width, 1.5f, values[i].data(), scales[i].data(), sums[i].data());
    }
    expect(
        values[0] == values[1] && scales[0] == scales[1] && sums[0] == sums[1], kernel, "quantiser (width)", width, 0,
        0);
}

void functions(const char* kernel) {
    std::vector<float> x, out;
    for (float value = -12; value < 12; value += 0.001f) x.push_back(value);
    out.resize(x.size());
    kdqat_activate(kernel, x.data(), static_cast<int>(x.size()), 1, out.data());
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const double exact = 0.5 * x[i] * std::erfc(-x[i] / std::sqrt(2.0));
        worst = std::max(worst, std::abs(out[i] - exact) / std::max(1.0, std::abs(exact)));
    }
    expect(worst < 3e-7, kernel, "gelu", 0, 0, 0);
}

void attention(const char* kernel, int length, int size) {
    std::vector<int8_t> heads[3];
    std::vector<float> scales[3], out[2];
    for (int i = 0; i < 3; ++i) {
        heads[i].resize(static_cast<size_t>(length) * size);
        for (int8_t& value : heads[i]) value = static_cast<int8_t>(between(-127, 127));
        for (int j = 0; j < length; ++j) scales[i].push_back(static_cast<float>(between(1, 100)) / 1e4f);
    }
    const char* names[2] = {kernel, "portable"};
    for (int i = 0; i < 2; ++i) {
        out[i].resize(heads[0].size());
        kdqat_attend(
            names[i], heads[0].data(), heads[1].data(), heads[2].data(), scales[0].data(), scales[1].data(),
            scales[2].data(), length, size, 0.3f, INFINITY, nullptr, out[i].data());
    }
    // A probability near a rounding boundary may be rounded either way: up to 1/127 of the largest value.
    float worst = 0;
    for (size_t i = 0; i < out[0].size(); ++i) worst = std::max(worst, std::abs(out[0][i] - out[1][i]));
    expect(worst <= 0.011f, kernel, "attention (length, size)", length, size, 0);
}

void buckets(const char* kernel, int count, int size) {
    std::vector<float> x(static_cast<size_t>(count)), grad(x.size());
    std::normal_distribution<float> normal;
    for (float& value : x) value = normal(draw);
    for (float& value : grad) value = normal(draw);
    const size_t groups = static_cast<size_t>((count + size - 1) / size);
    const char* names[2] = {kernel, "portable"};
    const uint64_t seed = 0x123456789abcdef;
    for (const uint64_t* key : {static_cast<const uint64_t*>(nullptr), &seed}) {
        std::vector<uint8_t> levels[2];
        std::vector<float> scales[2], offsets[2], values[2], out[2];
        for (int i = 0; i < 2; ++i) {
            levels[i].resize(x.size());
            scales[i].resize(groups);
            offsets[i].resize(groups);
            values[i].resize(x.size());
            out[i].resize(x.size());
            kdqat_levels(
                names[i], 2, x.data(), count, size, 15, 1e-10f, key, levels[i].data(), scales[i].data(),
                offsets[i].data());
            kdqat_values(
                names[i], 2, levels[i].data(), 0, count, size, scales[i].data(), offsets[i].data(), values[i].data());
            kdqat_range_gradient(
                names[i], 2, grad.data(), x.data(), values[i].data(), count, size, 1e-10f, out[i].data());
        }
        expect(
            levels[0] == levels[1] && scales[0] == scales[1] && offsets[0] == offsets[1] && values[0] == values[1],
            kernel, "buckets (values, size, draws)", count, size, key != nullptr);
        float worst = 0;
        for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(out[0][i] - out[1][i]));
        expect(worst <= 1e-3f, kernel, "gradient of the range (values, size, draws)", count, size, key != nullptr);
    }
}

}  // namespace

int main() {
    for (int index = 0; index < kdqat_kernels(); ++index) {
        const char* kernel = kdqat_kernel(index);
        for (int round = 0; round < 150; ++round)
            products(kernel, between(1, 300), between(1, 70), between(1, 40), 1 + round % 2);
        for (int inputs : {768, 3072}) products(kernel, inputs, 48, 9, 2);
        for (int width : {1, 3, 4, 15, 16, 17, 64, 100}) quantiser(kernel, width);
        functions(kernel);
        for (int length : {1, 2, 5, 16, 17, 40}) attention(kernel, length, between(1, 70));
        for (int size : {1, 5, 16, 100, 256, 70000}) buckets(kernel, 70001, size);
        std::printf("%s: %s\n", kernel, failures ? "FAILED" : "passed");
    }
    return failures != 0;
}
