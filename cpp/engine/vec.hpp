// Vectors of floats by the compilers' vector extension: one source for every instruction set.
//
// Only for kernels_*.cpp. Everything has internal linkage and no template of the standard library is
// instantiated: otherwise the linker might keep the copy that needs the newest CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace dirprune {
namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * lanes)));
typedef std::int32_t Ints __attribute__((vector_size(4 * lanes)));
typedef float Unaligned __attribute__((vector_size(4 * lanes), aligned(4), may_alias));

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

INLINE Vec load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
INLINE void store(float* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }
INLINE Vec broadcast(float x) { return x - Vec{}; }  // x + 0 would lose the sign of -0

// The first `count` floats, at most a vector; nothing behind them is touched. The others are 0.
#if defined(__AVX2__) && !defined(__AVX512F__)
INLINE __m256i front(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif
INLINE Vec load_front(const float* p, int count) {
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#elif defined(__AVX2__)
    return (Vec)_mm256_maskload_ps(p, front(count));
#else
    alignas(64) float lane[lanes] = {};
    for (int i = 0; i < count; ++i) lane[i] = p[i];
    return load(lane);
#endif
}
INLINE void store_front(float* p, Vec v, int count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
#elif defined(__AVX2__)
    _mm256_maskstore_ps(p, front(count), (__m256)v);
#else
    alignas(64) float lane[lanes];
    store(lane, v);
    for (int i = 0; i < count; ++i) p[i] = lane[i];
#endif
}

// Lanes to load; the others become 0, and their memory is not touched.
#if defined(__AVX512F__)
typedef __mmask16 Mask;
#elif defined(__AVX2__)
typedef __m256i Mask;
#else
struct Mask {
    int from, to;
};
#endif
// The lanes [from, to), where these may be outside of the vector.
INLINE Mask between(std::ptrdiff_t from, std::ptrdiff_t to) {
    const auto lane = [](std::ptrdiff_t i) INLINE_LAMBDA {
        return static_cast<int>(i < 0 ? 0 : i > lanes ? lanes : i);
    };
#if defined(__AVX512F__)
    return static_cast<Mask>(((1u << lane(to)) - 1) & ~((1u << lane(from)) - 1));
#elif defined(__AVX2__)
    return _mm256_andnot_si256(front(lane(from)), front(lane(to)));
#else
    return {lane(from), lane(to)};
#endif
}
INLINE Vec load_masked(const float* p, Mask mask) {
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_loadu_ps(mask, p);
#elif defined(__AVX2__)
    return (Vec)_mm256_maskload_ps(p, mask);
#else
    alignas(64) float lane[lanes] = {};
    for (int i = mask.from; i < mask.to; ++i) lane[i] = p[i];
    return load(lane);
#endif
}

template <std::size_t... i>
INLINE Vec even_lanes(Vec a, Vec b, std::index_sequence<i...>) {
    return __builtin_shufflevector(a, b, (2 * i)...);
}
// Every second float of two vectors: from the first on, or from the second.
INLINE Vec even(Vec a, Vec b) { return even_lanes(a, b, std::make_index_sequence<lanes>{}); }
template <std::size_t... i>
INLINE Vec odd_lanes(Vec a, Vec b, std::index_sequence<i...>) {
    return __builtin_shufflevector(a, b, (2 * i + 1)...);
}
INLINE Vec odd(Vec a, Vec b) { return odd_lanes(a, b, std::make_index_sequence<lanes>{}); }

// a b + c, rounded once where the instruction set can.
INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__) && !defined(DIRPRUNE_PORTABLE)
    return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

// NaN stays NaN: the comparison is false and x is taken.
INLINE Vec at_least(Vec x, Vec low) { return low > x ? low : x; }
INLINE Vec at_most(Vec x, Vec high) { return high < x ? high : x; }
INLINE Vec select(Ints condition, Vec a, Vec b) { return condition ? a : b; }

INLINE float sum(Vec v) {
    float result = 0;
    for (int i = 0; i < lanes; ++i) result += v[i];
    return result;
}

template <std::size_t... i, typename F>
INLINE void unrolled(std::index_sequence<i...>, const F& f) {
    (f(std::integral_constant<int, static_cast<int>(i)>{}), ...);
}
template <int n, typename F>
INLINE void unrolled(const F& f) {
    unrolled(std::make_index_sequence<n>{}, f);
}

}  // namespace
}  // namespace dirprune
