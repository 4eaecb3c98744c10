#include "grda_kernel.hpp"

namespace dirprune {

// A product that is rounded before the sum, as torch rounds on CPUs without fused multiply-add.
const GrdaKernels grda_portable = kernels<Single<false>, Single<false>>();

}  // namespace dirprune
