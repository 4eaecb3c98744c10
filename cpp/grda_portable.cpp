#include "grda_kernel.hpp"

namespace dirprune {

// A product that is rounded before the sum, as torch rounds on CPUs without fused multiply-add.
void grda_portable(const Row& row, const Rule& rule, bool streamed) {
    run<Single<false>, Single<false>>(row, rule, streamed);
}

bool changed_portable(const Row& row, const Rule& rule, std::size_t phase) {
    return search<Single<false>, Single<false>>(row, rule, phase);
}

}  // namespace dirprune
