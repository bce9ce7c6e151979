#include "api.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "guard.h"
#include "matrix.h"
#include "model.h"
#include "plan.h"

using namespace kdqat;

namespace {

constexpr int kMostThreads = 256;

std::vector<const Kernels*> kernels_here() {
    std::vector<const Kernels*> all;
#if defined(__x86_64__)
    all = {&avx512amx_kernels, &avx512vnni_kernels, &avx2_kernels};
#elif defined(__aarch64__)
    all = {&neon_kernels};
#endif
    all.push_back(&portable_kernels);
    std::vector<const Kernels*> here;
    for (const Kernels* kernels : all) {
        if (kernels->available()) here.push_back(kernels);
    }
    return here;
}

}  // namespace

namespace kdqat {

thread_local std::string error;

const Kernels& kernels_named(const char* name) {
    for (const Kernels* kernels : kernels_here()) {
        if (std::strcmp(kernels->name, name) == 0) return *kernels;
    }
    throw std::invalid_argument("this CPU cannot run that kernel");
}

std::unique_ptr<Team> team_of(int threads) {
    if (threads < 1) throw std::invalid_argument("the number of threads is out of range");
    return std::make_unique<Team>(std::min(threads, kMostThreads));
}

}  // namespace kdqat

struct kdqat_model {
    const Kernels& kernels;
    std::unique_ptr<Team> team;
    Model model;
    bool complete;
};

struct kdqat_chain {
    struct Link {
        TernaryMatrix matrix;
        Activation act;
    };
    const Kernels& kernels;
    std::unique_ptr<Team> team;
    std::vector<Link> links;
};

const char* kdqat_error(void) { return error.c_str(); }

int kdqat_kernels(void) { return static_cast<int>(kernels_here().size()); }

const char* kdqat_kernel(int index) { return kernels_here()[static_cast<size_t>(index)]->name; }

int kdqat_vnni(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512vnni")) return 1;
    unsigned a = 0, b = 0, c = 0, d = 0;  // AVX-VNNI is leaf 7, subleaf 1, bit 4 of EAX; compilers do not all name it
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
#else
    return 0;
#endif
}

kdqat_model* kdqat_model_new(const kdqat_config* config, const char* kernel, int threads) {
    kdqat_model* made = nullptr;
    guarded([&] { made = new kdqat_model{kernels_named(kernel), team_of(threads), Model(*config), false}; });
    return made;
}

int kdqat_model_threads(const kdqat_model* model) { return model->team->members(); }

int kdqat_model_words(
    kdqat_model* model, const uint8_t* trits, int64_t bytes, int rows, int columns, const float* scales) {
    return guarded([&] { model->model.set_words(TernaryTable(trits, bytes, rows, columns, scales), columns); });
}

int kdqat_model_matrix(
    kdqat_model* model, int layer, int which, const uint8_t* trits, int64_t bytes, int outputs, int inputs, float scale,
    const float* bias) {
    return guarded(
        [&] { model->model.set_matrix(layer, which, TernaryMatrix(trits, bytes, outputs, inputs, scale, bias)); });
}

int kdqat_model_vector(kdqat_model* model, int layer, int which, const float* values, int64_t count) {
    return guarded([&] { model->model.set_vector(layer, which, values, count); });
}

int kdqat_model_complete(kdqat_model* model) {
    return guarded([&] {
        model->model.complete();
        model->complete = true;
    });
}

int kdqat_model_forward(
    kdqat_model* model, const int32_t* words, const int32_t* types, const int32_t* positions, const int32_t* lengths,
    int sequences, const float* relative, int span, float* logits) {
    return guarded([&] {
        if (!model->complete) throw std::invalid_argument("the model is not complete");
        const Tokens tokens = {words, types, positions, lengths, sequences, relative, span};
        model->model.check(tokens);
        model->model.forward(model->kernels, *model->team, tokens, logits);
    });
}

void kdqat_model_free(kdqat_model* model) { delete model; }

kdqat_chain* kdqat_chain_new(const char* kernel, int threads) {
    kdqat_chain* made = nullptr;
    guarded([&] { made = new kdqat_chain{kernels_named(kernel), team_of(threads), {}}; });
    return made;
}

int kdqat_chain_add(
    kdqat_chain* chain, const uint8_t* trits, int64_t bytes, int outputs, int inputs, float scale, const float* bias,
    int activation) {
    return guarded([&] {
        TernaryMatrix matrix(trits, bytes, outputs, inputs, scale, bias);
        if (!chain->links.empty() && chain->links.back().matrix.view().outputs != inputs) {
            throw std::invalid_argument("a matrix does not fit the matrix before it");
        }
        chain->links.push_back({std::move(matrix), static_cast<Activation>(activation)});
    });
}

int kdqat_chain_run(kdqat_chain* chain, const float* x, int rows, float clip, float* out) {
    return guarded([&] {
        const Kernels& kernels = chain->kernels;
        Team& team = *chain->team;
        if (chain->links.empty() || rows < 1) throw std::invalid_argument("nothing to compute");
        int width = 0;
        for (const auto& link : chain->links)
            width = std::max({width, link.matrix.view().inputs, link.matrix.view().outputs});
        const int floats = up_to(width, kPanel);
        const size_t stride = static_cast<size_t>(up_to(width, 64)) + 64, count = static_cast<size_t>(rows);
        std::vector<float> values(count * static_cast<size_t>(floats)), scales(count);
        std::vector<int8_t> bytes(count * stride);
        std::vector<int32_t> sums(count);
        const size_t scratch_bytes = kernels.scratch_bytes(width);
        std::vector<Bytes> scratch;
        for (int i = 0; i < team.members(); ++i) scratch.push_back(aligned_bytes(scratch_bytes));
        const int blocks = row_blocks(rows, team.members());
        team.run(2 * static_cast<int>(chain->links.size()) + 1, [&](int rank) {
            Member member = {team, rank, 0};
            const Scope scope(member, blocks == 0);
            auto through = [&](Range block) {
                const size_t first = static_cast<size_t>(block.first);
                size_t read_stride = static_cast<size_t>(chain->links.front().matrix.view().inputs);
                const float* read = x + first * read_stride;
                float* written = values.data() + first * static_cast<size_t>(floats);
                const Quantized all = {
                    bytes.data() + first * stride, stride, scales.data() + first, sums.data() + first};
                for (const auto& link : chain->links) {
                    const Matrix& matrix = link.matrix.view();
                    scope.each(block.count(), [&](Range mine) {
                        const size_t skip = static_cast<size_t>(mine.first);
                        const Quantized part = {all.values + skip * stride, stride, all.scales + skip, all.sums + skip};
                        kernels.quantize(
                            read + skip * read_stride, read_stride, mine.count(), matrix.inputs,
                            up_to(matrix.inputs, kLine), clip, part);
                    });
                    scope.each(matrix.panels, [&](Range mine) {
                        kernels.linear(
                            all, block.count(), matrix, mine.first, mine.last, link.act, written,
                            static_cast<size_t>(floats), scratch[static_cast<size_t>(rank)].get());
                    });
                    read = written;
                    read_stride = static_cast<size_t>(floats);
                }
            };
            if (blocks) {
                member.share_out(blocks, [&](int piece) { through(share(rows, piece, blocks)); });
            } else {
                through({0, rows});
            }
        });
        const size_t outputs = static_cast<size_t>(chain->links.back().matrix.view().outputs);
        for (size_t r = 0; r < count; ++r) {
            std::memcpy(out + r * outputs, values.data() + r * static_cast<size_t>(floats), outputs * sizeof(float));
        }
    });
}

void kdqat_chain_free(kdqat_chain* chain) { delete chain; }

int kdqat_quantize(
    const char* kernel, const float* x, int rows, int width, float clip, int8_t* out, float* scales, int32_t* sums) {
    return guarded([&] {
        const size_t stride = static_cast<size_t>(width);
        kernels_named(kernel).quantize(x, stride, rows, width, width, clip, {out, stride, scales, sums});
    });
}

int kdqat_activate(const char* kernel, const float* x, int count, int activation, float* out) {
    return guarded([&] {
        // A dense layer without inputs is its bias, activated.
        kernels_named(kernel).dense(nullptr, nullptr, x, count, 0, static_cast<Activation>(activation), out);
    });
}

int kdqat_attend(
    const char* kernel, const int8_t* query, const int8_t* key, const int8_t* value, const float* query_scales,
    const float* key_scales, const float* value_scales, int length, int size, float scaling, float clip,
    const float* relative, float* context) {
    return guarded([&] {
        const Kernels& kernels = kernels_named(kernel);
        const size_t stride = static_cast<size_t>(size), count = static_cast<size_t>(length);
        std::vector<int8_t> queries(query, query + count * stride);
        queries.resize(count * stride + 4);  // kernels read four bytes at a time
        std::vector<int32_t> sums(count);
        for (size_t i = 0; i < count * stride; ++i) sums[i / stride] += query[i];
        Head head = {};
        head.query = queries.data();
        head.key = key;
        head.value = value;
        head.query_scales = query_scales;
        head.key_scales = key_scales;
        head.value_scales = value_scales;
        head.query_sums = sums.data();
        head.stride = stride;
        head.heads = 1;
        head.length = length;
        head.size = size;
        head.scaling = scaling;
        head.clip = clip;
        head.relative = relative;
        head.context = context;
        head.context_stride = stride;
        const Bytes scratch = aligned_bytes(kernels.attend_bytes(length, size));
        kernels.attend(head, scratch.get());
    });
}
