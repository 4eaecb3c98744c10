// Denormal numbers (magnitude below 2^-126) are treated as zero while the engine computes.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dirprune {

// Sets the mode for the calling thread and restores the caller's mode at the end of the scope.
// Workers take over the mode of the thread that they work for (pool.hpp). Arithmetic on denormal
// numbers can be ten times slower, and a network's result does not depend on them.
class FlushDenormals {
  public:
#if defined(__x86_64__)
    FlushDenormals() : before_(_mm_getcsr()) {
        constexpr unsigned flush_to_zero = 1u << 15, denormals_are_zero = 1u << 6;
        _mm_setcsr(before_ | flush_to_zero | denormals_are_zero);
    }
    ~FlushDenormals() { _mm_setcsr(before_); }
#elif defined(__aarch64__)
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        constexpr std::uint64_t flush_to_zero = 1u << 24;
        asm volatile("msr fpcr, %0" : : "r"(before_ | flush_to_zero));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }
#endif
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

  private:
#if defined(__x86_64__)
    unsigned before_;
#else
    std::uint64_t before_ = 0;
#endif
};

}  // namespace dirprune
