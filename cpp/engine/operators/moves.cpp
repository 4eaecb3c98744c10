// Operators that move elements about and compute nothing.
#include <algorithm>
#include <vector>

#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

Shape cat_shape(const Graph& graph, const Node& node) {
    Shape x = first(graph, node);
    const std::size_t dim = check_dim(x, node.integer(Key::dim));
    for (std::size_t i = 1; i < node.inputs.size(); ++i) {
        Shape other = graph.shape(node.inputs[i]);
        check_rank(other, x.size());
        x[dim] += other[dim];  // 255 inputs below 2^31 each
        other[dim] = x[dim];
        if (other != x) refuse("cannot join the shapes");
    }
    return x;
}

void cat(const Call& c) {
    const std::int64_t dim = c.node.integer(Key::dim);
    const Split whole = split(c.shape, dim, c.batch);
    std::int64_t at = 0;
    for (const Operand& input : c.inputs) {
        const Split s = split(input.shape, dim, c.batch);
        const std::int64_t size = s.along * s.after;
        if (s.before == 1) {
            in_ranges(size, 1, c.threads, [&](std::int64_t first, std::int64_t last) {
                std::copy(input.data + first, input.data + last, c.out + at + first);
            });
        } else {
            in_ranges(s.before, size, c.threads, [&](std::int64_t first, std::int64_t last) {
                for (std::int64_t i = first; i < last; ++i)
                    std::copy_n(input.data + i * size, size,
                                c.out + i * whole.along * whole.after + at);
            });
        }
        at += size;
    }
}

Shape slice_shape(const Graph& graph, const Node& node) {
    Shape x = first(graph, node);
    const std::size_t dim = check_dim(x, node.integer(Key::dim));
    const std::int64_t start = node.integer(Key::start), end = node.integer(Key::end),
                       step = node.integer(Key::step);
    if (start < 0 || start >= end || end > x[dim] || step < 1) refuse("the slice is out of range");
    x[dim] = (end - start + step - 1) / step;
    return x;
}

void slice(const Call& c) {
    const std::int64_t dim = c.node.integer(Key::dim), step = c.node.integer(Key::step);
    const Split from = split(c.inputs[0].shape, dim, c.batch), to = split(c.shape, dim, c.batch);
    const float* x = c.inputs[0].data + c.node.integer(Key::start) * from.after;
    // Neighbours along the dimension are copied together.
    const std::int64_t pieces = step == 1 && to.before >= c.threads ? 1 : to.along;
    const std::int64_t run = to.along / pieces * to.after;
    in_ranges(to.before * pieces, run, c.threads, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
            const std::int64_t at = i / pieces * from.along + i % pieces * step;
            std::copy_n(x + at * from.after, run, c.out + i * run);
        }
    });
}

Shape reshape_shape(const Graph& graph, const Node& node) {
    const Shape& x = first(graph, node);
    const Shape& size = node.list(Key::size);
    check_size(std::span(size).subspan(1));
    if (size[0] != -1 || product(size, 1) != product(x, 1))
        refuse("the batch and the number of elements must stay");
    return size;
}

Shape permute_shape(const Graph& graph, const Node& node) {
    const Shape& x = first(graph, node);
    const auto& dims = node.list(Key::dims);
    Shape sorted = dims, result;
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t i = 0; i < sorted.size(); ++i)
        if (sorted[i] != static_cast<std::int64_t>(i)) refuse("dims are no permutation");
    if (dims.size() != x.size() || dims[0] != 0) refuse("the batch must stay first");
    for (std::int64_t dim : dims) result.push_back(x[static_cast<std::size_t>(dim)]);
    return result;
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
    if (axes.empty()) axes.emplace_back(1, run);
    const std::int64_t size = axes.back().first, step = axes.back().second;  // of the last axis
    std::int64_t outer = 1;
    for (const auto& axis : axes) outer *= axis.first;
    outer /= size;
    // Where a row of the result, without the last axis, begins in the input.
    const auto start = [&](std::int64_t row) {
        std::int64_t at = 0;
        for (std::size_t j = axes.size() - 1; j-- > 0; row /= axes[j].first)
            at += row % axes[j].first * axes[j].second;
        return at;
    };
    const float* x = c.inputs[0].data;
    if (run != 1) {
        in_ranges(outer, size * run, c.threads, [&](std::int64_t first, std::int64_t last) {
            float* out = c.out + first * size * run;
            for (std::int64_t row = first; row < last; ++row) {
                const float* from = x + start(row);
                for (std::int64_t i = 0; i < size; ++i, from += step, out += run)
                    std::copy_n(from, run, out);
            }
        });
        return;
    }
    // Single floats: the axis whose elements are neighbours in the input is exchanged with the last.
    const auto near = static_cast<std::size_t>(
        std::find_if(axes.begin(), axes.end(), [](const auto& axis) { return axis.second == 1; }) -
        axes.begin());
    const std::int64_t columns = axes[near].first;
    std::int64_t below = size;  // floats of the result between neighbours of this axis
    for (std::size_t j = near + 1; j + 1 < axes.size(); ++j) below *= axes[j].first;
    const std::int64_t inside = below / size, strip = std::min<std::int64_t>(columns, 16);
    const std::int64_t strips = (columns + strip - 1) / strip;
    in_ranges(outer / columns * strips, strip * size, c.threads,
              [&](std::int64_t first, std::int64_t last) {
                  for (std::int64_t i = first; i < last; ++i) {
                      const std::int64_t matrix = i / strips, begin = i % strips * strip;
                      const std::int64_t row =
                          matrix / inside * inside * columns + begin * inside + matrix % inside;
                      c.kernels.transpose(x + start(row), step, c.out + row * size, below,
                                          count(size), count(std::min(strip, columns - begin)), 1);
                  }
              });
}

}  // namespace

void add_moves(OperatorTable& table) {
    using enum Key;
    at(table, Op::constant) = {.least = 0,
                               .most = 0,
                               .roles = {Role::value},
                               .attributes = {{trained, Kind::flag, true}},
                               .shape = [](const Graph& graph, const Node& node) {
                                   return graph.tensor(node, Role::value)->shape;
                               }};
    at(table, Op::cat) = {
        .most = 255, .attributes = {{dim, Kind::integer}}, .shape = cat_shape, .run = cat};
    at(table, Op::slice) = {.attributes = {{dim, Kind::integer},
                                           {start, Kind::integer},
                                           {end, Kind::integer},
                                           {step, Kind::integer}},
                            .shape = slice_shape,
                            .run = slice};
    at(table, Op::reshape) = {.attributes = {{size, Kind::integers}}, .shape = reshape_shape};
    at(table, Op::permute) = {
        .attributes = {{dims, Kind::integers}}, .shape = permute_shape, .run = permute};
}

}  // namespace dirprune::ops

namespace dirprune {

using ops::in_ranges;

void transpose(const Kernels& kernels, const float* from, float* to, std::int64_t rows,
               std::int64_t columns, std::int64_t batch, int threads) {
    constexpr std::int64_t tile = 16;  // both sides of a tile stay in the cache
    in_ranges((columns + tile - 1) / tile, tile * rows * batch, threads,
              [&](std::int64_t first, std::int64_t last) {
                  const std::int64_t begin = first * tile, end = std::min(last * tile, columns);
                  if (batch == 1 || batch % kernels.lanes == 0)
                      return kernels.transpose(from + begin * batch, columns,
                                               to + begin * rows * batch, rows, ops::count(rows),
                                               ops::count(end - begin), ops::count(batch));
                  for (std::int64_t j0 = begin; j0 < end; j0 += tile)
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
    in_ranges(size, 1, threads, [&](std::int64_t first, std::int64_t last) {
        if (step == 1)
            std::copy(from + first, from + last, to + first);
        else
            for (std::int64_t i = first; i < last; ++i) to[i * step] = from[i];
    });
}

}  // namespace dirprune
