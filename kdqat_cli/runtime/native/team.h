// A few threads that run one function together, with a barrier between its parts.
//
// A forward pass of a small batch has a hundred parts of some 50 µs each. A thread that waits for the others therefore
// spins, but not for long: after about kSpins pauses (some 40 µs) it sleeps, so that a thread whose processor was taken
// away does not make the others burn theirs. Between two calls the threads sleep too.

#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace kdqat {

class Team {
public:
    explicit Team(int members);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int members() const { return members_; }

    // Runs job(rank) on every member, rank 0 in the calling thread; returns when all are done. Jobs must not throw.
    void run(const std::function<void(int)>& job);

    // Waits until every member is here. To be called by all of them, within a job.
    void wait_for_all();

private:
    void serve(int rank);

    // A counter that can be awaited: first awake, then asleep.
    class Signal {
    public:
        int now() const { return value_.load(std::memory_order_acquire); }
        void raise();
        void await_change(int seen);

    private:
        std::atomic<int> value_{0}, sleepers_{0};
        std::mutex mutex_;
        std::condition_variable changed_;
    };

    const int members_;
    std::atomic<int> arrived_{0};
    Signal barrier_, start_;
    const std::function<void(int)>* job_ = nullptr;
    bool ending_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace kdqat
