// A whole classifier: embeddings, layers, head. Its parts are in model.cpp, the computation is in forward.cpp.

#pragma once

#include <array>
#include <vector>

#include "api.h"
#include "matrix.h"
#include "plan.h"

namespace kdqat {

struct Layer {
    std::array<TernaryMatrix, KDQAT_MATRICES> matrices;
    std::array<std::vector<float>, KDQAT_VECTORS> vectors;
};

// Token ids, types and positions of sequences that are stored one after the other.
struct Tokens {
    const int32_t *words, *types, *positions;
    const int32_t* lengths;
    int sequences;
    const float* relative;  // heads × (2·span - 1); null: none
    int span;
};

class Model {
public:
    // Throws std::invalid_argument if a size is out of range.
    explicit Model(const kdqat_config& config);

    // Throw std::invalid_argument if a part does not have the size that the configuration says.
    void set_words(TernaryTable table, int columns);
    void set_matrix(int layer, int which, TernaryMatrix matrix);
    void set_vector(int layer, int which, const float* values, int64_t count);
    // Throws std::invalid_argument if a part is missing.
    void complete() const;

    // Throws std::invalid_argument if a token, type, position or length is out of range.
    void check(const Tokens& tokens) const;
    // Computes the logits (sequences, labels) of checked tokens.
    void forward(const Kernels& kernels, Team& team, const Tokens& tokens, float* logits);

private:
    struct Buffers;
    struct Block;
    struct Pass;

    int64_t expected(int which) const;
    const Layer& head() const { return layers_.back(); }
    void forward_chunk(const Kernels& kernels, Team& team, const Tokens& tokens, float* logits);
    void embed(const Pass& pass, const Scope& scope, Range rows, const Block& block) const;
    void project(const Pass& pass, const Scope& scope, const Layer& layer, Range rows, const Block& block) const;
    void attend(const Pass& pass, int piece, int rank) const;
    void finish_layer(const Pass& pass, const Scope& scope, const Layer& layer, Range rows, const Block& block) const;
    void read_sequence(const Pass& pass, int sequence, float* to) const;
    void classify(const Pass& pass, const Scope& scope, const Block& block, float* logits) const;

    kdqat_config config_;
    int width_;      // of the hidden state, padded to whole panels
    int attention_;  // heads × head size
    TernaryTable words_;
    std::vector<Layer> layers_;  // plus one for the parts that belong to no layer
    std::vector<uint8_t> memory_;
};

}  // namespace kdqat
