#include "engine/kernels.inl"

namespace dirprune {
constexpr Kernels avx512_kernels = make_kernels<24, 6, 4, 8, 3>();
}
