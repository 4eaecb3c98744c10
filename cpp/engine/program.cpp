#include "engine/program.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>

#include "dispatch.hpp"
#include "engine/choose.hpp"
#include "engine/ops.hpp"
#include "pool.hpp"

namespace dirprune {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr double tuning_seconds = 1.6;    // of the first call
constexpr std::size_t most_choices = 10;  // timed for each layer
constexpr double mostly_dense = 0.4;      // a matrix with more non-zeros is kept as it is

// Aligned floats, zeroed: what vectors touch behind an array must not be slow to compute with.
class Buffer {
  public:
    float* ensure(std::int64_t size) {
        if (size > size_) {
            data_.reset();
            size_ = 0;
            const auto bytes = static_cast<std::size_t>(size) * sizeof(float);
            data_.reset(static_cast<float*>(::operator new(bytes, std::align_val_t{64})));
            std::memset(data_.get(), 0, bytes);
            size_ = size;
        }
        return data_.get();
    }
    float* get() const { return data_.get(); }

  private:
    struct Delete {
        void operator()(float* p) const { ::operator delete(p, std::align_val_t{64}); }
    };
    std::unique_ptr<float, Delete> data_;
    std::int64_t size_ = 0;
};

std::int64_t padded(std::int64_t size) { return (size + 15) / 16 * 16 + slack; }

Shape without_batch(const Shape& shape) { return {shape.begin() + 1, shape.end()}; }

}  // namespace

// What one call works in.
struct Program::Arena {
    int batch = 1;
    Buffer values, transposed;
    std::vector<Buffer> scratch;  // by thread
};

// How much of the time for tuning is left, and what it is for.
struct Program::Tuning {
    double seconds, work;
    bool timed = seconds > 0;
};

Program::Program(std::span<const std::uint8_t> bytes, std::span<const float* const> tensors,
                 std::span<const Shape> shapes)
    : kernels_(kernels(dirprune::chosen())), graph_(parse(bytes)) {
    if (tensors.size() != graph_.tensors.size() || shapes.size() != tensors.size())
        throw std::invalid_argument("the graph has " + std::to_string(graph_.tensors.size()) +
                                    " tensors, got " + std::to_string(tensors.size()));
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        if (graph_.tensors[i].shape != shapes[i])
            throw std::invalid_argument("tensor " + graph_.tensors[i].name + " has another shape");
        graph_.tensors[i].data = tensors[i];
    }
    layers_.resize(graph_.nodes.size());
    std::vector<bool> read(tensors.size());  // while running
    std::map<const Tensor*, std::shared_ptr<const Nonzeros>> nonzeros;
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
        const Node& node = graph_.nodes[i];
        if (node.op == Op::conv2d || node.op == Op::linear) {
            try {
                make_layer(i, nonzeros[graph_.tensor(node, Role::weight)]);
            } catch (const std::invalid_argument& error) {
                throw std::invalid_argument(node.path + ": " + error.what());
            }
            continue;
        }
        for (int number : node.tensors)
            if (number >= 0) read[static_cast<std::size_t>(number)] = true;
    }
    // What is not copied may not be touched again.
    for (std::size_t i = 0; i < read.size(); ++i) {
        Tensor& tensor = graph_.tensors[i];
        if (read[i]) tensors_.emplace_back(tensor.data, tensor.data + tensor.size);
        tensor.data = read[i] ? tensors_.back().data() : nullptr;
    }
    plan_memory();
}

Program::~Program() = default;

void Program::make_layer(std::size_t number, std::shared_ptr<const Nonzeros>& nonzeros) {
    const Node& node = graph_.nodes[number];
    const Shape& x = graph_.shape(node.inputs[0]);
    const Tensor& weight = *graph_.tensor(node, Role::weight);
    auto layer = std::make_unique<Layer>();
    Geometry& g = layer->geometry;
    g.outputs = weight.shape[0];
    if (node.op == Op::conv2d) {
        constexpr std::int64_t most = 1 << 24;
        const auto &stride = node.list(Key::stride), &padding = node.list(Key::padding),
                   &dilation = node.list(Key::dilation);
        for (std::int64_t value : {x[2] + padding[0] + padding[1], x[3] + padding[2] + padding[3],
                                   stride[0], stride[1], dilation[0], dilation[1]})
            if (value > most) throw std::invalid_argument("a layer is too large for the engine");
        g.channels = x[1];
        g.height = x[2];
        g.width = x[3];
        g.out_height = node.shape[2];
        g.out_width = node.shape[3];
        g.kernel_y = weight.shape[2];
        g.kernel_x = weight.shape[3];
        g.stride_y = stride[0];
        g.stride_x = stride[1];
        g.top = padding[0];
        g.left = padding[2];
        g.dilation_y = dilation[0];
        g.dilation_x = dilation[1];
        g.groups = node.integer(Key::groups);
        if (g.is_pointwise()) g = g.flat();
    } else {
        g.channels = weight.shape[1];
        g.width = g.out_width = product(x, 1) / g.channels;
        layer->transposed = g.width > 1;
        if (layer->transposed)
            transposed_size_ =
                std::max(transposed_size_, padded(g.x_size()) + padded(g.out_size()));
    }
    const std::int64_t row = static_cast<std::int64_t>(weight.size) / g.outputs;
    if (!nonzeros) nonzeros = std::make_shared<const Nonzeros>(weight.data, g.outputs, row);
    layer->nonzeros = nonzeros;
    layer->density =
        static_cast<double>(layer->nonzeros->index.size()) / static_cast<double>(weight.size);
    const Tensor* bias = graph_.tensor(node, Role::bias);
    layer->bias.assign(static_cast<std::size_t>(g.outputs), 0.0f);
    if (bias) std::copy_n(bias->data, bias->size, layer->bias.begin());
    if (node.has(Key::activation))
        layer->epilogue.activation = static_cast<Activation>(node.integer(Key::activation));
    if (node.has(Key::activation_parameter))
        layer->epilogue.parameter = node.real(Key::activation_parameter);
    if (is_rows(*layer, 1) && layer->density > mostly_dense)
        layer->dense.assign(weight.data, weight.data + weight.size);
    layers_[number] = std::move(layer);
}

// Values whose lives do not overlap share memory: the first gap that is wide enough.
void Program::plan_memory() {
    const std::size_t count = graph_.nodes.size() + 1;
    storage_.resize(count);
    offsets_.assign(count, 0);
    last_.assign(count, 0);
    auto& last = last_;
    for (std::uint32_t value = 0; value < count; ++value) {
        storage_[value] = value;
        if (value == 0) continue;
        const Node& node = graph_.nodes[value - 1];
        if (node.op == Op::reshape || node.op == Op::dropout)
            storage_[value] = storage_[node.inputs[0]];
        for (std::uint32_t input : node.inputs) last[storage_[input]] = value;
        last[storage_[value]] = std::max<std::size_t>(last[storage_[value]], value);
    }
    last[storage_[graph_.output]] = count;
    std::map<std::int64_t, std::int64_t> taken;     // offset -> end
    std::multimap<std::size_t, std::int64_t> ends;  // when what lies at an offset may go
    for (std::uint32_t value = 0; value < count; ++value) {
        while (!ends.empty() && ends.begin()->first < value) {
            taken.erase(ends.begin()->second);
            ends.erase(ends.begin());
        }
        if (storage_[value] != value) {
            offsets_[value] = offsets_[storage_[value]];
            continue;
        }
        if (is_constant(value)) continue;
        const std::int64_t need = padded(size(value));
        std::int64_t at = 0;
        for (const auto& [offset, end] : taken) {
            if (offset - at >= need) break;
            at = end;
        }
        offsets_[value] = at;
        taken.emplace(at, at + need);
        ends.emplace(last[value], at);
        arena_size_ = std::max(arena_size_, at + need);
    }
}

std::unique_ptr<Program::Arena> Program::borrow(int batch) {
    {
        const std::lock_guard lock(mutex_);
        for (auto& arena : arenas_)
            if (arena->batch == batch) {
                std::unique_ptr<Arena> result = std::move(arena);
                arena = std::move(arenas_.back());
                arenas_.pop_back();
                return result;
            }
    }
    auto arena = std::make_unique<Arena>();
    arena->batch = batch;
    arena->values.ensure(arena_size_ * batch);
    arena->transposed.ensure(transposed_size_ * batch);
    return arena;
}

void Program::give_back(std::unique_ptr<Arena> arena) {
    const std::lock_guard lock(mutex_);
    arenas_.push_back(std::move(arena));
}

bool Program::is_rows(const Layer& layer, int batch) const {
    const Geometry& g = layer.geometry;
    return batch == 1 && g.groups == 1 && g.taps() == 1 && g.height * g.width == 1 &&
           g.out_height * g.out_width == 1;
}

const float* Program::data(std::uint32_t value, const Arena& arena) const {
    if (is_constant(value)) return graph_.tensor(graph_.nodes[value - 1], Role::value)->data;
    return arena.values.get() + offsets_[value] * arena.batch;
}

void Program::run(const float* x, std::int64_t batch, float* out, int threads, bool tune) {
    run_all(x, batch, out, threads, tune, nullptr);
}

void Program::run_all(const float* x, std::int64_t batch, float* out, int threads, bool tune,
                      std::vector<Timing>* timings) {
    if (batch == 0) return;
    threads = std::clamp(threads, 1, max_threads);
    const std::int64_t in_size = size(0), out_size = size(graph_.output), lanes = kernels_.lanes;
    const std::size_t nodes = graph_.nodes.size();
    std::int64_t blocks = batch / lanes;
    // A block that is nearly full costs less than its images one by one.
    if (4 * (batch % lanes) >= 3 * lanes) ++blocks;

    const double seconds = !tune ? 0 : blocks > 0 ? tuning_seconds / 2 : tuning_seconds;
    Plans single = *make_plans({1, tune ? threads : 0}, x, 1, threads, seconds), block;
    auto arena = borrow(1);
    std::int64_t at = 0;
    std::size_t from = nodes;
    if (blocks > 0) {
        block = *make_plans({static_cast<int>(lanes), tune ? threads : 0}, x,
                            std::min(lanes, batch), threads, seconds);
        from = turn(single, block);
    }
    if (from < nodes) {
        auto wide = borrow(static_cast<int>(lanes));
        for (; at < std::min(blocks * lanes, batch); at += lanes) {
            const std::int64_t images = std::min(lanes, batch - at);
            if (from == 0) {
                load(x + at * in_size, images, *wide, threads);
            } else {
                for (std::int64_t image = 0; image < images; ++image) {
                    load(x + (at + image) * in_size, 1, *arena, threads);
                    run_nodes(0, from, *arena, single, threads, nullptr, timings);
                    for (std::size_t value = 0; value <= from; ++value)
                        if (storage_[value] == value && last_[value] > from &&
                            !is_constant(static_cast<std::uint32_t>(value)))
                            place(arena->values.get() + offsets_[value],
                                  wide->values.get() + offsets_[value] * lanes + image,
                                  size(static_cast<std::uint32_t>(value)), lanes, threads);
                }
            }
            run_nodes(from, nodes, *wide, block, threads, nullptr, timings);
            store(*wide, images, out + at * out_size);
        }
        give_back(std::move(wide));
    }
    for (; at < batch; ++at) {
        load(x + at * in_size, 1, *arena, threads);
        run_nodes(0, nodes, *arena, single, threads, nullptr, timings);
        store(*arena, 1, out + at * out_size);
    }
    give_back(std::move(arena));
}

// The first images go through the network once to make the plans, timing them if there are
// seconds.
std::shared_ptr<const Program::Plans> Program::make_plans(const Mode& mode, const float* x,
                                                          std::int64_t images, int threads,
                                                          double seconds) {
    const auto find = [&]() -> std::shared_ptr<const Plans> {
        const std::lock_guard lock(mutex_);
        const auto found = plans_.find(mode);
        return found == plans_.end() ? nullptr : found->second;
    };
    if (auto plans = find()) return plans;
    const std::lock_guard one(making_);
    if (auto plans = find()) return plans;
    auto made = std::make_shared<Plans>();
    made->plans.resize(graph_.nodes.size());
    made->seconds.resize(graph_.nodes.size());
    Tuning tuning{seconds, 0};
    for (const auto& layer : layers_)
        if (layer) tuning.work += work(*layer);
    auto arena = borrow(mode.batch);
    load(x, images, *arena, threads);
    run_nodes(0, graph_.nodes.size(), *arena, *made, threads, &tuning, nullptr);
    give_back(std::move(arena));
    const std::lock_guard lock(mutex_);
    return plans_.emplace(mode, made).first->second;
}

std::size_t Program::turn(const Plans& single, const Plans& block) const {
    const std::size_t nodes = graph_.nodes.size();
    const int lanes = kernels_.lanes;
    if (block.seconds.empty() || block.seconds[0] < 0) {  // not timed
        // From where on all that a node reads and writes stays in the caches.
        constexpr std::int64_t cache = 1 << 20;  // floats
        std::size_t result = 0;
        for (std::size_t i = 0; i < nodes; ++i) {
            std::int64_t floats = size(static_cast<std::uint32_t>(i + 1));
            for (std::uint32_t input : graph_.nodes[i].inputs) floats += size(input);
            if (floats * lanes > cache) result = i + 1;
        }
        return result;
    }
    // Least time of the nodes before, one by one, and of those from there on, side by side.
    double time = 0;
    for (double seconds : block.seconds) time += seconds;
    double best = time;
    std::size_t result = 0;
    for (std::size_t i = 0; i < nodes; ++i) {
        time += lanes * single.seconds[i] - block.seconds[i];
        if (time < best) {
            best = time;
            result = i + 1;
        }
    }
    return result;
}

bool Program::is_constant(std::uint32_t value) const {
    return value > 0 && graph_.nodes[value - 1].op == Op::constant;
}

double Program::work(const Layer& layer) const {
    const Geometry& g = layer.geometry;
    return static_cast<double>(layer.nonzeros->index.size()) *
               static_cast<double>(g.out_height * g.out_width) +
           1;
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

void Program::run_nodes(std::size_t first, std::size_t last, Arena& arena, Plans& plans,
                        int threads, Tuning* tuning, std::vector<Timing>* timings) const {
    for (std::size_t i = first; i < last; ++i) {
        const auto start = Clock::now();
        run_node(i, arena, plans, threads, tuning);
        const double seconds = seconds_since(start);
        if (timings) (*timings)[i].milliseconds += 1e3 * seconds;
        // Of a layer's choices the best one's time counts, see run_layer().
        if (tuning && plans.seconds[i] == 0) plans.seconds[i] = tuning->timed ? seconds : -1;
    }
}

void Program::run_node(std::size_t number, Arena& arena, Plans& plans, int threads,
                       Tuning* tuning) const {
    const Node& node = graph_.nodes[number];
    if (node.op == Op::constant || node.op == Op::reshape || node.op == Op::dropout) return;
    if (layers_[number]) return run_layer(number, arena, plans, threads, tuning);
    Call call{kernels_,    graph_, node, {}, nullptr, without_batch(node.shape),
              arena.batch, threads};
    for (std::uint32_t value : node.inputs) {
        const Shape& shape = graph_.shape(value);
        const bool constant = shape.empty() || shape[0] != -1;
        call.inputs.push_back(
            {data(value, arena), constant ? shape : without_batch(shape), constant});
    }
    call.out = arena.values.get() + offsets_[number + 1] * arena.batch;
    compute(call);
}

void Program::run_layer(std::size_t number, Arena& arena, Plans& plans, int threads,
                        Tuning* tuning) const {
    const Node& node = graph_.nodes[number];
    const Layer& layer = *layers_[number];
    const float* x = data(node.inputs[0], arena);
    const float* residual = node.inputs.size() == 2 ? data(node.inputs[1], arena) : nullptr;
    float* out = arena.values.get() + offsets_[number + 1] * arena.batch;
    if (is_rows(layer, arena.batch)) return run_rows(layer, x, residual, out, threads);

    auto& plan = plans.plans[number];
    if (!tuning) return run_plan(*plan, layer, arena, x, residual, out, threads);

    const auto start = Clock::now();
    const double share = tuning->seconds * work(layer) / tuning->work;
    double best = std::numeric_limits<double>::infinity();
    for (const Choice& choice :
         choices_of(number, arena.batch, tuning->seconds > 0 ? most_choices : 1)) {
        const auto candidate = make_plan(number, arena.batch, choice);
        for (int trial = 0; trial < 3; ++trial) {
            const auto begin = Clock::now();
            run_plan(*candidate, layer, arena, x, residual, out, threads);
            const double seconds = seconds_since(begin);
            if (seconds < best) {
                best = seconds;
                plan = candidate;
                plans.seconds[number] = tuning->timed ? seconds : -1;
            }
            if (trial > 0 && seconds > 1.5 * best) break;
            if (seconds_since(start) > share) break;
        }
        if (seconds_since(start) > share) break;
    }
    tuning->seconds = std::max(0.0, tuning->seconds - seconds_since(start));
    tuning->work -= work(layer);
}

std::vector<Choice> Program::choices_of(std::size_t number, int batch, std::size_t most) const {
    Geometry geometry = layers_[number]->geometry;
    geometry.batch = batch;
    return choices(kernels_, geometry, layers_[number]->density, most);
}

std::shared_ptr<const ConvPlan> Program::make_plan(std::size_t number, int batch,
                                                   const Choice& choice) const {
    const Layer& layer = *layers_[number];
    Geometry geometry = layer.geometry;
    geometry.batch = batch;
    Epilogue epilogue = layer.epilogue;
    // The activation and the residual follow when the result is transposed back.
    if (layer.transposed && graph_.nodes[number].inputs.size() == 2) epilogue = {};
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
        if (!holds) throw std::invalid_argument("these choices are of another network");
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
        const auto all = choices_of(i, tuned.batch, std::numeric_limits<std::size_t>::max());
        const auto found = std::find_if(all.begin(), all.end(), [&](const Choice& choice) {
            return choice.numbers() == tuned.choices[i];
        });
        check(found != all.end());
        made->plans[i] = make_plan(i, tuned.batch, *found);
    }
    const std::lock_guard lock(mutex_);
    plans_.emplace(Mode{tuned.batch, tuned.threads}, made);
}

void Program::run_plan(const ConvPlan& plan, const Layer& layer, Arena& arena, const float* x,
                       const float* residual, float* out, int threads) const {
    std::vector<float*> scratch;
    arena.scratch.resize(std::max(arena.scratch.size(), static_cast<std::size_t>(threads)));
    for (int i = 0; i < threads; ++i)
        scratch.push_back(arena.scratch[static_cast<std::size_t>(i)].ensure(
            static_cast<std::int64_t>(plan.scratch_size()) + slack));
    if (!layer.transposed) return plan.run(x, residual, out, threads, scratch);

    const Geometry& g = layer.geometry;
    float* const columns = arena.transposed.get();
    float* const result = columns + padded(g.x_size()) * arena.batch;
    transpose(x, columns, g.width, g.channels, arena.batch, threads);
    plan.run(columns, nullptr, result, threads, scratch);
    transpose(result, out, g.outputs, g.width, arena.batch, threads);
    if (!residual) return;
    const auto size = static_cast<std::size_t>(g.out_size() * arena.batch);
    kernels_.binary(Binary::add, out, 0, 1, residual, 0, 1, out, 1, size);
    kernels_.activate(layer.epilogue.activation, layer.epilogue.parameter, out, out, size);
}

void Program::run_rows(const Layer& layer, const float* x, const float* residual, float* out,
                       int threads) const {
    const Geometry& g = layer.geometry;
    const auto& n = *layer.nonzeros;
    const std::int64_t pieces =
        std::clamp<std::int64_t>(static_cast<std::int64_t>(n.index.size()) >> 14, 1,
                                 std::min<std::int64_t>(4 * threads, g.outputs));
    const auto piece = [&](std::size_t part, std::size_t) {
        const std::int64_t first = g.outputs * static_cast<std::int64_t>(part) / pieces;
        const std::int64_t last = g.outputs * static_cast<std::int64_t>(part + 1) / pieces;
        const auto count = static_cast<std::size_t>(last - first);
        if (layer.dense.empty()) {
            kernels_.sparse_rows(n.ends.data(), n.index.data(), n.value.data(), layer.bias.data(),
                                 first, last, x, out);
        } else {
            for (std::int64_t row = first; row < last; ++row)
                out[row] = layer.bias[static_cast<std::size_t>(row)] +
                           kernels_.dot(layer.dense.data() + row * g.channels, x,
                                        static_cast<std::size_t>(g.channels));
        }
        if (residual)
            kernels_.binary(Binary::add, out + first, 0, 1, residual + first, 0, 1, out + first, 1,
                            count);
        kernels_.activate(layer.epilogue.activation, layer.epilogue.parameter, out + first,
                          out + first, count);
    };
    parallel_for(static_cast<std::size_t>(pieces), static_cast<std::size_t>(threads), piece);
}

std::vector<Timing> Program::profile(const float* x, std::int64_t batch, int threads, bool tune,
                                     int repeats) {
    const std::int64_t out_size = size(graph_.output);
    std::vector<float> out(static_cast<std::size_t>(batch * out_size));
    run(x, batch, out.data(), threads, tune);
    // Which way each node goes is known now.
    const std::int64_t lanes = kernels_.lanes;
    const int key = tune ? std::clamp(threads, 1, max_threads) : 0;
    std::shared_ptr<const Plans> single, block;
    std::size_t from = graph_.nodes.size();
    {
        const std::lock_guard lock(mutex_);
        single = plans_.at({1, key});
        if (4 * batch >= 3 * lanes) {
            block = plans_.at({static_cast<int>(lanes), key});
            from = turn(*single, *block);
        }
    }
    std::vector<Timing> rows;
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
        const Node& node = graph_.nodes[i];
        Timing row{node.path, std::string(name(node.op)), "", none, 0, 0};
        if (const Layer* layer = layers_[i].get()) {
            const bool side_by_side = i >= from;
            row.sparsity = 1 - layer->density;
            row.gflop = 2e-9 * (work(*layer) - 1) * static_cast<double>(batch);
            if (is_rows(*layer, side_by_side ? static_cast<int>(lanes) : 1))
                row.kernel = layer->dense.empty() ? "sparse rows" : "dense rows";
            else
                row.kernel = (side_by_side ? block : single)->plans[i]->choice().name() +
                             (side_by_side ? ", images side by side" : "");
        }
        rows.push_back(std::move(row));
    }
    std::vector<double> best(rows.size(), std::numeric_limits<double>::infinity());
    for (int repeat = 0; repeat < std::max(repeats, 1); ++repeat) {
        for (Timing& row : rows) row.milliseconds = 0;
        run_all(x, batch, out.data(), threads, tune, &rows);
        for (std::size_t i = 0; i < rows.size(); ++i)
            best[i] = std::min(best[i], rows[i].milliseconds);
    }
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i].milliseconds = best[i];
    return rows;
}

}  // namespace dirprune
