// Decodes Huffman codes: one table look-up per level, four levels per read of eight bytes.

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
