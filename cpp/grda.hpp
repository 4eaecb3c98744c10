// gRDA's step on float32 tensors in one pass, with momentum and weight decay.
#pragma once

#include <cstddef>
#include <vector>

#include "dispatch.hpp"

namespace dirprune {

// One tensor; arrays of `length` floats of any alignment that do not overlap.
struct Row {
    float* w;
    float* v;
    const float* d;  // gradient
    float* m;        // momentum, or null without
    std::size_t length;
};

// d <- d, or -d to maximize;  d += decay w;  m = momentum m + d;  d <- m, or d + momentum m if
// nesterov;  v -= lr d;  w = v - clip(v, -g, g).
struct Rule {
    float lr;
    float g;
    float momentum;
    float decay;
    bool nesterov;
    bool maximize;
};

// Steps every row on up to `threads` threads. The result does not depend on their number.
void grda_step(const std::vector<Row>& rows, const Rule& rule, Isa isa, std::size_t threads);

// One row on this thread; w is stored past the caches if it is to be `streamed`.
using Kernel = void (*)(const Row& row, const Rule& rule, bool streamed);
void grda_portable(const Row& row, const Rule& rule, bool streamed);
void grda_neon(const Row& row, const Rule& rule, bool streamed);
void grda_avx2(const Row& row, const Rule& rule, bool streamed);
void grda_avx512(const Row& row, const Rule& rule, bool streamed);

}  // namespace dirprune
