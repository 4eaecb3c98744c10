// Functions of several values that broadcast each other.
#include <cmath>
#include <vector>

#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

// A dimension of the result: how far each operand moves along it.
template <std::size_t n>
struct Axis {
    std::int64_t size;
    std::array<std::int64_t, n> steps;
};

template <std::size_t n>
std::vector<Axis<n>> axes_of(const Call& c) {
    std::vector<Axis<n>> axes;  // the innermost first, those merged that move alike
    std::array<std::int64_t, n> step;
    for (std::size_t k = 0; k < n; ++k) step[k] = c.inputs[k].constant ? 1 : c.batch;
    const auto add = [&](const Axis<n>& axis) {
        if (axis.size == 1) return;
        if (!axes.empty()) {
            Axis<n>& inner = axes.back();
            bool alike = true;
            for (std::size_t k = 0; k < n; ++k)
                alike = alike && axis.steps[k] == inner.steps[k] * inner.size;
            if (alike) {
                inner.size *= axis.size;
                return;
            }
        }
        axes.push_back(axis);
    };
    Axis<n> images{c.batch, {}};
    for (std::size_t k = 0; k < n; ++k) images.steps[k] = c.inputs[k].constant ? 0 : 1;
    add(images);
    for (std::size_t i = c.shape.size(); i-- > 0;) {
        Axis<n> axis{c.shape[i], {}};
        for (std::size_t k = 0; k < n; ++k) {
            const Shape& shape = c.inputs[k].shape;
            // A constant may have fewer dimensions, or one for the batch too.
            const auto at = static_cast<std::int64_t>(i + shape.size()) -
                            static_cast<std::int64_t>(c.shape.size());
            const std::int64_t size = at < 0 ? 1 : shape[count(at)];
            axis.steps[k] = size == 1 ? 0 : step[k];
            step[k] *= size;
        }
        add(axis);
    }
    if (axes.empty()) axes.push_back({1, {}});
    return axes;
}

template <std::size_t n, class F>
void combine(const Call& c, const F& f) {
    const auto axes = axes_of<n>(c);
    const Axis<n> inner = axes[0];
    const std::int64_t outer = product(c.shape) * c.batch / inner.size;
    in_ranges(outer, 4 * inner.size, c.threads, [&](std::int64_t from, std::int64_t to) {
        for (std::int64_t i = from; i < to; ++i) {
            std::array<const float*, n> x;
            for (std::size_t k = 0; k < n; ++k) x[k] = c.inputs[k].data;
            for (std::int64_t j = 1, rest = i; j < std::int64_t(axes.size()); ++j) {
                const Axis<n>& axis = axes[count(j)];
                for (std::size_t k = 0; k < n; ++k) x[k] += rest % axis.size * axis.steps[k];
                rest /= axis.size;
            }
            float* out = c.out + i * inner.size;
            for (std::int64_t j = 0; j < inner.size; ++j)
                if constexpr (n == 2)
                    out[j] = f(x[0][j * inner.steps[0]], x[1][j * inner.steps[1]]);
                else
                    out[j] = f(x[0][j * inner.steps[0]], x[1][j * inner.steps[1]],
                               x[2][j * inner.steps[2]]);
        }
    });
}

template <auto f>
Operator pairwise() {
    return {.least = 2,
            .most = 2,
            .shape = broadcast,
            .run = [](const Call& c) { combine<2>(c, f); },
            .reads_constants = true};
}

}  // namespace

void add_comparison(OperatorTable& table) {
    // As in torch a NaN wins.
    at(table, Op::minimum) =
        pairwise<[](float a, float b) { return a < b || std::isnan(a) ? a : b; }>();
    at(table, Op::maximum) =
        pairwise<[](float a, float b) { return b < a || std::isnan(a) ? a : b; }>();
    at(table, Op::pow) = pairwise<[](float a, float b) {
        return std::pow(without_denormals(a), without_denormals(b));
    }>();
    at(table, Op::eq) = pairwise<[](float a, float b) { return a == b ? 1.0f : 0.0f; }>();
    at(table, Op::ne) = pairwise<[](float a, float b) { return a != b ? 1.0f : 0.0f; }>();
    at(table, Op::lt) = pairwise<[](float a, float b) { return a < b ? 1.0f : 0.0f; }>();
    at(table, Op::le) = pairwise<[](float a, float b) { return a <= b ? 1.0f : 0.0f; }>();
    at(table, Op::gt) = pairwise<[](float a, float b) { return b < a ? 1.0f : 0.0f; }>();
    at(table, Op::ge) = pairwise<[](float a, float b) { return a >= b ? 1.0f : 0.0f; }>();
    at(table, Op::where) = {.least = 3,
                            .most = 3,
                            .shape = broadcast,
                            .run = [](const Call& c) {
                                combine<3>(c, [](float condition, float a, float b) {
                                    return condition != 0 ? a : b;
                                });
                            },
                            .reads_constants = true};
}

}  // namespace dirprune::ops
