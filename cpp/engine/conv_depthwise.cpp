// Depthwise convolutions: one input channel for each output channel, in place.
//
// All taps are computed, also those with a weight of zero. Every vector of the input is loaded once
// for a few rows of the output, and the padding needs no copy of the input.
#include <algorithm>

#include "engine/conv.hpp"
#include "pool.hpp"

namespace dirprune {

void ConvPlan::make_taps(const Nonzeros& nonzeros, const float* bias) {
    const auto outputs = static_cast<std::size_t>(g_.outputs);
    const auto taps = static_cast<std::size_t>(g_.taps());
    bias_.assign(outputs, 0.0f);
    if (bias) std::copy_n(bias, outputs, bias_.begin());
    zeros_.assign(static_cast<std::size_t>(g_.width), 0.0f);
    taps_.assign(outputs * taps, 0.0f);
    for (std::size_t o = 0; o < outputs; ++o)
        for (auto n = nonzeros.ends[o]; n < nonzeros.ends[o + 1]; ++n)
            taps_[o * taps + nonzeros.index[n]] = nonzeros.value[n];
}

void ConvPlan::run_depthwise(const float* x, const float* residual, float* out,
                             int threads) const {
    const DepthwiseKernel kernel = kernels_.depthwise[g_.kernel_y][g_.stride_y];
    const std::int64_t in_plane = g_.height * g_.width, out_plane = g_.out_height * g_.out_width;
    const std::int64_t each = g_.outputs / g_.groups;
    // Threads divide the channels, and the rows too if there are few channels.
    const std::int64_t wanted = threads > 1 ? 8 * threads : 1;
    const std::int64_t bands =
        std::min(ceil_div(wanted, g_.outputs), ceil_div(g_.out_height, 4));
    const std::int64_t items = g_.outputs * bands, parts = std::min(items, wanted);
    const auto body = [&](std::size_t part, std::size_t) {
        const auto p = static_cast<std::int64_t>(part);
        Depthwise t{};
        t.zeros = zeros_.data();
        t.low = low_;
        t.high = high_;
        t.has_residual = residual != nullptr;
        t.residual = residual ? residual - out : 0;
        t.height = g_.height;
        t.width = g_.width;
        t.out_width = g_.out_width;
        t.top = g_.top;
        t.left = g_.left;
        for (std::int64_t item = items * p / parts; item < items * (p + 1) / parts; ++item) {
            const std::int64_t o = item / bands, band = item % bands;
            t.x = x + o / each * in_plane;
            t.out = out + o * out_plane;
            t.weight = taps_.data() + o * g_.taps();
            t.bias = bias_[static_cast<std::size_t>(o)];
            t.first = g_.out_height * band / bands;
            t.last = g_.out_height * (band + 1) / bands;
            kernel(t);
            if (is_clamp()) continue;
            float* const at = t.out + t.first * g_.out_width;
            kernels_.activate(epilogue_.activation, epilogue_.parameter, at, at,
                              static_cast<std::size_t>((t.last - t.first) * g_.out_width));
        }
    };
    parallel_for(static_cast<std::size_t>(parts), static_cast<std::size_t>(threads), body);
}

}  // namespace dirprune
