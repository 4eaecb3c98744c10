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

// The axes of a permutation's result, outermost first, without those of size 1; neighbours that
// stay neighbours are merged.
struct Axis {
    std::int64_t size, step;  // step in the input, in floats
};
struct Permutation {
    std::vector<Axis> axes;  // at least one
    std::int64_t run;        // floats that stay together: an axis of step 1 below the others

    std::int64_t rows() const {  // of the result, each along the last axis
        std::int64_t count = 1;
        for (std::size_t j = 0; j + 1 < axes.size(); ++j) count *= axes[j].size;
        return count;
    }
    std::int64_t start(std::int64_t row) const {  // of a row, in the input
        std::int64_t at = 0;
        for (std::size_t j = axes.size() - 1; j-- > 0; row /= axes[j].size)
            at += row % axes[j].size * axes[j].step;
        return at;
    }
};

Permutation permutation(const Shape& shape, const Shape& dims, std::int64_t batch) {
    Permutation p{{}, batch};
    for (std::size_t i = 1; i < dims.size(); ++i) {
        const auto from = count(dims[i] - 1);
        std::int64_t step = batch;
        for (std::size_t j = from + 1; j < shape.size(); ++j) step *= shape[j];
        if (shape[from] == 1) continue;
        if (!p.axes.empty() && p.axes.back().step == step * shape[from])
            p.axes.back() = {p.axes.back().size * shape[from], step};
        else
            p.axes.push_back({shape[from], step});
    }
    if (!p.axes.empty() && p.axes.back().step == batch) {
        p.run *= p.axes.back().size;
        p.axes.pop_back();
    }
    if (p.axes.empty()) p.axes.push_back({1, p.run});
    return p;
}

void copy_runs(const Call& c, const Permutation& p) {
    const std::int64_t run = p.run, step = p.axes.back().step, each = p.axes.back().size * run;
    in_ranges(p.rows(), each, c.threads, [&](std::int64_t first, std::int64_t last) {
        float* out = c.out + first * each;
        for (std::int64_t row = first; row < last; ++row) {
            const float* from = c.inputs[0].data + p.start(row);
            float* const end = out + each;
            for (; out < end; from += step, out += run) std::copy_n(from, run, out);
        }
    });
}

// Single floats: the axis whose elements are neighbours in the input is exchanged with the last.
void exchange(const Call& c, const Permutation& p) {
    const std::int64_t size = p.axes.back().size, step = p.axes.back().step;
    const auto near = std::find_if(p.axes.begin(), p.axes.end(),
                                   [](const Axis& axis) { return axis.step == 1; });
    const std::int64_t columns = near->size;
    std::int64_t inside = 1;  // rows between neighbours of this axis
    for (auto axis = near + 1; axis + 1 < p.axes.end(); ++axis) inside *= axis->size;
    const std::int64_t strip = std::min<std::int64_t>(columns, 16);
    const std::int64_t strips = (columns + strip - 1) / strip;
    in_ranges(p.rows() / columns * strips, strip * size, c.threads,
              [&](std::int64_t first, std::int64_t last) {
                  for (std::int64_t i = first; i < last; ++i) {
                      const std::int64_t matrix = i / strips, begin = i % strips * strip;
                      const std::int64_t row =
                          (matrix / inside * columns + begin) * inside + matrix % inside;
                      c.kernels.transpose(c.inputs[0].data + p.start(row), step,
                                          c.out + row * size, inside * size, count(size),
                                          count(std::min(strip, columns - begin)), 1);
                  }
              });
}

void permute(const Call& c) {
    const Permutation p = permutation(c.inputs[0].shape, c.node.list(Key::dims), c.batch);
    if (p.run == 1 && p.axes.back().step != 1)
        exchange(c, p);
    else
        copy_runs(c, p);
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
