// What the families of operators share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "engine/operator.hpp"
#include "pool.hpp"

namespace dirprune::ops {

// The families.
void add_layers(OperatorTable& table);
void add_pointwise(OperatorTable& table);
void add_arithmetic(OperatorTable& table);
void add_normalisation(OperatorTable& table);
void add_moves(OperatorTable& table);
void add_pooling(OperatorTable& table);
void add_reductions(OperatorTable& table);
void add_resizing(OperatorTable& table);
void add_functions(OperatorTable& table);
void add_comparison(OperatorTable& table);
void add_indexing(OperatorTable& table);
void add_attention(OperatorTable& table);

inline Operator& at(OperatorTable& table, Op op) { return table[static_cast<std::size_t>(op)]; }

// ---- shape rules

[[noreturn]] inline void refuse(const char* message) { throw std::invalid_argument(message); }

// The shape of the first input.
inline const Shape& first(const Graph& graph, const Node& node) {
    return graph.shape(node.inputs[0]);
}
inline Shape same_shape(const Graph& graph, const Node& node) { return first(graph, node); }
void check_rank(const Shape& x, std::size_t rank);
std::size_t check_dim(const Shape& x, std::int64_t dim);
void check_vector(const Tensor* tensor, std::int64_t size);
// How many windows fit; all arguments stay below 2^31, so that nothing here overflows.
std::int64_t windows(std::int64_t size, std::int64_t kernel, std::int64_t stride, std::int64_t low,
                     std::int64_t high, std::int64_t dilation, bool ceil = false);
// The shape of values and constants that broadcast each other.
Shape broadcast(const Graph& graph, const Node& node);
// Maps of the size that attribute `output` states.
Shape map_shape(const Graph& graph, const Node& node);

// ---- running

inline constexpr std::int64_t worthwhile = 1 << 14;  // floats that a thread should have to do

// Call f(first, last) for ranges that cover [0, size), in threads only if there is enough to do.
template <typename F>
void in_ranges(std::int64_t size, std::int64_t work_each, int threads, const F& f) {
    const std::int64_t tasks = std::clamp<std::int64_t>(
        size * work_each / worthwhile, 1, std::min<std::int64_t>(size, 4 * threads));
    const auto parts = static_cast<std::size_t>(tasks), most = static_cast<std::size_t>(threads);
    parallel_for(parts, most, [&](std::size_t task, std::size_t) {
        const auto i = static_cast<std::int64_t>(task);
        f(size * i / tasks, size * (i + 1) / tasks);
    });
}

// The functions of the C library give wrong results for denormal numbers while the processor
// treats these as zero (denormals.hpp).
inline float without_denormals(float x) {
    return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

inline std::size_t count(std::int64_t n) { return static_cast<std::size_t>(n); }

// The value's shape as (before, along, after) one dimension of the result, the batch in `after`.
struct Split {
    std::int64_t before = 1, along = 1, after = 1;
};
// dim counts the batch as dimension 0, as attributes do.
inline Split split(const Shape& shape, std::int64_t dim, std::int64_t batch) {
    Split result;
    for (std::size_t i = 0; i < shape.size(); ++i)
        (std::int64_t(i) + 1 < dim    ? result.before
         : std::int64_t(i) + 1 == dim ? result.along
                                      : result.after) *= shape[i];
    result.after *= batch;
    return result;
}

// Sums in `parallel` chains: fast, and rounds less than one long chain.
template <typename F>
float chained_sum(std::int64_t n, const F& term) {
    float acc[16] = {};
    std::int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (std::int64_t j = 0; j < 16; ++j) acc[j] += term(i + j);
    for (std::int64_t j = 0; i + j < n; ++j) acc[j] += term(i + j);
    for (int width = 8; width > 0; width /= 2)
        for (int j = 0; j < width; ++j) acc[j] += acc[j + width];
    return acc[0];
}

}  // namespace dirprune::ops
