// Depthwise convolutions, in place: every output channel reads one input channel.
//
// A tile is a few rows of one vector. Every vector of the input is loaded once for all rows of the
// tile that read it. At the edges of the input, masks replace what is outside by zeros.
#pragma once

#include "engine/kernels.hpp"
#include "engine/vec.hpp"

namespace dirprune {
namespace {

// Lanes of `stride` vectors that are inside of a row of `width` floats, seen from a place in it.
template <int stride>
struct Inside {
    Mask of[stride];

    Inside() = default;
    Inside(std::ptrdiff_t at, std::ptrdiff_t width) {
        for (int i = 0; i < stride; ++i) of[i] = between(-at - i * lanes, width - at - i * lanes);
    }
};

// The inputs of all taps of a row for a vector of outputs.
template <int size, int stride, bool edge>
INLINE void load_row(Vec* v, const float* p, const Inside<stride>* inside) {
    unrolled<(size + stride - 1) / stride>([&](auto i) INLINE_LAMBDA {
        constexpr int tap = i * stride;
        const auto part = [&](int j) INLINE_LAMBDA {
            const float* const from = p + tap + j * lanes;
            return edge ? load_masked(from, inside[tap].of[j]) : load(from);
        };
        if constexpr (stride == 1) {
            v[tap] = part(0);
        } else {
            const Vec low = part(0), high = part(1);
            v[tap] = even(low, high);
            if constexpr (tap + 1 < size) v[tap + 1] = odd(low, high);
        }
    });
}

// `rows` rows of a strip of one vector, from row `y` and column `x` of the output on.
template <int size, int stride, int rows, bool edge>
INLINE void depthwise_tile(const Depthwise& t, const Vec* weight, std::ptrdiff_t y,
                           std::ptrdiff_t x, const Inside<stride>* inside) {
    constexpr int height = (rows - 1) * stride + size;  // rows of the input
    const std::ptrdiff_t column = x * stride - t.left, first = y * stride - t.top;
    Vec acc[rows];
    unrolled<rows>([&](auto r) INLINE_LAMBDA { acc[r] = broadcast(t.bias); });
    unrolled<height>([&](auto i) INLINE_LAMBDA {
        const std::ptrdiff_t at = first + i;
        const float* const row =
            (at >= 0 && at < t.height ? t.x + at * t.width : t.zeros) + column;
        Vec v[size];
        load_row<size, stride, edge>(v, row, inside);
        unrolled<size>([&](auto tap) INLINE_LAMBDA {
            unrolled<rows>([&](auto r) INLINE_LAMBDA {
                constexpr int ky = i - r * stride;
                if constexpr (ky >= 0 && ky < size)
                    acc[r] = multiply_add(weight[ky * size + tap], v[tap], acc[r]);
            });
        });
    });
    const Vec low = broadcast(t.low), high = broadcast(t.high);
    const bool whole = t.out_width - x >= lanes;
    const int count = whole ? lanes : static_cast<int>(t.out_width - x);
    unrolled<rows>([&](auto r) INLINE_LAMBDA {
        float* const out = t.out + (y + r) * t.out_width + x;
        if (t.has_residual)
            acc[r] += whole ? load(out + t.residual) : load_front(out + t.residual, count);
        const Vec v = at_most(at_least(acc[r], low), high);
        whole ? store(out, v) : store_front(out, v, count);
    });
}

// `rows` rows of the output from row `y` on.
template <int size, int stride, int rows>
INLINE void depthwise_band(const Depthwise& t, const Vec* weight, std::ptrdiff_t y) {
    for (std::ptrdiff_t x = 0; x < t.out_width; x += lanes) {
        const std::ptrdiff_t from = x * stride - t.left;
        Inside<stride> inside[size];
        if (from >= 0 && from + size - 1 + stride * lanes <= t.width) {
            depthwise_tile<size, stride, rows, false>(t, weight, y, x, inside);
        } else {
            for (int tap = 0; tap < size; ++tap) inside[tap] = {from + tap, t.width};
            depthwise_tile<size, stride, rows, true>(t, weight, y, x, inside);
        }
    }
}

template <int size, int stride>
void depthwise(const Depthwise& t) {
    constexpr int rows = 4;
    Vec weight[size * size];
    for (int tap = 0; tap < size * size; ++tap) weight[tap] = broadcast(t.weight[tap]);
    std::ptrdiff_t y = t.first;
    for (; t.last - y >= rows; y += rows) depthwise_band<size, stride, rows>(t, weight, y);
    switch (t.last - y) {
        case 3: return depthwise_band<size, stride, 3>(t, weight, y);
        case 2: return depthwise_band<size, stride, 2>(t, weight, y);
        case 1: return depthwise_band<size, stride, 1>(t, weight, y);
    }
}

}  // namespace
}  // namespace dirprune
