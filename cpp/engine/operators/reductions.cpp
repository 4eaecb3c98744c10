// Reductions over dimensions of a sample.
#include <algorithm>
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
        in_pieces(s.before, s.along * s.after, c.threads, [&](std::int64_t from, std::int64_t to) {
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

}  // namespace

void add_reductions(OperatorTable& table) {
    at(table, Op::mean) = {
        .attributes = {{Key::dims, Kind::integers}, {Key::keepdim, Kind::flag}},
        .shape = mean_shape,
        .run = mean};
}

}  // namespace dirprune::ops
