#define DIRPRUNE_PORTABLE
#include "engine/kernels.inl"

namespace dirprune {
constexpr Kernels portable_kernels = make_kernels<12, 4, 2, 6, 2>();
}
