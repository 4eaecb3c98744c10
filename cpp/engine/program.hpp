// A network that is ready to run: floats in, floats out.
//
// A batch is computed in blocks of as many images as a vector has lanes. While the feature maps are
// large, the images of a block are computed one by one, so that the values stay in the caches. From
// some node on they lie side by side in neighbouring floats: then every operator works on whole
// vectors, however small the map is. The remainder of a batch is computed one by one. Each thread
// takes blocks and images of its own as long as there is one for every thread. Memory for
// activations is planned once for both layouts. It grows with the threads, not with the batch.
//
// Several threads may call run() at the same time: each call has its own arena, all share the
// plans. The threads that a call uses come from the process's pool (pool.hpp); if another call uses
// them, this call runs on its own thread.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "engine/conv.hpp"
#include "engine/graph.hpp"
#include "engine/kernels.hpp"

namespace dirprune {

inline constexpr int max_threads = 256;

class Stopwatch {
  public:
    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// What one node took.
struct Timing {
    std::string path, op, kernel;
    double sparsity;  // of its weight; NaN if it has none
    double milliseconds;
    double gflop;  // 2 x multiplications by weights that are not zero
};

// How the layers are computed in one mode, as numbers that a file can hold.
struct Tuned {
    int batch, threads;
    std::vector<std::vector<int>> choices;  // by node; empty where there is nothing to choose
    std::vector<double> seconds;            // by node
};

class Program {
  public:
    // tensors: the values of the graph's tensors in their order, with their shapes; they are copied.
    // max_bytes bounds the memory for weights and for the activations of one call. Throws
    // std::invalid_argument for bytes that are not a valid graph, or if it needs more memory.
    // like: null, or the same network at other sizes; equal weights are shared with it.
    Program(std::span<const std::uint8_t> graph, std::span<const float* const> tensors,
            std::span<const Shape> shapes, std::int64_t max_bytes, const Program* like = nullptr);

    ~Program();
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    // x: batch x input_shape, out: batch x output_shape, batch >= 0, both contiguous.
    // tune: time several ways of computing each layer at the first call with this number of
    // threads. Without, the choices are fixed, and with them every bit of the result.
    void run(const float* x, std::int64_t batch, float* out, int threads, bool tune);

    // Like run(); times each node, the least of `repeats` runs.
    std::vector<Timing> profile(const float* x, std::int64_t batch, int threads, bool tune,
                                int repeats);

    // What tuning has found so far, and in how many modes. choose() sets it without timing and
    // throws std::invalid_argument if it does not belong to this network and these kernels.
    std::vector<Tuned> tuned();
    std::size_t modes();
    void choose(const Tuned& tuned);

    Shape input_shape() const { return {graph_.input.begin() + 1, graph_.input.end()}; }
    Shape output_shape() const {
        const Shape& shape = graph_.shape(graph_.output);
        return {shape.begin() + 1, shape.end()};
    }

  private:
    using Floats = std::shared_ptr<const std::vector<float>>;

    // A convolution or linear layer.
    struct Layer {
        Geometry geometry;
        std::shared_ptr<const Nonzeros> nonzeros;  // layers may share a weight
        std::vector<float> bias;
        Floats dense;  // the weight where it is mostly not zero, else null
        Epilogue epilogue;
        bool transposed = false;  // linear over the last of several dimensions: rows become columns
        double density = 0;
    };
    struct Plans {
        std::vector<std::shared_ptr<const ConvPlan>> plans;  // by node
        std::vector<double> seconds;                         // that each node took, when tuned
    };
    struct Arena;
    struct Tuning;
    struct Registry;
    struct WorkSplit;
    struct BatchRun;
    struct Mode {
        int batch, threads;  // threads: 0 without tuning
        auto operator<=>(const Mode&) const = default;
    };

    // program.cpp: what is done once
    void make_layer(std::size_t number, std::shared_ptr<const Nonzeros>& nonzeros,
                    const Layer* like);
    Floats keep(const Tensor& tensor, const Floats& like);
    void plan_memory();
    void use_memory(std::int64_t bytes);

    // tuning.cpp: plans for every layer
    std::shared_ptr<const Plans> make_plans(const Mode& mode, const float* x, std::int64_t images,
                                            double seconds);
    void tune_layer(std::size_t number, const Mode& mode, Arena& arena, Plans& plans,
                    Tuning& tuning) const;
    std::vector<Choice> choices_of(std::size_t number, const Mode& mode, std::size_t most) const;
    std::shared_ptr<const ConvPlan> make_plan(std::size_t number, int batch,
                                              const Choice& choice) const;

    // forks.cpp: the child of a fork finds everything as if no other thread had been inside a call
    void before_fork();
    void after_fork(bool in_child);

    // batches.cpp: images and threads
    std::shared_ptr<Arena> borrow(std::int64_t batch);
    void run_all(BatchRun& run);
    void run_block(BatchRun& run, std::int64_t first, std::int64_t images, int team);
    void run_singles(BatchRun& run, std::int64_t first, std::int64_t images, int team);
    std::size_t first_batched_node(const BatchRun& run, std::int64_t images, int team) const;
    void run_nodes(std::size_t first, std::size_t last, Arena& arena, BatchRun& run, int team) const;
    void load(const float* x, std::int64_t images, Arena& arena, int threads) const;
    void store(const Arena& arena, std::int64_t images, float* out) const;

    // nodes.cpp: one node
    void run_node(std::size_t number, Arena& arena, const Plans& plans, int threads) const;
    void run_plan(std::size_t number, const ConvPlan& plan, Arena& arena, int threads) const;
    void run_rows(std::size_t number, Arena& arena, int threads) const;
    float* result(std::size_t number, Arena& arena) const;
    const float* residual(std::size_t number, const Arena& arena) const;

    double work(const Layer& layer) const;  // multiplications for an image
    bool is_rows(const Layer& layer, int batch) const;
    bool is_constant(std::uint32_t value) const;
    const float* data(std::uint32_t value, const Arena& arena) const;
    std::int64_t size(std::uint32_t value) const { return product(graph_.shape(value), 1); }

    const Kernels& kernels_;
    Graph graph_;
    std::vector<std::unique_ptr<Layer>> layers_;  // by node, null for other operators
    std::vector<Floats> tensors_;                 // those that are read while running, or null
    std::vector<std::uint32_t> storage_;          // by value: the value whose memory it shares
    std::vector<std::int64_t> offsets_;           // by value, in floats per image of a block
    std::vector<std::size_t> last_;               // by value: the last value computed from it
    std::int64_t arena_size_ = 0, transposed_size_ = 0;  // floats per image
    std::int64_t free_bytes_;                            // of max_bytes, not yet used
    std::int64_t most_images_ = 1;                       // in memory at the same time, in one call

    std::mutex mutex_;  // guards the plans and the free arenas, never for long
    std::map<Mode, std::shared_ptr<const Plans>> plans_;
    std::vector<std::unique_ptr<Arena>> arenas_;
    // One call makes plans, the others wait. A pointer, so that the child of a fork can replace it.
    std::unique_ptr<std::mutex> making_ = std::make_unique<std::mutex>();
};

}  // namespace dirprune
