// Operators on elements, and over some of their dimensions.
#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/operators.hpp"

namespace dirprune {
namespace ops {

void activation(const Call& c, Activation code, float parameter) {
    const std::int64_t size = product(c.shape) * c.batch;
    const float* x = c.inputs[0].data;
    in_pieces(size, 4, c.threads, [&](std::int64_t first, std::int64_t last) {
        c.kernels.activate(code, parameter, x + first, c.out + first, count(last - first));
    });
}

namespace {

// A dimension of a broadcast: how far each operand moves along it.
struct Axis {
    std::int64_t size, a, b;
};

}  // namespace

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

}  // namespace ops
}  // namespace dirprune
