#include "share.h"

#include <memory>
#include <mutex>

#include "guard.h"

namespace kdqat {

// All calls share one team and run one at a time: a step makes about a hundred, and starting threads takes long.
void run_training(int threads, int parts, const std::function<void(Member&)>& work) {
    static std::mutex alone;
    static std::unique_ptr<Team> team;
    const std::lock_guard<std::mutex> lock(alone);
    if (!team || team->members() != threads) team = team_of(threads);
    team->run(parts, [&](int rank) {
        Member member = {*team, rank, 0};
        work(member);
    });
}

}  // namespace kdqat
