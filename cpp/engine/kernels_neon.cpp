#include "engine/kernels.inl"

namespace dirprune {
constexpr Kernels neon_kernels = make_kernels<24, 6, 4, 6, 4>();
}
