// Pooling over height and width.
#include <algorithm>
#include <limits>
#include <vector>

#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

Shape pool_shape(const Graph& graph, const Node& node) {
    const Shape& x = first(graph, node);
    check_rank(x, 4);
    Shape result = x;
    for (std::size_t i = 0; i < 2; ++i) {
        const std::int64_t kernel = node.list(Key::kernel)[i],
                           padding = node.list(Key::padding)[i];
        if (padding > kernel / 2) refuse("padding is more than half a window");
        result[2 + i] = windows(x[2 + i], kernel, node.list(Key::stride)[i], padding, padding,
                                node.has(Key::dilation) ? node.list(Key::dilation)[i] : 1,
                                node.integer(Key::ceil_mode) != 0);
    }
    return result;
}

std::vector<Window> sliding(std::int64_t size, std::int64_t results, std::int64_t kernel,
                            std::int64_t stride, std::int64_t padding, std::int64_t dilation,
                            bool count_padding) {
    std::vector<Window> windows;
    for (std::int64_t i = 0; i < results; ++i) {
        const std::int64_t start = i * stride - padding;
        const std::int64_t end = start + dilation * (kernel - 1) + 1;
        const std::int64_t skipped = start < 0 ? (-start + dilation - 1) / dilation : 0;
        const std::int64_t inside = start + skipped * dilation;
        const std::int64_t stop = std::min(end, size);
        const std::int64_t padded = std::min(end, size + padding) - start;
        windows.push_back({static_cast<std::int32_t>(std::min(inside, size)),
                           static_cast<std::int32_t>(stop), static_cast<std::int32_t>(dilation),
                           static_cast<float>(count_padding ? padded : stop - inside)});
    }
    return windows;
}

std::vector<Window> adaptive(std::int64_t size, std::int64_t results) {
    std::vector<Window> windows;
    for (std::int64_t i = 0; i < results; ++i) {
        const std::int64_t start = i * size / results,
                           end = ((i + 1) * size + results - 1) / results;
        windows.push_back({static_cast<std::int32_t>(start), static_cast<std::int32_t>(end), 1,
                           static_cast<float>(end - start)});
    }
    return windows;
}

void pool2d(const Call& c) {
    const Shape& x = c.inputs[0].shape;
    std::vector<Window> windows[2];
    for (std::size_t i = 0; i < 2; ++i) {
        const std::int64_t size = x[1 + i], results = c.shape[1 + i];
        if (!c.node.has(Key::kernel)) {
            windows[i] = adaptive(size, results);
            continue;
        }
        windows[i] =
            sliding(size, results, c.node.list(Key::kernel)[i], c.node.list(Key::stride)[i],
                    c.node.list(Key::padding)[i],
                    c.node.has(Key::dilation) ? c.node.list(Key::dilation)[i] : 1,
                    c.node.has(Key::count_include_pad) && c.node.integer(Key::count_include_pad));
    }
    const bool max = c.node.op == Op::max_pool2d || c.node.op == Op::adaptive_max_pool2d;
    // Maxima of every second column need no count and can be found side by side.
    const bool halves = max && c.batch == 1 && c.node.has(Key::kernel) &&
                        c.node.list(Key::stride)[1] == 2 && c.node.list(Key::dilation)[1] == 1 &&
                        c.node.list(Key::kernel)[1] < 64;
    const std::int64_t padding = halves ? c.node.list(Key::padding)[1] : 0;
    const std::int64_t margin =
        halves ? std::max<std::int64_t>(2 * c.shape[2] - x[2], 0) + 64 + 2 * slack : 0;
    const std::int64_t plane = x[1] * x[2] * c.batch, out = c.shape[1] * c.shape[2] * c.batch;
    in_ranges(x[0], plane, c.threads, [&](std::int64_t first, std::int64_t last) {
        std::vector<float> row(count(padding + x[2] * c.batch + margin) + slack,
                               -std::numeric_limits<float>::infinity());
        for (std::int64_t i = first; i < last; ++i) {
            Pooling pooling{};
            pooling.x = c.inputs[0].data + i * plane;
            pooling.y = c.out + i * out;
            pooling.row = row.data() + padding;
            pooling.kernel = halves ? static_cast<std::int32_t>(c.node.list(Key::kernel)[1]) : 0;
            pooling.stride = halves ? 2 : 0;
            pooling.padding = static_cast<std::int32_t>(padding);
            pooling.margin = static_cast<std::int32_t>(margin);
            pooling.width = static_cast<std::int32_t>(x[2]);
            pooling.batch = static_cast<std::int32_t>(c.batch);
            pooling.rows = windows[0].data();
            pooling.columns = windows[1].data();
            pooling.num_rows = static_cast<std::int32_t>(windows[0].size());
            pooling.num_columns = static_cast<std::int32_t>(windows[1].size());
            (max ? c.kernels.max_pool : c.kernels.average_pool)(pooling);
        }
    });
}

}  // namespace

Shape map_shape(const Graph& graph, const Node& node) {
    const Shape& x = first(graph, node);
    check_rank(x, 4);
    return {-1, x[1], node.list(Key::output)[0], node.list(Key::output)[1]};
}

void add_pooling(OperatorTable& table) {
    using enum Key;
    at(table, Op::max_pool2d) = {.attributes = {{kernel, Kind::pair},
                                                {stride, Kind::pair},
                                                {padding, Kind::pair},
                                                {ceil_mode, Kind::flag},
                                                {dilation, Kind::pair}},
                                 .shape = pool_shape,
                                 .run = pool2d};
    at(table, Op::avg_pool2d) = {.attributes = {{kernel, Kind::pair},
                                                {stride, Kind::pair},
                                                {padding, Kind::pair},
                                                {ceil_mode, Kind::flag},
                                                {count_include_pad, Kind::flag}},
                                 .shape = pool_shape,
                                 .run = pool2d};
    for (Op op : {Op::adaptive_avg_pool2d, Op::adaptive_max_pool2d})
        at(table, op) = {
            .attributes = {{output, Kind::pair}}, .shape = map_shape, .run = pool2d};
}

}  // namespace dirprune::ops
