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
    const float* d;  // gradient, or null where only w = T(v) is wanted
    float* m;        // momentum, or null without
    std::size_t length;
};

// d <- d, or -d to maximize;  d += decay w;  m = momentum m + d;  d <- m, or d + momentum m if
// nesterov;  v -= lr d;  w = T(v): v - clip(v, -g, g), or with `root` sign(v) [v^2 - g^2]_+^(1/2).
struct Rule {
    float lr;
    float g;
    float momentum;
    float decay;
    bool nesterov;
    bool maximize;
    bool root;
};

// The search for changes compares rows of up to WHOLE floats in full, of longer rows one line of LINE
// floats in SPARSE lines. A line is four pages long, so that the hardware prefetches most of it.
constexpr std::size_t WHOLE = 4096, LINE = 4096, SPARSE = 64;

// How to compare w with T(v): with the threshold of the last step; of long rows, the lines of a phase.
struct Comparison {
    float g;
    std::size_t phase;
};

// Steps the rows on up to `threads` threads. The result does not depend on their number. With a
// comparison, rows whose w differs from T(v) are not stepped; returns their indices.
std::vector<std::size_t> grda_step(const std::vector<Row>& rows, const Rule& rule, Isa isa,
                                   std::size_t threads, const Comparison* comparison = nullptr);

// The rows whose w differs from T(v).
std::vector<std::size_t> grda_changed(const std::vector<Row>& rows, bool root,
                                      const Comparison& comparison, Isa isa, std::size_t threads);

// One row on this thread; w is stored past the caches if it is to be `streamed`.
using Kernel = void (*)(const Row& row, const Rule& rule, bool streamed);
void grda_portable(const Row& row, const Rule& rule, bool streamed);
void grda_neon(const Row& row, const Rule& rule, bool streamed);
void grda_avx2(const Row& row, const Rule& rule, bool streamed);
void grda_avx512(const Row& row, const Rule& rule, bool streamed);

using Search = bool (*)(const Row& row, const Rule& rule, std::size_t phase);
bool changed_portable(const Row& row, const Rule& rule, std::size_t phase);
bool changed_neon(const Row& row, const Rule& rule, std::size_t phase);
bool changed_avx2(const Row& row, const Rule& rule, std::size_t phase);
bool changed_avx512(const Row& row, const Rule& rule, std::size_t phase);

}  // namespace dirprune
