// The FP32 parts of a forward pass and the quantiser, written once over a vector type.
//
// Every kernel file includes this with its own `Simd`: W floats per vector, and the few operations that differ between
// instruction sets. Everything is in an unnamed namespace, so that no instantiation leaves its file: the linker must
// not use code for one processor on another.
//
// Accuracy. exp: 1.5 ulp (polynomial of degree 6 on ±ln2/2). GELU: x⁺ - |x|·Q(|x|) with the Gaussian tail Q as 2 to a
// polynomial of degree 10 that was fitted to log2 Q on [0, 9]; relative error 1.6e-7 for x > 0, 9.5e-7 for -3 < x < 0,
// where the usual x/2·(1 + erf) loses more by cancellation.

#pragma once

#include <cfloat>
#include <math.h>
#include <cstring>
#include <type_traits>

#include "kernels.h"

namespace kdqat {
namespace {

template <class S>
using Floats = typename S::Floats;

// In place of std::min and std::max: the linker may share their code between files, but the instructions of this file
// must not be used by others.
template <class T>
constexpr T smaller(T a, T b) {
    return b < a ? b : a;
}
template <class T>
constexpr T larger(T a, T b) {
    return a < b ? b : a;
}

// The first `count` of W floats, the rest 0.
template <class S>
inline Floats<S> load_some(const float* from, int count) {
    if (count >= S::W) return S::load(from);
    float all[S::W] = {};
    for (int i = 0; i < count; ++i) all[i] = from[i];
    return S::load(all);
}

template <class S>
inline void store_some(float* to, Floats<S> values, int count) {
    if (count >= S::W) return S::store(to, values);
    float all[S::W];
    S::store(all, values);
    for (int i = 0; i < count; ++i) to[i] = all[i];
}

// 2^r for |r| <= 1/2.
template <class S>
inline Floats<S> exp2_fraction(Floats<S> r) {
    Floats<S> p = S::broadcast(0.000154763001f);
    p = S::fma(p, r, S::broadcast(0.00134002697f));
    p = S::fma(p, r, S::broadcast(0.00961800389f));
    p = S::fma(p, r, S::broadcast(0.0555032779f));
    p = S::fma(p, r, S::broadcast(0.240226513f));
    p = S::fma(p, r, S::broadcast(0.693147206f));
    return S::fma(p, r, S::broadcast(1.0f));
}

// e^x, with x held within ±87.
template <class S>
inline Floats<S> exp(Floats<S> x) {
    x = S::max(S::min(x, S::broadcast(87.0f)), S::broadcast(-87.0f));
    const Floats<S> whole = S::round(x * S::broadcast(1.44269504f));
    // ln 2 in two parts: the first times a small integer is exact, so the rest keeps all its digits.
    Floats<S> rest = S::fma(whole, S::broadcast(-0.693359375f), x);
    rest = S::fma(whole, S::broadcast(2.12194440e-4f), rest);
    return S::scale(exp2_fraction<S>(rest * S::broadcast(1.44269504f)), whole);
}

template <class S>
inline Floats<S> gelu(Floats<S> x) {
    const Floats<S> a = S::min(S::max(x, -x), S::broadcast(9.0f));
    Floats<S> p = S::broadcast(-2.30467585e-08f);
    p = S::fma(p, a, S::broadcast(7.48688021e-07f));
    p = S::fma(p, a, S::broadcast(-1.01063447e-05f));
    p = S::fma(p, a, S::broadcast(7.26469175e-05f));
    p = S::fma(p, a, S::broadcast(-0.00026866064f));
    p = S::fma(p, a, S::broadcast(-2.15533107e-05f));
    p = S::fma(p, a, S::broadcast(0.00697396235f));
    p = S::fma(p, a, S::broadcast(-0.05246065f));
    p = S::fma(p, a, S::broadcast(-0.459214221f));
    p = S::fma(p, a, S::broadcast(-1.15110492f));
    p = S::fma(p, a, S::broadcast(-1.0f));
    const Floats<S> whole = S::round(p);  // from -62 to -1
    const Floats<S> tail = S::scale(exp2_fraction<S>(p - whole), whole);
    return S::fma(-a, tail, S::max(x, S::broadcast(0.0f)));
}

// x/2·(1 + tanh u) = x / (1 + e^(-2u)), u = √(2/π)·(x + 0.044715·x³).
template <class S>
inline Floats<S> gelu_tanh(Floats<S> x) {
    const Floats<S> u = x * S::fma(x * x, S::broadcast(0.044715f), S::broadcast(1.0f));
    return x / (S::broadcast(1.0f) + exp<S>(u * S::broadcast(-1.59576912f)));
}

template <class S, Activation act>
inline Floats<S> activate(Floats<S> x) {
    if constexpr (act == Activation::gelu) return gelu<S>(x);
    if constexpr (act == Activation::gelu_tanh) return gelu_tanh<S>(x);
    if constexpr (act == Activation::relu) return S::max(x, S::broadcast(0.0f));
    if constexpr (act == Activation::tanh) {  // few values per sequence: the C library's is exact and fast enough
        float values[S::W];
        S::store(values, x);
        for (float& value : values) value = tanhf(value);
        return S::load(values);
    }
    return x;
}

// Calls work(c), where c::value is `act`, so that the choice is made once and not for each vector.
template <class Work>
inline void with(Activation act, Work&& work) {
    switch (act) {
        case Activation::gelu: return work(std::integral_constant<Activation, Activation::gelu>{});
        case Activation::gelu_tanh: return work(std::integral_constant<Activation, Activation::gelu_tanh>{});
        case Activation::relu: return work(std::integral_constant<Activation, Activation::relu>{});
        case Activation::tanh: return work(std::integral_constant<Activation, Activation::tanh>{});
        case Activation::none: return work(std::integral_constant<Activation, Activation::none>{});
    }
}

// x / divisor, rounded like a division, for many x and one divisor whose rounded inverse is given: a product, and
// two corrections by the remainder (Markstein, IBM J. Res. Dev. 34, 1990, theorem 8.3). Division takes five times as
// long. The result is exact if no remainder is below the normal numbers: for divisors from kSmallDivisor on, and
// quotients that do not round to 0.
constexpr float kSmallDivisor = 1e-25f;

template <class S>
inline Floats<S> quotient(Floats<S> x, Floats<S> divisor, Floats<S> inverse) {
    Floats<S> q = x * inverse;
    q = S::fma(S::fma(-q, divisor, x), inverse, q);
    return S::fma(S::fma(-q, divisor, x), inverse, q);
}

// The largest magnitude of a row, in four independent parts.
template <class S>
inline float magnitude_of(const float* row, int width) {
    Floats<S> largest[4];
    for (int j = 0; j < 4; ++j) largest[j] = S::broadcast(0.0f);
    int i = 0;
    auto take = [&](Floats<S> x, int j) { largest[j] = S::max(S::max(x, -x), largest[j]); };
    for (; i + 4 * S::W <= width; i += 4 * S::W)
        for (int j = 0; j < 4; ++j) take(S::load(row + i + j * S::W), j);
    for (; i < width; i += S::W) take(load_some<S>(row + i, width - i), 0);
    return S::largest(S::max(S::max(largest[0], largest[1]), S::max(largest[2], largest[3])));
}

template <class S>
inline void quantize_row(const float* row, int width, int padded, float clip, int8_t* out, float* scale, int32_t* sum) {
    float magnitude = magnitude_of<S>(row, width);
    const bool clamped = magnitude > clip;
    if (clamped) magnitude = clip;
    // At least the smallest normal number, so that a row of zeros gives 0 and not 0/0.
    float s = magnitude / 127.0f;
    if (!(s >= FLT_MIN)) s = FLT_MIN;
    const Floats<S> divisor = S::broadcast(s), inverse = S::broadcast(1.0f / s), top = S::broadcast(magnitude);
    Floats<S> totals[4];  // of integers below 2^24: exact
    for (int j = 0; j < 4; ++j) totals[j] = S::broadcast(0.0f);
    auto all = [&](auto fast) {
        auto rounded = [&](Floats<S> x, int j) {
            if (clamped) x = S::max(S::min(x, top), -top);
            const Floats<S> whole = S::round(decltype(fast)::value ? quotient<S>(x, divisor, inverse) : x / divisor);
            totals[j] = totals[j] + whole;
            return whole;
        };
        int i = 0;
        for (; i + 4 * S::W <= width; i += 4 * S::W)
            for (int j = 0; j < 4; ++j) S::store_bytes(out + i + j * S::W, rounded(S::load(row + i + j * S::W), j));
        for (; i < width; i += S::W) {
            const int left = width - i < S::W ? width - i : S::W;
            int8_t last[S::W];
            S::store_bytes(last, rounded(load_some<S>(row + i, left), 0));
            std::memcpy(out + i, last, static_cast<size_t>(left));
        }
    };
    if (S::kFused && s >= kSmallDivisor) {
        all(std::true_type{});
    } else {
        all(std::false_type{});
    }
    if (padded > width) std::memset(out + width, 0, static_cast<size_t>(padded - width));
    *scale = s;
    if (sum) *sum = static_cast<int32_t>(S::total((totals[0] + totals[1]) + (totals[2] + totals[3])));
}

template <class S>
void quantize(const float* rows, size_t stride, int count, int width, int padded, float clip, Quantized out) {
    for (int r = 0; r < count; ++r) {
        int8_t* to = out.values + static_cast<size_t>(r) * out.stride;
        quantize_row<S>(
            rows + static_cast<size_t>(r) * stride, width, padded, clip, to, out.scales + r,
            out.sums ? out.sums + r : nullptr);
    }
}

// The sum of the vectors at(i, number of their valid values), in four independent parts.
template <class S, class At>
inline float total_of(int width, At&& at) {
    Floats<S> parts[4];
    for (int j = 0; j < 4; ++j) parts[j] = S::broadcast(0.0f);
    int i = 0;
    for (; i + 4 * S::W <= width; i += 4 * S::W)
        for (int j = 0; j < 4; ++j) parts[j] = parts[j] + at(i + j * S::W, S::W);
    for (; i < width; i += S::W) parts[0] = parts[0] + at(i, width - i);
    return S::total((parts[0] + parts[1]) + (parts[2] + parts[3]));
}

template <class S>
void normalize(const float* a, const float* b, float* sum, float* out, size_t stride, int count, int width, Norm norm) {
    const float share = 1.0f / static_cast<float>(width);
    for (int r = 0; r < count; ++r, a += stride, out += stride) {
        // Without `sum` the values are kept in `out`; if nothing was added, they are still in `a`.
        float* kept = sum ? sum : out;
        const float* values = b ? kept : a;
        const float total = total_of<S>(width, [&](int i, int left) {
            Floats<S> x = load_some<S>(a + i, left);
            if (!b) return x;
            x = x + load_some<S>(b + i, left);
            store_some<S>(kept + i, x, left);
            return x;
        });
        const float mean = norm.bias ? total * share : 0.0f;
        const float squares = total_of<S>(width, [&](int i, int left) {
            Floats<S> x = load_some<S>(values + i, left) - S::broadcast(mean);
            if (left < S::W) {
                float rest[S::W] = {};
                store_some<S>(rest, x, left);
                x = S::load(rest);
            }
            return x * x;
        });
        const float inverse = 1.0f / sqrtf(squares * share + norm.epsilon);
        for (int i = 0; i < width; i += S::W) {
            const int left = width - i;
            const Floats<S> x = (load_some<S>(values + i, left) - S::broadcast(mean)) * S::broadcast(inverse);
            const Floats<S> bias = norm.bias ? load_some<S>(norm.bias + i, left) : S::broadcast(0.0f);
            store_some<S>(out + i, S::fma(x, load_some<S>(norm.gain + i, left), bias), left);
        }
        if (b) b += stride;
        if (sum) sum += stride;
    }
}

template <class S>
void multiply(float* a, const float* b, size_t stride, int count, int width) {
    for (int r = 0; r < count; ++r, a += stride, b += stride) {
        for (int i = 0; i < width; i += S::W) {
            store_some<S>(a + i, load_some<S>(a + i, width - i) * load_some<S>(b + i, width - i), width - i);
        }
    }
}

template <class S>
void dense(
    const float* x, const float* weight, const float* bias, int outputs, int inputs, Activation act, float* out) {
    for (int o = 0; o < outputs; ++o, weight += inputs) {
        Floats<S> total = S::broadcast(0.0f);
        for (int i = 0; i < inputs; i += S::W) {
            total = S::fma(load_some<S>(x + i, inputs - i), load_some<S>(weight + i, inputs - i), total);
        }
        out[o] = S::total(total) + (bias ? bias[o] : 0.0f);
    }
    with(act, [&](auto kind) {
        for (int o = 0; o < outputs; o += S::W) {
            const Floats<S> x = load_some<S>(out + o, outputs - o);
            store_some<S>(out + o, activate<S, decltype(kind)::value>(x), outputs - o);
        }
    });
}

}  // namespace
}  // namespace kdqat
