// Every operator but convolution and linear, on one image or on several side by side.
//
// A value with shape (-1, d1, ..., dk) is stored as (d1, ..., dk, batch): the images of a batch
// lie in neighbouring floats, as one dimension more at the end.
#pragma once

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
    std::int64_t batch;
    int threads;
};

// Throws std::logic_error for conv2d, linear and what needs no computation.
void compute(const Call& call);

// to[column][row] = from[row][column], each an array of `batch` floats.
void transpose(const float* from, float* to, std::int64_t rows, std::int64_t columns,
               std::int64_t batch, int threads);

// to[i * step] = from[i]: one image beside others.
void place(const float* from, float* to, std::int64_t size, std::int64_t step, int threads);

}  // namespace dirprune
