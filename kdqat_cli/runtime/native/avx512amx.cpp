#if defined(__x86_64__)

#include "avx512.h"

#if defined(__AMX_INT8__) && defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

namespace kdqat {
namespace {

constexpr int kTile = 16 * kLine;  // bytes of a tile of 16 outputs × 64 inputs
constexpr int kTileRows = 16;
constexpr int kStrip = 2;
constexpr int kFewRows = 8;

// What ldtilecfg reads: tiles 0 to 3 hold sums, 4 and 5 activations, 6 and 7 codes.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {};

    explicit TileShapes(int count) {
        for (int tile = 0; tile < 8; ++tile) rows[tile] = static_cast<uint8_t>(tile < 6 ? count : kTileRows);
    }
};

// The compiler does not know that tile instructions read memory.
inline void written() { asm volatile("" ::: "memory"); }

constexpr int steps_of(int groups) { return (groups + 3) / 4; }

template <int P>
inline void expand(const uint8_t* codes, size_t panel_bytes, int groups, uint8_t* out) {
    const __m512i mask = _mm512_set1_epi8(3);
    for (int g = 0; g < groups; ++g) {
        for (int p = 0; p < P; ++p) {
            __m512i line = _mm512_loadu_si512(codes + static_cast<size_t>(p) * panel_bytes + g * kLine);
            uint8_t* to = out + ((g / 4) * P + p) * kTile + (g % 4) * 4 * kLine;
            for (int j = 0; j < 4; ++j, line = _mm512_srli_epi16(line, 2)) {
                _mm512_store_si512(to + j * kLine, _mm512_and_si512(line, mask));
            }
        }
    }
}

template <int A, int P>
inline void products(
    const int8_t* x, const int8_t* second, size_t stride, const uint8_t* codes, int steps, int32_t* acc, int32_t* next) {
    _tile_zero(0);
    if constexpr (P == 2) _tile_zero(1);
    if constexpr (A == 2) _tile_zero(2);
    if constexpr (A == 2 && P == 2) _tile_zero(3);
    for (int step = 0; step < steps; ++step, codes += P * kTile, x += 64, second += 64) {
        _tile_loadd(6, codes, kLine);
        _tile_loadd(4, x, stride);
        _tile_dpbsud(0, 4, 6);
        if constexpr (P == 2) {
            _tile_loadd(7, codes + kTile, kLine);
            _tile_dpbsud(1, 4, 7);
        }
        if constexpr (A == 2) {
            _tile_loadd(5, second, stride);
            _tile_dpbsud(2, 5, 6);
            if constexpr (P == 2) _tile_dpbsud(3, 5, 7);
        }
    }
    constexpr size_t kBytes = P * kPanel * sizeof(int32_t);
    _tile_stored(0, acc, kBytes);
    if constexpr (P == 2) _tile_stored(1, acc + kPanel, kBytes);
    if constexpr (A == 2) _tile_stored(2, next, kBytes);
    if constexpr (A == 2 && P == 2) _tile_stored(3, next + kPanel, kBytes);
}

template <int P>
inline void tile_strip(
    const Quantized& rows, int count, int height, const Matrix& matrix, int panel, Activation act, float* out,
    size_t out_stride, uint8_t* scratch) {
    const size_t panel_bytes = static_cast<size_t>(matrix.groups) * kLine;
    expand<P>(matrix.codes + static_cast<size_t>(panel) * panel_bytes, panel_bytes, matrix.groups, scratch);
    written();
    const int steps = steps_of(matrix.groups);
    alignas(64) int32_t acc[2][kTileRows * P * kPanel];
    for (int row = 0; row < count; row += 2 * height) {
        // The last tile is as high as the others and may do some rows again.
        const int first = row < count - height ? row : count - height;
        const int second = first + height < count - height ? first + height : count - height;
        const int8_t* x = rows.values + static_cast<size_t>(first) * rows.stride;
        const int8_t* y = rows.values + static_cast<size_t>(second) * rows.stride;
        if (second > first) {
            products<2, P>(x, y, rows.stride, scratch, steps, acc[0], acc[1]);
            finish_rows<Simd, P>(rows, first, first + height, matrix, panel, act, acc[0], out, out_stride);
            finish_rows<Simd, P>(rows, second, second + height, matrix, panel, act, acc[1], out, out_stride);
        } else {
            products<1, P>(x, y, rows.stride, scratch, steps, acc[0], acc[1]);
            finish_rows<Simd, P>(rows, first, first + height, matrix, panel, act, acc[0], out, out_stride);
        }
    }
}

void tile_linear(
    const Quantized& rows, int count, const Matrix& matrix, int first, int last, Activation act, float* out,
    size_t out_stride, uint8_t* scratch) {
    if (count <= kFewRows) return linear<Simd, Tiles>(rows, count, matrix, first, last, act, out, out_stride, scratch);
    const int tiles = (count + kTileRows - 1) / kTileRows;
    const int height = (count + tiles - 1) / tiles;
    const TileShapes shapes(height);
    written();
    _tile_loadconfig(&shapes);
    int panel = first;
    for (; panel + kStrip <= last; panel += kStrip) {
        tile_strip<kStrip>(rows, count, height, matrix, panel, act, out, out_stride, scratch);
    }
    if (panel < last) tile_strip<1>(rows, count, height, matrix, panel, act, out, out_stride, scratch);
    _tile_release();
}

size_t tile_bytes(int groups) { return static_cast<size_t>(steps_of(groups)) * kStrip * kTile; }

// Linux gives a process its tiles when it asks for them, once for all of its threads.
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
    "amx-int8",      available,      quantize<Simd>,       tile_linear,          tile_bytes,
    normalize<Simd>, multiply<Simd>, attend<Simd, Scores>, attend_bytes<Scores>, dense<Simd>,
};

}  // namespace kdqat

#else

const kdqat::Kernels kdqat::avx512amx_kernels = {"amx-int8", [] { return false; }};

#endif

#endif
