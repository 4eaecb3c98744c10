#include "dispatch.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace dirprune {

std::string_view name(Isa isa) {
    switch (isa) {
        case Isa::neon: return "neon";
        case Isa::avx2: return "avx2";
        case Isa::avx512: return "avx512";
        default: return "portable";
    }
}

static std::vector<Isa> detect() {
    std::vector<Isa> found{Isa::portable};
#if defined(__x86_64__)
    __builtin_cpu_init();  // also asks whether the operating system saves the registers
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found.push_back(Isa::avx2);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
            found.push_back(Isa::avx512);
    }
#elif defined(__aarch64__)
    found.push_back(Isa::neon);
#endif
    return found;
}

const std::vector<Isa>& available() {
    static const std::vector<Isa> found = detect();
    return found;
}

Isa chosen() {
    const char* wanted = std::getenv("DIRPRUNE_ISA");
    if (wanted == nullptr || *wanted == '\0') return available().back();
    std::string known;
    for (Isa isa : available()) {
        if (name(isa) == wanted) return isa;
        known += (known.empty() ? "" : ", ") + std::string(name(isa));
    }
    throw std::invalid_argument("DIRPRUNE_ISA is '" + std::string(wanted) +
                                "', this CPU has: " + known + "; unset it for the best of them");
}

}  // namespace dirprune
