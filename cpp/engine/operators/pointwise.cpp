// Functions of single elements.
#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

void activation(const Call& c, Activation code, float parameter) {
    const std::int64_t size = product(c.shape) * c.batch;
    const float* x = c.inputs[0].data;
    in_ranges(size, 4, c.threads, [&](std::int64_t first, std::int64_t last) {
        c.kernels.activate(code, parameter, x + first, c.out + first, count(last - first));
    });
}

template <Activation code>
void plain(const Call& c) {
    activation(c, code, 0);
}

}  // namespace

void add_pointwise(OperatorTable& table) {
    at(table, Op::relu) = {.shape = same_shape, .run = plain<Activation::relu>};
    at(table, Op::relu6) = {.shape = same_shape, .run = plain<Activation::relu6>};
    at(table, Op::silu) = {.shape = same_shape, .run = plain<Activation::silu>};
    at(table, Op::sigmoid) = {.shape = same_shape, .run = plain<Activation::sigmoid>};
    at(table, Op::tanh) = {.shape = same_shape, .run = plain<Activation::tanh>};
    at(table, Op::hardswish) = {.shape = same_shape, .run = plain<Activation::hardswish>};
    at(table, Op::hardsigmoid) = {.shape = same_shape, .run = plain<Activation::hardsigmoid>};
    at(table, Op::mish) = {.shape = same_shape, .run = plain<Activation::mish>};
    at(table, Op::selu) = {.shape = same_shape, .run = plain<Activation::selu>};
    at(table, Op::exp) = {.shape = same_shape, .run = plain<Activation::exp>};
    at(table, Op::expm1) = {.shape = same_shape, .run = plain<Activation::expm1>};
    at(table, Op::leaky_relu) = {
        .attributes = {{Key::slope, Kind::real}}, .shape = same_shape, .run = [](const Call& c) {
            activation(c, Activation::leaky_relu, c.node.real(Key::slope));
        }};
    at(table, Op::elu) = {
        .attributes = {{Key::alpha, Kind::real}}, .shape = same_shape, .run = [](const Call& c) {
            activation(c, Activation::elu, c.node.real(Key::alpha));
        }};
    at(table, Op::gelu) = {
        .attributes = {{Key::tanh, Kind::flag}}, .shape = same_shape, .run = [](const Call& c) {
            activation(c, c.node.integer(Key::tanh) ? Activation::gelu_tanh : Activation::gelu, 0);
        }};
    at(table, Op::softplus) = {
        .attributes = {{Key::beta, Kind::real}, {Key::threshold, Kind::real}},
        .shape = same_shape,
        .run = [](const Call& c) {
            const float beta = c.node.real(Key::beta), threshold = c.node.real(Key::threshold);
            const float* x = c.inputs[0].data;
            in_ranges(product(c.shape) * c.batch, 4, c.threads,
                      [&](std::int64_t first, std::int64_t last) {
                          c.kernels.softplus(beta, threshold, x + first, c.out + first,
                                             count(last - first));
                      });
        }};
}

}  // namespace dirprune::ops
