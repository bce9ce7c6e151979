// The forward pass of post-norm encoders (BERT and its relatives) and of T5's pre-norm encoder. A layer has three
// steps:
//
//     project       quantise the input of attention, compute Q, K and V from it, and quantise them head by head
//     attend        attention; a piece is one head of one sequence
//     finish_layer  quantise the context, project out, add and normalise; feed-forward, add and normalise
//
// finish_layer of one layer and project of the next need one row at a time, so a block of rows goes through both
// without waiting (plan.h). Only attention needs all rows of a sequence: the team waits for all members twice per
// layer.
//
// Sequences are stored one after the other, without padding. A call is divided into chunks of whole sequences with at
// most kChunkRows rows (or one longer sequence), which limits the memory of the pass beside the weights.

#include "model.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

// Under the address sanitizer the gaps between a pass's buffers may not be touched.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define KDQAT_POISON
#endif

namespace kdqat {
namespace {

constexpr int kChunkRows = 1024;

// The largest number of parts (team.h) per layer, and outside the layers.
constexpr int kLayerParts = 20;
constexpr int kOtherParts = 20;

}  // namespace

// The results of one pass, for all rows of a chunk.
struct Model::Buffers {
    float *hidden, *context, *pooled;
    int8_t* qkv[3];
    float* qkv_scales[3];
    int32_t* query_sums;
};

// The memory for a block of rows while one member, or the team, works on it.
struct Model::Block {
    float *wide, *gate, *narrow;
    Quantized bytes;
};

struct Model::Pass {
    const Kernels& kernels;
    const Tokens& tokens;
    Buffers buffers;
    std::vector<int> starts;        // first row of each sequence, and the number of rows
    std::vector<uint8_t*> scratch;  // of each member
    int rows() const { return starts.back(); }

    void quantize(
        const Scope& scope, const float* from, int stride, int count, int width, float clip, const Block& block) const {
        scope.each(count, [&](Range mine) {
            const size_t first = static_cast<size_t>(mine.first);
            const Quantized out = {
                block.bytes.values + first * block.bytes.stride, block.bytes.stride, block.bytes.scales + first,
                block.bytes.sums + first};
            kernels.quantize(
                from + first * static_cast<size_t>(stride), static_cast<size_t>(stride), mine.count(), width,
                up_to(width, kLine), clip, out);
        });
    }

    void linear(
        const Scope& scope, const TernaryMatrix& matrix, const Block& block, int count, Activation act, float* out,
        int stride) const {
        scope.each(matrix.view().panels, [&](Range mine) {
            kernels.linear(
                block.bytes, count, matrix.view(), mine.first, mine.last, act, out, static_cast<size_t>(stride),
                scratch[static_cast<size_t>(scope.rank())]);
        });
    }

    void normalize(
        const Scope& scope, const float* a, const float* b, float* sum, float* out, int stride, int count, int width,
        const Norm& norm) const {
        scope.each(count, [&](Range mine) {
            const size_t skip = static_cast<size_t>(mine.first) * static_cast<size_t>(stride);
            kernels.normalize(
                a + skip, b ? b + skip : nullptr, sum ? sum + skip : nullptr, out + skip, static_cast<size_t>(stride),
                mine.count(), width, norm);
        });
    }
};

void Model::forward(const Kernels& kernels, Team& team, const Tokens& tokens, float* logits) {
    Tokens chunk = tokens;
    for (int first = 0; first < tokens.sequences; first += chunk.sequences) {
        int rows = tokens.lengths[first];
        chunk.sequences = 1;
        while (first + chunk.sequences < tokens.sequences &&
               rows + tokens.lengths[first + chunk.sequences] <= kChunkRows) {
            rows += tokens.lengths[first + chunk.sequences++];
        }
        chunk.lengths = tokens.lengths + first;
        forward_chunk(kernels, team, chunk, logits + static_cast<size_t>(first) * static_cast<size_t>(config_.labels));
        chunk.words += rows;
        if (chunk.types) chunk.types += rows;
        if (chunk.positions) chunk.positions += rows;
    }
}

void Model::forward_chunk(const Kernels& kernels, Team& team, const Tokens& tokens, float* logits) {
    const kdqat_config& c = config_;
    Pass pass = {kernels, tokens, {}, {0}, {}};
    int longest = 0;
    for (int s = 0; s < tokens.sequences; ++s) {
        pass.starts.push_back(pass.starts.back() + tokens.lengths[s]);
        longest = std::max(longest, tokens.lengths[s]);
    }
    const int rows = pass.rows(), members = team.members();
    const int blocks = row_blocks(rows, members);
    const int capacity = std::max(blocks ? (rows + blocks - 1) / blocks : rows, tokens.sequences);

    const int inner = up_to(c.inner, kPanel), attention = up_to(attention_, kPanel),
              embedding = up_to(c.embedding, kPanel);
    const int wide = std::max({inner, 3 * attention, width_, embedding});
    // Not a multiple of a page, because such rows would use the same few cache sets.
    const size_t byte_stride = static_cast<size_t>(up_to(std::max(wide, width_), 64)) + 64;
    const int widest = std::max({c.inner, c.hidden, attention_, c.embedding});
    const size_t scratch = std::max(kernels.attend_bytes(longest, c.head_size), kernels.scratch_bytes(widest));

    std::vector<Block> parts(static_cast<size_t>(blocks ? members : 1));
    // Two rounds: the first counts the memory, the second assigns it.
    uint8_t* next = nullptr;
    size_t total = 0;
    auto take = [&](auto*& pointer, size_t count) {
        const size_t bytes = (count * sizeof(*pointer) + kLine - 1) / kLine * kLine;
        if (next) pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(next + total);
#ifdef KDQAT_POISON
        if (next) ASAN_POISON_MEMORY_REGION(next + total + bytes, kLine);
#endif
        total += bytes + kLine;
    };
    auto lay_out = [&] {
        const size_t n = static_cast<size_t>(rows), capacity_n = static_cast<size_t>(capacity);
        total = 0;
        take(pass.buffers.hidden, n * static_cast<size_t>(width_));
        take(pass.buffers.context, n * static_cast<size_t>(attention));
        take(pass.buffers.pooled, static_cast<size_t>(tokens.sequences) * static_cast<size_t>(width_) * 2);
        take(pass.buffers.query_sums, n * static_cast<size_t>(c.heads));
        for (int i = 0; i < 3; ++i) {
            take(pass.buffers.qkv[i], n * static_cast<size_t>(attention_) + 4);  // kernels read four bytes at a time
            take(pass.buffers.qkv_scales[i], n * static_cast<size_t>(c.heads));
        }
        for (Block& block : parts) {
            take(block.wide, capacity_n * static_cast<size_t>(wide));
            take(block.gate, c.gated ? capacity_n * static_cast<size_t>(inner) : 0);
            take(block.narrow, capacity_n * static_cast<size_t>(std::max(width_, embedding)));
            take(block.bytes.values, capacity_n * byte_stride);
            take(block.bytes.scales, capacity_n);
            take(block.bytes.sums, capacity_n);
            block.bytes.stride = byte_stride;
        }
        for (uint8_t*& piece : pass.scratch) take(piece, scratch);
    };
    pass.scratch.resize(static_cast<size_t>(members));
    lay_out();
#ifdef KDQAT_POISON
    ASAN_UNPOISON_MEMORY_REGION(memory_.data(), memory_.size());
#endif
    if (memory_.size() < total + kLine) memory_.resize(total + kLine);
    next = memory_.data() + (kLine - reinterpret_cast<uintptr_t>(memory_.data()) % kLine) % kLine;
    lay_out();

    const int heads = tokens.sequences * c.heads;
    team.run(c.layers * kLayerParts + kOtherParts, [&](int rank) {
        Member member = {team, rank, 0};
        const Scope scope(member, blocks == 0);
        const Block& block = parts[blocks ? static_cast<size_t>(rank) : 0];
        for (int l = 0; l <= c.layers; ++l) {
            auto work = [&](Range range) {
                if (l == 0) {
                    embed(pass, scope, range, block);
                } else {
                    finish_layer(pass, scope, layers_[static_cast<size_t>(l) - 1], range, block);
                }
                if (l < c.layers) project(pass, scope, layers_[static_cast<size_t>(l)], range, block);
            };
            if (blocks) {
                member.share_out(blocks, [&](int piece) { work(share(rows, piece, blocks)); });
            } else {
                work({0, rows});
            }
            if (l < c.layers) member.share_out(heads, [&](int piece) { attend(pass, piece, rank); });
        }
        classify(pass, Scope(member, true), parts[0], logits);
    });
}

void Model::embed(const Pass& pass, const Scope& scope, Range rows, const Block& block) const {
    const kdqat_config& c = config_;
    const std::vector<float>& types = head().vectors[KDQAT_TYPES];
    const std::vector<float>& positions = head().vectors[KDQAT_POSITIONS];
    const TernaryMatrix& projection = head().matrices[KDQAT_PROJECTION];
    const int stride = projection.empty() ? width_ : up_to(c.embedding, kPanel);
    float* to = projection.empty() ? pass.buffers.hidden + static_cast<size_t>(rows.first) * static_cast<size_t>(width_)
                                   : block.narrow;
    scope.each(rows.count(), [&](Range mine) {
        for (int r = mine.first; r < mine.last; ++r) {
            const int token = rows.first + r;
            float* row = to + static_cast<size_t>(r) * static_cast<size_t>(stride);
            auto add = [&](const std::vector<float>& table, int index) {
                const float* values = table.data() + static_cast<size_t>(index) * static_cast<size_t>(c.embedding);
                for (int i = 0; i < c.embedding; ++i) row[i] += values[i];
            };
            words_.look_up(pass.tokens.words[token], row);
            if (c.types) add(types, pass.tokens.types[token]);
            if (c.positions) add(positions, pass.tokens.positions[token]);
        }
    });
    if (!c.pre_norm) {
        const Norm norm = {
            head().vectors[KDQAT_EMBEDDING_GAIN].data(), head().vectors[KDQAT_EMBEDDING_BIAS].data(),
            c.embedding_epsilon};
        pass.normalize(scope, to, nullptr, nullptr, to, stride, rows.count(), c.embedding, norm);
    }
    if (!projection.empty()) {
        pass.quantize(scope, to, stride, rows.count(), c.embedding, c.clip, block);
        float* hidden = pass.buffers.hidden + static_cast<size_t>(rows.first) * static_cast<size_t>(width_);
        pass.linear(scope, projection, block, rows.count(), Activation::none, hidden, width_);
    }
}

void Model::project(const Pass& pass, const Scope& scope, const Layer& layer, Range rows, const Block& block) const {
    const kdqat_config& c = config_;
    const float* input = pass.buffers.hidden + static_cast<size_t>(rows.first) * static_cast<size_t>(width_);
    if (c.pre_norm) {
        const Norm norm = {layer.vectors[KDQAT_ATTENTION_GAIN].data(), nullptr, c.epsilon};
        pass.normalize(scope, input, nullptr, nullptr, block.narrow, width_, rows.count(), c.hidden, norm);
        input = block.narrow;
    }
    pass.quantize(scope, input, width_, rows.count(), c.hidden, c.clip, block);
    const int part = up_to(attention_, kPanel);
    for (int i = 0; i < 3; ++i) {
        const TernaryMatrix& matrix = layer.matrices[static_cast<size_t>(KDQAT_QUERY + i)];
        pass.linear(scope, matrix, block, rows.count(), Activation::none, block.wide + i * part, 3 * part);
    }
    scope.each(rows.count(), [&](Range mine) {
        for (int r = mine.first; r < mine.last; ++r) {
            const size_t row = static_cast<size_t>(rows.first + r), scales = row * static_cast<size_t>(c.heads);
            for (int i = 0; i < 3; ++i) {
                const Quantized out = {
                    pass.buffers.qkv[i] + row * static_cast<size_t>(attention_), static_cast<size_t>(c.head_size),
                    pass.buffers.qkv_scales[i] + scales, i == 0 ? pass.buffers.query_sums + scales : nullptr};
                const float* heads = block.wide + static_cast<size_t>(r) * static_cast<size_t>(3 * part) + i * part;
                pass.kernels.quantize(
                    heads, static_cast<size_t>(c.head_size), c.heads, c.head_size, c.head_size, c.clip, out);
            }
        }
    });
}

void Model::attend(const Pass& pass, int piece, int rank) const {
    const kdqat_config& c = config_;
    const Buffers& b = pass.buffers;
    const int sequence = piece / c.heads, h = piece % c.heads;
    const size_t first = static_cast<size_t>(pass.starts[static_cast<size_t>(sequence)]);
    const size_t values =
        first * static_cast<size_t>(attention_) + static_cast<size_t>(h) * static_cast<size_t>(c.head_size);
    const size_t scales = first * static_cast<size_t>(c.heads) + static_cast<size_t>(h);
    const size_t context_stride = static_cast<size_t>(up_to(attention_, kPanel));
    Head head = {};
    head.query = b.qkv[0] + values;
    head.key = b.qkv[1] + values;
    head.value = b.qkv[2] + values;
    head.query_scales = b.qkv_scales[0] + scales;
    head.key_scales = b.qkv_scales[1] + scales;
    head.value_scales = b.qkv_scales[2] + scales;
    head.query_sums = b.query_sums + scales;
    head.stride = static_cast<size_t>(attention_);
    head.heads = static_cast<size_t>(c.heads);
    head.length = pass.tokens.lengths[sequence];
    head.size = c.head_size;
    head.scaling = c.scaling;
    head.clip = c.clip;
    if (pass.tokens.relative) {
        const size_t row = static_cast<size_t>(2 * pass.tokens.span - 1);
        head.relative = pass.tokens.relative + static_cast<size_t>(h) * row + (pass.tokens.span - 1);
    }
    head.context = b.context + first * context_stride + static_cast<size_t>(h) * static_cast<size_t>(c.head_size);
    head.context_stride = context_stride;
    pass.kernels.attend(head, pass.scratch[static_cast<size_t>(rank)]);
}

void Model::finish_layer(
    const Pass& pass, const Scope& scope, const Layer& layer, Range rows, const Block& block) const {
    const kdqat_config& c = config_;
    const int count = rows.count(), part = up_to(attention_, kPanel), inner = up_to(c.inner, kPanel);
    const Activation act = static_cast<Activation>(c.activation);
    float* hidden = pass.buffers.hidden + static_cast<size_t>(rows.first) * static_cast<size_t>(width_);
    const float* context = pass.buffers.context + static_cast<size_t>(rows.first) * static_cast<size_t>(part);
    auto values = [&](int which) {
        const std::vector<float>& vector = layer.vectors[static_cast<size_t>(which)];
        return vector.empty() ? nullptr : vector.data();
    };
    auto matrix = [&](int which) -> const TernaryMatrix& { return layer.matrices[static_cast<size_t>(which)]; };

    pass.quantize(scope, context, part, count, attention_, c.clip, block);
    pass.linear(scope, matrix(KDQAT_OUTPUT), block, count, Activation::none, block.narrow, width_);
    const float* read = hidden;  // by the feed-forward
    if (c.pre_norm) {
        const Norm norm = {values(KDQAT_OUTPUT_GAIN), nullptr, c.epsilon};
        pass.normalize(scope, hidden, block.narrow, hidden, block.narrow, width_, count, c.hidden, norm);
        read = block.narrow;
    } else {
        const Norm norm = {values(KDQAT_ATTENTION_GAIN), values(KDQAT_ATTENTION_BIAS), c.epsilon};
        pass.normalize(scope, hidden, block.narrow, nullptr, hidden, width_, count, c.hidden, norm);
    }
    pass.quantize(scope, read, width_, count, c.hidden, c.clip, block);
    pass.linear(scope, matrix(KDQAT_UP), block, count, act, block.wide, inner);
    if (c.gated) pass.linear(scope, matrix(KDQAT_GATE), block, count, Activation::none, block.gate, inner);
    if (c.gated) {
        scope.each(count, [&](Range mine) {
            const size_t skip = static_cast<size_t>(mine.first) * static_cast<size_t>(inner);
            pass.kernels.multiply(
                block.wide + skip, block.gate + skip, static_cast<size_t>(inner), mine.count(), c.inner);
        });
    }
    pass.quantize(scope, block.wide, inner, count, c.inner, c.clip, block);
    pass.linear(scope, matrix(KDQAT_DOWN), block, count, Activation::none, block.narrow, width_);
    if (c.pre_norm) {
        scope.each(count, [&](Range mine) {
            for (size_t i = static_cast<size_t>(mine.first * width_); i < static_cast<size_t>(mine.last * width_);
                 ++i) {
                hidden[i] += block.narrow[i];
            }
        });
    } else {
        const Norm norm = {values(KDQAT_OUTPUT_GAIN), values(KDQAT_OUTPUT_BIAS), c.epsilon};
        pass.normalize(scope, hidden, block.narrow, nullptr, hidden, width_, count, c.hidden, norm);
    }
}

void Model::classify(const Pass& pass, const Scope& scope, const Block& block, float* logits) const {
    const kdqat_config& c = config_;
    const int sequences = pass.tokens.sequences;
    const size_t width = static_cast<size_t>(width_);
    float* pooled = pass.buffers.pooled;
    float* read = pooled + static_cast<size_t>(sequences) * width;  // by the head
    scope.each(sequences, [&](Range mine) {
        for (int s = mine.first; s < mine.last; ++s) read_sequence(pass, s, read + static_cast<size_t>(s) * width);
    });
    if (c.head == KDQAT_POOLED) {
        pass.quantize(scope, read, width_, sequences, c.hidden, c.clip, block);
        const Activation act = static_cast<Activation>(c.head_activation);
        pass.linear(scope, head().matrices[KDQAT_POOLER], block, sequences, act, pooled, width_);
        read = pooled;
    }
    const std::vector<float>* vectors = head().vectors.data();
    scope.each(sequences, [&](Range mine) {
        for (int s = mine.first; s < mine.last; ++s) {
            const float* row = read + static_cast<size_t>(s) * width;
            if (c.head == KDQAT_DENSE) {
                float* to = pooled + static_cast<size_t>(s) * width;
                pass.kernels.dense(
                    row, vectors[KDQAT_HEAD_WEIGHT].data(), vectors[KDQAT_HEAD_BIAS].data(), c.hidden, c.hidden,
                    static_cast<Activation>(c.head_activation), to);
                row = to;
            }
            pass.kernels.dense(
                row, vectors[KDQAT_CLASSIFIER_WEIGHT].data(), vectors[KDQAT_CLASSIFIER_BIAS].data(), c.labels, c.hidden,
                Activation::none, logits + static_cast<size_t>(s) * static_cast<size_t>(c.labels));
        }
    });
}

void Model::read_sequence(const Pass& pass, int sequence, float* to) const {
    const kdqat_config& c = config_;
    const size_t width = static_cast<size_t>(width_);
    float* hidden = pass.buffers.hidden + static_cast<size_t>(pass.starts[static_cast<size_t>(sequence)]) * width;
    std::memcpy(to, hidden, static_cast<size_t>(c.hidden) * sizeof(float));
    if (c.head != KDQAT_MEAN) return;
    const int length = pass.tokens.lengths[sequence];
    const Norm norm = {head().vectors[KDQAT_FINAL_GAIN].data(), nullptr, c.epsilon};
    if (c.pre_norm) pass.kernels.normalize(hidden, nullptr, nullptr, hidden, width, length, c.hidden, norm);
    std::fill(to, to + c.hidden, 0.0f);
    for (int r = 0; r < length; ++r) {
        for (int i = 0; i < c.hidden; ++i) to[i] += hidden[static_cast<size_t>(r) * width + static_cast<size_t>(i)];
    }
    for (int i = 0; i < c.hidden; ++i) to[i] /= static_cast<float>(length);
}

}  // namespace kdqat
