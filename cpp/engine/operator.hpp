// What the engine knows of one operator: one entry, as deploy/graph/operators has one record.
//
// A value with shape (-1, d1, ..., dk) is stored as (d1, ..., dk, batch): the images of a batch
// lie in neighbouring floats, as one dimension more at the end.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "engine/graph.hpp"
#include "engine/kernels.hpp"

namespace dirprune {

struct Operand {
    const float* data = nullptr;
    Shape shape;            // without the batch
    bool constant = false;  // the same for every image: no dimension at the end
};

struct Call {
    const Kernels& kernels;
    const Graph& graph;
    const Node& node;
    std::vector<Operand> inputs;
    float* out;
    Shape shape;  // of the result, without the batch
    std::int64_t batch;  // images side by side
    int threads;
    std::int64_t first, total;  // the first image's place in the batch of the call, and its size
};

enum class Kind : std::uint8_t { integer, flag, real, pair, four, integers };

struct AttributeRule {
    Key key;
    Kind kind;
    bool optional = false;
};

struct Operator {
    std::size_t least = 1, most = 1;  // inputs
    std::vector<Role> roles = {}, optional_roles = {};
    std::vector<AttributeRule> attributes = {};
    // Throws std::invalid_argument for what does not fit each other.
    Shape (*shape)(const Graph&, const Node&) = nullptr;
    // Null for layers, which the program computes, and for what needs no computation.
    void (*run)(const Call&) = nullptr;
    bool epilogue = false;         // may add a residual and apply an activation
    bool reads_constants = false;  // an input may be a constant
};

using OperatorTable = std::array<Operator, num_ops>;

// By code. Each family adds its own (operators/).
const Operator& entry(Op op);

// to[column][row] = from[row][column], each an array of `batch` floats.
void transpose(const Kernels& kernels, const float* from, float* to, std::int64_t rows,
               std::int64_t columns, std::int64_t batch, int threads);

// to[i * step] = from[i]: one image beside others.
void place(const float* from, float* to, std::int64_t size, std::int64_t step, int threads);

}  // namespace dirprune
