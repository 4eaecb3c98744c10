// How the images of a batch are distributed over the threads.
#include <algorithm>
#include <limits>
#include <set>

#include "engine/arena.hpp"
#include "engine/denormals.hpp"
#include "engine/operator.hpp"
#include "engine/program.hpp"
#include "pool.hpp"

namespace dirprune {
namespace {

constexpr double tuning_seconds = 0.6;  // of the first call, for each number of images and threads

}  // namespace

// Splits work items over threads. As long as there is one item for every thread, each item is
// computed by one thread: threads do not wait for each other, and what a thread wrote is in its
// own cache when it reads it. Items that do not divide evenly are each computed by several threads.
// Where memory is short, all items are computed one after the other, each by all threads.
struct Program::WorkSplit {
    std::int64_t alone, shared;  // items computed by one thread, and by several
    int threads, team;           // team: threads that compute a shared item
    bool one_by_one;

    WorkSplit(std::int64_t items, int threads, bool one_by_one)
        : alone(one_by_one ? 0 : items / threads * threads),
          shared(items - alone),
          threads(threads),
          team(shared ? (one_by_one ? threads : threads / static_cast<int>(shared)) : 0),
          one_by_one(one_by_one) {}

    // How many threads most items have, and how many items are computed at the same time.
    int usual() const { return alone ? 1 : team; }
    int concurrent() const { return alone ? threads : one_by_one ? 1 : static_cast<int>(shared); }

    std::set<int> team_sizes() const {
        std::set<int> result;
        if (alone) result.insert(1);
        if (shared) result.insert(team);
        return result;
    }

    // Calls body(item, threads) for every item.
    template <class F>
    void each(const F& body) const {
        const auto most_threads = static_cast<std::size_t>(threads);
        parallel_for(static_cast<std::size_t>(alone), most_threads, [&](std::size_t item, std::size_t) {
            body(static_cast<std::int64_t>(item), 1);
        });
        parallel_for(static_cast<std::size_t>(shared), one_by_one ? 1 : most_threads,
                     [&](std::size_t item, std::size_t) {
                         body(alone + static_cast<std::int64_t>(item), team);
                     });
    }
};

// One batch in computation, with the plans for each number of threads that a part of it gets.
struct Program::BatchRun {
    BatchRun(Program& program, const float* x, std::int64_t batch, float* out, int threads,
             bool tune);

    const Plans& plans(std::int64_t images, int team) const {
        return *found.at({static_cast<int>(images), tune ? team : 0});
    }
    WorkSplit split(std::int64_t items, int team) const { return {items, team, one_by_one}; }
    void add(std::size_t node, double seconds, int team);

    const float* x;
    std::int64_t batch;
    float* out;
    int threads;
    bool tune;
    bool one_by_one;  // memory does not suffice for an image in each thread
    std::int64_t lanes, blocks;
    std::map<Mode, std::shared_ptr<const Plans>> found;
    std::vector<double>* seconds = nullptr;  // by node, if they are wanted
    std::mutex mutex{};

    std::int64_t images(std::int64_t block) const { return std::min(lanes, batch - block * lanes); }
    std::int64_t singles() const { return std::max<std::int64_t>(batch - blocks * lanes, 0); }
};

Program::BatchRun::BatchRun(Program& program, const float* x, std::int64_t batch, float* out,
                            int threads, bool tune)
    : x(x),
      batch(batch),
      out(out),
      threads(std::clamp(threads, 1, max_threads)),
      tune(tune),
      one_by_one(this->threads > program.most_images_),
      lanes(program.kernels_.lanes),
      blocks(batch / lanes) {
    // A block that is nearly full costs less than its images one by one.
    if (4 * (batch % lanes) >= 3 * lanes) ++blocks;
    // A thread holds a block, and an image of it before the images are placed side by side.
    if (this->threads * (lanes + 1) > program.most_images_) blocks = 0;
    std::set<Mode> modes;
    const auto need = [&](std::int64_t items, int team, int size) {
        for (int each : split(items, team).team_sizes()) modes.insert({size, tune ? each : 0});
    };
    need(blocks, this->threads, static_cast<int>(lanes));
    for (int team : split(blocks, this->threads).team_sizes())
        for (std::int64_t items : {images(0), images(blocks - 1)}) need(items, team, 1);
    need(singles(), this->threads, 1);
    for (const Mode& mode : modes)
        found[mode] = program.make_plans(mode, x, std::min<std::int64_t>(mode.batch, batch),
                                         tune ? tuning_seconds : 0);
}

// Adds what a team took, as a share of the time of all threads.
void Program::BatchRun::add(std::size_t node, double took, int team) {
    const std::lock_guard lock(mutex);
    (*seconds)[node] += took * team / threads;
}

std::shared_ptr<Program::Arena> Program::borrow(std::int64_t batch) {
    const auto give_back = [this](Arena* arena) {
        const std::lock_guard lock(mutex_);
        arenas_.emplace_back(arena);
    };
    {
        const std::lock_guard lock(mutex_);
        const auto found = std::find_if(arenas_.begin(), arenas_.end(),
                                        [&](const auto& arena) { return arena->batch == batch; });
        if (found != arenas_.end()) {
            std::swap(*found, arenas_.back());
            Arena* const arena = arenas_.back().release();
            arenas_.pop_back();
            return {arena, give_back};
        }
    }
    auto arena = std::make_unique<Arena>();
    arena->batch = static_cast<int>(batch);
    arena->values.ensure(arena_size_ * batch);
    arena->transposed.ensure(transposed_size_ * batch);
    return {arena.release(), give_back};
}

void Program::run(const float* x, std::int64_t batch, float* out, int threads, bool tune) {
    if (batch == 0) return;
    const FlushDenormals flush;
    BatchRun run(*this, x, batch, out, threads, tune);
    run_all(run);
}

void Program::run_all(BatchRun& run) {
    run.split(run.blocks, run.threads).each([&](std::int64_t block, int team) {
        run_block(run, block * run.lanes, run.images(block), team);
    });
    run_singles(run, run.blocks * run.lanes, run.singles(), run.threads);
}

// Computes a block of images: one by one up to some node, side by side from there on.
void Program::run_block(BatchRun& run, std::int64_t first, std::int64_t images, int team) {
    const std::size_t nodes = graph_.nodes.size(), from = first_batched_node(run, images, team);
    if (from == nodes) return run_singles(run, first, images, team);
    const auto wide = borrow(run.lanes);
    wide->first = first;
    wide->total = run.batch;
    if (from == 0) {
        load(run.x + first * size(0), images, *wide, team);
    } else {
        std::mutex placing;  // two threads that write neighbouring floats are slower than one
        run.split(images, team).each([&](std::int64_t image, int each) {
            const auto arena = borrow(1);
            arena->first = first + image;
            arena->total = run.batch;
            load(run.x + (first + image) * size(0), 1, *arena, each);
            run_nodes(0, from, *arena, run, each);
            const std::lock_guard lock(placing);
            for (std::size_t value = 0; value <= from; ++value)
                if (storage_[value] == value && last_[value] > from &&
                    !is_constant(static_cast<std::uint32_t>(value)))
                    place(arena->values.get() + offsets_[value],
                          wide->values.get() + offsets_[value] * run.lanes + image,
                          size(static_cast<std::uint32_t>(value)), run.lanes, each);
        });
    }
    run_nodes(from, nodes, *wide, run, team);
    store(*wide, images, run.out + first * size(graph_.output));
}

void Program::run_singles(BatchRun& run, std::int64_t first, std::int64_t images, int team) {
    run.split(images, team).each([&](std::int64_t image, int each) {
        const auto arena = borrow(1);
        arena->first = first + image;
        arena->total = run.batch;
        load(run.x + (first + image) * size(0), 1, *arena, each);
        run_nodes(0, graph_.nodes.size(), *arena, run, each);
        store(*arena, 1, run.out + (first + image) * size(graph_.output));
    });
}

// The node from which on the images of a block are computed side by side.
std::size_t Program::first_batched_node(const BatchRun& run, std::int64_t images, int team) const {
    const WorkSplit singles = run.split(images, team);
    const Plans& single = run.plans(1, singles.usual());
    const Plans& block = run.plans(run.lanes, team);
    const std::size_t nodes = graph_.nodes.size();
    std::size_t result = 0;
    if (!run.tune) {
        // The node from which on everything that a node reads and writes fits into the caches.
        constexpr std::int64_t cache = 1 << 20;  // floats
        for (std::size_t i = 0; i < nodes; ++i) {
            std::int64_t floats = size(static_cast<std::uint32_t>(i + 1));
            for (std::uint32_t input : graph_.nodes[i].inputs) floats += size(input);
            if (floats * run.lanes > cache) result = i + 1;
        }
        return result;
    }
    // Minimizes the time of the nodes before, one by one, plus that of the others, side by side.
    const double rounds = double(images) / singles.concurrent();
    double time = 0;
    for (double seconds : block.seconds) time += seconds;
    double best = time;
    for (std::size_t i = 0; i < nodes; ++i) {
        time += rounds * single.seconds[i] - block.seconds[i];
        if (time < best) {
            best = time;
            result = i + 1;
        }
    }
    return result;
}

void Program::load(const float* x, std::int64_t images, Arena& arena, int threads) const {
    float* const input = arena.values.get() + offsets_[0] * arena.batch;
    for (std::int64_t image = 0; image < images; ++image)
        place(x + image * size(0), input + image, size(0), arena.batch, threads);
}

void Program::store(const Arena& arena, std::int64_t images, float* out) const {
    const float* const result = data(graph_.output, arena);
    const std::int64_t count = size(graph_.output);
    for (std::int64_t image = 0; image < images; ++image)
        for (std::int64_t i = 0; i < count; ++i)
            out[image * count + i] = result[i * arena.batch + image];
}

void Program::run_nodes(std::size_t first, std::size_t last, Arena& arena, BatchRun& run,
                        int team) const {
    const Plans& plans = run.plans(arena.batch, team);
    for (std::size_t i = first; i < last; ++i) {
        const Stopwatch watch;
        run_node(i, arena, plans, team);
        if (run.seconds) run.add(i, watch.seconds(), team);
    }
}

std::vector<Timing> Program::profile(const float* x, std::int64_t batch, int threads, bool tune,
                                     int repeats) {
    const FlushDenormals flush;
    std::vector<float> out(static_cast<std::size_t>(batch * size(graph_.output)));
    BatchRun run(*this, x, batch, out.data(), threads, tune);
    run_all(run);
    // How most images are computed.
    const bool blocks = run.blocks > 0;
    const int team = run.split(blocks ? run.blocks : batch, run.threads).usual();
    const std::size_t from =
        blocks ? first_batched_node(run, run.images(0), team) : graph_.nodes.size();
    const int alone = blocks ? run.split(run.images(0), team).usual() : team;
    std::vector<Timing> rows;
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
        const Node& node = graph_.nodes[i];
        Timing row{node.path, std::string(name(node.op)), "", none, 0, 0};
        if (const Layer* layer = layers_[i].get()) {
            const bool wide = i >= from;
            const std::int64_t images = wide ? run.lanes : 1;
            row.sparsity = 1 - layer->density;
            row.gflop = 2e-9 * (work(*layer) - 1) * static_cast<double>(batch);
            if (is_rows(*layer, static_cast<int>(images)))
                row.kernel = !layer->dense ? "sparse rows" : "dense rows";
            else
                row.kernel = run.plans(images, wide ? team : alone).plans[i]->choice().name() +
                             (wide ? ", images side by side" : "");
        }
        rows.push_back(std::move(row));
    }
    std::vector<double> best(rows.size(), std::numeric_limits<double>::infinity());
    for (int repeat = 0; repeat < std::max(repeats, 1); ++repeat) {
        std::vector<double> seconds(rows.size());
        run.seconds = &seconds;
        run_all(run);
        for (std::size_t i = 0; i < rows.size(); ++i) best[i] = std::min(best[i], seconds[i]);
    }
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i].milliseconds = 1e3 * best[i];
    return rows;
}

}  // namespace dirprune
