#include "engine/conv.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>
#include <stdexcept>
#include <tuple>

#include "pool.hpp"

namespace dirprune {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// The distances of the taps modulo the stride, in rising order.
std::vector<std::int32_t> phases(std::int64_t kernel, std::int64_t stride, std::int64_t dilation) {
    std::set<std::int32_t> found;
    for (std::int64_t tap = 0; tap < kernel && std::int64_t(found.size()) < stride; ++tap)
        found.insert(static_cast<std::int32_t>(tap * dilation % stride));
    return {found.begin(), found.end()};
}
std::int64_t phase_of(const std::vector<std::int32_t>& phases, std::int64_t distance) {
    return std::lower_bound(phases.begin(), phases.end(), distance) - phases.begin();
}

}  // namespace

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

Nonzeros::Nonzeros(const float* weight, std::int64_t outputs, std::int64_t row) {
    const auto size = static_cast<std::size_t>(outputs * row);
    // The engine computes with denormal numbers as if they were zero (denormals.hpp).
    const auto is_zero = [](float w) { return std::fabs(w) < std::numeric_limits<float>::min(); };
    const auto count =
        size - static_cast<std::size_t>(std::count_if(weight, weight + size, is_zero));
    if (row > std::numeric_limits<std::int32_t>::max() ||
        count > std::numeric_limits<std::uint32_t>::max() / 16)
        throw std::invalid_argument("a weight is too large");
    index.reserve(count);
    value.reserve(count);
    ends.reserve(static_cast<std::size_t>(outputs) + 1);
    ends.push_back(0);
    for (std::int64_t o = 0; o < outputs; ++o) {
        for (std::int64_t i = 0; i < row; ++i) {
            const float w = weight[o * row + i];
            if (is_zero(w)) continue;
            index.push_back(static_cast<std::uint32_t>(i));
            value.push_back(w);
        }
        ends.push_back(static_cast<std::uint32_t>(index.size()));
    }
}

std::string Choice::name() const {
    return std::string(dense ? "dense " : "sparse ") + std::to_string(rows) + "x" +
           std::to_string(columns) + (spans ? " spanning" : "") + " in " +
           std::to_string(region_rows) + "x" + std::to_string(region_columns) + ", " +
           (direct ? "in place" : "packed") + " by " + std::to_string(block);
}

std::vector<int> Choice::numbers() const {
    return {dense, spans, direct, rows, columns, region_rows, region_columns, block};
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
    const bool clamps =
        epilogue.activation == Activation::relu || epilogue.activation == Activation::relu6;
    low_ = clamps ? 0 : -infinity;
    high_ = epilogue.activation == Activation::relu6 ? 6 : infinity;
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
            tile.pieces.push_back(
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
            if (!tile.pieces.empty()) tiles.push_back(std::move(tile));
        }
    } else {
        // A tile that is not full ends where the row ends, and computes some pixels of its
        // neighbour again. Only rows shorter than a vector are stored in pieces.
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
    // If the next piece overwrites the excess, a whole vector is stored, which is faster.
    for (auto& tile : tiles)
        for (std::size_t i = 1; i < tile.pieces.size(); ++i) {
            Piece& before = tile.pieces[i - 1];
            before.whole |= before.out + before.count == tile.pieces[i].out &&
                            tile.pieces[i].count >= lanes - before.count;
        }
    most_tiles_ = std::max(most_tiles_, tiles.size());
    tilings_.push_back(std::move(tiles));
    tiling_sizes_.push_back(size);
    return static_cast<std::int32_t>(tilings_.size() - 1);
}

void ConvPlan::make_blocks(const Nonzeros& nonzeros) {
    const std::int64_t fan_in = g_.channels / g_.groups, fan_out = g_.outputs / g_.groups;
    const std::int64_t most = choice_.block < fan_in
                                  ? choice_.block
                                  : std::min(choice_.block / fan_in, g_.groups) * fan_in;
    if (channel_pitch_ > (1 << 28) / most)
        throw std::invalid_argument("a layer is too large for the engine");
    if (!choice_.direct)
        packed_size_ = static_cast<std::size_t>(round_up(most * channel_pitch_ + slack, 16));
    const auto add = [&](std::int64_t channel, std::int64_t channels, std::int64_t output,
                         std::int64_t outputs, bool begin, bool end) {
        Block block;
        block.first_channel = static_cast<std::int32_t>(channel);
        block.channels = static_cast<std::int32_t>(channels);
        block.first_group = static_cast<std::int32_t>(output / height_);
        block.groups = static_cast<std::int32_t>(ceil_div(outputs, height_));
        block.begin = begin;
        block.end = end;
        if (choice_.dense) {
            switch (height_) {
                case 4: fill<4>(block, nonzeros); break;
                case 6: fill<6>(block, nonzeros); break;
                default: throw std::logic_error("no such height");
            }
        } else {
            fill<1>(block, nonzeros);
        }
        blocks_.push_back(std::move(block));
    };
    if (choice_.block >= fan_in) {  // whole groups of channels
        const std::int64_t together = std::min(choice_.block / fan_in, g_.groups);
        for (std::int64_t group = 0; group < g_.groups; group += together) {
            const std::int64_t count = std::min(together, g_.groups - group);
            add(group * fan_in, count * fan_in, group * fan_out, count * fan_out, true, true);
        }
    } else {
        for (std::int64_t group = 0; group < g_.groups; ++group)
            for (std::int64_t c = 0; c < fan_in; c += choice_.block) {
                const std::int64_t count = std::min<std::int64_t>(choice_.block, fan_in - c);
                add(group * fan_in + c, count, group * fan_out, fan_out, c == 0,
                    c + count == fan_in);
            }
        partial_size_ = most_tiles_ * static_cast<std::size_t>(groups_) * height_ *
                        static_cast<std::size_t>(choice_.rows * choice_.columns * kernels_.lanes);
    }
}

template <int height>
void ConvPlan::fill(Block& block, const Nonzeros& nonzeros) const {
    const std::int64_t fan_in = g_.channels / g_.groups, fan_out = g_.outputs / g_.groups;
    std::vector<std::int32_t> offsets(static_cast<std::size_t>(g_.taps()));
    for (std::int64_t y = 0; y < g_.kernel_y; ++y)
        for (std::int64_t x = 0; x < g_.kernel_x; ++x) {
            const std::int64_t dy = y * g_.dilation_y, dx = x * g_.dilation_x;
            const std::int64_t plane =
                phase_of(phases_y_, dy % g_.stride_y) * std::int64_t(phases_x_.size()) +
                phase_of(phases_x_, dx % g_.stride_x);
            offsets[static_cast<std::size_t>(y * g_.kernel_x + x)] =
                static_cast<std::int32_t>(plane * plane_pitch_ + dy / g_.stride_y * row_pitch_ +
                                          dx / g_.stride_x * g_.batch);
        }
    const auto taps = static_cast<std::uint32_t>(g_.taps());
    // Rows of one length follow each other, so that the end of their loop is predicted.
    const auto share_of = [&](std::int32_t group) { return (block.first_group + group) / share_; };
    block.order.resize(static_cast<std::size_t>(block.groups));
    std::iota(block.order.begin(), block.order.end(), 0);
    const auto range = [&](std::int64_t row, std::int64_t base) {
        const std::int64_t from = std::max<std::int64_t>(block.first_channel, base);
        const std::int64_t to =
            std::min<std::int64_t>(block.first_channel + block.channels, base + fan_in);
        const auto* all = nonzeros.index.data();
        const auto at = [&](std::int64_t limit) {
            return static_cast<std::uint32_t>(
                std::lower_bound(all + nonzeros.ends[static_cast<std::size_t>(row)],
                                 all + nonzeros.ends[static_cast<std::size_t>(row) + 1],
                                 static_cast<std::uint32_t>(limit)) -
                all);
        };
        return std::pair(at((from - base) * taps), at((to - base) * taps));
    };
    if (height == 1) {
        std::vector<std::uint32_t> length(block.order.size());
        for (std::int32_t group : block.order) {
            const std::int64_t row = block.first_group + group;
            const auto [begin, end] = range(row, row / fan_out * fan_in);
            length[static_cast<std::size_t>(group)] = end - begin;
        }
        std::stable_sort(block.order.begin(), block.order.end(), [&](auto a, auto b) {
            return std::pair(share_of(a), length[static_cast<std::size_t>(a)]) <
                   std::pair(share_of(b), length[static_cast<std::size_t>(b)]);
        });
    }
    block.ends.assign(1, 0);
    std::uint32_t count = 0;
    for (std::int32_t group : block.order) {
        const std::int64_t first = std::int64_t(block.first_group + group) * height;
        const std::int64_t base = first / fan_out * fan_in;  // first channel that the group reads
        std::uint32_t at[height], stop[height];
        for (int h = 0; h < height; ++h) {
            std::tie(at[h], stop[h]) = range(std::min(first + h, g_.outputs - 1), base);
            if (first + h >= g_.outputs) stop[h] = at[h];
        }
        for (;;) {  // merge the rows
            constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
            std::uint32_t index = none;
            for (int h = 0; h < height; ++h)
                if (at[h] < stop[h]) index = std::min(index, nonzeros.index[at[h]]);
            if (index == none) break;
            Entry<height> entry{};
            entry.offset = static_cast<std::int32_t>((base + index / taps - block.first_channel) *
                                                         channel_pitch_ +
                                                     offsets[index % taps]);
            if (choice_.direct)
                entry.offset += static_cast<std::int32_t>(block.first_channel * channel_pitch_);
            for (int h = 0; h < height; ++h)
                if (at[h] < stop[h] && nonzeros.index[at[h]] == index)
                    entry.weight[h] = nonzeros.value[at[h]++];
            const std::size_t words = sizeof entry / 4;
            block.entries.resize(block.entries.size() + words);
            std::memcpy(block.entries.data() + block.entries.size() - words, &entry, sizeof entry);
            ++count;
        }
        block.ends.push_back(count);
    }
    block.entries.shrink_to_fit();
}

void ConvPlan::run(const float* x, const float* residual, float* out, int threads,
                   const std::vector<float*>& scratch) const {
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
            tile.pieces = where.pieces.data();
            tile.num_pieces = static_cast<std::int32_t>(where.pieces.size());
            (choice_.dense ? kernels_.dense : kernels_.sparse)[where.rows][where.columns](tile);
        }
    }
    activate(region, first, last, out);
}

// Activations other than a clamp, applied while the results are in the cache.
void ConvPlan::activate(const Region& region, std::int32_t first, std::int32_t last,
                        float* out) const {
    if (epilogue_.activation == Activation::none || epilogue_.activation == Activation::relu ||
        epilogue_.activation == Activation::relu6)
        return;
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
