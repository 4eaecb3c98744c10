// A network as numbered values: value 0 is the input, value i + 1 the result of node i.
//
// Dimension 0 of every value is the batch, written -1; only constants have none. Whoever holds a
// Graph may rely on what parse() checked: no index, dimension or attribute needs another look.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dirprune {

using Shape = std::vector<std::int64_t>;

// In the order of their codes in a file.
enum class Op : std::uint8_t {
    conv2d,
    linear,
    batch_norm,
    affine,
    relu,
    relu6,
    leaky_relu,
    elu,
    gelu,
    silu,
    sigmoid,
    tanh,
    hardswish,
    hardsigmoid,
    softmax,
    add,
    sub,
    mul,
    div,
    constant,
    cat,
    slice,
    max_pool2d,
    avg_pool2d,
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    mean,
    reshape,
    permute,
    pad,
    upsample_nearest,
    upsample_bilinear,
    layer_norm,
    dropout,
};
enum class Role : std::uint8_t {
    weight,
    bias,
    running_mean,
    running_var,
    scale,
    shift,
    value,
};
enum class Key : std::uint8_t {
    stride,
    padding,
    dilation,
    groups,
    activation,
    activation_parameter,
    eps,
    slope,
    alpha,
    tanh,
    dim,
    scalar,
    reversed,
    start,
    end,
    step,
    kernel,
    ceil_mode,
    count_include_pad,
    output,
    dims,
    keepdim,
    size,
    value,
    align_corners,
    p,
    momentum,
    trained,
};
inline constexpr int num_ops = 34, num_roles = 7, num_keys = 28;

std::string_view name(Op op);

struct Tensor {
    std::string name;
    Shape shape;
    std::size_t size = 0;         // number of elements
    const float* data = nullptr;  // lent by whoever makes a Program
};

// An attribute; which of the three it holds follows from its key.
struct Attribute {
    std::int64_t integer = 0;
    double real = 0;
    std::vector<std::int64_t> list;
};

struct Node {
    Op op{};
    std::string path;
    std::vector<std::uint32_t> inputs;
    std::array<int, num_roles> tensors;  // number of the tensor in each role, -1 for none
    std::map<Key, Attribute> attributes;
    Shape shape;

    bool has(Key key) const { return attributes.contains(key); }
    std::int64_t integer(Key key) const { return attributes.at(key).integer; }
    float real(Key key) const { return static_cast<float>(attributes.at(key).real); }
    const std::vector<std::int64_t>& list(Key key) const { return attributes.at(key).list; }
};

struct Graph {
    std::vector<Tensor> tensors;
    Shape input;
    std::vector<Node> nodes;
    std::uint32_t output = 0;

    const Shape& shape(std::uint32_t value) const {
        return value == 0 ? input : nodes[value - 1].shape;
    }
    // The tensor in a role, or null.
    const Tensor* tensor(const Node& node, Role role) const {
        const int number = node.tensors[static_cast<std::size_t>(role)];
        return number < 0 ? nullptr : &tensors[static_cast<std::size_t>(number)];
    }
};

// Read the graph section of a file (docs/format.md). The bytes may be anything: whatever does not
// fit throws std::invalid_argument, with the path of the node.
Graph parse(std::span<const std::uint8_t> bytes);

// The shape of a node's result, from its inputs, tensors and attributes. Throws
// std::invalid_argument if they do not fit each other.
Shape infer_shape(const Graph& graph, const Node& node);

// The product of dimensions from one on.
std::int64_t product(const Shape& shape, std::size_t from = 0);

// Refuses dimensions below 1 and products that are too large.
void check_size(std::span<const std::int64_t> dims);

}  // namespace dirprune
