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

// Operators, roles of tensors and keys of attributes, in the order of their codes in a file: new
// ones go to the end.
// clang-format off
#define DIRPRUNE_OPS(X) \
    X(conv2d) X(linear) X(batch_norm) X(affine) X(relu) X(relu6) X(leaky_relu) X(elu) \
    X(gelu) X(silu) X(sigmoid) X(tanh) X(hardswish) X(hardsigmoid) X(softmax) X(add) \
    X(sub) X(mul) X(div) X(constant) X(cat) X(slice) X(max_pool2d) X(avg_pool2d) \
    X(adaptive_avg_pool2d) X(adaptive_max_pool2d) X(mean) X(reshape) X(permute) X(pad) \
    X(upsample_nearest) X(upsample_bilinear) X(layer_norm) X(dropout) X(exp) X(log) \
    X(abs) X(sqrt) X(rsqrt) X(sin) X(cos) X(erf) X(floor) X(ceil) X(round) X(sign) \
    X(trunc) X(log1p) X(expm1) X(mish) X(selu) X(logical_not) X(softplus) X(power) \
    X(clamp) X(minimum) X(maximum) X(pow) X(eq) X(ne) X(lt) X(le) X(gt) X(ge) X(where) \
    X(sum) X(amax) X(amin) X(prod) X(argmax) X(argmin) X(cumsum) X(expand) X(take) \
    X(embedding) X(gather) X(matmul) X(group_norm) X(conv1d) X(conv_transpose2d) \
    X(dilate) X(batch_size) X(batch_index) X(conv3d) X(sort) X(argsort) X(atan)
#define DIRPRUNE_ROLES(X) \
    X(weight) X(bias) X(running_mean) X(running_var) X(scale) X(shift) X(value) \
    X(num_batches_tracked) X(index)
#define DIRPRUNE_KEYS(X) \
    X(stride) X(padding) X(dilation) X(groups) X(activation) X(activation_parameter) \
    X(eps) X(slope) X(alpha) X(tanh) X(dim) X(scalar) X(reversed) X(start) X(end) \
    X(step) X(kernel) X(ceil_mode) X(count_include_pad) X(output) X(dims) X(keepdim) \
    X(size) X(value) X(align_corners) X(p) X(momentum) X(trained) X(beta) X(threshold) \
    X(exponent) X(low) X(high) X(output_padding) X(descending)
// clang-format on
#define DIRPRUNE_ENUMERATOR(name) name,
enum class Op : std::uint8_t { DIRPRUNE_OPS(DIRPRUNE_ENUMERATOR) };
enum class Role : std::uint8_t { DIRPRUNE_ROLES(DIRPRUNE_ENUMERATOR) };
enum class Key : std::uint8_t { DIRPRUNE_KEYS(DIRPRUNE_ENUMERATOR) };
#undef DIRPRUNE_ENUMERATOR
#define DIRPRUNE_ONE(name) +1
inline constexpr int num_ops = 0 DIRPRUNE_OPS(DIRPRUNE_ONE);
inline constexpr int num_roles = 0 DIRPRUNE_ROLES(DIRPRUNE_ONE);
inline constexpr int num_keys = 0 DIRPRUNE_KEYS(DIRPRUNE_ONE);
#undef DIRPRUNE_ONE

std::string_view name(Op op);
std::string_view name(Role role);
std::string_view name(Key key);

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
