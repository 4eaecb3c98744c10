// Operators over height and width.
#include <algorithm>
#include <limits>
#include <vector>

#include "engine/operators.hpp"

namespace dirprune {
namespace ops {
namespace {

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

}  // namespace

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
    in_pieces(x[0], plane, c.threads, [&](std::int64_t first, std::int64_t last) {
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
    in_pieces(c.shape[0] * c.shape[1], 4 * out_row, c.threads,
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
                              to[b] = (1 - sy.share) *
                                          ((1 - sx.share) * top[l + b] + sx.share * top[h + b]) +
                                      sy.share * ((1 - sx.share) * bottom[l + b] +
                                                  sx.share * bottom[h + b]);
                      }
                  }
              });
}

}  // namespace ops
}  // namespace dirprune
