// AMX: tdpbsud multiplies a tile of 16 rows × 64 activations with one of 64 inputs × 16 codes, and adds to 16 × 16
// int32 sums: 16,384 products in 16 cycles, eight times as many as VNNI's.
//
// A tile of codes is four lines of kernels.h, shifted by 0, 2, 4 and 6 bits and masked. Two tiles of rows (a band)
// times two panels (a strip) keep their sums in four tile registers, so each loaded tile is used twice. Tiles are
// loaded from memory, so codes must first be expanded to memory. This happens three steps ahead, in a ring that stays
// in the first-level cache, and again for each band. A whole strip, expanded once, would push the activations out of
// that cache: it took twice the time at 32 rows, and no less time at 128. While products are computed, which use one
// port only, the sums of the previous band are converted to floats. Sums are exact, as with VNNI. For one or two rows
// VNNI is faster.
//
// Tiles with fewer rows take almost as long as full tiles. So all bands have the same height, which avoids loading
// other tile shapes, and the last band may compute some rows again.
//
// Measured on a busy Xeon (Sapphire Rapids): CPU time, best of many runs, one thread, a 768-wide chain with its
// quantisation. 517 G products per second at 8 rows, 823 at 32, 827 at 128 (VNNI: 315, 313, 303); a loop of only
// tdpbsud and its loads reached 3,200. `python benchmarks/linears.py --threads 1` measures the same chain in elapsed
// time, which is close to these figures only on an idle machine.

#if defined(__x86_64__)

#include "avx512.h"

#if defined(__AMX_INT8__) && defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

#include "training.h"

namespace kdqat {
namespace {

constexpr int kTileRows = 16;
constexpr int kTile = kTileRows * kLine;  // bytes of a tile: 16 outputs × 64 inputs, or 16 rows × 16 sums
constexpr int kStrip = 2;                 // panels of outputs whose sums are computed together
constexpr int kBand = 2 * kTileRows;      // the largest number of rows whose sums are computed together
constexpr int kRing = 4;                  // steps of 64 inputs whose codes are held as bytes
constexpr int kFewRows = 2;               // up to this number of rows, VNNI computes
constexpr int kNone = -1;

// What ldtilecfg reads. Tiles 0 to 3 hold sums, 4 and 5 activations, 6 and 7 codes.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {kLine, kLine, kLine, kLine, kLine, kLine, kLine, kLine};
    uint8_t rows[16] = {};

    TileShapes(int upper, int lower) {
        rows[0] = rows[1] = rows[4] = static_cast<uint8_t>(upper);
        rows[2] = rows[3] = rows[5] = static_cast<uint8_t>(lower ? lower : 1);  // a tile cannot be empty
        rows[6] = rows[7] = kTileRows;
    }
};

// Compilers do not know that tile instructions read memory, so written values must not stay in registers.
inline void written() { asm volatile("" ::: "memory"); }

// One call of the linear layer: rows in bands of equal height, panels in strips. The last band and the last strip are
// as large as the others and may compute some values again.
struct Job {
    const Quantized& rows;
    const Matrix& matrix;
    const Activation act;
    float* const out;
    const size_t out_stride;
    const int count, last;
    const int bands = (count + kBand - 1) / kBand, height = (count + bands - 1) / bands;
    const int upper = height > kTileRows ? (height + 1) / 2 : height, lower = height - upper;  // rows of its two tiles
    const int steps = (matrix.groups + 3) / 4;

    int row_of(int band) const { return band < bands - 1 ? band * height : count - height; }
    int strip_after(int panel) const {
        if (panel + kStrip >= last) return kNone;
        return panel + kStrip < last - kStrip ? panel + kStrip : last - kStrip;
    }
};

inline void expand(const uint8_t* from, uint8_t* to) {
    const __m512i line = _mm512_loadu_si512(from), mask = _mm512_set1_epi8(3);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        const __m512i codes = _mm512_srli_epi16(line, static_cast<unsigned>(2 * j));
        _mm512_store_si512(to + j * kLine, _mm512_and_si512(codes, mask));
    }
}

// Expands the codes in the order in which they are multiplied, 64 inputs of a strip at a time.
class Ahead {
public:
    Ahead(const Job& job, int panel)
        : job_(job), panel_bytes_(static_cast<size_t>(job.matrix.groups) * kLine), panel_(panel) {
        begin();
    }

    [[gnu::always_inline]] void expand_into(uint8_t* to) {
        if (panel_ == kNone) return;
        if (left_ >= 4) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                const int p = i / 4, g = i % 4;
                expand(from_ + static_cast<size_t>(p) * panel_bytes_ + g * kLine, to + p * kTile + 4 * g * kLine);
            }
        } else {  // rows of the tile beyond these stay what they were: their activations are zeros
            for (int p = 0; p < kStrip; ++p) {
                for (int g = 0; g < left_; ++g)
                    expand(from_ + static_cast<size_t>(p) * panel_bytes_ + g * kLine, to + p * kTile + 4 * g * kLine);
            }
        }
        from_ += 4 * kLine;
        left_ -= 4;
        if (left_ > 0) return;
        if (++band_ == job_.bands) {
            band_ = 0;
            panel_ = job_.strip_after(panel_);
        }
        if (panel_ != kNone) begin();
    }

private:
    void begin() {
        from_ = job_.matrix.codes + static_cast<size_t>(panel_) * panel_bytes_;
        left_ = job_.matrix.groups;
    }

    const Job& job_;
    const size_t panel_bytes_;
    const uint8_t* from_;
    int panel_, band_ = 0, left_;  // groups of inputs that are left
};

// Sums of a band × a strip, on their way to floats.
struct Sums {
    alignas(64) int32_t of[kBand * kStrip * kPanel];
    int row, panel;
    int count = 0;  // of rows

    [[gnu::always_inline]] void finish(const Job& job, int first, int last) const {
        finish_rows<Simd, kStrip>(
            job.rows, row + first, row + last, job.matrix, panel, job.act, of + first * kStrip * kPanel, job.out,
            job.out_stride);
    }
};

// Computes the sums of a band whose rows fill one or two tiles. During each step, the codes of a later step are
// expanded, and a share of the previous sums is converted to floats.
template <int A>
[[gnu::always_inline]] inline void products(
    const Job& job, uint8_t (*ring)[kStrip * kTile], int& slot, Ahead& ahead, const Sums& before, Sums& sums) {
    const size_t stride = job.rows.stride;
    const int8_t* x = job.rows.values + static_cast<size_t>(sums.row) * stride;
    const int8_t* y = x + static_cast<size_t>(job.upper) * stride;
    const int steps = job.steps, waiting = before.count;
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (A == 2) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int step = 0, done = 0; step < steps; ++step, x += kLine, y += kLine) {
        const uint8_t* codes = ring[slot];
        written();
        _tile_loadd(6, codes, kLine);
        _tile_loadd(4, x, stride);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(7, codes + kTile, kLine);
        _tile_dpbsud(1, 4, 7);
        if constexpr (A == 2) {
            _tile_loadd(5, y, stride);
            _tile_dpbsud(2, 5, 6);
            _tile_dpbsud(3, 5, 7);
        }
        ahead.expand_into(ring[(slot + kRing - 1) % kRing]);
        slot = (slot + 1) % kRing;
        const int due = waiting * (step + 1) / steps;
        if (due > done) before.finish(job, done, due);
        done = due;
    }
    constexpr size_t kBytes = kStrip * kPanel * sizeof(int32_t);
    _tile_stored(0, sums.of, kBytes);
    _tile_stored(1, sums.of + kPanel, kBytes);
    if constexpr (A == 2) {
        _tile_stored(2, sums.of + job.upper * kStrip * kPanel, kBytes);
        _tile_stored(3, sums.of + job.upper * kStrip * kPanel + kPanel, kBytes);
    }
}

template <int A>
void multiply_tiles(const Job& job, int first) {
    alignas(64) uint8_t ring[kRing][kStrip * kTile];
    const TileShapes shapes(job.upper, job.lower);
    written();
    _tile_loadconfig(&shapes);
    Ahead ahead(job, first);
    for (int i = 0; i < kRing - 1; ++i) ahead.expand_into(ring[i]);
    Sums sums[2];
    int slot = 0, now = 0;
    for (int panel = first; panel != kNone; panel = job.strip_after(panel)) {
        for (int band = 0; band < job.bands; ++band, now ^= 1) {
            sums[now].row = job.row_of(band);
            sums[now].panel = panel;
            sums[now].count = job.height;
            products<A>(job, ring, slot, ahead, sums[now ^ 1], sums[now]);
        }
    }
    sums[now ^ 1].finish(job, 0, job.height);
    _tile_release();
}

void tile_linear(
    const Quantized& rows, int count, const Matrix& matrix, int first, int last, Activation act, float* out,
    size_t out_stride, uint8_t* scratch) {
    if (count <= kFewRows || last - first < kStrip) {
        linear<Simd, Tiles>(rows, count, matrix, first, last, act, out, out_stride, scratch);
    } else {
        const Job job = {rows, matrix, act, out, out_stride, count, last};
        job.lower ? multiply_tiles<2>(job, first) : multiply_tiles<1>(job, first);
    }
}

// Linux gives a process the tiles' registers when it asks for them, once for all of its threads.
bool available() {
    static const bool granted = [] {
        if (!has_vnni() || !__builtin_cpu_supports("amx-int8")) return false;
        constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
        return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
    }();
    return granted;
}

}  // namespace

const Kernels avx512amx_kernels = {
    "amx-int8",           available,       quantize<Simd>,   tile_linear,
    scratch_bytes<Tiles>, normalize<Simd>, multiply<Simd>,   attend<Simd, Scores>,
    attend_bytes<Scores>, dense<Simd>,     steps_of<Simd>(),
};

}  // namespace kdqat

#else  // another system, or a compiler that does not know the instructions

namespace kdqat {
namespace {

bool available() { return false; }

}  // namespace

const Kernels avx512amx_kernels = {"amx-int8", available};

}  // namespace kdqat

#endif

#endif
