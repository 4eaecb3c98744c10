// Normalisation, and the affine functions that it becomes.
#include <cmath>
#include <vector>

#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

Shape channelwise(const Graph& graph, const Node& node) {
    const Shape& x = first(graph, node);
    if (x.size() < 2) refuse("the input has no channels");
    for (int i = 0; i < num_roles; ++i) {
        const auto role = static_cast<Role>(i);
        const Tensor* tensor = graph.tensor(node, role);
        if (role != Role::num_batches_tracked)
            check_vector(tensor, x[1]);
        else if (tensor && !tensor->shape.empty())
            refuse("num_batches_tracked must be a single number");
    }
    if (node.has(Key::eps) && node.real(Key::eps) < 0) refuse("eps must be at least 0");
    if (node.has(Key::momentum) &&
        !(node.real(Key::momentum) >= 0 && node.real(Key::momentum) <= 1))
        refuse("momentum must be from 0 to 1");
    return x;
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
    in_ranges(s.along, s.after, c.threads, [&](std::int64_t first, std::int64_t last) {
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
    in_ranges(s.before, 4 * s.along * s.after, c.threads,
              [&](std::int64_t begin, std::int64_t end) {
                  std::vector<float> largest(count(s.after)), sum(count(s.after));
                  for (std::int64_t i = begin; i < end; ++i) {
                      const float* from = x + i * s.along * s.after;
                      float* to = c.out + i * s.along * s.after;
                      if (s.after == 1) {  // one row: its elements are neighbours
                          c.kernels.softmax_row(from, to, count(s.along));
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

Shape layer_norm_shape(const Graph& graph, const Node& node) {
    const Shape& x = first(graph, node);
    const std::int64_t dims = node.integer(Key::dims);
    if (dims < 1 || dims >= static_cast<std::int64_t>(x.size())) refuse("dims is out of range");
    const Shape trailing(x.end() - dims, x.end());
    for (Role role : {Role::weight, Role::bias})
        if (const Tensor* tensor = graph.tensor(node, role); tensor && tensor->shape != trailing)
            refuse("a tensor does not fit the normalised dimensions");
    if (node.real(Key::eps) < 0) refuse("eps must be at least 0");
    return x;
}

void layer_norm(const Call& c) {
    const auto trailing = count(c.node.integer(Key::dims));
    std::int64_t n = 1;
    for (std::size_t i = c.shape.size() - trailing; i < c.shape.size(); ++i) n *= c.shape[i];
    const std::int64_t outer = product(c.shape) / n, batch = c.batch;
    const float eps = c.node.real(Key::eps);
    const Tensor* weight = c.graph.tensor(c.node, Role::weight);
    const Tensor* bias = c.graph.tensor(c.node, Role::bias);
    in_ranges(outer, 4 * n * batch, c.threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            c.kernels.layer_norm(c.inputs[0].data + i * n * batch, weight ? weight->data : nullptr,
                                 bias ? bias->data : nullptr, eps, c.out + i * n * batch, count(n),
                                 static_cast<int>(batch));
    });
}

Shape group_norm_shape(const Graph& graph, const Node& node) {
    const Shape& x = first(graph, node);
    const std::int64_t groups = node.integer(Key::groups);
    if (x.size() < 2 || groups < 1 || x[1] % groups) refuse("the groups do not fit the channels");
    for (Role role : {Role::weight, Role::bias}) check_vector(graph.tensor(node, role), x[1]);
    if (node.real(Key::eps) < 0) refuse("eps must be at least 0");
    return x;
}

void group_norm(const Call& c) {
    const std::int64_t groups = c.node.integer(Key::groups), channels = c.shape[0] / groups;
    const std::int64_t plane = product(c.shape, 1), n = channels * plane, batch = c.batch;
    const float eps = c.node.real(Key::eps);
    const Tensor* weight = c.graph.tensor(c.node, Role::weight);
    const Tensor* bias = c.graph.tensor(c.node, Role::bias);
    in_ranges(groups, 4 * n * batch, c.threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t g = begin; g < end; ++g)
            for (std::int64_t b = 0; b < batch; ++b) {
                const float* x = c.inputs[0].data + g * n * batch + b;
                float* y = c.out + g * n * batch + b;
                const auto size = static_cast<float>(n);
                const float mean =
                    chained_sum(n, [=](std::int64_t j) { return x[j * batch]; }) / size;
                // What rounding left out of the mean.
                const float rest =
                    chained_sum(n, [=](std::int64_t j) { return x[j * batch] - mean; }) / size;
                const auto deviation = [=](std::int64_t j) { return (x[j * batch] - mean) - rest; };
                const float variance = chained_sum(n, [=](std::int64_t j) {
                                           return deviation(j) * deviation(j);
                                       }) / size;
                const float inverse = 1 / std::sqrt(variance + eps);
                for (std::int64_t j = 0; j < n; ++j) {
                    const std::int64_t channel = g * channels + j / plane;
                    const float w = weight ? weight->data[channel] : 1;
                    const float o = bias ? bias->data[channel] : 0;
                    y[j * batch] = deviation(j) * inverse * w + o;
                }
            }
    });
}

Shape softmax_shape(const Graph& graph, const Node& node) {
    check_dim(first(graph, node), node.integer(Key::dim));
    return first(graph, node);
}

Shape dropout_shape(const Graph& graph, const Node& node) {
    if (!(node.real(Key::p) >= 0 && node.real(Key::p) <= 1)) refuse("p must be from 0 to 1");
    return first(graph, node);
}

}  // namespace

void add_normalisation(OperatorTable& table) {
    using enum Key;
    at(table, Op::batch_norm) = {
        .roles = {Role::running_mean, Role::running_var},
        .optional_roles = {Role::weight, Role::bias, Role::num_batches_tracked},
        .attributes = {{eps, Kind::real}, {momentum, Kind::real, true}},
        .shape = channelwise,
        .run = affine};
    at(table, Op::affine) = {.most = 2,
                             .roles = {Role::scale, Role::shift},
                             .attributes = {{activation, Kind::integer, true},
                                            {activation_parameter, Kind::real, true}},
                             .shape = channelwise,
                             .run = affine,
                             .epilogue = true};
    at(table, Op::softmax) = {
        .attributes = {{dim, Kind::integer}}, .shape = softmax_shape, .run = softmax};
    at(table, Op::layer_norm) = {.optional_roles = {Role::weight, Role::bias},
                                 .attributes = {{dims, Kind::integer}, {eps, Kind::real}},
                                 .shape = layer_norm_shape,
                                 .run = layer_norm};
    at(table, Op::group_norm) = {.optional_roles = {Role::weight, Role::bias},
                                 .attributes = {{groups, Kind::integer}, {eps, Kind::real}},
                                 .shape = group_norm_shape,
                                 .run = group_norm};
    at(table, Op::dropout) = {.attributes = {{p, Kind::real}}, .shape = dropout_shape};
}

}  // namespace dirprune::ops
