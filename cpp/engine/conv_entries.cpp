// The weights of a convolution in the order in which the kernels read them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <tuple>

#include "engine/conv.hpp"

namespace dirprune {
namespace {

std::int64_t phase_of(const std::vector<std::int32_t>& phases, std::int64_t distance) {
    return std::lower_bound(phases.begin(), phases.end(), distance) - phases.begin();
}

}  // namespace

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

}  // namespace dirprune
