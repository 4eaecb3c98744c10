// Products of two values.
#include <algorithm>
#include <limits>

#include "engine/conv.hpp"
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

// Rows of one product of two matrices, for one image.
struct Product {
    const float *left, *right;
    float* out;
    std::int64_t rows, inner, columns;
};

// The vectors of a row are divided evenly into panels, and the sums into blocks whose panel stays in
// the cache.
void multiply(const Kernels& kernels, const Product& p) {
    constexpr std::int64_t depth = 128;
    constexpr float infinity = std::numeric_limits<float>::infinity();
    static constexpr float zeros[max_panel * slack] = {};  // the bias of a panel
    const std::int64_t lanes = kernels.lanes, vectors = ceil_div(p.columns, lanes);
    const std::int64_t panels = ceil_div(vectors, kernels.panel);
    RowTile tile{};
    tile.x_row = p.inner;
    tile.panel_row = tile.out_row = p.columns;
    tile.bias = zeros;
    tile.low = -infinity;
    tile.high = infinity;
    for (std::int64_t k = 0; k < p.inner; k += depth) {
        tile.depth = static_cast<std::int32_t>(std::min(depth, p.inner - k));
        tile.begin = k == 0;
        tile.end = k + depth >= p.inner;
        for (std::int64_t panel = 0; panel < panels; ++panel) {
            const std::int64_t first = vectors * panel / panels;
            const std::int64_t width = vectors * (panel + 1) / panels - first;
            const std::int64_t column = first * lanes;
            tile.panel = p.right + k * p.columns + column;
            tile.last =
                static_cast<std::int32_t>(std::min(lanes, p.columns - column - (width - 1) * lanes));
            for (std::int64_t row = 0; row < p.rows; row += kernels.row_tile) {
                tile.x = p.left + row * p.inner + k;
                tile.out = p.out + row * p.columns + column;
                kernels.dense_rows[std::min<std::int64_t>(kernels.row_tile, p.rows - row)][width](
                    tile);
            }
        }
    }
}

void matmul(const Call& c) {
    const Shape &a = c.inputs[0].shape, &b = c.inputs[1].shape;
    const std::size_t ahead = c.shape.size() - 2;
    const std::int64_t rows = a[ahead], inner = a[ahead + 1], columns = b[ahead + 1];
    std::int64_t matrices = 1;
    for (std::size_t i = 0; i < ahead; ++i) matrices *= c.shape[i];
    const std::int64_t tiles = ceil_div(rows, c.kernels.row_tile);  // of a matrix
    const auto compute = [&](std::int64_t matrix, std::int64_t first, std::int64_t last) {
        std::int64_t rest = matrix, left = 0, right = 0, left_step = 1, right_step = 1;
        for (std::size_t j = ahead; j-- > 0; rest /= c.shape[j]) {
            const std::int64_t at = rest % c.shape[j];
            left += (a[j] == 1 ? 0 : at) * left_step;
            right += (b[j] == 1 ? 0 : at) * right_step;
            left_step *= a[j];
            right_step *= b[j];
        }
        const float* const x = c.inputs[0].data + (left * rows + first) * inner * c.batch;
        const float* const y = c.inputs[1].data + right * inner * columns * c.batch;
        float* const out = c.out + (matrix * rows + first) * columns * c.batch;
        if (c.batch == 1)
            multiply(c.kernels, {x, y, out, last - first, inner, columns});
        else
            c.kernels.batched_product(x, y, out, count(last - first), count(inner), count(columns),
                                      count(c.batch));
    };
    const std::int64_t tile = c.kernels.row_tile;
    in_ranges(matrices * tiles, tile * inner * columns * c.batch, c.threads,
              [&](std::int64_t from, std::int64_t to) {
                  for (std::int64_t at = from; at < to;) {
                      const std::int64_t matrix = at / tiles;
                      const std::int64_t end = std::min(to, (matrix + 1) * tiles);
                      compute(matrix, at % tiles * tile,
                              std::min(rows, (end - matrix * tiles) * tile));
                      at = end;
                  }
              });
}

}  // namespace

void add_attention(OperatorTable& table) {
    at(table, Op::matmul) = {.least = 2, .most = 2, .shape = matmul_shape, .run = matmul};
}

}  // namespace dirprune::ops
