#include "engine/graph.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <stdexcept>

namespace dirprune {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

constexpr std::size_t most = 1 << 16;         // nodes, and tensors
constexpr std::size_t longest = 1024;         // bytes of a name
constexpr std::int64_t largest = 1LL << 40;   // elements of a tensor, or of a value per sample
constexpr std::int64_t integers = 1LL << 31;  // dimensions and integer attributes stay below

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

constexpr std::string_view op_names[num_ops] = {
    "conv2d",
    "linear",
    "batch_norm",
    "affine",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "sigmoid",
    "tanh",
    "hardswish",
    "hardsigmoid",
    "softmax",
    "add",
    "sub",
    "mul",
    "div",
    "constant",
    "cat",
    "slice",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "mean",
    "reshape",
    "permute",
    "pad",
    "upsample_nearest",
    "upsample_bilinear",
    "layer_norm",
    "dropout",
};
constexpr std::string_view key_names[num_keys] = {
    "stride",
    "padding",
    "dilation",
    "groups",
    "activation",
    "activation_parameter",
    "eps",
    "slope",
    "alpha",
    "tanh",
    "dim",
    "scalar",
    "reversed",
    "start",
    "end",
    "step",
    "kernel",
    "ceil_mode",
    "count_include_pad",
    "output",
    "dims",
    "keepdim",
    "size",
    "value",
    "align_corners",
    "p",
    "momentum",
    "trained",
};

enum class Kind { integer, flag, real, pair, four, integers };

constexpr std::uint32_t bit(Key key) { return 1u << static_cast<int>(key); }
constexpr std::uint32_t bit(Role role) { return 1u << static_cast<int>(role); }

// What a node of one kind must and may have.
struct Rule {
    std::size_t least = 1, most = 1;  // inputs
    std::uint32_t roles = 0, optional_roles = 0, keys = 0, optional_keys = 0;
};

Rule rule(Op op) {
    using enum Key;
    constexpr std::uint32_t epilogue = bit(activation) | bit(activation_parameter);
    constexpr std::uint32_t window = bit(kernel) | bit(stride) | bit(padding) | bit(ceil_mode);
    constexpr std::uint32_t affine_roles = bit(Role::weight) | bit(Role::bias);
    switch (op) {
        case Op::conv2d:
            return {1,
                    2,
                    bit(Role::weight),
                    bit(Role::bias),
                    bit(stride) | bit(padding) | bit(dilation) | bit(groups),
                    epilogue};
        case Op::linear: return {1, 2, bit(Role::weight), bit(Role::bias), 0, epilogue};
        case Op::batch_norm:
            return {1,
                    1,
                    bit(Role::running_mean) | bit(Role::running_var),
                    affine_roles,
                    bit(eps),
                    bit(momentum)};
        case Op::affine: return {1, 2, bit(Role::scale) | bit(Role::shift), 0, 0, epilogue};
        case Op::leaky_relu: return {1, 1, 0, 0, bit(slope), 0};
        case Op::elu: return {1, 1, 0, 0, bit(alpha), 0};
        case Op::gelu: return {1, 1, 0, 0, bit(tanh), 0};
        case Op::softmax: return {1, 1, 0, 0, bit(dim), 0};
        case Op::add:
        case Op::mul: return {1, 2, 0, 0, 0, bit(scalar)};
        case Op::sub:
        case Op::div: return {1, 2, 0, 0, 0, bit(scalar) | bit(reversed)};
        case Op::constant: return {0, 0, bit(Role::value), 0, 0, bit(trained)};
        case Op::cat: return {1, 255, 0, 0, bit(dim), 0};
        case Op::slice: return {1, 1, 0, 0, bit(dim) | bit(start) | bit(end) | bit(step), 0};
        case Op::max_pool2d: return {1, 1, 0, 0, window | bit(dilation), 0};
        case Op::avg_pool2d: return {1, 1, 0, 0, window | bit(count_include_pad), 0};
        case Op::adaptive_avg_pool2d:
        case Op::adaptive_max_pool2d:
        case Op::upsample_nearest: return {1, 1, 0, 0, bit(output), 0};
        case Op::upsample_bilinear: return {1, 1, 0, 0, bit(output) | bit(align_corners), 0};
        case Op::mean: return {1, 1, 0, 0, bit(dims) | bit(keepdim), 0};
        case Op::reshape: return {1, 1, 0, 0, bit(size), 0};
        case Op::permute: return {1, 1, 0, 0, bit(dims), 0};
        case Op::pad: return {1, 1, 0, 0, bit(padding) | bit(value), 0};
        case Op::layer_norm: return {1, 1, 0, affine_roles, bit(dims) | bit(eps), 0};
        case Op::dropout: return {1, 1, 0, 0, bit(p), 0};
        default: return {};
    }
}

Kind kind(Op op, Key key) {
    switch (key) {
        case Key::stride:
        case Key::dilation:
        case Key::kernel:
        case Key::output: return Kind::pair;
        case Key::padding: return op == Op::conv2d || op == Op::pad ? Kind::four : Kind::pair;
        case Key::dims: return op == Op::layer_norm ? Kind::integer : Kind::integers;
        case Key::size: return Kind::integers;
        case Key::groups:
        case Key::activation:
        case Key::dim:
        case Key::start:
        case Key::end:
        case Key::step: return Kind::integer;
        case Key::tanh:
        case Key::reversed:
        case Key::ceil_mode:
        case Key::count_include_pad:
        case Key::keepdim:
        case Key::align_corners:
        case Key::trained: return Kind::flag;
        default: return Kind::real;
    }
}

// Takes fields off the front of bytes, never beyond their end.
class Reader {
  public:
    explicit Reader(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

    template <typename T>
    T take() {
        T value;
        std::memcpy(&value, bytes(sizeof(T)).data(), sizeof(T));
        return value;
    }
    // A number of things that follow, each of at least one byte: bounded before anything is made.
    template <typename T>
    std::size_t count(std::size_t limit) {
        const std::size_t value = take<T>();
        if (value > limit || value > bytes_.size())
            refuse("a count of " + std::to_string(value) + " is out of range");
        return value;
    }
    std::string text() {
        const auto data = bytes(count<std::uint16_t>(longest));
        return {data.begin(), data.end()};
    }
    template <typename T>
    Shape dims() {
        Shape shape(count<std::uint8_t>(8));
        for (auto& dim : shape) dim = take<T>();
        return shape;
    }
    bool empty() const { return bytes_.empty(); }

  private:
    std::span<const std::uint8_t> bytes(std::size_t size) {
        if (size > bytes_.size()) refuse("the file ends in the middle of a field");
        const auto front = bytes_.first(size);
        bytes_ = bytes_.subspan(size);
        return front;
    }
    std::span<const std::uint8_t> bytes_;
};

Attribute read_attribute(Reader& reader, Op op, Key key) {
    const Kind wanted = kind(op, key);
    const auto wrong = [&] {
        refuse("attribute " + std::string(key_names[int(key)]) + " is wrong");
    };
    const auto checked = [&](std::int64_t value) {
        if (value <= -integers || value >= integers) wrong();
        return value;
    };
    Attribute result;
    switch (reader.take<std::uint8_t>()) {
        case 0:
            if (wanted != Kind::integer && wanted != Kind::flag) wrong();
            result.integer = checked(reader.take<std::int64_t>());
            if (wanted == Kind::flag && (result.integer & ~1)) wrong();
            break;
        case 1:
            result.real = reader.take<double>();
            if (wanted != Kind::real || !std::isfinite(result.real)) wrong();
            break;
        case 2: {
            const std::size_t count = reader.count<std::uint8_t>(8);
            const std::size_t low = wanted == Kind::pair ? 2 : wanted == Kind::four ? 4 : 1;
            const std::size_t high = wanted == Kind::integers ? 8 : low;
            if (int(wanted) < int(Kind::pair) || count < low || count > high) wrong();
            for (std::size_t i = 0; i < count; ++i)
                result.list.push_back(checked(reader.take<std::int64_t>()));
            break;
        }
        default: wrong();
    }
    return result;
}

void check_keys(std::uint32_t given, std::uint32_t required, std::uint32_t optional,
                const char* what) {
    if (required & ~given) refuse(std::string("lacks a ") + what);
    if (given & ~(required | optional)) refuse(std::string("has a ") + what + " too many");
}

void read_node(Reader& reader, const Graph& graph, Node& node) {
    node.path = reader.text();
    const Rule allowed = rule(node.op);
    node.inputs.resize(reader.count<std::uint8_t>(255));
    for (auto& value : node.inputs) {
        value = reader.take<std::uint32_t>();
        if (value > graph.nodes.size()) refuse("reads a value that is made later");
    }
    if (node.inputs.size() < allowed.least || node.inputs.size() > allowed.most)
        refuse("has " + std::to_string(node.inputs.size()) + " inputs");

    std::uint32_t roles = 0, keys = 0;
    node.tensors.fill(-1);
    for (std::size_t i = reader.take<std::uint8_t>(); i > 0; --i) {
        const auto role = reader.take<std::uint8_t>();
        const auto number = reader.take<std::uint32_t>();
        if (role >= num_roles || node.tensors[role] >= 0 || number >= graph.tensors.size())
            refuse("has a tensor that is not there or there twice");
        node.tensors[role] = static_cast<int>(number);
        roles |= bit(static_cast<Role>(role));
    }
    check_keys(roles, allowed.roles, allowed.optional_roles, "tensor");
    for (std::size_t i = reader.take<std::uint8_t>(); i > 0; --i) {
        const auto code = reader.take<std::uint8_t>();
        const auto key = static_cast<Key>(code);
        if (code >= num_keys || node.has(key)) refuse("has an attribute that is unknown or twice");
        node.attributes.emplace(key, read_attribute(reader, node.op, key));
        keys |= bit(key);
    }
    check_keys(keys, allowed.keys, allowed.optional_keys, "attribute");
    node.shape = reader.dims<std::int32_t>();
    if (node.shape != infer_shape(graph, node))
        refuse("its shape is not what follows from its inputs");
}

}  // namespace

std::string_view name(Op op) { return op_names[static_cast<int>(op)]; }

std::int64_t product(const Shape& shape, std::size_t from) {
    std::int64_t result = 1;
    for (std::size_t i = from; i < shape.size(); ++i) result *= shape[i];
    return result;
}

void check_size(std::span<const std::int64_t> dims) {
    std::int64_t size = 1;
    for (std::int64_t dim : dims) {
        if (dim < 1 || dim >= integers || dim > (largest - 1) / size)
            refuse("a dimension of " + std::to_string(dim) + " is out of range");
        size *= dim;
    }
}

Graph parse(std::span<const std::uint8_t> bytes) {
    Reader reader(bytes);
    Graph graph;
    if (const auto version = reader.take<std::uint32_t>(); version != 1)
        refuse("the graph is of version " + std::to_string(version) + ", this dirprune reads 1");
    std::set<std::string> names;
    for (std::size_t i = reader.count<std::uint32_t>(most); i > 0; --i) {
        Tensor tensor;
        tensor.name = reader.text();
        tensor.shape = reader.dims<std::uint32_t>();
        check_size(tensor.shape);
        tensor.size = static_cast<std::size_t>(product(tensor.shape));
        if (!names.insert(tensor.name).second) refuse("tensor " + tensor.name + " is there twice");
        graph.tensors.push_back(std::move(tensor));
    }
    graph.input = reader.dims<std::int32_t>();
    if (graph.input.empty() || graph.input[0] != -1) refuse("the input's shape must be (-1, ...)");
    check_size(std::span(graph.input).subspan(1));
    for (std::size_t i = 0, count = reader.count<std::uint32_t>(most); i < count; ++i) {
        const auto code = reader.take<std::uint8_t>();
        if (code >= num_ops) refuse("operator " + std::to_string(code) + " is unknown");
        Node node;
        node.op = static_cast<Op>(code);
        try {
            read_node(reader, graph, node);
        } catch (const std::invalid_argument& error) {
            refuse("node " + std::to_string(i) + " (" + std::string(op_names[code]) + ", " +
                   (node.path.empty() ? "root" : node.path) + "): " + error.what());
        }
        graph.nodes.push_back(std::move(node));
    }
    graph.output = reader.take<std::uint32_t>();
    if (graph.output > graph.nodes.size()) refuse("the output is a value that does not exist");
    if (const Shape& shape = graph.shape(graph.output); shape.empty() || shape[0] != -1)
        refuse("the output does not depend on the input");
    if (!reader.empty()) refuse("bytes follow the end of the graph");
    return graph;
}

}  // namespace dirprune
