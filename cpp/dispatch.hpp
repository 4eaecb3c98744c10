// Which instruction set the kernels use.
#pragma once

#include <string_view>
#include <vector>

namespace dirprune {

enum class Isa { portable, neon, avx2, avx512 };

std::string_view name(Isa isa);

// The instruction sets of this CPU that there are kernels for, the best last.
const std::vector<Isa>& available();

// The best one, or the one that the environment variable DIRPRUNE_ISA names. The variable is read at
// every call; no other thread may change the environment meanwhile (under Python, hold the GIL).
// Throws std::invalid_argument for a name that is unknown or that this CPU does not have.
Isa chosen();

}  // namespace dirprune
