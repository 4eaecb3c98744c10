#include "grda.hpp"

#include <algorithm>
#include <cstdlib>

#include "pool.hpp"

namespace dirprune {

namespace {

// Floats that a thread takes at a time: enough to hide what taking them costs, few enough that the
// threads finish together.
constexpr std::size_t SHARE = std::size_t{1} << 16;

Kernel kernel_of(Isa isa) {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx2: return grda_avx2;
        case Isa::avx512: return grda_avx512;
#elif defined(__aarch64__)
        case Isa::neon: return grda_neon;
#endif
        default: return grda_portable;
    }
}

Row cut(const Row& row, std::size_t start, std::size_t end) {
    return {row.w + start, row.v + start, row.d + start, row.m ? row.m + start : nullptr,
            end - start};
}

}  // namespace

void grda_step(const std::vector<Row>& rows, const Rule& rule, Isa isa, std::size_t threads) {
    std::vector<std::size_t> starts;  // of each row, if all were one array
    starts.reserve(rows.size());
    std::size_t total = 0;
    for (const Row& row : rows) {
        starts.push_back(total);
        total += row.length;
    }
    const Kernel kernel = kernel_of(isa);
    const char* s = std::getenv("STREAM");
    const bool streamed = s && *s == '1';
    parallel_for((total + SHARE - 1) / SHARE, threads, [&](std::size_t part, std::size_t) {
        const std::size_t begin = part * SHARE, end = std::min(total, begin + SHARE);
        auto i = static_cast<std::size_t>(
            std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1);
        for (; i < rows.size() && starts[i] < end; ++i)
            kernel(cut(rows[i], std::max(begin, starts[i]) - starts[i],
                       std::min(end - starts[i], rows[i].length)),
                   rule, streamed);
    });
}

}  // namespace dirprune
