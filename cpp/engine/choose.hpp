// Which choices a convolution has, the one that should be fastest first.
#pragma once

#include <vector>

#include "engine/conv.hpp"

namespace dirprune {

// Estimated cycles of one thread, by a rough model of the machine. density: share of nonzero weights.
double estimate(const Kernels& kernels, const Geometry& geometry, double density,
                const Choice& choice);

// At most `most` choices, by estimate(): the same ones on every machine with these kernels. None of
// them packs more than `most_packed` floats. Throws std::invalid_argument if all of them would.
std::vector<Choice> choices(const Kernels& kernels, const Geometry& geometry, double density,
                            std::size_t most, std::int64_t most_packed);

}  // namespace dirprune
