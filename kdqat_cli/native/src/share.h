// Divides a training step among threads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "plan.h"

namespace kdqat {

constexpr int kPieces = 8;                    // per member, so that a late member delays the others little
constexpr int64_t kPiece = int64_t{1} << 14;  // values of a piece, for steps without rows

// Runs `work` on each member of the team; a sequence of at most `parts` calls of Member::share_out.
void run_training(int threads, int parts, const std::function<void(Member&)>& work);

inline int pieces_of(int64_t count, int threads) {
    return static_cast<int>(std::min<int64_t>(count, static_cast<int64_t>(threads) * kPieces));
}

struct Rows {
    int64_t first, last;
};

inline Rows rows_of(int64_t count, int piece, int pieces) {
    return {count * piece / pieces, count * (piece + 1) / pieces};
}

// Calls work(first, count) for `pieces` ranges that cover 0 to `count`.
template <class Work>
void share_range(int threads, int64_t count, int pieces, Work&& work) {
    run_training(threads, 1, [&](Member& member) {
        member.share_out(pieces, [&](int piece) {
            const Rows mine = rows_of(count, piece, pieces);
            work(mine.first, mine.last - mine.first);
        });
    });
}

template <class Work>
void share_values(int threads, int64_t count, Work&& work) {
    share_range(threads, count, pieces_of(count / kPiece + 1, threads), work);
}

}  // namespace kdqat
