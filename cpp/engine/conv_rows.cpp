// Dense linear layers over rows: a matrix product that needs no transposition.
//
// The weights are stored in panels, one vector or a few of outputs wide. A tile multiplies some rows
// of the input by a panel. Inputs are taken in blocks, so that a panel stays in the cache.
#include <algorithm>

#include "engine/conv.hpp"
#include "pool.hpp"

namespace dirprune {

void ConvPlan::make_panels(const Nonzeros& nonzeros, const float* bias) {
    const std::int64_t lanes = kernels_.lanes, width = kernels_.panel * lanes;
    const std::int64_t padded = round_up(g_.outputs, lanes);
    bias_.assign(static_cast<std::size_t>(padded), 0.0f);
    if (bias) std::copy_n(bias, g_.outputs, bias_.begin());
    panels_.assign(static_cast<std::size_t>(padded * g_.channels), 0.0f);
    for (std::int64_t o = 0; o < g_.outputs; ++o) {
        const std::int64_t first = o / width * width, own = std::min(width, padded - first);
        for (auto n = nonzeros.ends[static_cast<std::size_t>(o)];
             n < nonzeros.ends[static_cast<std::size_t>(o) + 1]; ++n) {
            const std::int64_t i = nonzeros.index[n];
            const std::int64_t begin = i / choice_.block * choice_.block;
            const std::int64_t depth = std::min<std::int64_t>(choice_.block, g_.channels - begin);
            panels_[static_cast<std::size_t>(begin * padded + first * depth + (i - begin) * own +
                                             o - first)] = nonzeros.value[n];
        }
    }
}

void ConvPlan::run_rows(const float* x, const float* residual, float* out, int threads) const {
    const std::int64_t lanes = kernels_.lanes, width = kernels_.panel * lanes;
    const std::int64_t padded = round_up(g_.outputs, lanes), panels = ceil_div(g_.outputs, width);
    const std::int64_t rows = g_.width, tiles = ceil_div(rows, kernels_.row_tile);
    // Threads divide the rows if there are enough of them, otherwise the outputs.
    const bool by_rows = tiles >= 4 * threads;
    const std::int64_t items = by_rows ? tiles : panels;
    const std::int64_t parts = std::min<std::int64_t>(items, threads > 1 ? 4 * threads : 1);
    const auto body = [&](std::size_t part, std::size_t) {
        const auto p = static_cast<std::int64_t>(part);
        const std::int64_t from = items * p / parts, to = items * (p + 1) / parts;
        const std::int64_t first_row = by_rows ? from * kernels_.row_tile : 0;
        const std::int64_t last_row = by_rows ? std::min(rows, to * kernels_.row_tile) : rows;
        const std::int64_t first_panel = by_rows ? 0 : from, last_panel = by_rows ? panels : to;
        RowTile tile{};
        tile.x_row = g_.channels;
        tile.out_row = g_.outputs;
        tile.has_residual = residual != nullptr;
        tile.residual = residual ? residual - out : 0;
        tile.low = low_;
        tile.high = high_;
        for (std::int64_t i = 0; i < g_.channels; i += choice_.block) {
            tile.depth = static_cast<std::int32_t>(
                std::min<std::int64_t>(choice_.block, g_.channels - i));
            tile.begin = i == 0;
            tile.end = i + tile.depth == g_.channels;
            for (std::int64_t panel = first_panel; panel < last_panel; ++panel) {
                const std::int64_t o = panel * width;
                const std::int64_t vectors = ceil_div(std::min(width, g_.outputs - o), lanes);
                tile.panel = panels_.data() + i * padded + o * tile.depth;
                tile.panel_row = vectors * lanes;
                tile.bias = bias_.data() + o;
                tile.last = static_cast<std::int32_t>(
                    std::min(g_.outputs - o - (vectors - 1) * lanes, lanes));
                for (std::int64_t row = first_row; row < last_row; row += kernels_.row_tile) {
                    tile.x = x + row * g_.channels + i;
                    tile.out = out + row * g_.outputs + o;
                    const std::int64_t count =
                        std::min<std::int64_t>(kernels_.row_tile, last_row - row);
                    kernels_.dense_rows[count][vectors](tile);
                }
            }
        }
        if (is_clamp()) return;
        const std::int64_t begin = first_panel * width, end = std::min(g_.outputs, last_panel * width);
        for (std::int64_t row = first_row; row < last_row; ++row) {
            float* const at = out + row * g_.outputs + begin;
            kernels_.activate(epilogue_.activation, epilogue_.parameter, at, at,
                              static_cast<std::size_t>(end - begin));
        }
    };
    parallel_for(static_cast<std::size_t>(parts), static_cast<std::size_t>(threads), body);
}

}  // namespace dirprune
