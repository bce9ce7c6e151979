// Huffman codes: one table look-up per level. Decoding reads eight bytes for four levels, encoding writes eight bytes for
// four levels.

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "api.h"
#include "guard.h"

using namespace kdqat;

namespace {

constexpr int kWindow = 12;  // bits of the longest code

// The bits of a block, the next bit highest. After the end of the block come zeros.
class Bits {
public:
    Bits(const uint8_t* at, const uint8_t* end) : at_(at), end_(end) {}

    bool has_eight_bytes() const { return end_ - at_ >= 8; }
    // Fills the window to at least 56 bits; needs eight more bytes.
    void fill() {
        uint64_t next = 0;
        for (int i = 0; i < 8; ++i) next = next << 8 | at_[i];  // one load and a swap of bytes
        window_ |= next >> held_;
        at_ += (63 - held_) >> 3;
        held_ |= 56;
    }
    // The same up to the end of the block.
    void fill_slowly() {
        for (; held_ <= 56 && at_ < end_; held_ += 8) window_ |= uint64_t{*at_++} << (56 - held_);
    }
    uint8_t take(const uint16_t* table) {
        const uint16_t found = table[window_ >> (64 - kWindow)];
        window_ <<= found >> 8;
        held_ -= found >> 8;
        return static_cast<uint8_t>(found);
    }
    bool overran() const { return held_ < 0; }
    bool ended() const { return at_ == end_ && held_ < 8 && window_ == 0; }

private:
    const uint8_t *at_, *end_;
    uint64_t window_ = 0;
    int held_ = 0;
};

// Some bits that belong at the end of a stream, the first bit highest.
struct Code {
    uint64_t bits;
    int length;

    Code then(Code next) const { return {bits << next.length | next.bits, length + next.length}; }
};

// Writes codes one after the other. Each write is of eight bytes, of which the next write replaces what is not full.
class Writer {
public:
    Writer(uint8_t* at, const uint8_t* end) : at_(at), end_(end) {}

    const uint8_t* at() const { return at_; }
    // A code of at most 56 bits.
    void add(Code code) {
        held_ = held_.then(code);
        store();
        at_ += held_.length >> 3;
        held_.length &= 7;
    }
    // Ends a block: the rest of its last byte is zeros.
    void end() {
        store();
        at_ += held_.length > 0;
        held_ = {0, 0};
    }

private:
    void store() {
        if (end_ - at_ < 8) throw std::invalid_argument("too little room for the codes");
        const uint64_t from_top = held_.bits << (63 - held_.length) << 1;
        uint8_t* to = at_;
        for (int i = 0; i < 8; ++i) to[i] = static_cast<uint8_t>(from_top >> (56 - 8 * i));  // one swap and one store
    }

    uint8_t* at_;
    const uint8_t* const end_;
    Code held_ = {0, 0};  // below the bits that count there may be others, which were written
};

}  // namespace

int kdqat_huffman(
    const uint8_t* blocks, int64_t bytes, const uint16_t* sizes, const uint16_t* table, int64_t block, int64_t count,
    uint8_t* levels) {
    return guarded([&] {
        const uint8_t* end = blocks + bytes;
        for (int64_t first = 0; first < count; first += block) {
            const int64_t size = *sizes++, here = std::min(block, count - first);
            if (size > end - blocks) throw std::invalid_argument("a block ends after the end of the stream");
            Bits bits(blocks, blocks + size);
            uint8_t *out = levels + first, *last = out + here;
            for (; last - out >= 4 && bits.has_eight_bytes(); out += 4) {
                bits.fill();
                for (int i = 0; i < 4; ++i) out[i] = bits.take(table);
            }
            while (out < last) {
                bits.fill_slowly();
                *out++ = bits.take(table);
                if (bits.overran()) throw std::invalid_argument("codes do not end at the end of their block");
            }
            if (!bits.ended()) throw std::invalid_argument("bits after the last level of a block are not zero");
            blocks += size;
        }
    });
}

int kdqat_huffman_encode(
    const uint8_t* levels, int64_t count, int64_t block, const uint16_t* codes, uint16_t* sizes, uint8_t* blocks,
    int64_t capacity) {
    return guarded([&] {
        auto code = [&](uint8_t level) {
            const uint16_t found = codes[level];
            return Code{static_cast<uint64_t>(found & ((1 << kWindow) - 1)), found >> kWindow};
        };
        Writer writer(blocks, blocks + capacity);
        for (int64_t first = 0; first < count; first += block) {
            const uint8_t *from = levels + first, *last = from + std::min(block, count - first);
            const uint8_t* start = writer.at();
            for (; last - from >= 4; from += 4) {
                writer.add(code(from[0]).then(code(from[1])).then(code(from[2]).then(code(from[3]))));
            }
            for (; from < last; ++from) writer.add(code(*from));
            writer.end();
            *sizes++ = static_cast<uint16_t>(writer.at() - start);
        }
    });
}
