#include <immintrin.h>

#include "grda_kernel.hpp"

namespace dirprune {
namespace {

struct Sixteen {
    static constexpr std::size_t N = 16;
    __m512 x;
    static Sixteen load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static Sixteen all(float x) { return {_mm512_set1_ps(x)}; }
    void store(float* p) const { _mm512_storeu_ps(p, x); }
    void stream(float* p) const { _mm512_stream_ps(p, x); }
    static void fence() { _mm_sfence(); }
    friend Sixteen operator+(Sixteen a, Sixteen b) { return {_mm512_add_ps(a.x, b.x)}; }
    friend Sixteen operator-(Sixteen a, Sixteen b) { return {_mm512_sub_ps(a.x, b.x)}; }
    friend Sixteen operator*(Sixteen a, Sixteen b) { return {_mm512_mul_ps(a.x, b.x)}; }
    friend Sixteen fma(Sixteen a, Sixteen b, Sixteen c) { return {_mm512_fmadd_ps(a.x, b.x, c.x)}; }
    friend Sixteen clip(Sixteen x, Sixteen low, Sixteen high) {
        // of two equal values, and where one is NaN, these return the second
        return {_mm512_min_ps(high.x, _mm512_max_ps(low.x, x.x))};
    }
    friend Sixteen operator/(Sixteen a, Sixteen b) { return {_mm512_div_ps(a.x, b.x)}; }
    friend Sixteen magnitude(Sixteen a) { return {_mm512_abs_ps(a.x)}; }
    friend Sixteen root(Sixteen a) { return {_mm512_sqrt_ps(a.x)}; }
    friend Sixteen unless_leq(Sixteen a, Sixteen b, Sixteen x) {
        return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.x, b.x, _CMP_NLE_UQ), x.x)};
    }
    friend bool differs(Sixteen a, Sixteen b) {
        return _mm512_cmp_ps_mask(a.x, b.x, _CMP_NEQ_UQ) != 0;
    }
};

}  // namespace

const GrdaKernels grda_avx512 = kernels<Sixteen, Single<true>>();

}  // namespace dirprune
