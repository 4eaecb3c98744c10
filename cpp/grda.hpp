// gRDA's step on float32 tensors in one pass, with momentum and weight decay.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
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

// Of rows of more than WHOLE floats the search for changes compares one line of LINE floats in SPARSE
// lines. A line is four pages long, so that the hardware prefetches most of it.
constexpr std::size_t WHOLE = 4096, LINE = 4096, SPARSE = 64;

// The lines first, first + SPARSE, ... of a row.
struct Lines {
    std::size_t first, number;
};

// The sampled lines of a phase. At least one line of a long row is sampled in every phase.
inline Lines sampled(std::size_t length, std::size_t phase) {
    if (length <= WHOLE) return {0, 0};
    const std::size_t lines = length / LINE, first = phase % std::min(SPARSE, lines);
    return {first, (lines - first + SPARSE - 1) / SPARSE};
}

// What a step leaves for the comparison at the next one: digests of the weights that will be compared.
// With them the comparison does not read v. If one core reads v and another one then writes it, its
// lines move between their caches, which takes longer than the rest of the comparison.
struct Sample {
    std::size_t phase = 0;
    bool known = false;  // otherwise w is compared with T(v)
    float g = 0.0f;      // the threshold that has given w
    bool root = false;
    std::vector<std::uint32_t> digests = {};
};

// How to compare w: with T(v) at the threshold of the last step, or with the sample's digests.
struct Comparison {
    float g;
    const Sample& sample;
};

// Steps the rows on up to `threads` threads. The result does not depend on their number. With a
// threshold `g_before` of the last step, rows that were changed since are not stepped; returns their
// indices. Prepares the sample for the next comparison.
std::vector<std::size_t> grda_step(const std::vector<Row>& rows, const Rule& rule, Isa isa,
                                   std::size_t threads, const float* g_before = nullptr,
                                   Sample* sample = nullptr);

// The rows that were changed.
std::vector<std::size_t> grda_changed(const std::vector<Row>& rows, bool root,
                                      const Comparison& comparison, Isa isa, std::size_t threads);

// The passes over one row on this thread.
struct GrdaKernels {
    // w is stored past the caches if it is to be `streamed`.
    void (*step)(const Row& row, const Rule& rule, bool streamed);
    // Whether w differs from T(v) in the lines of a phase.
    bool (*changed)(const Row& row, const Rule& rule, std::size_t phase);
    // Digest of w, or with v of T(v). Those of the parts of a line add up to that of the line; `first`
    // is the place of the row's first float in the line.
    std::uint32_t (*digest)(const Row& row, const Rule& rule, std::size_t first);
};
extern const GrdaKernels grda_portable, grda_neon, grda_avx2, grda_avx512;

}  // namespace dirprune
