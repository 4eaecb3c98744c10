#include "engine/kernels.hpp"

#include "dispatch.hpp"

namespace dirprune {

const Kernels& kernels(Isa isa) {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx2: return avx2_kernels;
        case Isa::avx512: return avx512_kernels;
#elif defined(__aarch64__)
        case Isa::neon: return neon_kernels;
#endif
        default: return portable_kernels;
    }
}

}  // namespace dirprune
