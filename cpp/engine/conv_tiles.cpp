// How a convolution is cut into regions and tiles, and where its input is packed.
#include <algorithm>
#include <set>

#include "engine/conv.hpp"

namespace dirprune {
namespace {

// The distances of the taps modulo the stride, in rising order.
std::vector<std::int32_t> phases(std::int64_t kernel, std::int64_t stride, std::int64_t dilation) {
    std::set<std::int32_t> found;
    for (std::int64_t tap = 0; tap < kernel && std::int64_t(found.size()) < stride; ++tap)
        found.insert(static_cast<std::int32_t>(tap * dilation % stride));
    return {found.begin(), found.end()};
}

}  // namespace

// The layout of the input that the kernels read: in place, or a packed copy.
void ConvPlan::lay_out() {
    const int lanes = kernels_.lanes;
    if (choice_.direct) {
        phases_y_ = phases_x_ = {0};
        row_pitch_ = g_.width * g_.batch;
        channel_pitch_ = g_.height * row_pitch_;
        return;
    }
    phases_y_ = phases(g_.kernel_y, g_.stride_y, g_.dilation_y);
    phases_x_ = phases(g_.kernel_x, g_.stride_x, g_.dilation_x);
    const std::int64_t rows =
        std::min<std::int64_t>(std::int64_t(choice_.rows) * choice_.region_rows, g_.out_height);
    const std::int64_t columns = std::min(
        ceil_div(std::int64_t(choice_.columns) * choice_.region_columns * lanes, g_.batch),
        g_.out_width);
    plane_rows_ = static_cast<std::int32_t>(
        (choice_.spans ? std::min<std::int64_t>(choice_.region_rows, g_.out_height) : rows) +
        (g_.kernel_y - 1) * g_.dilation_y / g_.stride_y);
    plane_columns_ = static_cast<std::int32_t>((choice_.spans ? g_.out_width : columns) +
                                               (g_.kernel_x - 1) * g_.dilation_x / g_.stride_x);
    row_pitch_ = plane_columns_ * g_.batch;
    if (!choice_.spans) row_pitch_ = round_up(row_pitch_, lanes);
    plane_pitch_ = plane_rows_ * row_pitch_;
    channel_pitch_ =
        round_up(plane_pitch_ * std::int64_t(phases_y_.size() * phases_x_.size()), lanes);
}

void ConvPlan::make_regions() {
    const std::int64_t lanes = kernels_.lanes;
    const std::int64_t rows =
        choice_.spans ? choice_.region_rows : std::int64_t(choice_.rows) * choice_.region_rows;
    const std::int64_t columns =
        choice_.spans
            ? g_.out_width
            : ceil_div(std::int64_t(choice_.columns) * choice_.region_columns * lanes, g_.batch);
    for (std::int64_t y = 0; y < g_.out_height; y += rows)
        for (std::int64_t x = 0; x < g_.out_width; x += columns) {
            Region region;
            region.row = static_cast<std::int32_t>(y);
            region.column = static_cast<std::int32_t>(x);
            region.rows = static_cast<std::int32_t>(std::min(rows, g_.out_height - y));
            region.columns = static_cast<std::int32_t>(std::min(columns, g_.out_width - x));
            region.tiles = tiling(region.rows, region.columns);
            regions_.push_back(region);
        }
}

// Cuts a region of this size into tiles. Regions of one size share the result.
std::int32_t ConvPlan::tiling(std::int32_t rows, std::int32_t columns) {
    const std::pair size(rows, columns);
    const auto found = std::find(tiling_sizes_.begin(), tiling_sizes_.end(), size);
    if (found != tiling_sizes_.end())
        return static_cast<std::int32_t>(found - tiling_sizes_.begin());

    const std::int32_t lanes = kernels_.lanes;
    const std::int64_t out_row = g_.out_width * g_.batch;
    const std::int32_t width = static_cast<std::int32_t>(columns * g_.batch);  // floats in a row
    std::vector<TileAt> tiles;
    // Cuts `count` floats from `lane` on into vectors.
    const auto add_pieces = [&](TileAt& tile, std::int32_t lane, std::int32_t count,
                                std::int64_t out) {
        for (std::int32_t i = 0; i < count; i += lanes) {
            const std::int32_t part = std::min(lanes, count - i);
            tile.segments.push_back(
                {lane + i, part, static_cast<std::int32_t>(out + i), part == lanes});
        }
    };
    if (choice_.spans) {
        const std::int64_t pitch = row_pitch_, length = (rows - 1) * pitch + width;
        const std::int64_t step = std::int64_t(choice_.columns) * lanes;
        for (std::int64_t at = 0; at < length; at += step) {
            const std::int64_t stop = std::min(at + step, length);
            const auto columns = static_cast<std::int32_t>(ceil_div(stop - at, lanes));
            TileAt tile{1, columns, 0, static_cast<std::int32_t>(at), (columns - 1) * lanes, 0, {}};
            if (pitch == width) {  // no padding between the rows
                tile.out = static_cast<std::int32_t>(at);
                if ((stop - at) % lanes)
                    add_pieces(tile, 0, static_cast<std::int32_t>(stop - at), 0);
                tiles.push_back(std::move(tile));
                continue;
            }
            for (std::int64_t row = at / pitch; row * pitch < stop; ++row) {
                const std::int64_t first = std::max(at, row * pitch);
                const std::int64_t last = std::min(stop, row * pitch + width);
                if (first < last)
                    add_pieces(tile, static_cast<std::int32_t>(first - at),
                               static_cast<std::int32_t>(last - first),
                               row * out_row + first - row * pitch);
            }
            // A tile of nothing but padding, between rows that are far apart, is left out.
            if (!tile.segments.empty()) tiles.push_back(std::move(tile));
        }
    } else {
        // A tile that is not full ends where the row ends, and computes some pixels of its
        // neighbour again. Only rows shorter than a vector are stored in segments.
        const std::int32_t step = choice_.columns * lanes;
        for (std::int32_t row = 0; row < rows; row += choice_.rows)
            for (std::int32_t lane = 0; lane < width; lane += step) {
                const std::int32_t first = std::max(std::min(lane, width - lanes), 0);
                const std::int32_t count = std::min(lane + step, width) - first;
                const auto columns = static_cast<std::int32_t>(ceil_div(count, lanes));
                TileAt tile{std::min(choice_.rows, rows - row),
                            columns,
                            row,
                            first,
                            std::max(count - lanes, 0),
                            static_cast<std::int32_t>(row * out_row + first),
                            {}};
                if (count < lanes)
                    for (std::int32_t r = 0; r < tile.rows; ++r)
                        add_pieces(tile, r * lanes, count, r * out_row);
                tiles.push_back(std::move(tile));
            }
    }
    // If the next segment overwrites the excess, a whole vector is stored, which is faster.
    for (auto& tile : tiles)
        for (std::size_t i = 1; i < tile.segments.size(); ++i) {
            Segment& before = tile.segments[i - 1];
            before.whole |= before.out + before.count == tile.segments[i].out &&
                            tile.segments[i].count >= lanes - before.count;
        }
    most_tiles_ = std::max(most_tiles_, tiles.size());
    tilings_.push_back(std::move(tiles));
    tiling_sizes_.push_back(size);
    return static_cast<std::int32_t>(tilings_.size() - 1);
}

}  // namespace dirprune
