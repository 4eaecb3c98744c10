#include "engine/ops.hpp"

#include <stdexcept>

#include "engine/operators.hpp"

namespace dirprune {

void compute(const Call& c) {
    const Node& node = c.node;
    using namespace ops;
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
        case Op::adaptive_max_pool2d: return pool2d(c);
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
