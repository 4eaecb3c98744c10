#include "grda.hpp"

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>

#include "openmp.hpp"

namespace dirprune {

namespace {

// Floats that a thread takes at a time: enough to hide what taking them costs, few enough that the
// threads finish together.
constexpr std::size_t SHARE = std::size_t{1} << 16;

// Weights from which on they are stored past the caches, which spares fetching the lines that they
// overwrite: a fifth of the traffic. Fewer weights are still in the cache when the next forward
// pass reads them. Step and a following read of all weights, Zen 3 with 32 MiB of L3, 2 threads:
// cached 0.78 ms, streamed 0.84 for 1 Mi weights; 1.83 and 1.61 for 2 Mi; 4.42 and 3.29 for 6 Mi;
// for the 25.6 million of ResNet-50 15.1 + 5.5 and 10.6 + 5.8.
constexpr std::size_t STREAMED = std::size_t{1} << 21;

const GrdaKernels& kernels_of(Isa isa) {
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
    return {row.w + start, row.v ? row.v + start : nullptr, row.d ? row.d + start : nullptr,
            row.m ? row.m + start : nullptr, end - start};
}

// Where the digests of each row start; the last entry is the number of all digests.
std::vector<std::size_t> digest_offsets(const std::vector<Row>& rows, std::size_t phase) {
    std::vector<std::size_t> result(1, 0);
    result.reserve(rows.size() + 1);
    for (const Row& row : rows) result.push_back(result.back() + sampled(row.length, phase).number);
    return result;
}

// Collects the digests of a sample while its rows are stepped.
class Digester {
  public:
    Digester(const std::vector<Row>& rows, const Rule& rule, std::size_t phase,
             const GrdaKernels& kernels)
        : rows_(rows), rule_(rule), phase_(phase), kernels_(kernels),
          offsets_(digest_offsets(rows, phase)), digests_(offsets_.back()) {}

    // Adds the part of a row that this thread has just stepped: its v is still in the cache.
    void add(std::size_t i, std::size_t start, std::size_t end) {
        const Lines lines = sampled(rows_[i].length, phase_);
        const std::size_t before = lines.first * LINE, period = SPARSE * LINE;
        std::size_t k = start < before + LINE ? 0 : (start - before - LINE) / period + 1;
        for (; k < lines.number && before + k * period < end; ++k) {
            const std::size_t line = before + k * period, from = std::max(start, line);
            const Row part = cut(rows_[i], from, std::min(end, line + LINE));
            digests_[offsets_[i] + k] += kernels_.digest(part, rule_, from - line);
        }
    }

    std::vector<std::uint32_t> digests() const { return {digests_.begin(), digests_.end()}; }

  private:
    const std::vector<Row>& rows_;
    const Rule& rule_;
    const std::size_t phase_;
    const GrdaKernels& kernels_;
    const std::vector<std::size_t> offsets_;
    std::vector<std::atomic<std::uint32_t>> digests_;
};

// Compares each row once, when a thread first needs to know.
class Comparer {
  public:
    Comparer(const std::vector<Row>& rows, bool root, const Comparison& comparison,
             const GrdaKernels& kernels)
        : rows_(rows), rule_{0.0f, comparison.g, 0.0f, 0.0f, false, false, root},
          sample_(comparison.sample), kernels_(kernels),
          offsets_(digest_offsets(rows, sample_.phase)),
          has_digests_(sample_.known && sample_.g == comparison.g && sample_.root == root &&
                       sample_.digests.size() == offsets_.back()),
          found_(rows.size()) {}

    bool differs(std::size_t i) {
        int known = UNKNOWN;
        if (found_[i].compare_exchange_strong(known, BUSY, std::memory_order_acquire)) {
            known = compare(i) ? CHANGED : SAME;
            found_[i].store(known, std::memory_order_release);
        }
        while (known == BUSY) {  // in another thread, which may share this core
            std::this_thread::yield();
            known = found_[i].load(std::memory_order_acquire);
        }
        return known == CHANGED;
    }

    std::vector<std::size_t> changed() const {
        std::vector<std::size_t> indices;
        for (std::size_t i = 0; i < found_.size(); ++i)
            if (found_[i] == CHANGED) indices.push_back(i);
        return indices;
    }

  private:
    bool compare(std::size_t i) const {
        const Lines lines = sampled(rows_[i].length, sample_.phase);
        if (!has_digests_ || lines.number == 0) return kernels_.changed(rows_[i], rule_, sample_.phase);
        const Row weights{rows_[i].w, nullptr, nullptr, nullptr, rows_[i].length};
        bool any = false;
        for (std::size_t k = 0; k < lines.number; ++k) {
            const std::size_t start = (lines.first + k * SPARSE) * LINE;
            any |= kernels_.digest(cut(weights, start, start + LINE), rule_, 0) !=
                   sample_.digests[offsets_[i] + k];
        }
        return any;
    }

    enum { UNKNOWN, BUSY, SAME, CHANGED };
    const std::vector<Row>& rows_;
    const Rule rule_;
    const Sample& sample_;
    const GrdaKernels& kernels_;
    const std::vector<std::size_t> offsets_;
    const bool has_digests_;
    std::vector<std::atomic<int>> found_;
};

}  // namespace

std::vector<std::size_t> grda_step(const std::vector<Row>& rows, const Rule& rule, Isa isa,
                                   std::size_t threads, const float* g_before, Sample* sample) {
    std::vector<std::size_t> starts;  // of each row, if all were one array
    starts.reserve(rows.size());
    std::size_t total = 0;
    for (const Row& row : rows) {
        starts.push_back(total);
        total += row.length;
    }
    const GrdaKernels& kernels = kernels_of(isa);
    const bool streamed = total >= STREAMED;
    std::optional<Comparer> comparer;
    std::optional<Digester> digester;
    if (sample && g_before)
        comparer.emplace(rows, rule.root, Comparison{*g_before, *sample}, kernels);
    if (sample) digester.emplace(rows, rule, sample->phase + 1, kernels);
    const auto share = [&](std::size_t part, std::size_t) {
        const std::size_t begin = part * SHARE, end = std::min(total, begin + SHARE);
        auto i = static_cast<std::size_t>(
            std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1);
        for (; i < rows.size() && starts[i] < end; ++i) {
            // The next row is compared while other threads step this one: a comparison waits for
            // memory more than it uses it.
            if (comparer && starts[i] >= begin && i + 1 < rows.size()) comparer->differs(i + 1);
            if (comparer && comparer->differs(i)) continue;
            const std::size_t from = std::max(begin, starts[i]) - starts[i];
            const std::size_t to = std::min(end - starts[i], rows[i].length);
            kernels.step(cut(rows[i], from, to), rule, streamed);
            if (digester) digester->add(i, from, to);
        }
    };
    parallel_for((total + SHARE - 1) / SHARE, threads, share, openmp::run);
    std::vector<std::size_t> changed;
    if (comparer) changed = comparer->changed();
    if (sample)
        *sample = {sample->phase + 1, changed.empty(), rule.g, rule.root, digester->digests()};
    return changed;
}

std::vector<std::size_t> grda_changed(const std::vector<Row>& rows, bool root,
                                      const Comparison& comparison, Isa isa, std::size_t threads) {
    Comparer comparer(rows, root, comparison, kernels_of(isa));
    const auto share = [&](std::size_t i, std::size_t) { comparer.differs(i); };
    parallel_for(rows.size(), threads, share, openmp::run);
    return comparer.changed();
}

}  // namespace dirprune
