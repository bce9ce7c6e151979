// How the rows of a call are shared out.
//
// With many rows each member of the team takes blocks of rows through a whole run of layers: nothing is waited for, and
// what a block writes is still in its processor's cache when it is read. With few rows all members work on the same
// rows, each on its share of the outputs, with a barrier after every step. Both run the same code, in a `Scope`.

#pragma once

#include <atomic>

#include "team.h"

namespace kdqat {

constexpr int kBlockRows = 64;
constexpr int kSplitRows = 8;  // fewer rows a member than this: share the outputs instead

struct Range {
    int first, last;
    int count() const { return last - first; }
};

inline Range share(int count, int part, int parts) { return {count * part / parts, count * (part + 1) / parts}; }

// The blocks that `rows` rows are cut into; 0: share the outputs.
inline int row_blocks(int rows, int members) {
    if (members > 1 && rows < members * kSplitRows) return 0;
    const int turns = (rows + members * kBlockRows - 1) / (members * kBlockRows);
    return turns * members;
}

// Who works together on a piece: one member of the team, or all of it.
class Scope {
public:
    Scope(Team& team, int rank, bool together) : team_(team), rank_(rank), together_(together) {}
    int rank() const { return rank_; }
    Range mine(int count) const { return together_ ? share(count, rank_, team_.members()) : Range{0, count}; }
    void sync() const {
        if (together_) team_.wait_for_all();
    }

private:
    Team& team_;
    int rank_;
    bool together_;
};

// Hands out pieces one by one, so that a member whose processor is busy takes fewer.
class Pieces {
public:
    void reset() { next_.store(0, std::memory_order_relaxed); }
    int take() { return next_.fetch_add(1, std::memory_order_relaxed); }

private:
    std::atomic<int> next_{0};
};

}  // namespace kdqat
