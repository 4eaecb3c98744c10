#include "engine/conv.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "pool.hpp"

namespace dirprune {
bool Geometry::is_pointwise() const {
    return taps() == 1 && stride_y == 1 && stride_x == 1 && out_height == height &&
           out_width == width;
}

Geometry Geometry::flat() const {
    Geometry result = *this;
    result.width = result.out_width = width * height;
    result.height = result.out_height = 1;
    return result;
}

std::string Choice::name() const {
    if (by_rows) return "dense rows by " + std::to_string(block);
    if (depthwise) return "depthwise, in place";
    return std::string(dense ? "dense " : "sparse ") + std::to_string(rows) + "x" +
           std::to_string(columns) + (spans ? " spanning" : "") + " in " +
           std::to_string(region_rows) + "x" + std::to_string(region_columns) + ", " +
           (direct ? "in place" : "packed") + " by " + std::to_string(block);
}

std::vector<int> Choice::numbers() const {
    return {dense, spans, direct, rows, columns, region_rows,
            region_columns, block, by_rows, depthwise};
}

ConvPlan::ConvPlan(const Kernels& kernels, const Geometry& geometry, const Nonzeros& nonzeros,
                   const float* bias, Epilogue epilogue, const Choice& choice)
    : kernels_(kernels), g_(geometry), choice_(choice), epilogue_(epilogue) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    constexpr std::int64_t most = 1 << 30;  // offsets have 32 bits
    if (g_.x_size() > most || g_.out_size() > most)
        throw std::invalid_argument("a layer is too large for the engine: " +
                                    std::to_string(std::max(g_.x_size(), g_.out_size())) +
                                    " values at once");
    const bool clamps = is_clamp() && epilogue.activation != Activation::none;
    low_ = clamps ? 0 : -infinity;
    high_ = epilogue.activation == Activation::relu6 ? 6 : infinity;
    if (choice.by_rows) {
        make_panels(nonzeros, bias);
        return;
    }
    if (choice.depthwise) {
        make_taps(nonzeros, bias);
        return;
    }
    height_ = choice.dense ? kernels.dense_height : 1;
    // A group of output channels reads one group of input channels only.
    if (choice.dense && g_.groups > 1 && (g_.outputs / g_.groups) % height_)
        throw std::logic_error("a dense plan for groups that it does not divide");
    groups_ = static_cast<std::int32_t>(ceil_div(g_.outputs, height_));
    share_ = static_cast<std::int32_t>(std::clamp<std::int64_t>(ceil_div(groups_, 8), 8, 64));
    bias_.assign(static_cast<std::size_t>(groups_) * height_, 0.0f);
    if (bias) std::copy_n(bias, g_.outputs, bias_.begin());
    lay_out();
    make_regions();
    make_blocks(nonzeros);
}

void ConvPlan::run(const float* x, const float* residual, float* out, int threads,
                   const std::vector<float*>& scratch) const {
    if (choice_.by_rows) return run_rows(x, residual, out, threads);
    if (choice_.depthwise) return run_depthwise(x, residual, out, threads);
    // With too few regions to share evenly, the output channels are divided as well: finely if no
    // thread has to copy the same input again for each part.
    const std::int64_t shares = ceil_div(groups_, share_);
    const auto regions = static_cast<std::int64_t>(regions_.size());
    const bool copied_once = blocks_.size() == 1 && g_.groups == 1;  // and reused by the next part
    const bool own_input = g_.groups > 1 && blocks_.front().begin && blocks_.front().end;
    const bool finely = choice_.direct || copied_once || own_input;
    std::int64_t parts = 1;
    if (threads > 1 && regions < 8 * threads)
        parts = std::min(shares, finely ? ceil_div(8 * threads, regions)
                                        : threads / std::gcd(regions, std::int64_t(threads)));
    std::vector<std::int64_t> copied(static_cast<std::size_t>(threads), -1);  // region, by seat
    const auto tasks = static_cast<std::size_t>(regions * parts);
    parallel_for(
        tasks, static_cast<std::size_t>(threads), [&](std::size_t task, std::size_t seat) {
            const auto region = static_cast<std::int64_t>(task) / parts;
            const auto part = static_cast<std::int64_t>(task) % parts;
            const auto first = static_cast<std::int32_t>(shares * part / parts) * share_;
            const auto last =
                std::min(groups_, static_cast<std::int32_t>(shares * (part + 1) / parts) * share_);
            const bool copies = !choice_.direct && !(copied_once && copied[seat] == region);
            copied[seat] = region;
            compute(regions_[static_cast<std::size_t>(region)], first, last, copies, x, residual,
                    out, scratch[seat]);
        });
}

void ConvPlan::compute(const Region& region, std::int32_t first, std::int32_t last, bool copies,
                       const float* x, const float* residual, float* out, float* scratch) const {
    const std::int64_t out_row = g_.out_width * g_.batch;
    const std::int64_t at = region.row * out_row + region.column * g_.batch;
    const std::int64_t fan_in = g_.channels / g_.groups, fan_out = g_.outputs / g_.groups;
    Tile tile{};
    tile.x_row = row_pitch_;
    tile.out_channel = g_.out_height * out_row;
    tile.out_row = out_row;
    tile.residual = residual ? residual - out : 0;
    tile.has_residual = residual != nullptr;
    tile.low = low_;
    tile.high = high_;
    tile.channels = static_cast<std::int32_t>(g_.outputs);

    Packing packing{};
    packing.x_channel = g_.height * g_.width * g_.batch;
    packing.height = static_cast<std::int32_t>(g_.height);
    packing.width = static_cast<std::int32_t>(g_.width);
    packing.batch = static_cast<std::int32_t>(g_.batch);
    packing.to_channel = channel_pitch_;
    packing.to_plane = plane_pitch_;
    packing.to_row = row_pitch_;
    packing.rows = plane_rows_;
    packing.columns = plane_columns_;
    packing.top = static_cast<std::int32_t>(region.row * g_.stride_y - g_.top);
    packing.left = static_cast<std::int32_t>(region.column * g_.stride_x - g_.left);
    packing.stride_y = static_cast<std::int32_t>(g_.stride_y);
    packing.stride_x = static_cast<std::int32_t>(g_.stride_x);
    packing.phase_y = phases_y_.data();
    packing.phase_x = phases_x_.data();
    packing.num_phases_y = static_cast<std::int32_t>(phases_y_.size());
    packing.num_phases_x = static_cast<std::int32_t>(phases_x_.size());

    float* const partial = scratch + packed_size_;
    const auto partial_tile = static_cast<std::ptrdiff_t>(groups_) * height_ * choice_.rows *
                              choice_.columns * kernels_.lanes;
    for (const Block& block : blocks_) {
        tile.first = std::max(first - block.first_group, 0);
        tile.last = std::min(last - block.first_group, block.groups);
        if (tile.first >= tile.last) continue;
        const std::int64_t channel = std::int64_t(block.first_group) * height_;
        const float* const origin =
            choice_.direct ? x + region.row * row_pitch_ + region.column * g_.batch : scratch;
        if (copies) {
            // With many groups, only those that these output channels read.
            std::int64_t from = 0, to = block.channels;
            if (block.begin && block.end) {
                from = (channel + tile.first * height_) / fan_out * fan_in - block.first_channel;
                to = ((channel + tile.last * height_ - 1) / fan_out + 1) * fan_in -
                     block.first_channel;
                to = std::min<std::int64_t>(to, block.channels);
            }
            packing.x = x + (block.first_channel + from) * packing.x_channel;
            packing.channels = static_cast<std::int32_t>(to - from);
            packing.to = scratch + from * channel_pitch_;
            kernels_.pack(packing);
        }
        tile.ends = block.ends.data();
        tile.order = block.order.data();
        tile.entries = block.entries.data();
        tile.begin = block.begin;
        tile.end = block.end;
        tile.bias = bias_.data() + channel;
        tile.channels = static_cast<std::int32_t>(g_.outputs - channel);
        std::ptrdiff_t number = 0;
        for (const TileAt& where : tilings_[static_cast<std::size_t>(region.tiles)]) {
            tile.tail = where.tail;
            tile.x = origin + where.row * row_pitch_ + where.lane;
            tile.out = out + at + channel * tile.out_channel + where.out;
            tile.partial = partial + number++ * partial_tile +
                           channel * where.rows * where.columns * kernels_.lanes;
            tile.segments = where.segments.data();
            tile.num_segments = static_cast<std::int32_t>(where.segments.size());
            (choice_.dense ? kernels_.dense : kernels_.sparse)[where.rows][where.columns](tile);
        }
    }
    activate(region, first, last, out);
}

// Activations other than a clamp, applied while the results are in the cache.
void ConvPlan::activate(const Region& region, std::int32_t first, std::int32_t last,
                        float* out) const {
    if (is_clamp()) return;
    const std::int64_t row = g_.out_width * g_.batch, plane = g_.out_height * row;
    const bool whole = region.columns == g_.out_width;
    const std::int64_t rows = whole ? 1 : region.rows;
    const std::int64_t count = region.columns * g_.batch * (whole ? region.rows : 1);
    const std::int64_t stop = std::min<std::int64_t>(std::int64_t(last) * height_, g_.outputs);
    for (std::int64_t channel = std::int64_t(first) * height_; channel < stop; ++channel)
        for (std::int64_t y = 0; y < rows; ++y) {
            float* at = out + channel * plane + (region.row + y) * row + region.column * g_.batch;
            kernels_.activate(epilogue_.activation, epilogue_.parameter, at, at,
                              static_cast<std::size_t>(count));
        }
}

}  // namespace dirprune
