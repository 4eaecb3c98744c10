// Operators that move elements about.
#include <algorithm>
#include <vector>

#include "engine/operators.hpp"

namespace dirprune {
namespace ops {

void cat(const Call& c) {
    const std::int64_t dim = c.node.integer(Key::dim);
    const Split whole = split(c.shape, dim, c.batch);
    std::int64_t at = 0;
    for (const Operand& input : c.inputs) {
        const Split s = split(input.shape, dim, c.batch);
        const std::int64_t size = s.along * s.after;
        if (s.before == 1) {
            in_pieces(size, 1, c.threads, [&](std::int64_t first, std::int64_t last) {
                std::copy(input.data + first, input.data + last, c.out + at + first);
            });
        } else {
            in_pieces(s.before, size, c.threads, [&](std::int64_t first, std::int64_t last) {
                for (std::int64_t i = first; i < last; ++i)
                    std::copy_n(input.data + i * size, size,
                                c.out + i * whole.along * whole.after + at);
            });
        }
        at += size;
    }
}

void slice(const Call& c) {
    const std::int64_t dim = c.node.integer(Key::dim), step = c.node.integer(Key::step);
    const Split from = split(c.inputs[0].shape, dim, c.batch), to = split(c.shape, dim, c.batch);
    const float* x = c.inputs[0].data + c.node.integer(Key::start) * from.after;
    in_pieces(to.before * to.along, to.after, c.threads,
              [&](std::int64_t first, std::int64_t last) {
                  for (std::int64_t i = first; i < last; ++i) {
                      const std::int64_t at = i / to.along * from.along + i % to.along * step;
                      std::copy_n(x + at * from.after, to.after, c.out + i * to.after);
                  }
              });
}

void permute(const Call& c) {
    const auto& dims = c.node.list(Key::dims);
    const Shape& shape = c.inputs[0].shape;
    // The result's axes, sizes and steps in the input, neighbours merged.
    std::vector<std::pair<std::int64_t, std::int64_t>> axes;
    for (std::size_t i = 1; i < dims.size(); ++i) {
        const auto from = count(dims[i] - 1);
        std::int64_t step = c.batch;
        for (std::size_t j = from + 1; j < shape.size(); ++j) step *= shape[j];
        if (shape[from] == 1) continue;
        if (!axes.empty() && axes.back().second == step * shape[from])
            axes.back() = {axes.back().first * shape[from], step};
        else
            axes.emplace_back(shape[from], step);
    }
    std::int64_t run = c.batch;  // floats that stay neighbours
    if (!axes.empty() && axes.back().second == c.batch) {
        run *= axes.back().first;
        axes.pop_back();
    }
    const float* x = c.inputs[0].data;
    if (axes.size() == 2 && axes[1].second == axes[0].first * run && axes[0].second == run)
        return transpose(x, c.out, axes[1].first, axes[0].first, run, c.threads);
    std::int64_t outer = 1;
    for (const auto& axis : axes) outer *= axis.first;
    in_pieces(outer, run, c.threads, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
            std::int64_t rest = i, at = 0;
            for (std::size_t j = axes.size(); j-- > 0; rest /= axes[j].first)
                at += rest % axes[j].first * axes[j].second;
            std::copy_n(x + at, run, c.out + i * run);
        }
    });
}

void pad(const Call& c) {
    const auto& padding = c.node.list(Key::padding);
    const float value = c.node.real(Key::value);
    const Shape& x = c.inputs[0].shape;
    const std::int64_t from_row = x[2] * c.batch, row = c.shape[2] * c.batch;
    const std::int64_t left = padding[2] * c.batch;
    in_pieces(c.shape[0] * c.shape[1], row, c.threads, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
            float* to = c.out + i * row;
            const std::int64_t y = i % c.shape[1] - padding[0];
            std::fill_n(to, row, value);
            if (y < 0 || y >= x[1]) continue;
            std::copy_n(c.inputs[0].data + (i / c.shape[1] * x[1] + y) * from_row, from_row,
                        to + left);
        }
    });
}

}  // namespace ops

using ops::in_pieces;

void transpose(const float* from, float* to, std::int64_t rows, std::int64_t columns,
               std::int64_t batch, int threads) {
    constexpr std::int64_t tile = 16;  // both sides of a tile stay in the cache
    in_pieces((columns + tile - 1) / tile, tile * rows * batch, threads,
              [&](std::int64_t first, std::int64_t last) {
                  for (std::int64_t j0 = first * tile; j0 < std::min(last * tile, columns);
                       j0 += tile)
                      for (std::int64_t i0 = 0; i0 < rows; i0 += tile)
                          for (std::int64_t j = j0; j < std::min(j0 + tile, columns); ++j)
                              for (std::int64_t i = i0; i < std::min(i0 + tile, rows); ++i) {
                                  const float* x = from + (i * columns + j) * batch;
                                  float* y = to + (j * rows + i) * batch;
                                  for (std::int64_t b = 0; b < batch; ++b) y[b] = x[b];
                              }
              });
}

void place(const float* from, float* to, std::int64_t size, std::int64_t step, int threads) {
    in_pieces(size, 1, threads, [&](std::int64_t first, std::int64_t last) {
        if (step == 1)
            std::copy(from + first, from + last, to + first);
        else
            for (std::int64_t i = first; i < last; ++i) to[i * step] = from[i];
    });
}

}  // namespace dirprune
