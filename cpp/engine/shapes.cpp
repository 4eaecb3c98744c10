// The shape of every operator's result, by the same rules as deploy/shapes.py.
#include <algorithm>
#include <stdexcept>

#include "engine/graph.hpp"

namespace dirprune {
namespace {

[[noreturn]] void refuse(const char* message) { throw std::invalid_argument(message); }

void check_rank(const Shape& x, std::size_t rank) {
    if (x.size() != rank) refuse("the input's number of dimensions does not fit");
}

std::size_t check_dim(const Shape& x, std::int64_t dim) {
    if (dim < 1 || dim >= static_cast<std::int64_t>(x.size()))
        refuse("a dimension is out of range");
    return static_cast<std::size_t>(dim);
}

void check_vector(const Tensor* tensor, std::int64_t size) {
    if (tensor && tensor->shape != Shape{size})
        refuse("a tensor does not have one entry a channel");
}

// How many windows fit; all arguments stay below 2^31, so that nothing here overflows.
std::int64_t windows(std::int64_t size, std::int64_t kernel, std::int64_t stride, std::int64_t low,
                     std::int64_t high, std::int64_t dilation, bool ceil = false) {
    if (kernel < 1 || stride < 1 || dilation < 1 || low < 0 || high < 0)
        refuse("kernel, stride and dilation must be at least 1, padding at least 0");
    const std::int64_t room = size + low + high - dilation * (kernel - 1) - 1;
    if (room < 0) refuse("the window is larger than the padded input");
    const std::int64_t count = (room + (ceil ? stride - 1 : 0)) / stride + 1;
    // A window that would start in the padding behind the last pixel is left out.
    return ceil && (count - 1) * stride >= size + low ? count - 1 : count;
}

Shape conv2d(const Graph& graph, const Node& node, const Shape& x) {
    const Tensor& weight = *graph.tensor(node, Role::weight);
    check_rank(x, 4);
    check_rank(weight.shape, 4);
    const std::int64_t groups = node.integer(Key::groups);
    const Shape& w = weight.shape;
    if (groups < 1 || w[0] % groups || x[1] % groups || x[1] / groups != w[1])
        refuse("the weight does not fit the channels");
    check_vector(graph.tensor(node, Role::bias), w[0]);
    const auto &stride = node.list(Key::stride), &pad = node.list(Key::padding),
               &dilation = node.list(Key::dilation);
    return {-1, w[0], windows(x[2], w[2], stride[0], pad[0], pad[1], dilation[0]),
            windows(x[3], w[3], stride[1], pad[2], pad[3], dilation[1])};
}

Shape linear(const Graph& graph, const Node& node, Shape x) {
    const Tensor& weight = *graph.tensor(node, Role::weight);
    check_rank(weight.shape, 2);
    if (x.size() < 2 || x.back() != weight.shape[1]) refuse("the weight does not fit the input");
    check_vector(graph.tensor(node, Role::bias), weight.shape[0]);
    x.back() = weight.shape[0];
    return x;
}

Shape channelwise(const Graph& graph, const Node& node, const Shape& x) {
    if (x.size() < 2) refuse("the input has no channels");
    for (int role = 0; role < num_roles; ++role)
        check_vector(graph.tensor(node, static_cast<Role>(role)), x[1]);
    if (node.has(Key::eps) && node.real(Key::eps) < 0) refuse("eps must be at least 0");
    if (node.has(Key::momentum) &&
        !(node.real(Key::momentum) >= 0 && node.real(Key::momentum) <= 1))
        refuse("momentum must be from 0 to 1");
    return x;
}

Shape binary(const Graph& graph, const Node& node) {
    if ((node.inputs.size() == 2) == node.has(Key::scalar))
        refuse("takes either two inputs or one and a scalar");
    if (node.has(Key::reversed) && !node.has(Key::scalar)) refuse("only a scalar can come first");
    std::size_t rank = 0;
    for (auto value : node.inputs) {
        const Shape& shape = graph.shape(value);
        if (shape.empty() || shape[0] != -1) continue;
        if (rank && rank != shape.size()) refuse("cannot broadcast values of different rank");
        rank = shape.size();
    }
    if (!rank) refuse("reads constants only");
    Shape result(rank, 1);
    result[0] = -1;
    for (auto value : node.inputs) {
        const Shape& shape = graph.shape(value);
        if (shape.size() > rank || (shape.size() == rank && shape[0] != -1 && shape[0] != 1))
            refuse("cannot broadcast along the batch");
        for (std::size_t i = shape.size() == rank; i < shape.size(); ++i) {
            std::int64_t& dim = result[rank - shape.size() + i];
            if (dim != 1 && shape[i] != 1 && dim != shape[i])
                refuse("cannot broadcast the shapes");
            dim = std::max(dim, shape[i]);
        }
    }
    return result;
}

Shape cat(const Graph& graph, const Node& node, Shape x) {
    const std::size_t dim = check_dim(x, node.integer(Key::dim));
    for (std::size_t i = 1; i < node.inputs.size(); ++i) {
        Shape other = graph.shape(node.inputs[i]);
        check_rank(other, x.size());
        x[dim] += other[dim];  // 255 inputs below 2^31 each
        other[dim] = x[dim];
        if (other != x) refuse("cannot join the shapes");
    }
    return x;
}

Shape slice(const Node& node, Shape x) {
    const std::size_t dim = check_dim(x, node.integer(Key::dim));
    const std::int64_t start = node.integer(Key::start), end = node.integer(Key::end),
                       step = node.integer(Key::step);
    if (start < 0 || start >= end || end > x[dim] || step < 1) refuse("the slice is out of range");
    x[dim] = (end - start + step - 1) / step;
    return x;
}

Shape pool(const Node& node, const Shape& x) {
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

Shape resized(const Node& node, const Shape& x) {
    check_rank(x, 4);
    return {-1, x[1], node.list(Key::output)[0], node.list(Key::output)[1]};
}

Shape mean(const Node& node, const Shape& x) {
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

Shape reshape(const Node& node, const Shape& x) {
    const Shape& size = node.list(Key::size);
    check_size(std::span(size).subspan(1));
    if (size[0] != -1 || product(size, 1) != product(x, 1))
        refuse("the batch and the number of elements must stay");
    return size;
}

Shape permute(const Node& node, const Shape& x) {
    const auto& dims = node.list(Key::dims);
    Shape sorted = dims, result;
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t i = 0; i < sorted.size(); ++i)
        if (sorted[i] != static_cast<std::int64_t>(i)) refuse("dims are no permutation");
    if (dims.size() != x.size() || dims[0] != 0) refuse("the batch must stay first");
    for (std::int64_t dim : dims) result.push_back(x[static_cast<std::size_t>(dim)]);
    return result;
}

Shape pad(const Node& node, const Shape& x) {
    check_rank(x, 4);
    const auto& padding = node.list(Key::padding);
    if (*std::min_element(padding.begin(), padding.end()) < 0)
        refuse("padding must be at least 0");
    return {-1, x[1], x[2] + padding[0] + padding[1], x[3] + padding[2] + padding[3]};
}

Shape layer_norm(const Graph& graph, const Node& node, const Shape& x) {
    const std::int64_t dims = node.integer(Key::dims);
    if (dims < 1 || dims >= static_cast<std::int64_t>(x.size())) refuse("dims is out of range");
    const Shape trailing(x.end() - dims, x.end());
    for (Role role : {Role::weight, Role::bias})
        if (const Tensor* tensor = graph.tensor(node, role); tensor && tensor->shape != trailing)
            refuse("a tensor does not fit the normalised dimensions");
    if (node.real(Key::eps) < 0) refuse("eps must be at least 0");
    return x;
}

Shape sample(const Graph& graph, const Node& node) {
    const Shape& x = graph.shape(node.inputs[0]);
    for (auto value : node.inputs) {
        const Shape& shape = graph.shape(value);
        if (shape.empty() || shape[0] != -1)
            refuse("reads a constant: only add, sub, mul and div may");
    }
    switch (node.op) {
        case Op::conv2d: return conv2d(graph, node, x);
        case Op::linear: return linear(graph, node, x);
        case Op::batch_norm:
        case Op::affine: return channelwise(graph, node, x);
        case Op::softmax: check_dim(x, node.integer(Key::dim)); return x;
        case Op::cat: return cat(graph, node, x);
        case Op::slice: return slice(node, x);
        case Op::max_pool2d:
        case Op::avg_pool2d: return pool(node, x);
        case Op::adaptive_avg_pool2d:
        case Op::adaptive_max_pool2d:
        case Op::upsample_nearest:
        case Op::upsample_bilinear: return resized(node, x);
        case Op::mean: return mean(node, x);
        case Op::reshape: return reshape(node, x);
        case Op::permute: return permute(node, x);
        case Op::pad: return pad(node, x);
        case Op::layer_norm: return layer_norm(graph, node, x);
        case Op::dropout:
            if (!(node.real(Key::p) >= 0 && node.real(Key::p) <= 1))
                refuse("p must be from 0 to 1");
            return x;
        default: return x;
    }
}

}  // namespace

Shape infer_shape(const Graph& graph, const Node& node) {
    if (node.op == Op::constant) return graph.tensor(node, Role::value)->shape;
    if (node.op == Op::add || node.op == Op::sub || node.op == Op::mul || node.op == Op::div) {
        const Shape shape = binary(graph, node);
        check_size(std::span(shape).subspan(1));
        return shape;
    }
    const Shape shape = sample(graph, node);
    check_size(std::span(shape).subspan(1));
    if (node.op == Op::conv2d || node.op == Op::linear || node.op == Op::affine) {
        if (node.inputs.size() == 2 && graph.shape(node.inputs[1]) != shape)
            refuse("a residual must have the shape of the result");
        if (node.has(Key::activation) &&
            (node.integer(Key::activation) < 0 || node.integer(Key::activation) > 11))
            refuse("the activation is unknown");
    }
    return shape;
}

}  // namespace dirprune
