// The pass itself, for whichever vectors the including file defines.
//
// A vector type V has N lanes and load, store, stream (past the caches, to an aligned address),
// fence, all, fma(a, b, c) = a b + c, and the operators + - *; clip(x, low, high) returns x itself
// where low <= x <= high and where x is NaN; magnitude(x) = |x|; operator /, root(x); unless_leq(a,
// b, x) is 0.0 where a <= b, x elsewhere; differs(a, b) whether any lane does.
//
// The operations and their rounding are those of torch's elementwise kernels, which use fused
// multiply-add for x.add(y, alpha=a) where the CPU has it, so that the bits are the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "grda.hpp"

namespace dirprune {
namespace {  // every instruction set has its own copy

// Constants of a rule in every lane.
template <class V>
struct Constants {
    explicit Constants(const Rule& rule)
        : minus_lr(V::all(-rule.lr)), low(V::all(-rule.g)), high(V::all(rule.g)),
          momentum(V::all(rule.momentum)), decay(V::all(rule.decay)),
          sign(V::all(rule.maximize ? -1.0f : 1.0f)), two(V::all(2.0f)),
          least(V::all(-std::numeric_limits<float>::max())),
          most(V::all(std::numeric_limits<float>::max())) {}
    V minus_lr, low, high, momentum, decay, sign, two, least, most;
};

template <bool ROOT, class V>
inline V thresholded(V v, const Constants<V>& k) {
    if constexpr (!ROOT) return v - clip(v, k.low, k.high);  // x - x is 0.0, never -0.0
    const V size = clip(magnitude(v), k.least, k.most);
    const V excess = (size - k.high) / size;  // 1 - g / |v|, without cancellation near g
    return unless_leq(size, k.high, v * root(excess * (k.two - excess)));
}

template <class V, bool ROOT, bool MOMENTUM, bool NESTEROV, bool DECAY, bool STREAMED>
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
    const V sparse = thresholded<ROOT>(moved, k);
    if constexpr (STREAMED) sparse.stream(w);
    else sparse.store(w);
}

template <class V, class Scalar, bool ROOT, bool MOMENTUM, bool NESTEROV, bool DECAY, bool STREAMED>
void pass(const Row& row, const Rule& rule) {
    const Constants<V> many(rule);
    const Constants<Scalar> one(rule);
    const auto at = [&](std::size_t i, auto k) {
        using T = decltype(k.low);
        step<T, ROOT, MOMENTUM, NESTEROV, DECAY, STREAMED && T::N != 1>(
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

template <class V, class Scalar, bool ROOT>
void threshold(const Row& row, const Rule& rule) {
    const Constants<V> many(rule);
    const Constants<Scalar> one(rule);
    std::size_t i = 0;
    for (; i + V::N <= row.length; i += V::N)
        thresholded<ROOT>(V::load(row.v + i), many).store(row.w + i);
    for (; i < row.length; ++i) thresholded<ROOT>(Scalar::load(row.v + i), one).store(row.w + i);
}

template <class V, class Scalar, bool ROOT>
bool changed(const Row& row, const Rule& rule, std::size_t phase) {
    const Constants<V> many(rule);
    const Constants<Scalar> one(rule);
    const auto at = [&](std::size_t i, auto k) {
        using T = decltype(k.low);
        return differs(T::load(row.w + i), thresholded<ROOT>(T::load(row.v + i), k));
    };
    bool any = false;
    const Lines lines = sampled(row.length, phase);
    for (std::size_t k = 0; k < lines.number; ++k) {
        const std::size_t start = (lines.first + k * SPARSE) * LINE;
        for (std::size_t i = start; i < start + LINE; i += V::N) any |= at(i, many);
    }
    if (lines.number) return any;
    std::size_t i = 0;
    for (; i + V::N <= row.length; i += V::N) any |= at(i, many);
    for (; i < row.length; ++i) any |= at(i, one);
    return any;
}

template <class V, class Scalar>
bool search(const Row& row, const Rule& rule, std::size_t phase) {
    return rule.root ? changed<V, Scalar, true>(row, rule, phase)
                     : changed<V, Scalar, false>(row, rule, phase);
}

// Sum of a hash of every float and its place, so that the digests of parts add up. A change goes
// unnoticed with a probability of about 2^-32.
inline std::uint32_t sum_of_hashes(const float* x, std::size_t length, std::size_t first) {
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < length; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        bits += static_cast<std::uint32_t>(first + i) * 0x9e3779b1u;
        bits = (bits ^ (bits >> 16)) * 0x85ebca6bu;  // a product carries low bits up, not down
        sum += bits ^ (bits >> 15);
    }
    return sum;
}

template <class V, class Scalar>
std::uint32_t digest(const Row& row, const Rule& rule, std::size_t first) {
    if (row.v == nullptr) return sum_of_hashes(row.w, row.length, first);
    constexpr std::size_t SIZE = 512;
    float sparse[SIZE];
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < row.length; i += SIZE) {
        const std::size_t length = std::min(SIZE, row.length - i);
        const Row part{sparse, row.v + i, nullptr, nullptr, length};
        if (rule.root) threshold<V, Scalar, true>(part, rule);
        else threshold<V, Scalar, false>(part, rule);
        sum += sum_of_hashes(sparse, length, first + i);
    }
    return sum;
}

template <class V, class Scalar, bool ROOT>
void run_with(const Row& row, const Rule& rule, bool streamed) {
    if (row.d == nullptr) return threshold<V, Scalar, ROOT>(row, rule);
    const auto choose = [&](auto momentum, auto nesterov) {
        constexpr bool M = decltype(momentum)::value, N = decltype(nesterov)::value;
        if (rule.decay != 0.0f) return pass<V, Scalar, ROOT, M, N, true, false>(row, rule);
        if (streamed) return pass<V, Scalar, ROOT, M, N, false, true>(row, rule);
        return pass<V, Scalar, ROOT, M, N, false, false>(row, rule);
    };
    if (row.m == nullptr) choose(std::false_type{}, std::false_type{});
    else if (rule.nesterov) choose(std::true_type{}, std::true_type{});
    else choose(std::true_type{}, std::false_type{});
}

template <class V, class Scalar>
void run(const Row& row, const Rule& rule, bool streamed) {
    if (rule.root) run_with<V, Scalar, true>(row, rule, streamed);
    else run_with<V, Scalar, false>(row, rule, streamed);
}

template <class V, class Scalar>
constexpr GrdaKernels kernels() {
    return {run<V, Scalar>, search<V, Scalar>, digest<V, Scalar>};
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
    friend Single operator/(Single a, Single b) { return {a.x / b.x}; }
    friend Single magnitude(Single a) { return {std::fabs(a.x)}; }
    friend Single root(Single a) { return {std::sqrt(a.x)}; }
    friend Single unless_leq(Single a, Single b, Single x) { return {a.x <= b.x ? 0.0f : x.x}; }
    friend bool differs(Single a, Single b) { return a.x != b.x; }
};

}  // namespace
}  // namespace dirprune
