// For libFuzzer, under AddressSanitizer and UBSan: whatever the bytes of a graph, they are refused
// with std::invalid_argument or make a program, and small programs run. It starts from the graphs
// that seeds.py writes.
#include <algorithm>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "engine/program.hpp"

using namespace dirprune;

namespace {

// Most elements of a value of one image, and of all weights, with which a program is run.
constexpr std::int64_t largest = 1 << 14;

bool is_small(const Graph& graph) {
    std::int64_t work = product(graph.input, 1), weights = 0;
    for (const Tensor& tensor : graph.tensors) weights += static_cast<std::int64_t>(tensor.size);
    for (const Node& node : graph.nodes) work = std::max(work, product(node.shape, 1));
    return work <= largest && weights <= largest;
}

void run(std::span<const std::uint8_t> bytes, const Graph& graph) {
    std::vector<std::vector<float>> values;
    std::vector<const float*> tensors;
    std::vector<Shape> shapes;
    std::uint32_t state = 1;
    for (const Tensor& tensor : graph.tensors) {
        values.emplace_back(tensor.size);
        for (float& value : values.back()) {  // about half of them 0
            state = state * 1664525 + 1013904223;
            value = state >> 31 ? static_cast<float>(state >> 8 & 0xff) / 128 - 1 : 0.0f;
        }
        tensors.push_back(values.back().data());
        shapes.push_back(tensor.shape);
    }
    Program program(bytes, tensors, shapes, 1 << 30);
    for (const std::int64_t batch : {1, 9}) {
        const Shape in = program.input_shape(), out = program.output_shape();
        const std::vector<float> x(static_cast<std::size_t>(batch * product(in)), 0.5f);
        std::vector<float> y(static_cast<std::size_t>(batch * product(out)));
        program.run(x.data(), batch, y.data(), 2, bytes.size() % 16 == 0);  // at times it is tuned
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span bytes{data, size};
    try {
        const Graph graph = parse(bytes);
        if (is_small(graph)) run(bytes, graph);
    } catch (const std::invalid_argument&) {  // no graph, or too large for the engine
    }
    return 0;
}
