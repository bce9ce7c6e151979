// A few threads that run one function together, and share out its parts piece by piece.
//
// A forward pass of a small batch has a hundred parts of some 50 µs each. Nobody waits for a member to appear, only for
// pieces that one has taken: where other processes keep a processor busy, the member that it should run takes no
// pieces, and the others do its work. A member that must wait spins for about kSpins pauses (some 25 to 90 µs) and then
// offers its processor to whoever wants it, again and again. It does not sleep: the shortest nap takes some 80 µs, and
// a member that oversleeps finds that the others did its share of the next part, one piece after the other.
//
// Between two calls the threads spin for kIdleSpins pauses (some 0.2 to 0.7 ms), then sleep. Waking one takes longer than
// a small call: where the caller's pauses outlasted the spinning, members came too late for each call anew.

#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace kdqat {

class Team {
public:
    // With fewer members where the system starts no more threads (a limit of processes or memory).
    explicit Team(int members);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int members() const { return members_; }

    // Runs job(rank) on rank 0, the calling thread, and on each member that comes in time; returns when it is done.
    // A job is a sequence of at most `parts` calls of share_out, the same for every member, and must not throw.
    void run(int parts, const std::function<void(int)>& job);

    // work(piece) for every piece, each on one member; returns when all are done. `part` counts the job's calls.
    template <class Work>
    void share_out(int part, int pieces, Work&& work) {
        Part& here = parts_[static_cast<size_t>(part)];
        for (int piece; (piece = here.next.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
            work(piece);
            here.done.fetch_add(1, std::memory_order_release);
        }
        wait_until([&] { return here.done.load(std::memory_order_acquire) == pieces; });
    }

private:
    struct alignas(64) Part {
        std::atomic<int> next{0}, done{0};
    };

    void serve(int rank);
    void wait_until(const std::function<bool()>& condition);

    int members_ = 1;
    std::unique_ptr<Part[]> parts_;
    int capacity_ = 0;
    const std::function<void(int)>* job_ = nullptr;
    std::atomic<bool> open_{false};  // a job that members may join
    std::atomic<int> inside_{0};     // members that look at it, or work on it
    std::atomic<int> calls_{0};
    std::mutex mutex_;
    std::condition_variable called_;
    bool ending_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace kdqat
