#include "engine/ops.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "pool.hpp"

namespace dirprune {
namespace {

constexpr std::int64_t worthwhile = 1 << 14;  // floats that a thread should have to do

// Run f on pieces [first, last) of [0, size), in threads only if there is enough to do.
template <typename F>
void in_pieces(std::int64_t size, std::int64_t work_each, int threads, const F& f) {
    const std::int64_t pieces = std::clamp<std::int64_t>(
        size * work_each / worthwhile, 1, std::min<std::int64_t>(size, 4 * threads));
    const auto parts = static_cast<std::size_t>(pieces), most = static_cast<std::size_t>(threads);
    parallel_for(parts, most, [&](std::size_t piece, std::size_t) {
        const auto i = static_cast<std::int64_t>(piece);
        f(size * i / pieces, size * (i + 1) / pieces);
    });
}

std::size_t count(std::int64_t n) { return static_cast<std::size_t>(n); }

// The value's shape as (before, along, after) one dimension of the result, the batch in `after`.
struct Split {
    std::int64_t before = 1, along = 1, after = 1;
};
// dim counts the batch as dimension 0, as attributes do.
Split split(const Shape& shape, std::int64_t dim, std::int64_t batch) {
    Split result;
    for (std::size_t i = 0; i < shape.size(); ++i)
        (std::int64_t(i) + 1 < dim    ? result.before
         : std::int64_t(i) + 1 == dim ? result.along
                                      : result.after) *= shape[i];
    result.after *= batch;
    return result;
}

void activation(const Call& c, Activation code, float parameter) {
    const std::int64_t size = product(c.shape) * c.batch;
    const float* x = c.inputs[0].data;
    in_pieces(size, 4, c.threads, [&](std::int64_t first, std::int64_t last) {
        c.kernels.activate(code, parameter, x + first, c.out + first, count(last - first));
    });
}

// A dimension of a broadcast: how far each operand moves along it.
struct Axis {
    std::int64_t size, a, b;
};

void binary(const Call& c, Binary op) {
    Operand a = c.inputs[0], b;
    float scalar = 0;
    if (c.inputs.size() == 2) {
        b = c.inputs[1];
    } else {
        scalar = c.node.real(Key::scalar);
        b = {&scalar, {}, true};
        if (c.node.has(Key::reversed) && c.node.integer(Key::reversed)) std::swap(a, b);
    }
    // Steps of an operand along the result's dimensions and the batch.
    const auto steps = [&](const Operand& operand) {
        Shape result(c.shape.size() + 1, 0);
        std::int64_t step = operand.constant ? 1 : c.batch;
        result.back() = operand.constant ? 0 : 1;
        Shape shape = operand.shape;
        if (shape.size() > c.shape.size()) shape.erase(shape.begin());  // a constant's (1, ...)
        for (std::size_t i = shape.size(), j = c.shape.size(); i-- > 0;) {
            --j;
            result[j] = shape[i] == 1 ? 0 : step;
            step *= shape[i];
        }
        return result;
    };
    const Shape a_steps = steps(a), b_steps = steps(b);
    std::vector<Axis> axes;  // the innermost first, those merged that move alike
    for (std::size_t i = c.shape.size() + 1; i-- > 0;) {
        const Axis axis{i == c.shape.size() ? c.batch : c.shape[i], a_steps[i], b_steps[i]};
        if (axis.size == 1) continue;
        if (!axes.empty()) {
            Axis& inner = axes.back();
            if (axis.a == inner.a * inner.size && axis.b == inner.b * inner.size) {
                inner.size *= axis.size;
                continue;
            }
        }
        axes.push_back(axis);
    }
    axes.resize(std::max<std::size_t>(axes.size(), 2), {1, 0, 0});
    const Axis inner = axes[0], middle = axes[1];
    std::int64_t outer = 1;
    for (std::size_t i = 2; i < axes.size(); ++i) outer *= axes[i].size;
    const std::int64_t each = inner.size * middle.size;
    const auto one = [&](std::int64_t index, std::int64_t first, std::int64_t last) {
        const float *p = a.data + first * middle.a, *q = b.data + first * middle.b;
        for (std::size_t i = 2, rest = static_cast<std::size_t>(index); i < axes.size(); ++i) {
            const auto at = static_cast<std::int64_t>(rest) % axes[i].size;
            rest /= static_cast<std::size_t>(axes[i].size);
            p += at * axes[i].a;
            q += at * axes[i].b;
        }
        c.kernels.binary(op, p, middle.a, int(inner.a), q, middle.b, int(inner.b),
                         c.out + index * each + first * inner.size, count(last - first),
                         count(inner.size));
    };
    if (outer == 1 && middle.size == 1) {  // one long row
        in_pieces(inner.size, 1, c.threads, [&](std::int64_t first, std::int64_t last) {
            c.kernels.binary(op, a.data + first * inner.a, 0, int(inner.a),
                             b.data + first * inner.b, 0, int(inner.b), c.out + first, 1,
                             count(last - first));
        });
    } else if (outer == 1) {
        in_pieces(middle.size, inner.size, c.threads,
                  [&](std::int64_t first, std::int64_t last) { one(0, first, last); });
    } else {
        in_pieces(outer, each, c.threads, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t i = first; i < last; ++i) one(i, 0, middle.size);
        });
    }
}

void affine(const Call& c) {
    const Split s = split(c.shape, 1, c.batch);
    std::vector<float> scale(count(s.along)), shift(count(s.along));
    const auto get = [&](Role role, std::int64_t i, float otherwise) {
        const Tensor* tensor = c.graph.tensor(c.node, role);
        return tensor ? tensor->data[i] : otherwise;
    };
    for (std::int64_t i = 0; i < s.along; ++i) {
        float a, b;
        if (c.node.op == Op::affine) {
            a = get(Role::scale, i, 1);
            b = get(Role::shift, i, 0);
        } else {
            a = get(Role::weight, i, 1) /
                std::sqrt(get(Role::running_var, i, 1) + c.node.real(Key::eps));
            b = get(Role::bias, i, 0) - get(Role::running_mean, i, 0) * a;
        }
        scale[count(i)] = a;
        shift[count(i)] = b;
    }
    const auto code =
        static_cast<Activation>(c.node.has(Key::activation) ? c.node.integer(Key::activation) : 0);
    const float parameter =
        c.node.has(Key::activation_parameter) ? c.node.real(Key::activation_parameter) : 0;
    const float* x = c.inputs[0].data;
    const float* residual = c.inputs.size() == 2 ? c.inputs[1].data : nullptr;
    in_pieces(s.along, s.after, c.threads, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
            const std::int64_t at = i * s.after;
            c.kernels.scale_shift(x + at, scale[count(i)], shift[count(i)],
                                  residual ? residual + at : nullptr, c.out + at, count(s.after));
            if (code != Activation::none)
                c.kernels.activate(code, parameter, c.out + at, c.out + at, count(s.after));
        }
    });
}

void softmax(const Call& c) {
    const Split s = split(c.shape, c.node.integer(Key::dim), c.batch);
    const float* x = c.inputs[0].data;
    in_pieces(s.before, 4 * s.along * s.after, c.threads,
              [&](std::int64_t begin, std::int64_t end) {
                  std::vector<float> largest(count(s.after)), sum(count(s.after));
                  for (std::int64_t i = begin; i < end; ++i) {
                      const float* from = x + i * s.along * s.after;
                      float* to = c.out + i * s.along * s.after;
                      if (s.after == 1) {  // one row: its elements are neighbours
                          const float most = *std::max_element(from, from + s.along);
                          float total = 0;
                          for (std::int64_t j = 0; j < s.along; ++j)
                              total += to[j] = std::exp(from[j] - most);
                          for (std::int64_t j = 0; j < s.along; ++j) to[j] /= total;
                          continue;
                      }
                      std::copy_n(from, s.after, largest.begin());
                      std::fill(sum.begin(), sum.end(), 0.0f);
                      for (std::int64_t j = 1; j < s.along; ++j)
                          c.kernels.maximum(from + j * s.after, largest.data(), largest.data(),
                                            count(s.after));
                      for (std::int64_t j = 0; j < s.along; ++j)
                          c.kernels.add_exp(from + j * s.after, largest.data(), to + j * s.after,
                                            sum.data(), count(s.after));
                      c.kernels.binary(Binary::div, to, s.after, 1, sum.data(), 0, 1, to,
                                       count(s.along), count(s.after));
                  }
              });
}

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

void windows2d(const Call& c) {
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

// Sums in `parallel` chains: fast, and rounds less than one long chain.
template <typename F>
float chained_sum(std::int64_t n, const F& term) {
    float acc[16] = {};
    std::int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (std::int64_t j = 0; j < 16; ++j) acc[j] += term(i + j);
    for (std::int64_t j = 0; i + j < n; ++j) acc[j] += term(i + j);
    for (int width = 8; width > 0; width /= 2)
        for (int j = 0; j < width; ++j) acc[j] += acc[j + width];
    return acc[0];
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

void layer_norm(const Call& c) {
    const auto trailing = count(c.node.integer(Key::dims));
    std::int64_t n = 1;
    for (std::size_t i = c.shape.size() - trailing; i < c.shape.size(); ++i) n *= c.shape[i];
    const std::int64_t outer = product(c.shape) / n, batch = c.batch;
    const float eps = c.node.real(Key::eps), scale = 1.0f / static_cast<float>(n);
    const Tensor* weight = c.graph.tensor(c.node, Role::weight);
    const Tensor* bias = c.graph.tensor(c.node, Role::bias);
    in_pieces(outer, 4 * n * batch, c.threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> centre(count(batch)), inverse(count(batch));
        for (std::int64_t i = begin; i < end; ++i) {
            const float* x = c.inputs[0].data + i * n * batch;
            float* y = c.out + i * n * batch;
            if (batch == 1) {
                const float m = scale * chained_sum(n, [x](std::int64_t j) { return x[j]; });
                const float v = scale * chained_sum(n, [x, m](std::int64_t j) {
                                    return (x[j] - m) * (x[j] - m);
                                });
                centre[0] = m;
                inverse[0] = 1 / std::sqrt(v + eps);
            } else {
                std::fill(centre.begin(), centre.end(), 0.0f);
                std::fill(inverse.begin(), inverse.end(), 0.0f);
                for (std::int64_t j = 0; j < n; ++j)
                    for (std::int64_t b = 0; b < batch; ++b)
                        centre[count(b)] += scale * x[j * batch + b];
                for (std::int64_t j = 0; j < n; ++j)
                    for (std::int64_t b = 0; b < batch; ++b) {
                        const float d = x[j * batch + b] - centre[count(b)];
                        inverse[count(b)] += scale * d * d;
                    }
                for (float& v : inverse) v = 1 / std::sqrt(v + eps);
            }
            for (std::int64_t j = 0; j < n; ++j) {
                const float w = weight ? weight->data[j] : 1, o = bias ? bias->data[j] : 0;
                for (std::int64_t b = 0; b < batch; ++b)
                    y[j * batch + b] =
                        (x[j * batch + b] - centre[count(b)]) * inverse[count(b)] * w + o;
            }
        }
    });
}

}  // namespace

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

void compute(const Call& c) {
    const Node& node = c.node;
    switch (node.op) {
        case Op::relu: return activation(c, Activation::relu, 0);
        case Op::relu6: return activation(c, Activation::relu6, 0);
        case Op::leaky_relu: return activation(c, Activation::leaky_relu, node.real(Key::slope));
        case Op::elu: return activation(c, Activation::elu, node.real(Key::alpha));
        case Op::gelu:
            return activation(
                c, node.integer(Key::tanh) ? Activation::gelu_tanh : Activation::gelu, 0);
        case Op::silu: return activation(c, Activation::silu, 0);
        case Op::sigmoid: return activation(c, Activation::sigmoid, 0);
        case Op::tanh: return activation(c, Activation::tanh, 0);
        case Op::hardswish: return activation(c, Activation::hardswish, 0);
        case Op::hardsigmoid: return activation(c, Activation::hardsigmoid, 0);
        case Op::batch_norm:
        case Op::affine: return affine(c);
        case Op::softmax: return softmax(c);
        case Op::add: return binary(c, Binary::add);
        case Op::sub: return binary(c, Binary::sub);
        case Op::mul: return binary(c, Binary::mul);
        case Op::div: return binary(c, Binary::div);
        case Op::cat: return cat(c);
        case Op::slice: return slice(c);
        case Op::max_pool2d:
        case Op::avg_pool2d:
        case Op::adaptive_avg_pool2d:
        case Op::adaptive_max_pool2d: return windows2d(c);
        case Op::mean: return mean(c);
        case Op::permute: return permute(c);
        case Op::pad: return pad(c);
        case Op::upsample_nearest:
        case Op::upsample_bilinear: return upsample(c);
        case Op::layer_norm: return layer_norm(c);
        case Op::conv2d:
        case Op::linear:
        case Op::constant:
        case Op::reshape:
        case Op::dropout: break;
    }
    throw std::logic_error("this operator is not computed here");
}

}  // namespace dirprune
