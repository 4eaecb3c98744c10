// Which instruction set the kernels use.
#pragma once

#include <string_view>
#include <vector>

namespace dirprune {

enum class Isa { portable, neon, avx2, avx512 };

std::string_view name(Isa isa);

// What this CPU has, the best last.
const std::vector<Isa>& available();

// The best one, or the one that the environment variable DIRPRUNE_ISA names. Read anew at every
// call, but not while another thread may change the environment: under Python, hold the GIL.
// Throws std::invalid_argument for a name that is unknown or that this CPU does not have.
Isa chosen();

}  // namespace dirprune
