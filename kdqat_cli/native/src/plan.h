// How the rows of a call are shared out.
//
// With many rows each member of the team takes blocks of rows through a whole run of layers: nothing is waited for, and
// what a block writes is still in its processor's cache when it is read. With few rows all members work on the same
// rows, each on a share of the outputs, and meet after every step. Both run the same code, in a `Scope`.

#pragma once

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

// One member in one job: who it is, and how many of the job's parts it has been through.
struct Member {
    Team& team;
    int rank;
    int part;

    template <class Work>
    void share_out(int pieces, Work&& work) {
        team.share_out(part++, pieces, work);
    }
};

// Who works together on a piece: one member alone, or all of them.
class Scope {
public:
    Scope(Member& member, bool together) : member_(member), together_(together) {}
    int rank() const { return member_.rank; }

    // work(range) for ranges that make up 0 to `count`; returns when all are done.
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
