// Vectors of four floats in the notation of the compilers. The portable kernel and NEON compute floats with them.

#pragma once

#include <cstdint>
#include <cstring>

namespace kdqat {
namespace {

struct GenericSimd {
    typedef float Floats __attribute__((vector_size(16)));
    typedef int32_t Ints __attribute__((vector_size(16)));
    static constexpr int W = 4;
    static constexpr bool kFused = false;  // fma rounds twice
    static Floats load(const float* p) {
        Floats x;
        std::memcpy(&x, p, sizeof x);
        return x;
    }
    static void store(float* p, Floats x) { std::memcpy(p, &x, sizeof x); }
    static Floats broadcast(float x) { return Floats{x, x, x, x}; }
    static Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
    static Floats max(Floats a, Floats b) { return a > b ? a : b; }
    static Floats min(Floats a, Floats b) { return a < b ? a : b; }
    static Floats round(Floats x) {  // to even, below 2^22: beyond 1.5·2^23 a float has no fraction left
        const Floats shift = broadcast(12582912.0f);
        return (x + shift) - shift;
    }
    static Floats scale(Floats x, Floats exponent) {
        Ints bits;
        std::memcpy(&bits, &x, sizeof bits);
        bits += __builtin_convertvector(exponent, Ints) * (1 << 23);
        std::memcpy(&x, &bits, sizeof bits);
        return x;
    }
    static float total(Floats x) { return (x[0] + x[1]) + (x[2] + x[3]); }
    static float largest(Floats x) {
        const float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
        return a > b ? a : b;
    }
    static Floats from_ints(const int32_t* p, int32_t less) {
        Ints values;
        std::memcpy(&values, p, sizeof values);
        return __builtin_convertvector(values - Ints{less, less, less, less}, Floats);
    }
    static Floats from_bytes(const int8_t* p) {
        return Floats{
            static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
    }
    static void store_bytes(int8_t* p, Floats x) {
        // NaN, which only a damaged model gives, fails both comparisons and becomes a number here.
        x = max(min(x, broadcast(127.0f)), broadcast(-127.0f));
        for (int i = 0; i < W; ++i) p[i] = static_cast<int8_t>(x[i]);
    }
};

}  // namespace
}  // namespace kdqat
