#include "engine/graph.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <stdexcept>

#include "engine/operator.hpp"

namespace dirprune {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

constexpr std::size_t most = 1 << 16;         // nodes, and tensors
constexpr std::size_t longest = 1024;         // bytes of a name
constexpr std::int64_t largest = 1LL << 40;   // elements of a tensor, or of a value per sample
constexpr std::int64_t integers = 1LL << 31;  // dimensions and integer attributes stay below

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

#define DIRPRUNE_NAME(name) #name,
constexpr std::string_view op_names[] = {DIRPRUNE_OPS(DIRPRUNE_NAME)};
constexpr std::string_view role_names[] = {DIRPRUNE_ROLES(DIRPRUNE_NAME)};
constexpr std::string_view key_names[] = {DIRPRUNE_KEYS(DIRPRUNE_NAME)};
#undef DIRPRUNE_NAME

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

Attribute read_attribute(Reader& reader, Key key, Kind wanted) {
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

// Refuses a node that lacks what its operator must have.
void check_complete(const Operator& op, const Node& node) {
    for (Role role : op.roles)
        if (node.tensors[static_cast<std::size_t>(role)] < 0) refuse("lacks a tensor");
    for (const AttributeRule& rule : op.attributes)
        if (!rule.optional && !node.has(rule.key)) refuse("lacks an attribute");
}

bool contains(const std::vector<Role>& roles, Role role) {
    return std::find(roles.begin(), roles.end(), role) != roles.end();
}

void read_node(Reader& reader, const Graph& graph, Node& node) {
    node.path = reader.text();
    const Operator& op = entry(node.op);
    if (!op.shape) refuse("is an operator that is to be lowered before");
    node.inputs.resize(reader.count<std::uint8_t>(255));
    for (auto& value : node.inputs) {
        value = reader.take<std::uint32_t>();
        if (value > graph.nodes.size()) refuse("reads a value that is made later");
    }
    if (node.inputs.size() < op.least || node.inputs.size() > op.most)
        refuse("has " + std::to_string(node.inputs.size()) + " inputs");
    node.tensors.fill(-1);
    for (std::size_t i = reader.take<std::uint8_t>(); i > 0; --i) {
        const auto role = reader.take<std::uint8_t>();
        const auto number = reader.take<std::uint32_t>();
        if (role >= num_roles || node.tensors[role] >= 0 || number >= graph.tensors.size())
            refuse("has a tensor that is not there or there twice");
        if (!contains(op.roles, Role(role)) && !contains(op.optional_roles, Role(role)))
            refuse("has a tensor too many");
        node.tensors[role] = static_cast<int>(number);
    }
    for (std::size_t i = reader.take<std::uint8_t>(); i > 0; --i) {
        const auto code = reader.take<std::uint8_t>();
        const auto key = static_cast<Key>(code);
        if (code >= num_keys || node.has(key)) refuse("has an attribute that is unknown or twice");
        const auto rule = std::find_if(op.attributes.begin(), op.attributes.end(),
                                       [&](const AttributeRule& r) { return r.key == key; });
        if (rule == op.attributes.end()) refuse("has an attribute too many");
        node.attributes.emplace(key, read_attribute(reader, key, rule->kind));
    }
    check_complete(op, node);
    node.shape = reader.dims<std::int32_t>();
    if (node.shape != infer_shape(graph, node))
        refuse("its shape is not what follows from its inputs");
}

}  // namespace

std::string_view name(Op op) { return op_names[static_cast<int>(op)]; }
std::string_view name(Role role) { return role_names[static_cast<int>(role)]; }
std::string_view name(Key key) { return key_names[static_cast<int>(key)]; }

Shape infer_shape(const Graph& graph, const Node& node) {
    const Operator& op = entry(node.op);
    if (!op.reads_constants)
        for (auto value : node.inputs)
            if (const Shape& shape = graph.shape(value); shape.empty() || shape[0] != -1)
                refuse("reads a constant: this operator reads values only");
    const Shape shape = op.shape(graph, node);
    if (node.op == Op::constant) return shape;
    check_size(std::span(shape).subspan(1));
    if (op.epilogue) {
        if (node.inputs.size() == 2 && graph.shape(node.inputs[1]) != shape)
            refuse("a residual must have the shape of the result");
        if (node.has(Key::activation) &&
            (node.integer(Key::activation) < 0 ||
             node.integer(Key::activation) > static_cast<int>(last_activation)))
            refuse("the activation is unknown");
    }
    return shape;
}

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
