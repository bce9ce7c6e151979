// Uniform weights in groups, divided among threads; buckets.h computes a part of one group.
//
// One member computes a whole small group, so that its values are still in the cache when they are read again. A large
// group is divided into chunks of a fixed size: the results do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "api.h"
#include "guard.h"
#include "share.h"

using namespace kdqat;

namespace {

constexpr int64_t kSmall = int64_t{1} << 16;  // values of the largest group that is not divided
constexpr int64_t kChunk = int64_t{1} << 14;

// Consecutive values of one group.
struct Chunk {
    int64_t group, at, count;
};

// What is known of a group, or of a part of it: its extremes, the first chunk that has each of them, and a sum.
struct Found {
    float low, high;
    int64_t low_in, high_in;
    double sum;

    void add(const Found& next) {  // NaN stays
        if (next.low < low || std::isnan(next.low)) {
            low = next.low;
            low_in = next.low_in;
        }
        if (next.high > high || std::isnan(next.high)) {
            high = next.high;
            high_in = next.high_in;
        }
        sum += next.sum;
    }
};

std::vector<Chunk> chunks_of(int64_t count, int64_t size) {
    std::vector<Chunk> chunks;
    for (int64_t group = 0; group * size < count; ++group) {
        const int64_t end = std::min((group + 1) * size, count);
        for (int64_t at = group * size; at < end; at += kChunk) {
            chunks.push_back({group, at, std::min(kChunk, end - at)});
        }
    }
    return chunks;
}

// Computes look(chunk) -> Found for all chunks of a group, then calls finish(chunk, what was found of the whole group)
// for each of them. finisher() makes the `finish` of one piece of the work.
template <class Look, class Finisher>
void by_groups(int threads, int64_t count, int64_t size, Look&& look, Finisher&& finisher) {
    if (size <= kSmall) {
        const int64_t groups = (count + size - 1) / size;
        share_range(threads, groups, pieces_of(groups, threads), [&](int64_t first, int64_t number) {
            auto finish = finisher();
            for (int64_t group = first; group < first + number; ++group) {
                const Chunk whole = {group, group * size, std::min(size, count - group * size)};
                finish(whole, look(whole));
            }
        });
        return;
    }
    const std::vector<Chunk> chunks = chunks_of(count, size);
    const int64_t number = static_cast<int64_t>(chunks.size());
    const int pieces = pieces_of(number, threads);
    std::vector<Found> parts(chunks.size()), groups(chunks.back().group + 1);
    share_range(threads, number, pieces, [&](int64_t first, int64_t here) {
        for (int64_t i = first; i < first + here; ++i) parts[i] = look(chunks[i]);
    });
    for (int64_t i = 0; i < number; ++i) {
        Found& group = groups[chunks[i].group];
        if (i > 0 && chunks[i].group == chunks[i - 1].group) {
            group.add(parts[i]);
        } else {
            group = parts[i];
        }
    }
    share_range(threads, number, pieces, [&](int64_t first, int64_t here) {
        auto finish = finisher();
        for (int64_t i = first; i < first + here; ++i) finish(chunks[i], groups[chunks[i].group]);
    });
}

// Random words of consecutive values; a block is made when its first word is asked for.
class Draws {
public:
    Draws(const Steps& steps, uint64_t seed) : steps_(steps), seed_(seed) {}

    // The words of value `at` and the next ones; `left` receives how many there are.
    const uint32_t* from(int64_t at, int64_t* left) {
        if (at / kWords != block_) {
            block_ = at / kWords;
            steps_.random(seed_, static_cast<uint64_t>(block_), words_);
        }
        *left = (block_ + 1) * kWords - at;
        return words_ + at % kWords;
    }

private:
    const Steps& steps_;
    const uint64_t seed_;
    int64_t block_ = -1;
    uint32_t words_[kWords];
};

// The first place of a value in a chunk; 0 if it is nowhere.
int64_t place_of(const float* x, int64_t count, float value) {
    constexpr int64_t kStep = 64;
    int64_t i = 0;
    for (; i + kStep <= count; i += kStep) {
        int found = 0;
        for (int64_t j = 0; j < kStep; ++j) found |= x[i + j] == value;
        if (found) break;
    }
    while (i < count && x[i] != value) ++i;
    return i < count ? i : 0;
}

}  // namespace

int kdqat_levels(
    const char* kernel, int threads, const float* x, int64_t count, int64_t size, int most, float constant,
    const uint64_t* seed, uint8_t* levels, float* scales, float* offsets) {
    return guarded([&] {
        const Steps& steps = kernels_named(kernel).training;
        auto look = [&](const Chunk& chunk) {
            Found found = {0.0f, 0.0f, chunk.at, chunk.at, 0.0};
            steps.extremes(x + chunk.at, chunk.count, &found.low, &found.high);
            return found;
        };
        auto finisher = [&] {
            return [&, draws = Draws(steps, seed ? *seed : 0)](const Chunk& chunk, const Found& found) mutable {
                const float width = found.high - found.low, scale = width / static_cast<float>(most);
                if (chunk.at == chunk.group * size) {
                    offsets[chunk.group] = found.low;
                    scales[chunk.group] = scale;
                }
                const float step = width < constant ? std::numeric_limits<float>::infinity() : scale;
                const float* from = x + chunk.at;
                uint8_t* to = levels + chunk.at;
                if (!seed) return steps.levels(from, chunk.count, found.low, step, to);
                for (int64_t done = 0; done < chunk.count;) {
                    int64_t here;
                    const uint32_t* words = draws.from(chunk.at + done, &here);
                    here = std::min(here, chunk.count - done);
                    steps.drawn_levels(from + done, words, here, found.low, step, static_cast<float>(most), to + done);
                    done += here;
                }
            };
        };
        by_groups(threads, count, size, look, finisher);
    });
}

int kdqat_range_gradient(
    const char* kernel, int threads, const float* grad, const float* x, const float* value, int64_t count, int64_t size,
    float constant, float* out) {
    return guarded([&] {
        const Steps& steps = kernels_named(kernel).training;
        auto look = [&](const Chunk& chunk) {
            const int64_t at = chunk.at;
            Found found = {0.0f, 0.0f, at, at, 0.0};
            steps.extremes(x + at, chunk.count, &found.low, &found.high);
            found.sum = static_cast<double>(steps.moved(grad + at, x + at, value + at, chunk.count, out + at));
            return found;
        };
        auto finish = [&](const Chunk& chunk, const Found& found) {
            const float width = found.high - found.low;
            if (width < constant) return;
            const float share = static_cast<float>(found.sum / static_cast<double>(width));
            float* to = out + chunk.at;
            if (chunk.at == found.high_in) to[place_of(x + chunk.at, chunk.count, found.high)] += share;
            if (chunk.at == found.low_in) to[place_of(x + chunk.at, chunk.count, found.low)] -= share;
        };
        by_groups(threads, count, size, look, [&] { return finish; });
    });
}

int kdqat_values(
    const char* kernel, int threads, const void* levels, int negative, int64_t count, int64_t size, const float* scales,
    const float* offsets, float* values) {
    return guarded([&] {
        const Steps& steps = kernels_named(kernel).training;
        const auto* unsigned_levels = static_cast<const uint8_t*>(levels);
        const auto* signed_levels = static_cast<const int8_t*>(levels);
        share_values(threads, count, [&](int64_t at, int64_t left) {
            while (left > 0) {
                const int64_t group = at / size, here = std::min(left, (group + 1) * size - at);
                const float offset = offsets ? offsets[group] : 0.0f;
                if (negative) {
                    steps.signed_values(signed_levels + at, here, scales[group], offset, values + at);
                } else {
                    steps.values(unsigned_levels + at, here, scales[group], offset, values + at);
                }
                at += here;
                left -= here;
            }
        });
    });
}
