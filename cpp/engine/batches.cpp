// How the images of a batch share the threads.
#include <algorithm>
#include <limits>
#include <set>

#include "engine/arena.hpp"
#include "engine/ops.hpp"
#include "engine/program.hpp"
#include "pool.hpp"

namespace dirprune {
namespace {

constexpr double tuning_seconds = 1.6;  // of the first call

// Pieces of work on some threads. As long as there is one for every thread, each thread computes
// one alone: nobody waits for others, and what a thread wrote is in its own cache when it reads
// it. What is left is computed by all of them, so many a piece.
struct Crews {
    std::int64_t alone, left;
    int threads, crew;

    Crews(std::int64_t pieces, int threads)
        : alone(pieces / threads * threads),
          left(pieces - alone),
          threads(threads),
          crew(left ? threads / static_cast<int>(left) : 0) {}

    // How many threads most of the pieces have, and how many pieces are computed at a time.
    int usual() const { return alone ? 1 : crew; }
    int at_a_time() const { return alone ? threads : static_cast<int>(left); }

    std::set<int> sizes() const {
        std::set<int> result;
        if (alone) result.insert(1);
        if (left) result.insert(crew);
        return result;
    }

    // Calls body(piece, threads) for every piece.
    template <class F>
    void each(const F& body) const {
        const auto seats = static_cast<std::size_t>(threads);
        parallel_for(static_cast<std::size_t>(alone), seats, [&](std::size_t piece, std::size_t) {
            body(static_cast<std::int64_t>(piece), 1);
        });
        parallel_for(static_cast<std::size_t>(left), seats, [&](std::size_t piece, std::size_t) {
            body(alone + static_cast<std::int64_t>(piece), crew);
        });
    }
};

}  // namespace

// A batch on its way, and the plans for whatever number of threads a part of it gets.
struct Program::Pass {
    Pass(Program& program, const float* x, std::int64_t batch, float* out, int threads, bool tune);

    const Plans& plans(std::int64_t images, int crew) const {
        return *found.at({static_cast<int>(images), tune ? crew : 0});
    }
    void add(std::size_t node, double seconds, int crew);

    const float* x;
    std::int64_t batch;
    float* out;
    int threads;
    bool tune;
    std::int64_t lanes, blocks;
    std::map<Mode, std::shared_ptr<const Plans>> found;
    std::vector<double>* seconds = nullptr;  // by node, if they are wanted
    std::mutex mutex{};

    std::int64_t images(std::int64_t block) const { return std::min(lanes, batch - block * lanes); }
    std::int64_t singles() const { return std::max<std::int64_t>(batch - blocks * lanes, 0); }
};

Program::Pass::Pass(Program& program, const float* x, std::int64_t batch, float* out, int threads,
                    bool tune)
    : x(x),
      batch(batch),
      out(out),
      threads(std::clamp(threads, 1, max_threads)),
      tune(tune),
      lanes(program.kernels_.lanes),
      blocks(batch / lanes) {
    // A block that is nearly full costs less than its images one by one.
    if (4 * (batch % lanes) >= 3 * lanes) ++blocks;
    std::set<Mode> modes;
    const auto need = [&](std::int64_t pieces, int crew, int size) {
        for (int each : Crews(pieces, crew).sizes()) modes.insert({size, tune ? each : 0});
    };
    need(blocks, this->threads, static_cast<int>(lanes));
    for (int crew : Crews(blocks, this->threads).sizes())
        for (std::int64_t pieces : {images(0), images(blocks - 1)}) need(pieces, crew, 1);
    need(singles(), this->threads, 1);
    for (const Mode& mode : modes)
        found[mode] = program.make_plans(mode, x, std::min<std::int64_t>(mode.batch, batch),
                                         tune ? tuning_seconds / double(modes.size()) : 0);
}

// Time that a crew took, of all the threads'.
void Program::Pass::add(std::size_t node, double took, int crew) {
    const std::lock_guard lock(mutex);
    (*seconds)[node] += took * crew / threads;
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
    Pass pass(*this, x, batch, out, threads, tune);
    run_all(pass);
}

void Program::run_all(Pass& pass) {
    Crews(pass.blocks, pass.threads).each([&](std::int64_t block, int crew) {
        run_block(pass, block * pass.lanes, pass.images(block), crew);
    });
    run_singles(pass, pass.blocks * pass.lanes, pass.singles(), pass.threads);
}

// A block of images: one by one up to some node, side by side from there on.
void Program::run_block(Pass& pass, std::int64_t first, std::int64_t images, int crew) {
    const std::size_t nodes = graph_.nodes.size(), from = turn(pass, images, crew);
    if (from == nodes) return run_singles(pass, first, images, crew);
    const auto wide = borrow(pass.lanes);
    if (from == 0) {
        load(pass.x + first * size(0), images, *wide, crew);
    } else {
        std::mutex placing;  // into neighbouring floats: two threads would be slower than one
        Crews(images, crew).each([&](std::int64_t image, int each) {
            const auto arena = borrow(1);
            load(pass.x + (first + image) * size(0), 1, *arena, each);
            run_nodes(0, from, *arena, pass, each);
            const std::lock_guard lock(placing);
            for (std::size_t value = 0; value <= from; ++value)
                if (storage_[value] == value && last_[value] > from &&
                    !is_constant(static_cast<std::uint32_t>(value)))
                    place(arena->values.get() + offsets_[value],
                          wide->values.get() + offsets_[value] * pass.lanes + image,
                          size(static_cast<std::uint32_t>(value)), pass.lanes, each);
        });
    }
    run_nodes(from, nodes, *wide, pass, crew);
    store(*wide, images, pass.out + first * size(graph_.output));
}

void Program::run_singles(Pass& pass, std::int64_t first, std::int64_t images, int crew) {
    Crews(images, crew).each([&](std::int64_t image, int each) {
        const auto arena = borrow(1);
        load(pass.x + (first + image) * size(0), 1, *arena, each);
        run_nodes(0, graph_.nodes.size(), *arena, pass, each);
        store(*arena, 1, pass.out + (first + image) * size(graph_.output));
    });
}

// The node from which on the images of a block go side by side.
std::size_t Program::turn(const Pass& pass, std::int64_t images, int crew) const {
    const Crews singles(images, crew);
    const Plans& single = pass.plans(1, singles.usual());
    const Plans& block = pass.plans(pass.lanes, crew);
    const std::size_t nodes = graph_.nodes.size();
    std::size_t result = 0;
    if (!pass.tune) {
        // From where on all that a node reads and writes stays in the caches.
        constexpr std::int64_t cache = 1 << 20;  // floats
        for (std::size_t i = 0; i < nodes; ++i) {
            std::int64_t floats = size(static_cast<std::uint32_t>(i + 1));
            for (std::uint32_t input : graph_.nodes[i].inputs) floats += size(input);
            if (floats * pass.lanes > cache) result = i + 1;
        }
        return result;
    }
    // Least time of the nodes before, one by one, and of those from there on, side by side.
    const double rounds = double(images) / singles.at_a_time();
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

void Program::run_nodes(std::size_t first, std::size_t last, Arena& arena, Pass& pass,
                        int crew) const {
    const Plans& plans = pass.plans(arena.batch, crew);
    for (std::size_t i = first; i < last; ++i) {
        const Stopwatch watch;
        run_node(i, arena, plans, crew);
        if (pass.seconds) pass.add(i, watch.seconds(), crew);
    }
}

std::vector<Timing> Program::profile(const float* x, std::int64_t batch, int threads, bool tune,
                                     int repeats) {
    std::vector<float> out(static_cast<std::size_t>(batch * size(graph_.output)));
    Pass pass(*this, x, batch, out.data(), threads, tune);
    run_all(pass);
    // Which way most images go.
    const bool blocks = pass.blocks > 0;
    const int crew = Crews(blocks ? pass.blocks : batch, pass.threads).usual();
    const std::size_t from = blocks ? turn(pass, pass.images(0), crew) : graph_.nodes.size();
    const int alone = blocks ? Crews(pass.images(0), crew).usual() : crew;
    std::vector<Timing> rows;
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
        const Node& node = graph_.nodes[i];
        Timing row{node.path, std::string(name(node.op)), "", none, 0, 0};
        if (const Layer* layer = layers_[i].get()) {
            const bool wide = i >= from;
            const std::int64_t images = wide ? pass.lanes : 1;
            row.sparsity = 1 - layer->density;
            row.gflop = 2e-9 * (work(*layer) - 1) * static_cast<double>(batch);
            if (is_rows(*layer, static_cast<int>(images)))
                row.kernel = layer->dense.empty() ? "sparse rows" : "dense rows";
            else
                row.kernel = pass.plans(images, wide ? crew : alone).plans[i]->choice().name() +
                             (wide ? ", images side by side" : "");
        }
        rows.push_back(std::move(row));
    }
    std::vector<double> best(rows.size(), std::numeric_limits<double>::infinity());
    for (int repeat = 0; repeat < std::max(repeats, 1); ++repeat) {
        std::vector<double> seconds(rows.size());
        pass.seconds = &seconds;
        run_all(pass);
        for (std::size_t i = 0; i < rows.size(); ++i) best[i] = std::min(best[i], seconds[i]);
    }
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i].milliseconds = 1e3 * best[i];
    return rows;
}

}  // namespace dirprune
