// For libFuzzer, under AddressSanitizer and UBSan: whatever the bytes of a graph, they are refused
// with std::invalid_argument or make a program, and small programs run. It starts from the graphs
// that seeds.py writes, which all run. At the end it prints how many graphs ran.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
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

struct Counts {
    std::int64_t all = 0, parsed = 0, run = 0;
    ~Counts() {
        std::fprintf(stderr, "%lld inputs: %lld are graphs, %lld ran\n",
                     static_cast<long long>(all), static_cast<long long>(parsed),
                     static_cast<long long>(run));
    }
} counts;

// Random floats: ordinary ones, zeros, whole numbers, and at times what breaks an index or a sum.
class Numbers {
  public:
    explicit Numbers(std::size_t seed) : state_(static_cast<std::uint32_t>(seed)) {}

    float next() {
        constexpr float infinity = std::numeric_limits<float>::infinity();
        constexpr float extremes[] = {NAN, infinity, -infinity, 1e30f, -1e30f, 1e-40f, -0.0f, 1e9f};
        state_ = state_ * 1664525 + 1013904223;
        const std::uint32_t bits = state_ >> 8;
        const float number = static_cast<float>(bits & 0xff) / 128 - 1;
        switch (bits >> 20) {
            case 0: return extremes[bits & 7];
            case 1: case 2: case 3: return static_cast<float>(bits & 15);
            default: return bits >> 23 ? number : 0.0f;
        }
    }

  private:
    std::uint32_t state_;
};

void run(std::span<const std::uint8_t> bytes, const Graph& graph) {
    std::vector<std::vector<float>> values;
    std::vector<const float*> tensors;
    std::vector<Shape> shapes;
    Numbers numbers(bytes.size());
    for (const Tensor& tensor : graph.tensors) {
        values.emplace_back(tensor.size);
        for (float& value : values.back()) value = numbers.next();
        tensors.push_back(values.back().data());
        shapes.push_back(tensor.shape);
    }
    Program program(bytes, tensors, shapes, 1 << 30);
    for (const std::int64_t batch : {1, 9}) {
        const Shape in = program.input_shape(), out = program.output_shape();
        std::vector<float> x(static_cast<std::size_t>(batch * product(in)));
        for (float& value : x) value = numbers.next();
        std::vector<float> y(static_cast<std::size_t>(batch * product(out)));
        program.run(x.data(), batch, y.data(), 2, bytes.size() % 16 == 0);  // at times it is tuned
    }
    ++counts.run;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span bytes{data, size};
    ++counts.all;
    try {
        const Graph graph = parse(bytes);
        ++counts.parsed;
        if (is_small(graph)) run(bytes, graph);
    } catch (const std::invalid_argument&) {  // no graph, or too large for the engine
    }
    return 0;
}
