// The inner loops: one table of functions for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch.hpp"

namespace dirprune {

// Output channels are computed in groups of `height`. An entry of a group holds the position of an
// input, as a distance in floats from the tile's origin, and its weight for each channel of the
// group. With height 1 only nonzero weights are stored; a dense layer has an entry for every input.
template <int height>
struct Entry {
    std::int32_t offset;
    float weight[height];
};

// A part of a tile that does not fill its vectors: where it is stored.
struct Segment {
    std::int32_t lane;   // of its first pixel, in the tile
    std::int32_t count;  // of pixels, at most a vector
    std::int32_t out;    // distance in floats from the tile's origin in the output
    bool whole;          // a whole vector may be written: the excess is overwritten later
};

// Some output channels at a tile of pixels: rows x columns of vectors.
//
//     out = clamp(bias + sum of weight * x[offset + pixel] + residual, low, high)
//
// Large sums are cut into blocks of inputs that fit into the cache. All blocks but the first start
// from the sums in `partial`; all but the last store their sums there.
struct Tile {
    const std::uint32_t* ends;  // ends[i], ends[i + 1]: the entries of group order[i]
    const std::int32_t* order;
    const void* entries;
    std::int32_t first, last;  // of i
    const float* x;
    std::ptrdiff_t x_row;  // between rows of the tile
    const float* bias;     // of group 0
    float* partial;        // of group 0; null if there is only one block
    bool begin, end;
    float* out;  // of channel 0
    std::ptrdiff_t out_channel, out_row;
    std::ptrdiff_t tail;  // floats to the last column: at the end of a row it overlaps the one before
    std::ptrdiff_t residual;  // distance from out to the residual
    bool has_residual;
    float low, high;
    const Segment* segments;    // of a tile that is not full
    std::int32_t num_segments;  // 0: the tile is full
    std::int32_t channels;    // number of channels: the last group may have fewer than height
};

// Copies the part of some input channels that a region of the output reads, with zeros around the
// input. Pixels that are one stride apart become neighbours: one plane for each phase of the strides.
struct Packing {
    const float* x;  // of the first channel
    std::ptrdiff_t x_channel;
    std::int32_t channels, height, width, batch;  // of the input; a pixel is `batch` floats
    float* to;
    std::ptrdiff_t to_channel, to_plane, to_row;
    std::int32_t rows, columns;  // of a plane, columns in pixels
    std::int32_t top, left;      // first input pixel, may be outside of the input
    std::int32_t stride_y, stride_x;
    const std::int32_t *phase_y, *phase_x;
    std::int32_t num_phases_y, num_phases_x;
};

// The inputs of one result of a pooling along one axis.
struct Window {
    std::int32_t start, end, step;
    float count;  // divisor of an average
};
struct Pooling {
    const float* x;  // one plane
    float* y;
    float* row;  // scratch: `padding` floats before it, width x batch + margin from it on
    std::int32_t width, batch;
    const Window *rows, *columns;
    std::int32_t num_rows, num_columns;
    std::int32_t kernel, stride, padding;  // of neighbouring columns, for maxima; or stride 0
    std::int32_t margin;
};

using TileKernel = void (*)(const Tile&);

// A tile of a product of matrices: rows of the input against vectors of outputs.
//
//     out[row][o] = clamp(bias[o] + sum over i of x[row][i] * panel[i][o] + residual, low, high)
//
// Long sums are cut into blocks of i: all but the first start from `out`, all but the last leave
// the sum there.
struct RowTile {
    const float* x;
    std::ptrdiff_t x_row;
    const float* panel;  // one row of vectors for each i
    std::ptrdiff_t panel_row;
    std::int32_t depth;  // number of i
    const float* bias;
    float* out;
    std::ptrdiff_t out_row;
    std::ptrdiff_t residual;  // distance from out to the residual
    bool has_residual;
    bool begin, end;
    std::int32_t last;  // floats of the last vector that are stored
    float low, high;
};
using RowKernel = void (*)(const RowTile&);

// Rows of one channel of a depthwise convolution, in place:
//
//     out[y][x] = clamp(bias + sum over taps of weight * x + residual, low, high)
//
// The kernel has its size and stride in both directions.
struct Depthwise {
    const float* x;              // the input channel
    const float* zeros;          // `width` of them: a row outside of the input
    const float* weight;
    float bias, low, high;
    float* out;                  // the output channel
    std::ptrdiff_t residual;     // distance from out to the residual
    bool has_residual;
    std::ptrdiff_t height, width, out_width;
    std::ptrdiff_t top, left;    // padding
    std::ptrdiff_t first, last;  // rows of the output
};
using DepthwiseKernel = void (*)(const Depthwise&);

enum class Activation : std::uint8_t {
    none,
    relu,
    relu6,
    leaky_relu,
    elu,
    gelu,
    gelu_tanh,
    silu,
    sigmoid,
    tanh,
    hardswish,
    hardsigmoid,
    mish,
    selu,
    exp,
    expm1,
};
inline constexpr Activation last_activation = Activation::expm1;
enum class Binary : std::uint8_t { add, sub, mul, div };

inline constexpr int max_rows = 8, max_columns = 24;
inline constexpr int max_panel = 4;  // vectors in a row of a panel
inline constexpr int max_depthwise = 7, max_depthwise_stride = 2;
inline constexpr int slack = 64;  // floats behind every buffer that vectors may read

struct Kernels {
    int lanes;                                         // floats in a vector
    int max_tile;                                      // vectors in a tile
    int dense_height;                                  // channels in a group of the dense kernels
    int dense_tile;                                    // vectors in a tile of theirs
    TileKernel sparse[max_rows + 1][max_columns + 1];  // by rows and columns; null if there is none
    TileKernel dense[max_rows + 1][max_columns + 1];

    int panel;     // vectors in a row of a panel
    int row_tile;  // rows of the input in a tile
    RowKernel dense_rows[max_rows + 1][max_panel + 1];  // by rows and vectors

    // By size and stride; null if there is none.
    DepthwiseKernel depthwise[max_depthwise + 1][max_depthwise_stride + 1];

    void (*pack)(const Packing&);
    // out[row] = bias[row] + sum of value * x[index] over the row's entries
    void (*sparse_rows)(const std::uint32_t* ends, const std::uint32_t* index, const float* value,
                        const float* bias, std::int64_t first, std::int64_t last, const float* x,
                        float* out);
    float (*dot)(const float* a, const float* b, std::size_t n);
    void (*activate)(Activation activation, float parameter, const float* x, float* y,
                     std::size_t n);
    // rows x n results; a step of 0 repeats an element along a row.
    void (*binary)(Binary op, const float* a, std::ptrdiff_t a_row, int a_step, const float* b,
                   std::ptrdiff_t b_row, int b_step, float* y, std::size_t rows, std::size_t n);
    // y = scale * x + shift + residual (null for none)
    void (*scale_shift)(const float* x, float scale, float shift, const float* residual, float* y,
                        std::size_t n);
    // y = max(a, b); NaN if one of them is NaN, as in torch
    void (*maximum)(const float* a, const float* b, float* y, std::size_t n);
    // y = exp(x - largest), sum += y
    void (*add_exp)(const float* x, const float* largest, float* y, float* sum, std::size_t n);
    // Normalizes n elements, each `batch` floats: 1, or `lanes` images side by side. weight and bias
    // may be null: y = (x - mean) / sqrt(variance + eps) * weight + bias
    void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, float* y,
                       std::size_t n, int batch);
    // y = exp(x - max(x)) / sum of exp(x - max(x))
    void (*softmax_row)(const float* x, float* y, std::size_t n);
    // y = log(1 + exp(beta x)) / beta, or x where beta x > threshold
    void (*softplus)(float beta, float threshold, const float* x, float* y, std::size_t n);
    // to[column][row] = from[row][column], each `batch` floats: 1, or a multiple of `lanes`. A row of
    // `from` begins every from_row elements, a row of `to` every to_row.
    void (*transpose)(const float* from, std::ptrdiff_t from_row, float* to, std::ptrdiff_t to_row,
                      std::size_t rows, std::size_t columns, std::size_t batch);
    // The product of two matrices whose elements are `batch` floats, a multiple of `lanes`:
    // out[i][j] = sum over k of a[i][k] * b[k][j]
    void (*batched_product)(const float* a, const float* b, float* out, std::size_t rows,
                            std::size_t inner, std::size_t columns, std::size_t batch);
    void (*max_pool)(const Pooling&);
    void (*average_pool)(const Pooling&);
};

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx512_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#endif

const Kernels& kernels(Isa isa);

}  // namespace dirprune
