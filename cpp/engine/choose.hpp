// Which choices a convolution has, the one that should be fastest first.
#pragma once

#include <vector>

#include "engine/conv.hpp"

namespace dirprune {

// Cycles that one thread should take, by a rough model of the machine. density: the share of the
// weights that are not zero.
double estimate(const Kernels& kernels, const Geometry& geometry, double density,
                const Choice& choice);

// At most `most` choices, by estimate(): the same ones on every machine with these kernels.
std::vector<Choice> choices(const Kernels& kernels, const Geometry& geometry, double density,
                            std::size_t most);

}  // namespace dirprune
