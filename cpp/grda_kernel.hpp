// The pass itself, for whichever vectors the including file defines.
//
// A vector type V has N lanes and load, store, stream (past the caches, to an aligned address),
// fence, all, fma(a, b, c) = a b + c, and the operators + - *; clip(x, low, high) returns x itself
// where low <= x <= high and where x is NaN.
//
// The operations and their rounding are those of torch's elementwise kernels, which use fused
// multiply-add for x.add(y, alpha=a) where the CPU has it, so that the bits are the same.
#pragma once

#include <cmath>
#include <cstdint>

#include "grda.hpp"

namespace dirprune {
namespace {  // every instruction set has its own copy

// Constants of a rule in every lane.
template <class V>
struct Constants {
    explicit Constants(const Rule& rule)
        : minus_lr(V::all(-rule.lr)), low(V::all(-rule.g)), high(V::all(rule.g)),
          momentum(V::all(rule.momentum)), decay(V::all(rule.decay)),
          sign(V::all(rule.maximize ? -1.0f : 1.0f)) {}
    V minus_lr, low, high, momentum, decay, sign;
};

template <class V, bool MOMENTUM, bool NESTEROV, bool DECAY, bool STREAMED>
inline void step(float* w, float* v, const float* d, float* m, const Constants<V>& k) {
    V direction = V::load(d) * k.sign;
    if constexpr (DECAY) direction = fma(V::load(w), k.decay, direction);
    if constexpr (MOMENTUM) {
        const V heavy = V::load(m) * k.momentum + direction;
        heavy.store(m);
        direction = NESTEROV ? fma(heavy, k.momentum, direction) : heavy;
    }
    const V moved = fma(direction, k.minus_lr, V::load(v));
    moved.store(v);
    const V sparse = moved - clip(moved, k.low, k.high);  // x - x is 0.0, never -0.0
    if constexpr (STREAMED) sparse.stream(w);
    else sparse.store(w);
}

template <class V, class Scalar, bool MOMENTUM, bool NESTEROV, bool DECAY, bool STREAMED>
void pass(const Row& row, const Rule& rule) {
    const Constants<V> many(rule);
    const Constants<Scalar> one(rule);
    const auto at = [&](std::size_t i, auto k) {
        using T = decltype(k.low);
        step<T, MOMENTUM, NESTEROV, DECAY, STREAMED && T::N != 1>(
            row.w + i, row.v + i, row.d + i, MOMENTUM ? row.m + i : nullptr, k);
    };
    std::size_t i = 0;
    if constexpr (STREAMED)
        for (; i < row.length && reinterpret_cast<std::uintptr_t>(row.w + i) % (4 * V::N); ++i)
            at(i, one);
    for (; i + V::N <= row.length; i += V::N) at(i, many);
    for (; i < row.length; ++i) at(i, one);
    if constexpr (STREAMED) V::fence();
}

template <class V, class Scalar>
void run(const Row& row, const Rule& rule, bool streamed) {
    const auto choose = [&](auto momentum, auto nesterov) {
        constexpr bool M = decltype(momentum)::value, N = decltype(nesterov)::value;
        if (rule.decay != 0.0f) return pass<V, Scalar, M, N, true, false>(row, rule);
        if (streamed) return pass<V, Scalar, M, N, false, true>(row, rule);
        return pass<V, Scalar, M, N, false, false>(row, rule);
    };
    if (row.m == nullptr) choose(std::false_type{}, std::false_type{});
    else if (rule.nesterov) choose(std::true_type{}, std::true_type{});
    else choose(std::true_type{}, std::false_type{});
}

// One float; where it stands beside vectors of a CPU that has it, with fused multiply-add.
template <bool FUSED>
struct Single {
    static constexpr std::size_t N = 1;
    float x;
    static Single load(const float* p) { return {*p}; }
    static Single all(float x) { return {x}; }
    void store(float* p) const { *p = x; }
    void stream(float* p) const { *p = x; }
    static void fence() {}
    friend Single operator+(Single a, Single b) { return {a.x + b.x}; }
    friend Single operator-(Single a, Single b) { return {a.x - b.x}; }
    friend Single operator*(Single a, Single b) { return {a.x * b.x}; }
    friend Single fma(Single a, Single b, Single c) {
        return {FUSED ? __builtin_fmaf(a.x, b.x, c.x) : a.x * b.x + c.x};
    }
    friend Single clip(Single x, Single low, Single high) {
        return x.x < low.x ? low : high.x < x.x ? high : x;
    }
};

}  // namespace
}  // namespace dirprune
