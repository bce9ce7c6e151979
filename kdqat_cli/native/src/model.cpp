// The parts of a model: checks their sizes against the configuration, and that all are there. forward.cpp computes.

#include "model.h"

#include <stdexcept>

namespace kdqat {
namespace {

constexpr int kLargest = 1 << 20;

void require(bool condition, const char* sentence) {
    if (!condition) throw std::invalid_argument(sentence);
}

}  // namespace

Model::Model(const kdqat_config& config) : config_(config), width_(0), attention_(0) {
    const kdqat_config& c = config_;
    for (int size : {c.hidden, c.embedding, c.layers, c.heads, c.head_size, c.inner, c.labels}) {
        require(size >= 1 && size <= kLargest, "a size is out of range");
    }
    require(c.words >= 1, "the number of words is out of range");
    require(c.layers <= 1024 && c.heads <= kLargest / c.head_size, "the number of layers or heads is out of range");
    require(c.positions >= 0 && c.types >= 0, "the number of positions or token types is negative");
    require(c.head >= KDQAT_POOLED && c.head <= KDQAT_MEAN, "the kind of head is unknown");
    require(c.epsilon >= 0 && c.embedding_epsilon >= 0 && c.clip > 0, "an epsilon or the clip is out of range");
    attention_ = c.heads * c.head_size;
    width_ = up_to(c.hidden, kPanel);
    layers_.resize(static_cast<size_t>(c.layers) + 1);
}

void Model::set_words(TernaryTable table, int columns) {
    require(table.rows() == config_.words && columns == config_.embedding, "the word embedding has another size");
    words_ = std::move(table);
}

void Model::set_matrix(int layer, int which, TernaryMatrix matrix) {
    const kdqat_config& c = config_;
    require(which >= 0 && which < KDQAT_MATRICES && layer >= -1 && layer < c.layers, "no such matrix");
    require((layer == -1) == (which >= KDQAT_PROJECTION), "no such matrix");
    int outputs = c.hidden, inputs = c.hidden;
    if (which <= KDQAT_VALUE) outputs = attention_;
    if (which == KDQAT_OUTPUT) inputs = attention_;
    if (which == KDQAT_UP || which == KDQAT_GATE) outputs = c.inner;
    if (which == KDQAT_DOWN) inputs = c.inner;
    if (which == KDQAT_PROJECTION) inputs = c.embedding;
    require(matrix.view().outputs == outputs && matrix.view().inputs == inputs, "a matrix has another size");
    layers_[static_cast<size_t>(layer < 0 ? c.layers : layer)].matrices[static_cast<size_t>(which)] = std::move(matrix);
}

int64_t Model::expected(int which) const {
    const kdqat_config& c = config_;
    const int64_t embedding = c.embedding, hidden = c.hidden;
    switch (which) {
        case KDQAT_POSITIONS: return c.positions * embedding;
        case KDQAT_TYPES: return c.types * embedding;
        case KDQAT_EMBEDDING_GAIN:
        case KDQAT_EMBEDDING_BIAS: return embedding;
        case KDQAT_HEAD_WEIGHT: return hidden * hidden;
        case KDQAT_CLASSIFIER_WEIGHT: return c.labels * hidden;
        case KDQAT_CLASSIFIER_BIAS: return c.labels;
        default: return hidden;
    }
}

void Model::set_vector(int layer, int which, const float* values, int64_t count) {
    require(which >= 0 && which < KDQAT_VECTORS && layer >= -1 && layer < config_.layers, "no such values");
    require((layer == -1) == (which >= KDQAT_POSITIONS), "no such values");
    require(count == expected(which), "a vector has another size");
    Layer& part = layers_[static_cast<size_t>(layer < 0 ? config_.layers : layer)];
    part.vectors[static_cast<size_t>(which)].assign(values, values + count);
}

void Model::complete() const {
    const kdqat_config& c = config_;
    require(!words_.empty(), "the word embedding is missing");
    for (int l = 0; l <= c.layers; ++l) {
        const Layer& layer = layers_[static_cast<size_t>(l)];
        const bool own = l < c.layers;
        for (int which = 0; which < KDQAT_MATRICES; ++which) {
            bool wanted = own == (which < KDQAT_PROJECTION);
            if (which == KDQAT_GATE) wanted = wanted && c.gated;
            if (which == KDQAT_PROJECTION) wanted = wanted && c.embedding != c.hidden;
            if (which == KDQAT_POOLER) wanted = wanted && c.head == KDQAT_POOLED;
            require(
                wanted == !layer.matrices[static_cast<size_t>(which)].empty(),
                "a matrix is missing, or belongs to no part");
        }
        for (int which = 0; which < KDQAT_VECTORS; ++which) {
            bool wanted = own == (which < KDQAT_POSITIONS) && expected(which) > 0;
            const bool bias = which == KDQAT_ATTENTION_BIAS || which == KDQAT_OUTPUT_BIAS;
            if (bias || which == KDQAT_EMBEDDING_GAIN || which == KDQAT_EMBEDDING_BIAS) wanted = wanted && !c.pre_norm;
            if (which == KDQAT_FINAL_GAIN) wanted = wanted && c.pre_norm;
            if (which == KDQAT_HEAD_WEIGHT || which == KDQAT_HEAD_BIAS) wanted = wanted && c.head == KDQAT_DENSE;
            require(
                wanted == !layer.vectors[static_cast<size_t>(which)].empty(),
                "a vector is missing, or belongs to no part");
        }
    }
}

void Model::check(const Tokens& tokens) const {
    require(tokens.sequences >= 1, "no sequences");
    int64_t rows = 0;
    for (int s = 0; s < tokens.sequences; ++s) {
        require(tokens.lengths[s] >= 1, "a sequence is empty");
        require(
            !tokens.relative || tokens.lengths[s] <= tokens.span, "a sequence is longer than its relative positions");
        rows += tokens.lengths[s];
        require(rows <= kLargest, "too many tokens in one call");
    }
    for (int64_t i = 0; i < rows; ++i) {
        require(tokens.words[i] >= 0 && tokens.words[i] < config_.words, "a token id is out of range");
        require(
            !config_.types || (tokens.types[i] >= 0 && tokens.types[i] < config_.types),
            "a token type is out of range");
        require(
            !config_.positions || (tokens.positions[i] >= 0 && tokens.positions[i] < config_.positions),
            "a sequence is too long: a position is out of range");
    }
}

}  // namespace kdqat
