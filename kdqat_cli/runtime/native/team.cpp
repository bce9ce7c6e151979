#include "team.h"

namespace kdqat {
namespace {

constexpr int kSpins = 2000;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

void Team::Signal::raise() {
    value_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
        // The lock orders this after a sleeper's last look at the value.
        { std::lock_guard<std::mutex> lock(mutex_); }
        changed_.notify_all();
    }
}

void Team::Signal::await_change(int seen) {
    for (int i = 0; i < kSpins; ++i) {
        if (now() != seen) return;
        pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    changed_.wait(lock, [&] { return value_.load(std::memory_order_seq_cst) != seen; });
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
}

Team::Team(int members) : members_(members) {
    for (int rank = 1; rank < members; ++rank) threads_.emplace_back([this, rank] { serve(rank); });
}

Team::~Team() {
    ending_ = true;
    start_.raise();
    for (std::thread& thread : threads_) thread.join();
}

void Team::run(const std::function<void(int)>& job) {
    if (members_ == 1) return job(0);
    job_ = &job;
    start_.raise();
    job(0);
    wait_for_all();
}

void Team::wait_for_all() {
    if (members_ == 1) return;
    const int seen = barrier_.now();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_) {
        arrived_.store(0, std::memory_order_relaxed);
        barrier_.raise();
    } else {
        barrier_.await_change(seen);
    }
}

void Team::serve(int rank) {
    // Counted, not looked up: a start that was given before this thread ran must not be missed.
    for (int seen = 0;; ++seen) {
        start_.await_change(seen);
        if (ending_) return;
        (*job_)(rank);
        wait_for_all();
    }
}

}  // namespace kdqat
