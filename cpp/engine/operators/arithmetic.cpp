// Arithmetic of two values that broadcast, or of one and a number.
#include <vector>

#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

Shape arithmetic_shape(const Graph& graph, const Node& node) {
    if ((node.inputs.size() == 2) == node.has(Key::scalar))
        refuse("takes either two inputs or one and a scalar");
    if (node.has(Key::reversed) && !node.has(Key::scalar)) refuse("only a scalar can come first");
    return broadcast(graph, node);
}


// A dimension of a broadcast: how far each operand moves along it.
struct Axis {
    std::int64_t size, a, b;
};

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
        in_ranges(inner.size, 1, c.threads, [&](std::int64_t first, std::int64_t last) {
            c.kernels.binary(op, a.data + first * inner.a, 0, int(inner.a),
                             b.data + first * inner.b, 0, int(inner.b), c.out + first, 1,
                             count(last - first));
        });
    } else if (outer == 1) {
        in_ranges(middle.size, inner.size, c.threads,
                  [&](std::int64_t first, std::int64_t last) { one(0, first, last); });
    } else {
        in_ranges(outer, each, c.threads, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t i = first; i < last; ++i) one(i, 0, middle.size);
        });
    }
}

template <Binary op>
void run(const Call& c) {
    binary(c, op);
}

}  // namespace

Shape broadcast(const Graph& graph, const Node& node) {
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

void add_arithmetic(OperatorTable& table) {
    const AttributeRule scalar{Key::scalar, Kind::real, true};
    const AttributeRule reversed{Key::reversed, Kind::flag, true};
    const auto add = [&](Op op, std::vector<AttributeRule> attributes, void (*run)(const Call&)) {
        at(table, op) = {.most = 2,
                         .attributes = std::move(attributes),
                         .shape = arithmetic_shape,
                         .run = run,
                         .reads_constants = true};
    };
    add(Op::add, {scalar}, run<Binary::add>);
    add(Op::sub, {scalar, reversed}, run<Binary::sub>);
    add(Op::mul, {scalar}, run<Binary::mul>);
    add(Op::div, {scalar, reversed}, run<Binary::div>);
}

}  // namespace dirprune::ops
