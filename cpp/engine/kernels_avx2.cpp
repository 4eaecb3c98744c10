#include "engine/kernels.inl"

namespace dirprune {
constexpr Kernels avx2_kernels = make_kernels<14, 6, 2, 6, 2>();
}
