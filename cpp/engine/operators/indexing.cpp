// Repeating, and reading by an index.
#include <vector>

#include "engine/operators/shared.hpp"

namespace dirprune::ops {
namespace {

// An index that is no place reads the first one: files may hold anything.
std::int64_t place_of(float index, std::int64_t size) {
    return index >= 0 && index < float(size) ? static_cast<std::int64_t>(index) : 0;
}

Shape expand_shape(const Graph& graph, const Node& node) {
    const Shape& x = first(graph, node);
    const Shape& size = node.list(Key::size);
    check_size(std::span(size).subspan(1));
    const bool batched = !x.empty() && x[0] == -1;
    const std::size_t own = x.size() - batched;
    if (size[0] != -1 || own > size.size() - 1 || (batched && own != size.size() - 1))
        refuse("cannot expand to this size");
    for (std::size_t i = 1; i <= own; ++i) {
        const std::int64_t mine = x[x.size() - i];
        if (mine != 1 && mine != size[size.size() - i]) refuse("cannot expand to this size");
    }
    return size;
}

void expand(const Call& c) {
    const Operand& x = c.inputs[0];
    std::vector<std::int64_t> steps(c.shape.size(), 0);
    std::int64_t step = 1;
    for (std::size_t i = x.shape.size(), j = c.shape.size(); i-- > 0;) {
        --j;
        steps[j] = x.shape[i] == 1 ? 0 : step;
        step *= x.shape[i];
    }
    // Elements that are neighbours in both are copied together.
    std::size_t outer = c.shape.size();
    std::int64_t run = 1;
    while (outer > 0 && (steps[outer - 1] == run || c.shape[outer - 1] == 1))
        run *= c.shape[--outer];
    in_ranges(product(c.shape) / run, run * c.batch, c.threads,
              [&](std::int64_t from, std::int64_t to) {
                  for (std::int64_t i = from; i < to; ++i) {
                      std::int64_t rest = i, place = 0;
                      for (std::size_t j = outer; j-- > 0; rest /= c.shape[j])
                          place += rest % c.shape[j] * steps[j];
                      float* out = c.out + i * run * c.batch;
                      if (!x.constant)
                          std::copy_n(x.data + place * c.batch, run * c.batch, out);
                      else
                          for (std::int64_t k = 0; k < run; ++k)
                              std::fill_n(out + k * c.batch, c.batch, x.data[place + k]);
                  }
              });
}

Shape take_shape(const Graph& graph, const Node& node) {
    Shape x = first(graph, node);
    const Tensor& index = *graph.tensor(node, Role::index);
    check_rank(index.shape, 1);
    x[check_dim(x, node.integer(Key::dim))] = index.shape[0];
    return x;
}

void take(const Call& c) {
    const std::int64_t dim = c.node.integer(Key::dim);
    const Split from = split(c.inputs[0].shape, dim, c.batch), to = split(c.shape, dim, c.batch);
    const float* index = c.graph.tensor(c.node, Role::index)->data;
    in_ranges(to.before * to.along, to.after, c.threads,
              [&](std::int64_t begin, std::int64_t end) {
                  for (std::int64_t i = begin; i < end; ++i) {
                      const std::int64_t place = place_of(index[i % to.along], from.along);
                      std::copy_n(c.inputs[0].data +
                                      (i / to.along * from.along + place) * from.after,
                                  to.after, c.out + i * to.after);
                  }
              });
}

Shape embedding_shape(const Graph& graph, const Node& node) {
    Shape x = first(graph, node);
    const Tensor& weight = *graph.tensor(node, Role::weight);
    check_rank(weight.shape, 2);
    if (x.size() >= 8) refuse("too many dimensions");
    x.push_back(weight.shape[1]);
    return x;
}

void embedding(const Call& c) {
    const Tensor& weight = *c.graph.tensor(c.node, Role::weight);
    const std::int64_t rows = weight.shape[0], width = weight.shape[1];
    const float* ids = c.inputs[0].data;
    in_ranges(product(c.inputs[0].shape), width * c.batch, c.threads,
              [&](std::int64_t begin, std::int64_t end) {
                  for (std::int64_t i = begin; i < end; ++i)
                      for (std::int64_t b = 0; b < c.batch; ++b) {
                          const float* row =
                              weight.data + place_of(ids[i * c.batch + b], rows) * width;
                          float* out = c.out + i * width * c.batch + b;
                          for (std::int64_t j = 0; j < width; ++j) out[j * c.batch] = row[j];
                      }
              });
}

Shape gather_shape(const Graph& graph, const Node& node) {
    const Shape &x = first(graph, node), &index = graph.shape(node.inputs[1]);
    const std::size_t dim = check_dim(x, node.integer(Key::dim));
    check_rank(index, x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
        if (i != dim && x[i] < index[i]) refuse("the index does not fit");
    return index;
}

void gather(const Call& c) {
    const Shape& shape = c.inputs[0].shape;
    const auto dim = count(c.node.integer(Key::dim) - 1);
    in_ranges(product(c.shape), c.batch, c.threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            for (std::int64_t b = 0; b < c.batch; ++b) {
                const float index = c.inputs[1].data[i * c.batch + b];
                std::int64_t rest = i, place = 0, step = 1;
                for (std::size_t j = c.shape.size(); j-- > 0; rest /= c.shape[j]) {
                    place += (j == dim ? place_of(index, shape[j]) : rest % c.shape[j]) * step;
                    step *= shape[j];
                }
                c.out[i * c.batch + b] = c.inputs[0].data[place * c.batch + b];
            }
    });
}

Shape dilate_shape(const Graph& graph, const Node& node) {
    Shape x = first(graph, node);
    check_rank(x, 4);
    for (std::size_t i = 0; i < 2; ++i) {
        const std::int64_t stride = node.list(Key::stride)[i];
        if (stride < 1) refuse("stride must be at least 1");
        x[2 + i] = (x[2 + i] - 1) * stride + 1;
    }
    return x;
}

void dilate(const Call& c) {
    const Shape& x = c.inputs[0].shape;
    const auto& stride = c.node.list(Key::stride);
    const std::int64_t plane = c.shape[1] * c.shape[2] * c.batch;
    in_ranges(x[0], plane, c.threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            float* out = c.out + i * plane;
            std::fill_n(out, plane, 0.0f);
            for (std::int64_t y = 0; y < x[1]; ++y)
                for (std::int64_t z = 0; z < x[2]; ++z)
                    std::copy_n(c.inputs[0].data + ((i * x[1] + y) * x[2] + z) * c.batch, c.batch,
                                out + (y * stride[0] * c.shape[2] + z * stride[1]) * c.batch);
        }
    });
}

// One number for every image.
Shape number_shape(const Graph&, const Node&) { return {-1}; }

void batch_size(const Call& c) { std::fill_n(c.out, c.batch, static_cast<float>(c.total)); }

void batch_index(const Call& c) {
    for (std::int64_t i = 0; i < c.batch; ++i) c.out[i] = static_cast<float>(c.first + i);
}

}  // namespace

void add_indexing(OperatorTable& table) {
    at(table, Op::batch_size) = {.shape = number_shape, .run = batch_size};
    at(table, Op::batch_index) = {.shape = number_shape, .run = batch_index};
    at(table, Op::expand) = {.attributes = {{Key::size, Kind::integers}},
                             .shape = expand_shape,
                             .run = expand,
                             .reads_constants = true};
    at(table, Op::take) = {.roles = {Role::index},
                           .attributes = {{Key::dim, Kind::integer}},
                           .shape = take_shape,
                           .run = take};
    at(table, Op::embedding) = {
        .roles = {Role::weight}, .shape = embedding_shape, .run = embedding};
    at(table, Op::gather) = {.least = 2,
                             .most = 2,
                             .attributes = {{Key::dim, Kind::integer}},
                             .shape = gather_shape,
                             .run = gather};
    at(table, Op::dilate) = {
        .attributes = {{Key::stride, Kind::pair}}, .shape = dilate_shape, .run = dilate};
}

}  // namespace dirprune::ops
