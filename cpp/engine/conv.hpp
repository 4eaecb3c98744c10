// Convolution and linear layers: the tiles, their order, and the copy of the input that they read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/kernels.hpp"

namespace dirprune {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// A convolution. A pixel is `batch` floats: that many images side by side.
struct Geometry {
    std::int64_t channels = 1, height = 1, width = 1;         // of the input
    std::int64_t outputs = 1, out_height = 1, out_width = 1;  // of the result
    std::int64_t kernel_y = 1, kernel_x = 1, stride_y = 1, stride_x = 1;
    std::int64_t top = 0, left = 0, dilation_y = 1, dilation_x = 1, groups = 1, batch = 1;

    // A linear layer over rows: input and result are pixels x channels.
    bool channels_last = false;

    std::int64_t taps() const { return kernel_y * kernel_x; }
    std::int64_t x_size() const { return channels * height * width * batch; }
    std::int64_t out_size() const { return outputs * out_height * out_width * batch; }
    // Whether only the position in the plane matters, not the row and column.
    bool is_pointwise() const;
    // The same convolution with every plane as one row. It must be pointwise.
    Geometry flat() const;
    bool operator==(const Geometry&) const = default;
};

// The nonzero weights, row by row. The index combines input channel and tap.
struct Nonzeros {
    std::vector<std::uint32_t> ends, index;
    std::vector<float> value;

    Nonzeros(const float* weight, std::int64_t outputs, std::int64_t row);
    bool operator==(const Nonzeros&) const = default;
};

struct Epilogue {
    Activation activation = Activation::none;
    float parameter = 0;
};

// How one convolution is computed. Tile sizes are in vectors, region sizes in tiles.
struct Choice {
    bool dense = false;   // several output channels share every input
    bool spans = false;   // tiles continue over the ends of padded rows
    bool direct = false;  // reads the input in place
    int rows = 1, columns = 1;
    int region_rows = 1, region_columns = 1;
    int block = 1;  // input channels that are packed together (whole groups if several fit)
    bool by_rows = false;  // reads and writes pixels x channels: a dense linear layer
    bool depthwise = false;  // one input channel for each output, all taps, in place

    std::string name() const;
    std::vector<int> numbers() const;
    bool operator==(const Choice&) const = default;
};

// A choice, prepared for given weights. Immutable: many threads may run one plan.
class ConvPlan {
  public:
    ConvPlan(const Kernels& kernels, const Geometry& geometry, const Nonzeros& nonzeros,
             const float* bias, Epilogue epilogue, const Choice& choice);

    // Computes one image, or `batch` images side by side. Behind x and residual (null for none)
    // `slack` floats must be readable. `scratch` has scratch_size() floats for each thread.
    void run(const float* x, const float* residual, float* out, int threads,
             const std::vector<float*>& scratch) const;

    std::size_t scratch_size() const { return packed_size_ + partial_size_; }
    const Choice& choice() const { return choice_; }

  private:
    struct Block {
        std::int32_t first_channel, channels;  // of the input
        std::int32_t first_group, groups;      // of output channels
        bool begin, end;
        std::vector<std::int32_t> order;  // of groups, from first_group on
        std::vector<std::uint32_t> ends;
        std::vector<std::uint32_t> entries;  // Entry<height> as words
    };
    struct TileAt {
        std::int32_t rows, columns;  // of its kernel
        std::int32_t row, lane;      // in the region
        std::int32_t tail;           // lane of the last column, relative to `lane`
        std::int32_t out;            // origin of the tile, or of its segments, in the output
        std::vector<Segment> segments;
    };
    struct Region {
        std::int32_t row, column, rows, columns;  // in the output, columns in pixels
        std::int32_t tiles;                       // index into tilings_
    };

    bool is_clamp() const {
        return epilogue_.activation == Activation::none ||
               epilogue_.activation == Activation::relu ||
               epilogue_.activation == Activation::relu6;
    }
    void lay_out();
    void make_regions();
    std::int32_t tiling(std::int32_t rows, std::int32_t columns);
    void make_blocks(const Nonzeros& nonzeros);
    template <int height>
    void fill(Block& block, const Nonzeros& nonzeros) const;
    void compute(const Region& region, std::int32_t first, std::int32_t last, bool copies,
                 const float* x, const float* residual, float* out, float* scratch) const;
    // conv_rows.cpp: dense linear layers over rows
    void make_panels(const Nonzeros& nonzeros, const float* bias);
    void run_rows(const float* x, const float* residual, float* out, int threads) const;
    // conv_depthwise.cpp: one input channel for each output
    void make_taps(const Nonzeros& nonzeros, const float* bias);
    void run_depthwise(const float* x, const float* residual, float* out, int threads) const;
    void activate(const Region& region, std::int32_t first, std::int32_t last, float* out) const;

    const Kernels& kernels_;
    Geometry g_;
    Choice choice_;
    Epilogue epilogue_;
    float low_, high_;
    int height_ = 1;           // output channels in a group
    std::int32_t groups_ = 0;  // of output channels
    std::int32_t share_ = 0;   // groups that one thread gets at least
    std::vector<float> bias_;
    std::vector<std::int32_t> phases_y_, phases_x_;
    std::int32_t plane_rows_ = 1, plane_columns_ = 1;
    std::int64_t row_pitch_ = 0, plane_pitch_ = 0, channel_pitch_ = 0;
    std::vector<Region> regions_;
    std::vector<std::vector<TileAt>> tilings_;
    std::vector<std::pair<std::int32_t, std::int32_t>> tiling_sizes_;
    std::vector<Block> blocks_;
    std::vector<float> panels_;  // by blocks of inputs, then by vectors of outputs
    std::vector<float> taps_, zeros_;  // of a depthwise layer
    std::size_t packed_size_ = 0, partial_size_ = 0, most_tiles_ = 1;
};

}  // namespace dirprune
