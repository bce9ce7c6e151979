// A few threads that run one function together and divide its parts into pieces.
//
// A forward pass of a small batch has about a hundred parts of about 50 µs each. No member waits for another to arrive,
// only for pieces that another has taken. If other processes keep a CPU busy, the member on that CPU takes no pieces,
// and the others do its work. A member that must wait spins for about kSpins pauses (25 to 90 µs) and then yields its
// CPU, again and again. It does not sleep: the shortest sleep takes about 80 µs, and the others would meanwhile do its
// share of the next part.
//
// Between two calls the threads spin for kIdleSpins pauses (0.2 to 0.7 ms) and then sleep. Waking a thread takes longer
// than a small call: with shorter spinning, members would come too late for every call of a caller that pauses longer.

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
    // Has fewer members if the system cannot start more threads (a limit of processes or memory).
    explicit Team(int members);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int members() const { return members_; }

    // Runs job(rank) on rank 0, the calling thread, and on each member that comes in time; returns when it is done.
    // A job is a sequence of at most `parts` calls of share_out, the same for every member, and must not throw.
    void run(int parts, const std::function<void(int)>& job);

    // Calls work(piece) for every piece, each on one member; returns when all are done. `part` counts the calls.
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
    std::atomic<int> inside_{0};     // members that check for the job or work on it
    std::atomic<int> calls_{0};
    std::mutex mutex_;
    std::condition_variable called_;
    bool ending_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace kdqat
