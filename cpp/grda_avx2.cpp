#include <immintrin.h>

#include "grda_kernel.hpp"

namespace dirprune {
namespace {

struct Eight {
    static constexpr std::size_t N = 8;
    __m256 x;
    static Eight load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Eight all(float x) { return {_mm256_set1_ps(x)}; }
    void store(float* p) const { _mm256_storeu_ps(p, x); }
    void stream(float* p) const { _mm256_stream_ps(p, x); }
    static void fence() { _mm_sfence(); }
    friend Eight operator+(Eight a, Eight b) { return {_mm256_add_ps(a.x, b.x)}; }
    friend Eight operator-(Eight a, Eight b) { return {_mm256_sub_ps(a.x, b.x)}; }
    friend Eight operator*(Eight a, Eight b) { return {_mm256_mul_ps(a.x, b.x)}; }
    friend Eight fma(Eight a, Eight b, Eight c) { return {_mm256_fmadd_ps(a.x, b.x, c.x)}; }
    friend Eight clip(Eight x, Eight low, Eight high) {
        // of two equal values, and where one is NaN, these return the second
        return {_mm256_min_ps(high.x, _mm256_max_ps(low.x, x.x))};
    }
    friend Eight operator/(Eight a, Eight b) { return {_mm256_div_ps(a.x, b.x)}; }
    friend Eight magnitude(Eight a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.x)}; }
    friend Eight root(Eight a) { return {_mm256_sqrt_ps(a.x)}; }
    friend Eight unless_leq(Eight a, Eight b, Eight x) {
        return {_mm256_andnot_ps(_mm256_cmp_ps(a.x, b.x, _CMP_LE_OQ), x.x)};
    }
    friend bool differs(Eight a, Eight b) {
        return _mm256_movemask_ps(_mm256_cmp_ps(a.x, b.x, _CMP_NEQ_UQ)) != 0;
    }
};

}  // namespace

const GrdaKernels grda_avx2 = kernels<Eight, Single<true>>();

}  // namespace dirprune
