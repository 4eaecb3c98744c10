// Further functions of single elements.
#include <cmath>

#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

template <class F>
void map(const Call& c, const F& f) {
    const float* x = c.inputs[0].data;
    in_ranges(product(c.shape) * c.batch, 8, c.threads, [&](std::int64_t from, std::int64_t to) {
        for (std::int64_t i = from; i < to; ++i) c.out[i] = f(without_denormals(x[i]));
    });
}

// The entry of a function without attributes.
template <auto f>
Operator plain() {
    return {.shape = same_shape, .run = [](const Call& c) { map(c, f); }};
}

Shape clamp_shape(const Graph& graph, const Node& node) {
    if (!node.has(Key::low) && !node.has(Key::high)) refuse("needs low or high");
    return first(graph, node);
}

void clamp(const Call& c) {
    const float low = c.node.has(Key::low) ? c.node.real(Key::low) : -INFINITY;
    const float high = c.node.has(Key::high) ? c.node.real(Key::high) : INFINITY;
    // As in torch the upper limit wins, and a NaN stays.
    map(c, [=](float x) {
        const float raised = x < low ? low : x;
        return raised > high ? high : raised;
    });
}

}  // namespace

void add_functions(OperatorTable& table) {
    at(table, Op::log) = plain<[](float x) { return std::log(x); }>();
    at(table, Op::abs) = plain<[](float x) { return std::fabs(x); }>();
    at(table, Op::sqrt) = plain<[](float x) { return std::sqrt(x); }>();
    at(table, Op::rsqrt) = plain<[](float x) { return 1 / std::sqrt(x); }>();
    at(table, Op::sin) = plain<[](float x) { return std::sin(x); }>();
    at(table, Op::cos) = plain<[](float x) { return std::cos(x); }>();
    at(table, Op::erf) = plain<[](float x) { return std::erf(x); }>();
    at(table, Op::atan) = plain<[](float x) { return std::atan(x); }>();
    at(table, Op::floor) = plain<[](float x) { return std::floor(x); }>();
    at(table, Op::ceil) = plain<[](float x) { return std::ceil(x); }>();
    at(table, Op::round) = plain<[](float x) { return std::nearbyint(x); }>();
    at(table, Op::sign) = plain<[](float x) { return float((0 < x) - (x < 0)); }>();  // of NaN 0
    at(table, Op::trunc) = plain<[](float x) { return std::trunc(x); }>();
    at(table, Op::log1p) = plain<[](float x) { return std::log1p(x); }>();
    at(table, Op::logical_not) = plain<[](float x) { return x == 0 ? 1.0f : 0.0f; }>();
    at(table, Op::power) = {.attributes = {{Key::exponent, Kind::real}},
                            .shape = same_shape,
                            .run = [](const Call& c) {
                                const float exponent = c.node.real(Key::exponent);
                                // As in torch, where roots of -0 and -infinity differ from pow.
                                if (exponent == 2)
                                    map(c, [](float x) { return x * x; });
                                else if (exponent == 3)
                                    map(c, [](float x) { return x * x * x; });
                                else if (exponent == 0.5f)
                                    map(c, [](float x) { return std::sqrt(x); });
                                else if (exponent == -0.5f)
                                    map(c, [](float x) { return 1 / std::sqrt(x); });
                                else
                                    map(c, [=](float x) { return std::pow(x, exponent); });
                            }};
    at(table, Op::clamp) = {
        .attributes = {{Key::low, Kind::real, true}, {Key::high, Kind::real, true}},
        .shape = clamp_shape,
        .run = clamp};
}

}  // namespace dirprune::ops
