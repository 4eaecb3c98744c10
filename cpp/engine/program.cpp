#include "engine/program.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "dispatch.hpp"
#include "engine/arena.hpp"
#include "engine/forks.hpp"

namespace dirprune {
namespace {

constexpr double mostly_dense = 0.4;  // a matrix with more non-zeros is kept as it is

// Bytes for a weight that is not zero: its value and index, and its entry in the plans of a layer,
// one for single images and one for blocks.
constexpr std::int64_t nonzero_bytes = 8, plan_bytes = 24;

}  // namespace

Program::Program(std::span<const std::uint8_t> bytes, std::span<const float* const> tensors,
                 std::span<const Shape> shapes, std::int64_t max_bytes, const Program* like)
    : kernels_(kernels(dirprune::chosen())), graph_(parse(bytes)), free_bytes_(max_bytes) {
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
                const bool same = like && i < like->layers_.size();
                make_layer(i, nonzeros[graph_.tensor(node, Role::weight)],
                           same ? like->layers_[i].get() : nullptr);
            } catch (const std::invalid_argument& error) {
                throw std::invalid_argument(node.path + ": " + error.what());
            }
            continue;
        }
        for (int number : node.tensors)
            if (number >= 0) read[static_cast<std::size_t>(number)] = true;
    }
    // The caller's arrays are not read after this.
    tensors_.resize(read.size());
    for (std::size_t i = 0; i < read.size(); ++i) {
        Tensor& tensor = graph_.tensors[i];
        const bool same = like && i < like->tensors_.size();
        if (read[i]) tensors_[i] = keep(tensor, same ? like->tensors_[i] : nullptr);
        tensor.data = read[i] ? tensors_[i]->data() : nullptr;
    }
    plan_memory();
    Registry::add(*this);
}

Program::~Program() { Registry::remove(*this); }

// Counts memory before it is allocated.
void Program::use_memory(std::int64_t bytes) {
    if (bytes > free_bytes_)
        throw std::invalid_argument("the network needs " + std::to_string(bytes) +
                                    " bytes of memory where " + std::to_string(free_bytes_) +
                                    " are left: allow more by max_bytes");
    free_bytes_ -= bytes;
}

// A copy of a tensor, or another program's if it is equal bit by bit.
Program::Floats Program::keep(const Tensor& tensor, const Floats& like) {
    if (like && like->size() == tensor.size &&
        !std::memcmp(like->data(), tensor.data, tensor.size * sizeof(float)))
        return like;
    use_memory(static_cast<std::int64_t>(tensor.size * sizeof(float)));
    return std::make_shared<const std::vector<float>>(tensor.data, tensor.data + tensor.size);
}

void Program::make_layer(std::size_t number, std::shared_ptr<const Nonzeros>& nonzeros,
                         const Layer* like) {
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
        layer->transposed = g.channels_last = g.width > 1;
        if (layer->transposed)
            transposed_size_ =
                std::max(transposed_size_, padded(g.x_size()) + padded(g.out_size()));
    }
    const std::int64_t row = static_cast<std::int64_t>(weight.size) / g.outputs;
    if (!nonzeros) {
        use_memory(static_cast<std::int64_t>(weight.size) * nonzero_bytes);
        nonzeros = std::make_shared<const Nonzeros>(weight.data, g.outputs, row);
        if (like && *like->nonzeros == *nonzeros) {
            nonzeros = like->nonzeros;
            free_bytes_ += static_cast<std::int64_t>(weight.size) * nonzero_bytes;
        }
    }
    layer->nonzeros = nonzeros;
    use_memory(static_cast<std::int64_t>(nonzeros->index.size()) * plan_bytes);
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
        layer->dense = keep(weight, like ? like->dense : nullptr);
    layers_[number] = std::move(layer);
}

// Values that are not needed at the same time share memory: each gets the first gap that is wide
// enough.
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
    std::multimap<std::size_t, std::int64_t> ends;  // when the value at an offset is no longer needed
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
    const std::int64_t image =
        (arena_size_ + transposed_size_) * static_cast<std::int64_t>(sizeof(float));
    const std::int64_t left = free_bytes_;
    use_memory(image);
    most_images_ = left / image;
}

bool Program::is_rows(const Layer& layer, int batch) const {
    const Geometry& g = layer.geometry;
    return batch == 1 && g.groups == 1 && g.taps() == 1 && g.height * g.width == 1 &&
           g.out_height * g.out_width == 1 && g.top == 0 && g.left == 0;  // else it reads padding
}

bool Program::is_constant(std::uint32_t value) const {
    return value > 0 && graph_.nodes[value - 1].op == Op::constant;
}

const float* Program::data(std::uint32_t value, const Arena& arena) const {
    if (is_constant(value)) return graph_.tensor(graph_.nodes[value - 1], Role::value)->data;
    return arena.values.get() + offsets_[value] * arena.batch;
}

double Program::work(const Layer& layer) const {
    const Geometry& g = layer.geometry;
    return static_cast<double>(layer.nonzeros->index.size()) *
               static_cast<double>(g.out_height * g.out_width) +
           1;
}

}  // namespace dirprune
