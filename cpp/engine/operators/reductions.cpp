// Reductions over dimensions of a sample.
#include <algorithm>
#include <limits>
#include <vector>

#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

Shape mean_shape(const Graph& graph, const Node& node) {
    const Shape& x = first(graph, node);
    std::vector<bool> gone(x.size());
    for (std::int64_t dim : node.list(Key::dims)) {
        if (gone[check_dim(x, dim)]) refuse("a dimension is named twice");
        gone[static_cast<std::size_t>(dim)] = true;
    }
    Shape result;
    for (std::size_t i = 0; i < x.size(); ++i) {
        if (!gone[i])
            result.push_back(x[i]);
        else if (node.integer(Key::keepdim))
            result.push_back(1);
    }
    return result;
}

void mean(const Call& c) {
    const Shape& shape = c.inputs[0].shape;
    std::vector<bool> gone(shape.size());
    std::int64_t divisor = 1;
    for (std::int64_t dim : c.node.list(Key::dims)) {
        gone[count(dim - 1)] = true;
        divisor *= shape[count(dim - 1)];
    }
    const float* x = c.inputs[0].data;
    const float scale = 1.0f / static_cast<float>(divisor);
    // One run of dimensions: (before, along, after).
    const auto first = std::find(gone.begin(), gone.end(), true);
    const auto last = std::find(first, gone.end(), false);
    if (std::find(last, gone.end(), true) == gone.end()) {
        Split s{1, divisor, c.batch};
        for (std::size_t i = 0; i < shape.size(); ++i) {
            if (gone[i]) continue;
            (gone.begin() + std::ptrdiff_t(i) < first ? s.before : s.after) *= shape[i];
        }
        in_ranges(s.before, s.along * s.after, c.threads, [&](std::int64_t from, std::int64_t to) {
            for (std::int64_t i = from; i < to; ++i) {
                const float* p = x + i * s.along * s.after;
                float* y = c.out + i * s.after;
                if (s.after == 1) {
                    *y = scale * chained_sum(s.along, [p](std::int64_t j) { return p[j]; });
                    continue;
                }
                std::fill_n(y, s.after, 0.0f);
                for (std::int64_t j = 0; j < s.along; ++j)
                    c.kernels.binary(Binary::add, y, 0, 1, p + j * s.after, 0, 1, y, 1,
                                     count(s.after));
                for (std::int64_t j = 0; j < s.after; ++j) y[j] *= scale;
            }
        });
        return;
    }
    const std::int64_t size = product(c.shape) * c.batch;
    std::fill_n(c.out, size, 0.0f);
    const std::int64_t elements = product(shape);
    for (std::int64_t i = 0; i < elements; ++i) {
        std::int64_t rest = i, at = 0, step = c.batch;
        for (std::size_t j = shape.size(); j-- > 0; rest /= shape[j])
            if (!gone[j]) {
                at += rest % shape[j] * step;
                step *= shape[j];
            }
        for (std::int64_t b = 0; b < c.batch; ++b) c.out[at + b] += scale * x[i * c.batch + b];
    }
}

// The elements of one result, as (before, along, after) of each dimension in turn: all but the last
// of several dimensions go into scratch memory.
template <class F>
void fold(const Call& c, float start, const F& f) {
    Shape shape = c.inputs[0].shape;
    auto dims = c.node.list(Key::dims);
    std::sort(dims.begin(), dims.end());
    std::vector<float> from(c.inputs[0].data, c.inputs[0].data + product(shape) * c.batch), to;
    while (!dims.empty()) {
        const Split s = split(shape, dims.back(), c.batch);
        shape[count(dims.back() - 1)] = 1;
        dims.pop_back();
        to.assign(count(s.before * s.after), start);
        in_ranges(s.before, s.along * s.after, c.threads,
                  [&](std::int64_t first, std::int64_t last) {
                      for (std::int64_t i = first; i < last; ++i)
                          for (std::int64_t j = 0; j < s.along; ++j)
                              for (std::int64_t k = 0; k < s.after; ++k) {
                                  float& y = to[count(i * s.after + k)];
                                  y = f(y, from[count((i * s.along + j) * s.after + k)]);
                              }
                  });
        from.swap(to);
    }
    std::copy(from.begin(), from.end(), c.out);
}

Shape one_shape(const Graph& graph, const Node& node) {
    Shape x = first(graph, node);
    const std::size_t dim = check_dim(x, node.integer(Key::dim));
    if (node.integer(Key::keepdim))
        x[dim] = 1;
    else
        x.erase(x.begin() + static_cast<std::ptrdiff_t>(dim));
    return x;
}

// The first place of the largest element, in which a NaN is larger than all others.
template <bool largest>
void place(const Call& c) {
    const Split s = split(c.inputs[0].shape, c.node.integer(Key::dim), c.batch);
    in_ranges(s.before, s.along * s.after, c.threads, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i)
            for (std::int64_t k = 0; k < s.after; ++k) {
                const float* x = c.inputs[0].data + i * s.along * s.after + k;
                std::int64_t best = 0;
                for (std::int64_t j = 1; j < s.along; ++j) {
                    const float held = x[best * s.after], other = x[j * s.after];
                    if (held != held) break;
                    if (other != other || (largest ? other > held : other < held)) best = j;
                }
                c.out[i * s.after + k] = static_cast<float>(best);
            }
    });
}

Shape cumsum_shape(const Graph& graph, const Node& node) {
    check_dim(first(graph, node), node.integer(Key::dim));
    return first(graph, node);
}

void cumsum(const Call& c) {
    const Split s = split(c.shape, c.node.integer(Key::dim), c.batch);
    in_ranges(s.before, s.along * s.after, c.threads, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
            const float* x = c.inputs[0].data + i * s.along * s.after;
            float* y = c.out + i * s.along * s.after;
            std::copy_n(x, s.after, y);
            for (std::int64_t j = s.after; j < s.along * s.after; ++j) y[j] = y[j - s.after] + x[j];
        }
    });
}

// Stable, NaN as the largest: the elements, or the places that they had.
template <bool places>
void sort(const Call& c) {
    const Split s = split(c.shape, c.node.integer(Key::dim), c.batch);
    const bool descending = c.node.integer(Key::descending) != 0;
    in_ranges(s.before, s.along * s.after, c.threads, [&](std::int64_t first, std::int64_t last) {
        std::vector<std::pair<float, std::int64_t>> row(count(s.along));
        const auto below = [&](const auto& a, const auto& b) {
            const bool a_nan = a.first != a.first, b_nan = b.first != b.first;
            if (a_nan || b_nan) return descending ? a_nan && !b_nan : b_nan && !a_nan;
            return descending ? b.first < a.first : a.first < b.first;
        };
        for (std::int64_t i = first; i < last; ++i)
            for (std::int64_t k = 0; k < s.after; ++k) {
                const std::int64_t at = i * s.along * s.after + k;
                for (std::int64_t j = 0; j < s.along; ++j)
                    row[count(j)] = {c.inputs[0].data[at + j * s.after], j};
                std::stable_sort(row.begin(), row.end(), below);
                for (std::int64_t j = 0; j < s.along; ++j)
                    c.out[at + j * s.after] =
                        places ? static_cast<float>(row[count(j)].second) : row[count(j)].first;
            }
    });
}

template <auto start, auto f>
Operator reduction() {
    return {.attributes = {{Key::dims, Kind::integers}, {Key::keepdim, Kind::flag}},
            .shape = mean_shape,
            .run = [](const Call& c) { fold(c, start(), f); }};
}

}  // namespace

void add_reductions(OperatorTable& table) {
    at(table, Op::sum) = reduction<[] { return 0.0f; }, [](float y, float x) { return y + x; }>();
    at(table, Op::prod) = reduction<[] { return 1.0f; }, [](float y, float x) { return y * x; }>();
    at(table, Op::amax) = reduction<[] { return -std::numeric_limits<float>::infinity(); },
                                    [](float y, float x) { return y < x || x != x ? x : y; }>();
    at(table, Op::amin) = reduction<[] { return std::numeric_limits<float>::infinity(); },
                                    [](float y, float x) { return x < y || x != x ? x : y; }>();
    for (Op op : {Op::argmax, Op::argmin})
        at(table, op) = {.attributes = {{Key::dim, Kind::integer}, {Key::keepdim, Kind::flag}},
                         .shape = one_shape,
                         .run = op == Op::argmax ? place<true> : place<false>};
    for (Op op : {Op::sort, Op::argsort})
        at(table, op) = {.attributes = {{Key::dim, Kind::integer}, {Key::descending, Kind::flag}},
                         .shape = cumsum_shape,
                         .run = op == Op::sort ? sort<false> : sort<true>};
    at(table, Op::cumsum) = {
        .attributes = {{Key::dim, Kind::integer}}, .shape = cumsum_shape, .run = cumsum};
    at(table, Op::mean) = {
        .attributes = {{Key::dims, Kind::integers}, {Key::keepdim, Kind::flag}},
        .shape = mean_shape,
        .run = mean};
}

}  // namespace dirprune::ops
