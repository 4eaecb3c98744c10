#include "engine/choose.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace dirprune {
namespace {

constexpr double usual_packed = 1 << 24;  // floats
constexpr double largest_packed = 1 << 28;

// Bytes of the first and second cache for one kind of data: inputs, or weights. The rest is for what
// streams through. Virtual machines may report caches that the processor does not have.
struct Caches {
    double first = share * (32 << 10), second = share * (512 << 10);  // if the system does not tell

    Caches() {
#if defined(_SC_LEVEL1_DCACHE_SIZE) && defined(_SC_LEVEL2_CACHE_SIZE)
        const auto limit = [](double& bytes, int name, long least, long most) {
            if (const long size = sysconf(name); size > 0)
                bytes = share * double(std::clamp(size, least, most));
        };
        limit(first, _SC_LEVEL1_DCACHE_SIZE, 16 << 10, 128 << 10);
        limit(second, _SC_LEVEL2_CACHE_SIZE, 256 << 10, 2 << 20);
#endif
    }

    static constexpr double share = 0.75;
};
const Caches& caches() {
    static const Caches found;
    return found;
}

double ceil_div(double a, double b) { return std::ceil(a / b); }

// Whether every output channel reads one input channel, and there is a kernel for it.
bool is_depthwise(const Kernels& kernels, const Geometry& g) {
    return g.groups == g.channels && g.batch == 1 && !g.channels_last &&
           g.kernel_y == g.kernel_x && g.kernel_y <= max_depthwise && g.stride_y == g.stride_x &&
           g.stride_y <= max_depthwise_stride && g.dilation_y == 1 && g.dilation_x == 1 &&
           kernels.depthwise[g.kernel_y][g.stride_y] != nullptr;
}

}  // namespace

double estimate(const Kernels& kernels, const Geometry& g, double density, const Choice& choice) {
    if (choice.by_rows)
        return 0.6 * double(g.width * g.channels) * ceil_div(double(g.outputs), kernels.lanes);
    const double lanes = kernels.lanes, tile = choice.rows * choice.columns;
    if (choice.depthwise)
        return (double(g.taps()) / 2 + 4) * double(g.outputs * g.out_height) *
               ceil_div(double(g.out_width), lanes);
    const double fan_in = double(g.channels) / double(g.groups);
    const double width = double(g.out_width * g.batch);
    const int height = choice.dense ? kernels.dense_height : 1;
    const double groups = ceil_div(double(g.outputs), height);
    const double shift_y = double((g.kernel_y - 1) * g.dilation_y / g.stride_y);
    const double shift_x = double((g.kernel_x - 1) * g.dilation_x / g.stride_x) * double(g.batch);
    const double phases =
        double(std::min(g.kernel_y, g.stride_y) * std::min(g.kernel_x, g.stride_x));

    // Regions, and the vectors and calls of kernels in all of them.
    double region_rows, region_width, tiles, vectors;
    const double out_rows = double(g.out_height);
    if (choice.spans) {
        region_rows = std::min<double>(choice.region_rows, out_rows);
        region_width = width;
        const double length = (region_rows - 1) * (width + shift_x) + width;
        vectors = ceil_div(length, lanes) * out_rows / region_rows;
        tiles = ceil_div(length, lanes * tile) * out_rows / region_rows;
    } else {
        region_rows = std::min<double>(choice.rows * choice.region_rows, out_rows);
        region_width = std::min(choice.columns * choice.region_columns * lanes, width);
        vectors = out_rows * ceil_div(width, lanes);
        tiles = ceil_div(out_rows, choice.rows) * ceil_div(width, lanes * choice.columns);
    }
    const double regions = ceil_div(out_rows, region_rows) * ceil_div(width, region_width);
    const double block = std::min<double>(choice.block, double(g.channels));
    const double blocks = block < fan_in ? ceil_div(fan_in, block) : 1;
    const double plane = (region_rows + shift_y) * (region_width + shift_x + lanes / 2) * phases;

    // Loads, multiply-adds and the latency of a chain of additions bound an entry.
    const double mean_tile = vectors / tiles;
    double entries = groups * fan_in * double(g.taps());
    entries *= height > 1 ? 1 - std::pow(1 - density, height) : density;
    const double chains = height > 1 ? height * mean_tile : mean_tile < 6 ? 8 : mean_tile;
    double cycles = std::max((mean_tile + height) / 2, height * mean_tile / 2);
    cycles = std::max({cycles, 4 * height * mean_tile / chains, 1.0}) + 0.2;
    const double columns = choice.spans ? tile * lanes : std::min(width, choice.columns * lanes);
    const double touched =
        4 * std::min(block, fan_in) * phases *
        (choice.spans ? std::min(plane, columns + shift_y * (width + shift_x) + shift_x)
                      : (choice.rows + shift_y) * (columns + shift_x));
    cycles += mean_tile * (touched > caches().second ? 0.8 : touched > caches().first ? 0.3 : 0);
    if (choice.direct && double(g.height * g.width * g.batch) * 4 > 2048)
        cycles += mean_tile * 0.1;
    if (entries * (4 + 4 * height) > caches().second) cycles += 0.4 * (1 + height) / 2;

    double total = tiles * entries * cycles;
    const double ends = tiles * groups * height;
    total += ends * (8 + 1.5 * mean_tile * (1 + 1.3 * (blocks - 1)));
    if (choice.spans ? shift_x > 0 : width < lanes) total += ends * 2 * mean_tile;
    if (g.channels_last) total += 0.6 * double(g.x_size() + g.out_size());  // to transpose both
    if (!choice.direct)
        total += regions * double(g.channels) * plane / lanes * (g.stride_x > 1 ? 5 : 3);
    return total;
}

std::vector<Choice> choices(const Kernels& kernels, const Geometry& g, double density,
                            std::size_t most, std::int64_t most_packed) {
    const int lanes = kernels.lanes;
    const auto fan_in = static_cast<int>(g.channels / g.groups);
    const bool in_place = g.stride_y == 1 && g.stride_x == 1 && g.top == 0 && g.left == 0 &&
                          g.out_height == g.height - (g.kernel_y - 1) * g.dilation_y &&
                          g.out_width == g.width - (g.kernel_x - 1) * g.dilation_x;
    const std::int64_t width = g.out_width * g.batch, wide = (width + lanes - 1) / lanes;
    std::vector<std::pair<double, Choice>> found;
    if (g.channels_last && g.batch == 1 && density >= 0.1) {
        Choice choice;
        choice.dense = choice.direct = choice.by_rows = true;
        choice.block = static_cast<int>(std::min<std::int64_t>(g.channels, 384));
        found.emplace_back(estimate(kernels, g, density, choice), choice);
    }
    if (is_depthwise(kernels, g) && density >= 0.5) {
        Choice choice;
        choice.depthwise = true;
        found.emplace_back(estimate(kernels, g, density, choice), choice);
    }
    const auto consider = [&](Choice choice) {
        // Blocks of input channels: all of them, or what fits into the first cache, halved twice.
        const double shift_y = double((g.kernel_y - 1) * g.dilation_y);
        const double shift_x = double((g.kernel_x - 1) * g.dilation_x * g.batch);
        const double floats =
            choice.spans ? (choice.region_rows + shift_y) * (double(width) + shift_x)
                         : (choice.rows * choice.region_rows * double(g.stride_y) + shift_y) *
                               (std::min<double>(choice.columns * choice.region_columns * lanes,
                                                 double(width)) *
                                    double(g.stride_x) +
                                shift_x);
        const int fits = std::max(1, static_cast<int>(caches().first / 4 / floats));
        std::vector<int> blocks;
        if (fan_in == 1 || g.groups > 8) {
            blocks = {std::max(fits, fan_in)};
        } else {
            blocks = {fan_in};
            for (int block : {fits, fits / 2, fits / 4})
                if (block >= 8 && block < fan_in) {
                    const int count = (fan_in + block - 1) / block;
                    blocks.push_back((fan_in + count - 1) / count);
                }
        }
        const double limit = std::min(double(most_packed), usual_packed);
        if (!choice.direct && floats * blocks.front() > limit) {
            // Far taps make planes large: as many channels as fit into the second cache, at least 1.
            blocks.front() = static_cast<int>(
                std::clamp(std::min(caches().second / 4, limit) / floats, 1.0, double(fan_in)));
        }
        for (int block : blocks) {
            const double most_floats =
                block > 1 ? limit : std::min(double(most_packed), largest_packed);
            if (!choice.direct && floats * block > most_floats) continue;
            choice.block = block;
            const std::pair item(estimate(kernels, g, density, choice), choice);
            if (std::find(found.begin(), found.end(), item) == found.end()) found.push_back(item);
        }
    };
    for (bool dense : {false, true}) {
        if (dense &&
            (density < 0.2 || (g.groups > 1 && (g.outputs / g.groups) % kernels.dense_height)))
            continue;
        const auto& table = dense ? kernels.dense : kernels.sparse;
        for (int rows = 1; rows <= max_rows; ++rows) {
            if (rows > g.out_height) break;
            for (int columns = 1; columns <= max_columns; ++columns) {
                if (!table[rows][columns]) continue;
                // The smallest of all widths that need this number of tiles.
                const std::int64_t count = (wide + columns - 1) / columns;
                if ((wide + count - 1) / count != columns) continue;
                Choice choice;
                choice.dense = dense;
                choice.rows = rows;
                choice.columns = columns;
                if (in_place) {
                    choice.direct = true;
                    consider(choice);
                    choice.direct = false;
                }
                for (int region_columns : {1, static_cast<int>(count)})
                    for (int region_rows : {1, 2, 4, 8, 1 << 20}) {
                        if (region_rows > 1 && (region_rows / 2) * rows >= g.out_height) break;
                        choice.region_columns = region_columns;
                        choice.region_rows =
                            std::min<int>(region_rows, int((g.out_height + rows - 1) / rows));
                        consider(choice);
                    }
            }
        }
        if (g.out_height == 1 || width % lanes == 0) continue;
        for (int region_rows = 1; region_rows < 2 * g.out_height; region_rows *= 2) {
            Choice choice;
            choice.dense = dense;
            choice.spans = true;
            const auto cut = (g.out_height + region_rows - 1) / region_rows;
            choice.region_rows = static_cast<int>((g.out_height + cut - 1) / cut);
            const std::int64_t pitch =
                width + (g.kernel_x - 1) * g.dilation_x / g.stride_x * g.batch;
            const std::int64_t vectors =
                ((choice.region_rows - 1) * pitch + width + lanes - 1) / lanes;
            for (int columns = 1; columns <= max_columns; ++columns) {
                if (!table[1][columns]) continue;
                const std::int64_t count = (vectors + columns - 1) / columns;
                if ((vectors + count - 1) / count != columns) continue;
                choice.columns = columns;
                consider(choice);
            }
        }
    }
    std::stable_sort(found.begin(), found.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    if (found.empty())
        throw std::invalid_argument(
            "a kernel spans too large a part of the input for the memory that is allowed: allow "
            "more by max_bytes");
    std::vector<Choice> result;
    for (std::size_t i = 0; i < std::min(most, found.size()); ++i)
        result.push_back(found[i].second);
    return result;
}

}  // namespace dirprune
