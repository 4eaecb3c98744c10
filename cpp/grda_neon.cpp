#include <arm_neon.h>

#include "grda_kernel.hpp"

namespace dirprune {
namespace {

struct Four {
    static constexpr std::size_t N = 4;
    float32x4_t x;
    static Four load(const float* p) { return {vld1q_f32(p)}; }
    static Four all(float x) { return {vdupq_n_f32(x)}; }
    void store(float* p) const { vst1q_f32(p, x); }
    void stream(float* p) const { vst1q_f32(p, x); }  // the hardware sees whole lines by itself
    static void fence() {}
    friend Four operator+(Four a, Four b) { return {vaddq_f32(a.x, b.x)}; }
    friend Four operator-(Four a, Four b) { return {vsubq_f32(a.x, b.x)}; }
    friend Four operator*(Four a, Four b) { return {vmulq_f32(a.x, b.x)}; }
    friend Four fma(Four a, Four b, Four c) { return {vfmaq_f32(c.x, a.x, b.x)}; }
    friend Four clip(Four x, Four low, Four high) {
        return {vminq_f32(high.x, vmaxq_f32(low.x, x.x))};  // these keep NaN and order -0.0 < 0.0
    }
    friend Four operator/(Four a, Four b) { return {vdivq_f32(a.x, b.x)}; }
    friend Four magnitude(Four a) { return {vabsq_f32(a.x)}; }
    friend Four root(Four a) { return {vsqrtq_f32(a.x)}; }
    friend Four unless_leq(Four a, Four b, Four x) {
        return {vreinterpretq_f32_u32(
            vbicq_u32(vreinterpretq_u32_f32(x.x), vcleq_f32(a.x, b.x)))};
    }
    friend bool differs(Four a, Four b) { return vminvq_u32(vceqq_f32(a.x, b.x)) == 0; }
};

}  // namespace

const GrdaKernels grda_neon = kernels<Four, Single<true>>();

}  // namespace dirprune
