// Computing one node after the other.
#include <algorithm>

#include "engine/arena.hpp"
#include "engine/operator.hpp"
#include "engine/program.hpp"
#include "pool.hpp"

namespace dirprune {
namespace {

Shape without_batch(const Shape& shape) { return {shape.begin() + 1, shape.end()}; }

}  // namespace

void Program::run_node(std::size_t number, Arena& arena, const Plans& plans, int threads) const {
    const Node& node = graph_.nodes[number];
    if (const Layer* layer = layers_[number].get()) {
        if (is_rows(*layer, arena.batch)) return run_rows(number, arena, threads);
        return run_plan(number, *plans.plans[number], arena, threads);
    }
    if (entry(node.op).run == nullptr) return;  // a constant, or the same floats as its input
    Call call{kernels_,    graph_, node, {}, result(number, arena), without_batch(node.shape),
              arena.batch, threads, arena.first, arena.total};
    for (std::uint32_t value : node.inputs) {
        const Shape& shape = graph_.shape(value);
        const bool constant = shape.empty() || shape[0] != -1;
        call.inputs.push_back(
            {data(value, arena), constant ? shape : without_batch(shape), constant});
    }
    entry(node.op).run(call);
}

float* Program::result(std::size_t number, Arena& arena) const {
    return arena.values.get() + offsets_[number + 1] * arena.batch;
}

const float* Program::residual(std::size_t number, const Arena& arena) const {
    const Node& node = graph_.nodes[number];
    return node.inputs.size() == 2 ? data(node.inputs[1], arena) : nullptr;
}

void Program::run_plan(std::size_t number, const ConvPlan& plan, Arena& arena, int threads) const {
    const Layer& layer = *layers_[number];
    const float* const x = data(graph_.nodes[number].inputs[0], arena);
    const float* const added = residual(number, arena);
    float* const out = result(number, arena);
    std::vector<float*> scratch;
    arena.scratch.resize(std::max(arena.scratch.size(), static_cast<std::size_t>(threads)));
    for (int i = 0; i < threads; ++i)
        scratch.push_back(arena.scratch[static_cast<std::size_t>(i)].ensure(
            static_cast<std::int64_t>(plan.scratch_size()) + slack));
    if (!layer.transposed || plan.choice().by_rows) return plan.run(x, added, out, threads, scratch);

    const Geometry& g = layer.geometry;
    float* const columns = arena.transposed.get();
    float* const turned = columns + padded(g.x_size()) * arena.batch;
    transpose(kernels_, x, columns, g.width, g.channels, arena.batch, threads);
    plan.run(columns, nullptr, turned, threads, scratch);
    transpose(kernels_, turned, out, g.outputs, g.width, arena.batch, threads);
    if (!added) return;
    const auto size = static_cast<std::size_t>(g.out_size() * arena.batch);
    kernels_.binary(Binary::add, out, 0, 1, added, 0, 1, out, 1, size);
    kernels_.activate(layer.epilogue.activation, layer.epilogue.parameter, out, out, size);
}

void Program::run_rows(std::size_t number, Arena& arena, int threads) const {
    const Layer& layer = *layers_[number];
    const float* const x = data(graph_.nodes[number].inputs[0], arena);
    const float* const added = residual(number, arena);
    float* const out = result(number, arena);
    const Geometry& g = layer.geometry;
    const auto& n = *layer.nonzeros;
    const std::int64_t tasks =
        std::clamp<std::int64_t>(static_cast<std::int64_t>(n.index.size()) >> 14, 1,
                                 std::min<std::int64_t>(4 * threads, g.outputs));
    const auto task = [&](std::size_t index, std::size_t) {
        const std::int64_t first = g.outputs * static_cast<std::int64_t>(index) / tasks;
        const std::int64_t last = g.outputs * static_cast<std::int64_t>(index + 1) / tasks;
        const auto count = static_cast<std::size_t>(last - first);
        if (!layer.dense) {
            kernels_.sparse_rows(n.ends.data(), n.index.data(), n.value.data(), layer.bias.data(),
                                 first, last, x, out);
        } else {
            for (std::int64_t row = first; row < last; ++row)
                out[row] = layer.bias[static_cast<std::size_t>(row)] +
                           kernels_.dot(layer.dense->data() + row * g.channels, x,
                                        static_cast<std::size_t>(g.channels));
        }
        if (added)
            kernels_.binary(Binary::add, out + first, 0, 1, added + first, 0, 1, out + first, 1,
                            count);
        kernels_.activate(layer.epilogue.activation, layer.epilogue.parameter, out + first,
                          out + first, count);
    };
    parallel_for(static_cast<std::size_t>(tasks), static_cast<std::size_t>(threads), task);
}

}  // namespace dirprune
