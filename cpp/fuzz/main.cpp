// Feeds damaged graphs to the engine, under AddressSanitizer and UBSan: whatever the bytes, they
// are refused with std::invalid_argument or make a program, and small programs run.
//
//     fuzz [iterations] [seed]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/program.hpp"

namespace {

using namespace dirprune;
using Bytes = std::vector<std::uint8_t>;
using List = std::vector<std::int64_t>;

// Writes graphs as deploy/encode.py does.
class Writer {
  public:
    template <class T>
    Writer& put(T value) {
        const auto* p = reinterpret_cast<const std::uint8_t*>(&value);
        bytes_.insert(bytes_.end(), p, p + sizeof value);
        return *this;
    }
    Writer& text(const std::string& text) {
        put<std::uint16_t>(static_cast<std::uint16_t>(text.size()));
        bytes_.insert(bytes_.end(), text.begin(), text.end());
        return *this;
    }
    Writer& dims(const List& dims) {
        put<std::uint8_t>(static_cast<std::uint8_t>(dims.size()));
        for (auto dim : dims) put<std::int32_t>(static_cast<std::int32_t>(dim));
        return *this;
    }
    Writer& node(Op op, const std::vector<std::uint32_t>& inputs) {
        put(op).text("n").put<std::uint8_t>(static_cast<std::uint8_t>(inputs.size()));
        for (auto input : inputs) put(input);
        return *this;
    }
    Writer& roles(const std::vector<std::pair<Role, std::uint32_t>>& roles) {
        put<std::uint8_t>(static_cast<std::uint8_t>(roles.size()));
        for (auto [role, tensor] : roles) put(role).put(tensor);
        return *this;
    }
    Writer& attributes(int count) { return put<std::uint8_t>(static_cast<std::uint8_t>(count)); }
    Writer& integer(Key key, std::int64_t value) {
        return put(key).put<std::uint8_t>(0).put(value);
    }
    Writer& real(Key key, double value) { return put(key).put<std::uint8_t>(1).put(value); }
    Writer& list(Key key, const List& values) {
        put(key).put<std::uint8_t>(2).put<std::uint8_t>(static_cast<std::uint8_t>(values.size()));
        for (auto value : values) put(value);
        return *this;
    }
    Bytes bytes() const { return bytes_; }

  private:
    Bytes bytes_;
};

Bytes convolutional() {
    Writer w;
    w.put<std::uint32_t>(1).put<std::uint32_t>(6);
    w.text("a").dims({4, 3, 3, 3}).text("b").dims({4}).text("c").dims({4, 2, 1, 1});
    w.text("d").dims({5, 4}).text("e").dims({4}).text("f").dims({4, 1, 1});
    w.dims({-1, 3, 6, 7}).put<std::uint32_t>(13);
    w.node(Op::conv2d, {0}).roles({{Role::weight, 0}, {Role::bias, 1}}).attributes(5);
    w.list(Key::stride, {1, 1}).list(Key::padding, {1, 1, 1, 1}).list(Key::dilation, {1, 1});
    w.integer(Key::groups, 1).integer(Key::activation, 1).dims({-1, 4, 6, 7});
    w.node(Op::max_pool2d, {1}).roles({}).attributes(5);
    w.list(Key::kernel, {3, 2}).list(Key::stride, {2, 2}).list(Key::padding, {1, 1});
    w.list(Key::dilation, {1, 1}).integer(Key::ceil_mode, 0).dims({-1, 4, 3, 4});
    w.node(Op::conv2d, {2}).roles({{Role::weight, 2}}).attributes(4);
    w.list(Key::stride, {1, 1}).list(Key::padding, {0, 0, 0, 0}).list(Key::dilation, {1, 1});
    w.integer(Key::groups, 2).dims({-1, 4, 3, 4});
    w.node(Op::batch_norm, {3});
    w.roles({{Role::running_mean, 1}, {Role::running_var, 4}, {Role::weight, 1}}).attributes(1);
    w.real(Key::eps, 1e-5).dims({-1, 4, 3, 4});
    w.node(Op::constant, {}).roles({{Role::value, 5}}).attributes(0).dims({4, 1, 1});
    w.node(Op::mul, {4, 5}).roles({}).attributes(0).dims({-1, 4, 3, 4});
    w.node(Op::cat, {2, 6}).roles({}).attributes(1).integer(Key::dim, 1).dims({-1, 8, 3, 4});
    w.node(Op::slice, {7}).roles({}).attributes(4).integer(Key::dim, 1).integer(Key::start, 1);
    w.integer(Key::end, 8).integer(Key::step, 2).dims({-1, 4, 3, 4});
    w.node(Op::permute, {8}).roles({}).attributes(1).list(Key::dims, {0, 2, 3, 1});
    w.dims({-1, 3, 4, 4});
    w.node(Op::layer_norm, {9}).roles({{Role::weight, 1}}).attributes(2).integer(Key::dims, 1);
    w.real(Key::eps, 1e-6).dims({-1, 3, 4, 4});
    w.node(Op::linear, {10}).roles({{Role::weight, 3}}).attributes(0).dims({-1, 3, 4, 5});
    w.node(Op::mean, {11}).roles({}).attributes(2).list(Key::dims, {1, 2});
    w.integer(Key::keepdim, 0).dims({-1, 5});
    w.node(Op::softmax, {12}).roles({}).attributes(1).integer(Key::dim, 1).dims({-1, 5});
    w.put<std::uint32_t>(13);
    return w.bytes();
}

Bytes resizing() {
    Writer w;
    w.put<std::uint32_t>(1).put<std::uint32_t>(1).text("k").dims({6, 1, 3, 3});
    w.dims({-1, 3, 5, 5}).put<std::uint32_t>(9);
    w.node(Op::conv2d, {0}).roles({{Role::weight, 0}}).attributes(4);
    w.list(Key::stride, {2, 2}).list(Key::padding, {1, 1, 1, 1}).list(Key::dilation, {1, 1});
    w.integer(Key::groups, 3).dims({-1, 6, 3, 3});
    w.node(Op::upsample_bilinear, {1}).roles({}).attributes(2).list(Key::output, {5, 4});
    w.integer(Key::align_corners, 1).dims({-1, 6, 5, 4});
    w.node(Op::avg_pool2d, {2}).roles({}).attributes(5);
    w.list(Key::kernel, {2, 3}).list(Key::stride, {2, 2}).list(Key::padding, {1, 1});
    w.integer(Key::ceil_mode, 1).integer(Key::count_include_pad, 0).dims({-1, 6, 3, 3});
    w.node(Op::pad, {3}).roles({}).attributes(2).list(Key::padding, {0, 1, 2, 0});
    w.real(Key::value, 0.5).dims({-1, 6, 4, 5});
    w.node(Op::upsample_nearest, {4}).roles({}).attributes(1).list(Key::output, {3, 7});
    w.dims({-1, 6, 3, 7});
    w.node(Op::adaptive_avg_pool2d, {5}).roles({}).attributes(1).list(Key::output, {2, 2});
    w.dims({-1, 6, 2, 2});
    w.node(Op::gelu, {6}).roles({}).attributes(1).integer(Key::tanh, 0).dims({-1, 6, 2, 2});
    w.node(Op::sub, {7}).roles({}).attributes(2).real(Key::scalar, 1.0);
    w.integer(Key::reversed, 1).dims({-1, 6, 2, 2});
    w.node(Op::reshape, {8}).roles({}).attributes(1).list(Key::size, {-1, 24}).dims({-1, 24});
    w.put<std::uint32_t>(9);
    return w.bytes();
}

std::mt19937_64 engine;
std::size_t below(std::size_t n) { return engine() % n; }

void damage(Bytes& bytes, const Bytes& other) {
    static const std::vector<std::uint32_t> telling{
        0,   1,       2,       3,        7,        8,          15,         255,
        256, 1 << 15, 1 << 16, 1u << 24, 1u << 30, 0x7fffffff, 0x80000000, 0xffffffff};
    for (std::size_t times = 1 + below(4); times > 0 && !bytes.empty(); --times) {
        const std::size_t at = below(bytes.size());
        switch (below(6)) {
            case 0: bytes[at] = static_cast<std::uint8_t>(engine()); break;
            case 1: bytes[at] ^= static_cast<std::uint8_t>(1u << below(8)); break;
            case 2: {
                const std::uint32_t value = telling[below(telling.size())];
                std::memcpy(bytes.data() + at, &value,
                            std::min<std::size_t>(1 + below(4), bytes.size() - at));
                break;
            }
            case 3: bytes.resize(at); break;
            case 4: {
                const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
                bytes.erase(begin, begin + static_cast<std::ptrdiff_t>(
                                               std::min(1 + below(8), bytes.size() - at)));
                break;
            }
            default: {
                const std::size_t from = below(other.size());
                const auto begin = other.begin() + static_cast<std::ptrdiff_t>(from);
                bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), begin,
                             begin + static_cast<std::ptrdiff_t>(
                                         std::min(1 + below(16), other.size() - from)));
            }
        }
    }
}

// A valid graph of one convolution or pooling of any geometry.
Bytes geometric() {
    const auto pick = [](std::size_t low, std::size_t high) {
        return static_cast<std::int64_t>(low + below(high - low + 1));
    };
    const bool pools = below(4) == 0;
    const std::int64_t groups = pools ? 1 : pick(1, 3), c = groups * pick(1, 5),
                       o = groups * pick(1, 9);
    List kernel, stride, dilation, padding, in, out;
    for (int axis = 0; axis < 2; ++axis) {
        kernel.push_back(pick(1, 4));
        stride.push_back(pick(1, 4));
        dilation.push_back(pick(1, 3));
        padding.push_back(pick(0, static_cast<std::size_t>(kernel.back() / 2)));
        padding.push_back(pools ? padding.back() : pick(0, 3));
        const std::int64_t reach = dilation.back() * (kernel.back() - 1) + 1;
        const std::int64_t around = padding[padding.size() - 1] + padding[padding.size() - 2];
        in.push_back(std::max(pick(1, 24), reach - around));
        out.push_back((in.back() + around - reach) / stride.back() + 1);
    }
    Writer w;
    w.put<std::uint32_t>(1).put<std::uint32_t>(1);
    w.text("w").dims({o, c / groups, kernel[0], kernel[1]});
    w.dims({-1, c, in[0], in[1]}).put<std::uint32_t>(1);
    if (pools) {
        w.node(Op::max_pool2d, {0}).roles({}).attributes(5);
        w.list(Key::kernel, kernel).list(Key::padding, {padding[0], padding[2]});
        w.integer(Key::ceil_mode, 0);
    } else {
        w.node(Op::conv2d, {0}).roles({{Role::weight, 0}}).attributes(5);
        w.list(Key::padding, padding).integer(Key::groups, groups);
        w.integer(Key::activation, pick(0, 11));
    }
    w.list(Key::stride, stride).list(Key::dilation, dilation);
    w.dims({-1, pools ? c : o, out[0], out[1]}).put<std::uint32_t>(1);
    return w.bytes();
}

// Whether the graph was accepted.
bool try_bytes(const Bytes& bytes) {
    Graph graph;
    try {
        graph = parse(bytes);
    } catch (const std::invalid_argument&) {
        return false;
    }
    std::int64_t work = product(graph.input, 1), weights = 0;
    for (const Tensor& tensor : graph.tensors) weights += static_cast<std::int64_t>(tensor.size);
    for (const Node& node : graph.nodes) work = std::max(work, product(node.shape, 1));
    if (work > 1 << 14 || weights > 1 << 14) return true;

    std::vector<std::vector<float>> values;
    std::vector<const float*> tensors;
    std::vector<Shape> shapes;
    for (const Tensor& tensor : graph.tensors) {
        values.emplace_back(tensor.size);
        for (float& value : values.back())
            value = below(2) ? static_cast<float>(below(100)) / 50 - 1 : 0.0f;
        tensors.push_back(values.back().data());
        shapes.push_back(tensor.shape);
    }
    try {
        Program program(bytes, tensors, shapes, 1 << 30);
        for (const std::int64_t batch : {1, 9}) {
            const Shape in = program.input_shape(), out = program.output_shape();
            const std::vector<float> x(static_cast<std::size_t>(batch * product(in)), 0.5f);
            std::vector<float> y(static_cast<std::size_t>(batch * product(out)));
            program.run(x.data(), batch, y.data(), 2, below(20) == 0);
        }
    } catch (const std::invalid_argument&) {  // too large for the engine
    }
    return true;
}

}  // namespace

int main(int count, char** arguments) {
    const long iterations = count > 1 ? std::atol(arguments[1]) : 200000;
    engine.seed(count > 2 ? static_cast<std::uint64_t>(std::atoll(arguments[2])) : 1);
    const Bytes seeds[] = {convolutional(), resizing()};
    for (const Bytes& seed : seeds)
        if (!try_bytes(seed)) {
            parse(seed);  // says why
            return 1;
        }
    long accepted = 0;
    for (long i = 0; i < iterations; ++i) {
        if (i % 8 == 0) {
            const Bytes valid = geometric();
            if (!try_bytes(valid)) {
                parse(valid);  // says why
                return 1;
            }
        }
        Bytes bytes = seeds[below(2)];
        damage(bytes, seeds[below(2)]);
        accepted += try_bytes(bytes);
    }
    std::printf("%ld damaged graphs, %ld of them still valid, no fault\n", iterations, accepted);
}
