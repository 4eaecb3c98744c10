// Products of two values.
#include <vector>

#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

Shape matmul_shape(const Graph& graph, const Node& node) {
    const Shape &a = first(graph, node), &b = graph.shape(node.inputs[1]);
    const std::size_t rank = a.size();
    check_rank(b, rank);
    if (rank < 3 || a[rank - 1] != b[rank - 2]) refuse("the matrices do not fit");
    Shape result = a;
    for (std::size_t i = 1; i + 2 < rank; ++i) {
        if (a[i] != b[i] && a[i] != 1 && b[i] != 1) refuse("the matrices do not fit");
        result[i] = std::max(a[i], b[i]);
    }
    result[rank - 1] = b[rank - 1];
    return result;
}

void matmul(const Call& c) {
    const Shape &a = c.inputs[0].shape, &b = c.inputs[1].shape;
    const std::size_t ahead = c.shape.size() - 2;
    const std::int64_t rows = a[ahead], inner = a[ahead + 1], columns = b[ahead + 1];
    const std::int64_t batch = c.batch, width = columns * batch;
    std::int64_t matrices = 1;
    for (std::size_t i = 0; i < ahead; ++i) matrices *= c.shape[i];
    in_ranges(matrices * rows, inner * width, c.threads, [&](std::int64_t from, std::int64_t to) {
        for (std::int64_t i = from; i < to; ++i) {
            std::int64_t rest = i / rows, left = 0, right = 0, left_step = 1, right_step = 1;
            for (std::size_t j = ahead; j-- > 0; rest /= c.shape[j]) {
                const std::int64_t at = rest % c.shape[j];
                left += (a[j] == 1 ? 0 : at) * left_step;
                right += (b[j] == 1 ? 0 : at) * right_step;
                left_step *= a[j];
                right_step *= b[j];
            }
            const float* x = c.inputs[0].data + (left * rows + i % rows) * inner * batch;
            const float* y = c.inputs[1].data + right * inner * width;
            float* out = c.out + i * width;
            std::fill_n(out, width, 0.0f);
            for (std::int64_t k = 0; k < inner; ++k, y += width)
                if (batch == 1) {
                    const float factor = x[k];
                    for (std::int64_t j = 0; j < width; ++j) out[j] += factor * y[j];
                } else {
                    for (std::int64_t j = 0; j < width; j += batch)
                        for (std::int64_t image = 0; image < batch; ++image)
                            out[j + image] += x[k * batch + image] * y[j + image];
                }
        }
    });
}

}  // namespace

void add_attention(OperatorTable& table) {
    at(table, Op::matmul) = {.least = 2, .most = 2, .shape = matmul_shape, .run = matmul};
}

}  // namespace dirprune::ops
