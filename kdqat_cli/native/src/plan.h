// How the rows of a call are divided among threads.
//
// With many rows, each member of the team takes blocks of rows through several layers: no member waits, and the results
// of a block are still in the cache when they are read. With few rows, all members work on the same rows, each on a
// share of the outputs, and wait for each other after every step. Both run the same code, in a `Scope`.

#pragma once

#include "team.h"

namespace kdqat {

constexpr int kBlockRows = 64;
constexpr int kSplitRows = 8;  // with fewer rows per member, the outputs are shared instead

struct Range {
    int first, last;
    int count() const { return last - first; }
};

inline Range share(int count, int part, int parts) { return {count * part / parts, count * (part + 1) / parts}; }

// The number of blocks for `rows` rows; 0: the outputs are shared.
inline int row_blocks(int rows, int members) {
    if (members > 1 && rows < members * kSplitRows) return 0;
    const int turns = (rows + members * kBlockRows - 1) / (members * kBlockRows);
    return turns * members;
}

// One member in one job: its rank, and how many parts of the job it has finished.
struct Member {
    Team& team;
    int rank;
    int part;

    template <class Work>
    void share_out(int pieces, Work&& work) {
        team.share_out(part++, pieces, work);
    }
};

// The members that work on a piece together: one, or all.
class Scope {
public:
    Scope(Member& member, bool together) : member_(member), together_(together) {}
    int rank() const { return member_.rank; }

    // Calls work(range) for ranges that cover 0 to `count`; returns when all are done.
    template <class Work>
    void each(int count, Work&& work) const {
        if (!together_) return work(Range{0, count});
        const int pieces = member_.team.members();
        member_.share_out(pieces, [&](int piece) { work(share(count, piece, pieces)); });
    }

private:
    Member& member_;
    bool together_;
};

}  // namespace kdqat
