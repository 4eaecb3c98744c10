// How each layer is computed: by default, by timing, or as tuned before.
#include <algorithm>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "engine/arena.hpp"
#include "engine/choose.hpp"
#include "engine/program.hpp"

namespace dirprune {
namespace {

constexpr std::size_t most_choices = 10;  // timed for each layer
constexpr std::size_t most_repeated = 3;  // timed for a layer that is similar to an earlier one
constexpr double similar_density = 1.5;   // ratio of the densities of similar layers

}  // namespace

// The remaining time for tuning, the work of the layers that it is for, and what was found so far.
struct Program::Tuning {
    struct Fastest {  // choices of a layer, in order
        Geometry geometry;
        double density;
        std::vector<Choice> choices;
    };

    double seconds, work;
    std::vector<Fastest> found{};
    bool timed = seconds > 0;

    // Of a layer with this geometry and nearly this density, or null.
    const Fastest* similar(const Geometry& geometry, double density) const {
        for (const Fastest& one : found)
            if (one.geometry == geometry && one.density < similar_density * density &&
                density < similar_density * one.density)
                return &one;
        return nullptr;
    }
};

// Makes the plans while the first images are computed, and times them if there are seconds for it.
std::shared_ptr<const Program::Plans> Program::make_plans(const Mode& mode, const float* x,
                                                          std::int64_t images, double seconds) {
    const auto find = [&]() -> std::shared_ptr<const Plans> {
        const std::lock_guard lock(mutex_);
        const auto found = plans_.find(mode);
        return found == plans_.end() ? nullptr : found->second;
    };
    if (auto plans = find()) return plans;
    const std::lock_guard one(*making_);
    if (auto plans = find()) return plans;
    const int threads = std::max(mode.threads, 1);
    auto made = std::make_shared<Plans>();
    made->plans.resize(graph_.nodes.size());
    made->seconds.resize(graph_.nodes.size());
    Tuning tuning{seconds, 0};
    for (const auto& layer : layers_)
        if (layer) tuning.work += work(*layer);
    auto arena = borrow(mode.batch);
    arena->first = 0;
    arena->total = images;
    load(x, images, *arena, threads);
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
        if (layers_[i] && !is_rows(*layers_[i], mode.batch)) {
            tune_layer(i, mode, *arena, *made, tuning);
        } else {
            const Stopwatch watch;
            run_node(i, *arena, *made, threads);
            made->seconds[i] = tuning.timed ? watch.seconds() : -1;
        }
    }
    const std::lock_guard lock(mutex_);
    return plans_.emplace(mode, made).first->second;
}

void Program::tune_layer(std::size_t number, const Mode& mode, Arena& arena, Plans& plans,
                         Tuning& tuning) const {
    const int threads = std::max(mode.threads, 1);
    const Layer& layer = *layers_[number];
    const Stopwatch watch;
    const double share = tuning.seconds * work(layer) / tuning.work;
    std::vector<Choice> tried = choices_of(number, mode, tuning.timed ? most_choices : 1);
    const Tuning::Fastest* const similar = tuning.similar(layer.geometry, layer.density);
    if (similar) {
        std::vector<Choice> fewer;
        std::copy_if(similar->choices.begin(), similar->choices.end(), std::back_inserter(fewer),
                     [&](const Choice& choice) {
                         return std::find(tried.begin(), tried.end(), choice) != tried.end();
                     });
        if (!fewer.empty()) tried = std::move(fewer);
    }
    std::vector<std::pair<double, Choice>> times;
    double best = std::numeric_limits<double>::infinity();
    for (const Choice& choice : tried) {
        const auto candidate = make_plan(number, arena.batch, choice);
        times.emplace_back(std::numeric_limits<double>::infinity(), choice);
        for (int trial = 0; trial < 3; ++trial) {
            const Stopwatch one;
            run_plan(number, *candidate, arena, threads);
            const double seconds = one.seconds();
            times.back().first = std::min(times.back().first, seconds);
            if (seconds < best) {
                best = seconds;
                plans.plans[number] = candidate;
                plans.seconds[number] = tuning.timed ? seconds : -1;
            }
            // the first trial also fills the caches
            if (seconds > (trial > 0 ? 1.5 : 3) * best) break;
            if (watch.seconds() > share) break;
        }
        if (watch.seconds() > share) break;
    }
    if (tuning.timed && !similar && times.size() >= most_repeated) {
        std::stable_sort(times.begin(), times.end(),
                         [](const auto& a, const auto& b) { return a.first < b.first; });
        Tuning::Fastest fastest{layer.geometry, layer.density, {}};
        for (std::size_t i = 0; i < most_repeated; ++i)
            fastest.choices.push_back(times[i].second);
        tuning.found.push_back(std::move(fastest));
    }
    tuning.seconds = std::max(0.0, tuning.seconds - watch.seconds());
    tuning.work -= work(layer);
}

std::vector<Choice> Program::choices_of(std::size_t number, const Mode& mode,
                                        std::size_t most) const {
    Geometry geometry = layers_[number]->geometry;
    geometry.batch = mode.batch;
    // Every thread has a packed copy of a part of the input; they may take half of the memory.
    const std::int64_t packed =
        free_bytes_ / 2 / static_cast<std::int64_t>(sizeof(float)) / std::max(mode.threads, 1);
    return choices(kernels_, geometry, layers_[number]->density, most, packed);
}

std::shared_ptr<const ConvPlan> Program::make_plan(std::size_t number, int batch,
                                                   const Choice& choice) const {
    const Layer& layer = *layers_[number];
    Geometry geometry = layer.geometry;
    geometry.batch = batch;
    Epilogue epilogue = layer.epilogue;
    // The activation and the residual follow when the result is transposed back.
    if (layer.transposed && !choice.by_rows && graph_.nodes[number].inputs.size() == 2)
        epilogue = {};
    return std::make_shared<const ConvPlan>(kernels_, geometry, *layer.nonzeros,
                                            layer.bias.data(), epilogue, choice);
}

std::vector<Tuned> Program::tuned() {
    const std::lock_guard lock(mutex_);
    std::vector<Tuned> result;
    for (const auto& [mode, plans] : plans_) {
        if (mode.threads == 0) continue;
        Tuned tuned{mode.batch, mode.threads, {}, plans->seconds};
        for (const auto& plan : plans->plans)
            tuned.choices.push_back(plan ? plan->choice().numbers() : std::vector<int>{});
        result.push_back(std::move(tuned));
    }
    return result;
}

std::size_t Program::modes() {
    const std::lock_guard lock(mutex_);
    return static_cast<std::size_t>(
        std::count_if(plans_.begin(), plans_.end(), [](const auto& p) { return p.first.threads; }));
}

void Program::choose(const Tuned& tuned) {
    const std::size_t nodes = graph_.nodes.size();
    const auto check = [](bool holds) {
        if (!holds) throw std::invalid_argument("these choices belong to another network");
    };
    check(tuned.batch == 1 || tuned.batch == kernels_.lanes);
    check(tuned.threads >= 1 && tuned.threads <= max_threads);
    check(tuned.choices.size() == nodes && tuned.seconds.size() == nodes);
    auto made = std::make_shared<Plans>();
    made->plans.resize(nodes);
    made->seconds = tuned.seconds;
    for (std::size_t i = 0; i < nodes; ++i) {
        check(tuned.seconds[i] >= 0 && tuned.seconds[i] < 1e9);
        if (!layers_[i] || is_rows(*layers_[i], tuned.batch)) {
            check(tuned.choices[i].empty());
            continue;
        }
        const auto all = choices_of(i, {tuned.batch, tuned.threads}, std::numeric_limits<std::size_t>::max());
        const auto found = std::find_if(all.begin(), all.end(), [&](const Choice& choice) {
            return choice.numbers() == tuned.choices[i];
        });
        check(found != all.end());
        made->plans[i] = make_plan(i, tuned.batch, *found);
    }
    const std::lock_guard lock(mutex_);
    plans_.emplace(Mode{tuned.batch, tuned.threads}, made);
}

}  // namespace dirprune
