// AVX-512 with VNNI: vpdpbusd adds four products of unsigned codes and signed activations to each of 16 int32 sums.
//
// One instruction takes a line of 64 bytes (16 outputs × 4 inputs) and four activations of one row, broadcast. A tile
// of 8 rows × 3 panels keeps 24 sums in registers; shifting and masking its codes costs 21 instructions for 96
// products, on ports that Zen 4 has free (to expand them first was 10 % slower there; on processors with two 512-bit
// ports it may not be). Nothing can overflow: |sum| <= 2·127·inputs, below 2^31 up to 8 million inputs.
//
// General int8 has the same rate, so ternary codes save memory and bandwidth here, but no arithmetic.
//
// Measured on a busy AMD EPYC (Zen 4): CPU time, best of many runs, one thread, a 768-wide chain with its quantisation.
// 114 G products per second at 1 row, 204 at 8, 211 at 32, 204 at 128; a loop of only vpdpbusd reached 229. On a Xeon
// (Sapphire Rapids) 126 at 1 row, 315 at 8, 313 at 32, 303 at 128; there, a single row gained 12 % from sums in two
// parts, and 15 % from prefetching the codes of the next strip. `python benchmarks/linears.py --kernel avx512-vnni
// --threads 1` measures the same chain in elapsed time, which is close to these figures only on an idle machine. Tables
// (tables.h) with registers of 32 sums are not faster on Zen 4: with that command, 182 at 32 rows and 191 at 128, where
// these tiles reach 210 and 209. The likely reason is that the sums of the tables do not fit the first-level cache.

#if defined(__x86_64__)

#include "avx512.h"
#include "training.h"

namespace kdqat {

const Kernels avx512vnni_kernels = {
    "avx512-vnni",        has_vnni,        quantize<Simd>,   linear<Simd, Tiles>,
    scratch_bytes<Tiles>, normalize<Simd>, multiply<Simd>,   attend<Simd, Scores>,
    attend_bytes<Scores>, dense<Simd>,     steps_of<Simd>(),
};

}  // namespace kdqat

#endif
