// Convolutions and linear layers: the program computes them (program.hpp).
#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

Shape conv2d(const Graph& graph, const Node& node) {
    const Shape& x = first(graph, node);
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

Shape linear(const Graph& graph, const Node& node) {
    Shape x = first(graph, node);
    const Tensor& weight = *graph.tensor(node, Role::weight);
    check_rank(weight.shape, 2);
    if (x.size() < 2 || x.back() != weight.shape[1]) refuse("the weight does not fit the input");
    check_vector(graph.tensor(node, Role::bias), weight.shape[0]);
    x.back() = weight.shape[0];
    return x;
}

}  // namespace

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

std::int64_t windows(std::int64_t size, std::int64_t kernel, std::int64_t stride, std::int64_t low,
                     std::int64_t high, std::int64_t dilation, bool ceil) {
    if (kernel < 1 || stride < 1 || dilation < 1 || low < 0 || high < 0)
        refuse("kernel, stride and dilation must be at least 1, padding at least 0");
    const std::int64_t room = size + low + high - dilation * (kernel - 1) - 1;
    if (room < 0) refuse("the window is larger than the padded input");
    const std::int64_t count = (room + (ceil ? stride - 1 : 0)) / stride + 1;
    // A window that would start in the padding behind the last pixel is left out.
    return ceil && (count - 1) * stride >= size + low ? count - 1 : count;
}

void add_layers(OperatorTable& table) {
    using enum Key;
    at(table, Op::conv2d) = {.most = 2,
                             .roles = {Role::weight},
                             .optional_roles = {Role::bias},
                             .attributes = {{stride, Kind::pair},
                                            {padding, Kind::four},
                                            {dilation, Kind::pair},
                                            {groups, Kind::integer},
                                            {activation, Kind::integer, true},
                                            {activation_parameter, Kind::real, true}},
                             .shape = conv2d,
                             .epilogue = true};
    at(table, Op::linear) = {.most = 2,
                             .roles = {Role::weight},
                             .optional_roles = {Role::bias},
                             .attributes = {{activation, Kind::integer, true},
                                            {activation_parameter, Kind::real, true}},
                             .shape = linear,
                             .epilogue = true};
}

}  // namespace dirprune::ops
