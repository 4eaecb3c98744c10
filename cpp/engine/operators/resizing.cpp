// Padding and resizing of maps.
#include <algorithm>
#include <vector>

#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

Shape pad_shape(const Graph& graph, const Node& node) {
    const Shape& x = first(graph, node);
    check_rank(x, 4);
    const auto& padding = node.list(Key::padding);
    if (*std::min_element(padding.begin(), padding.end()) < 0)
        refuse("padding must be at least 0");
    return {-1, x[1], x[2] + padding[0] + padding[1], x[3] + padding[2] + padding[3]};
}

void pad(const Call& c) {
    const auto& padding = c.node.list(Key::padding);
    const float value = c.node.real(Key::value);
    const Shape& x = c.inputs[0].shape;
    const std::int64_t from_row = x[2] * c.batch, row = c.shape[2] * c.batch;
    const std::int64_t left = padding[2] * c.batch;
    in_ranges(c.shape[0] * c.shape[1], row, c.threads, [&](std::int64_t first, std::int64_t last) {
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

// Between two values; a share of 0 does not read the second one, which may be infinite.
float mixed(float first, float second, float share) {
    return share == 0 ? first : (1 - share) * first + share * second;
}

void upsample(const Call& c) {
    const Shape& x = c.inputs[0].shape;
    const bool linear = c.node.op == Op::upsample_bilinear;
    const bool corners = linear && c.node.integer(Key::align_corners);
    struct Source {
        std::int64_t low, high;
        float share;  // of high
    };
    std::vector<Source> sources[2];
    for (std::size_t axis = 0; axis < 2; ++axis) {
        const std::int64_t size = x[1 + axis], results = c.shape[1 + axis];
        const float ratio = corners ? (results > 1 ? float(size - 1) / float(results - 1) : 0)
                                    : float(size) / float(results);
        for (std::int64_t i = 0; i < results; ++i) {
            float at = float(i) * ratio;
            if (linear && !corners) at = std::max((float(i) + 0.5f) * ratio - 0.5f, 0.0f);
            const std::int64_t low = std::min(static_cast<std::int64_t>(at), size - 1);
            const float share = linear ? std::min(at - float(low), 1.0f) : 0;
            sources[axis].push_back({low, std::min(low + (linear ? 1 : 0), size - 1), share});
        }
    }
    const std::int64_t row = x[2] * c.batch, out_row = c.shape[2] * c.batch;
    in_ranges(c.shape[0] * c.shape[1], 4 * out_row, c.threads,
              [&](std::int64_t begin, std::int64_t end) {
                  for (std::int64_t i = begin; i < end; ++i) {
                      const Source sy = sources[0][count(i % c.shape[1])];
                      const float* plane = c.inputs[0].data + i / c.shape[1] * x[1] * row;
                      const float *top = plane + sy.low * row, *bottom = plane + sy.high * row;
                      float* to = c.out + i * out_row;
                      for (std::int64_t j = 0; j < c.shape[2]; ++j, to += c.batch) {
                          const Source sx = sources[1][count(j)];
                          const std::int64_t l = sx.low * c.batch, h = sx.high * c.batch;
                          if (!linear) {
                              std::copy_n(top + l, c.batch, to);
                              continue;
                          }
                          for (std::int64_t b = 0; b < c.batch; ++b)
                              to[b] = mixed(mixed(top[l + b], top[h + b], sx.share),
                                            mixed(bottom[l + b], bottom[h + b], sx.share),
                                            sy.share);
                      }
                  }
              });
}

}  // namespace

void add_resizing(OperatorTable& table) {
    using enum Key;
    at(table, Op::pad) = {.attributes = {{padding, Kind::four}, {value, Kind::real}},
                          .shape = pad_shape,
                          .run = pad};
    at(table, Op::upsample_nearest) = {
        .attributes = {{output, Kind::pair}}, .shape = map_shape, .run = upsample};
    at(table, Op::upsample_bilinear) = {
        .attributes = {{output, Kind::pair}, {align_corners, Kind::flag}},
        .shape = map_shape,
        .run = upsample};
}

}  // namespace dirprune::ops
