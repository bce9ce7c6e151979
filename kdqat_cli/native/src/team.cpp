#include "team.h"

#include <exception>

namespace kdqat {
namespace {

constexpr int kSpins = 2000;       // during a job
constexpr int kIdleSpins = 16000;  // between two jobs

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

void Team::wait_until(const std::function<bool()>& condition) {
    for (int i = 0; i < kSpins; ++i) {
        if (condition()) return;
        pause();
    }
    while (!condition()) std::this_thread::yield();
}

Team::Team(int members) {
    threads_.reserve(static_cast<size_t>(members) - 1);
    try {
        for (int rank = 1; rank < members; ++rank) threads_.emplace_back([this, rank] { serve(rank); });
    } catch (const std::exception&) {  // the system refuses; the threads that were started go on
    }
    members_ = 1 + static_cast<int>(threads_.size());
}

Team::~Team() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ending_ = true;
        calls_.fetch_add(1);
    }
    called_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void Team::run(int parts, const std::function<void(int)>& job) {
    if (parts > capacity_) {
        parts_ = std::make_unique<Part[]>(static_cast<size_t>(parts));
        capacity_ = parts;
    }
    for (int i = 0; i < capacity_; ++i) {
        parts_[static_cast<size_t>(i)].next.store(0);
        parts_[static_cast<size_t>(i)].done.store(0);
    }
    job_ = &job;
    open_.store(true);
    if (members_ > 1) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            calls_.fetch_add(1);
        }
        called_.notify_all();
    }
    job(0);
    // Sequentially consistent, as in serve: either a member sees that it is too late, or this thread sees the member.
    open_.store(false);
    wait_until([&] { return inside_.load() == 0; });
}

void Team::serve(int rank) {
    for (int seen = 0;;) {
        for (int i = 0; i < kIdleSpins && calls_.load() == seen; ++i) pause();
        if (calls_.load() == seen) {
            std::unique_lock<std::mutex> lock(mutex_);
            called_.wait(lock, [&] { return calls_.load() != seen; });
        }
        seen = calls_.load();
        if (ending_) return;
        inside_.fetch_add(1);
        if (open_.load()) (*job_)(rank);
        inside_.fetch_sub(1);
    }
}

}  // namespace kdqat
