// The engine's kernels: every instruction set against sums written down in double precision.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "engine/choose.hpp"
#include "engine/conv.hpp"
#include "engine/kernels.hpp"
#include "selftest/selftest.hpp"

namespace dirprune::selftest {
namespace {

using Array = std::vector<float>;
using Random = std::mt19937;

std::int64_t between(Random& random, std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random() % static_cast<unsigned>(high - low + 1));
}

Array noise(Random& random, std::int64_t length, double density = 1) {
    std::normal_distribution<float> normal;
    std::bernoulli_distribution there(density);
    Array a(static_cast<std::size_t>(length));
    for (float& x : a) x = there(random) ? normal(random) : 0.0f;
    return a;
}

double activated(Activation activation, double p, double x) {
    const double ramp = std::fmin(std::fmax((x + 3) / 6, 0), 1);
    switch (activation) {
        case Activation::none: return x;
        case Activation::relu: return std::fmax(x, 0);
        case Activation::relu6: return std::fmin(std::fmax(x, 0), 6);
        case Activation::leaky_relu: return x > 0 ? x : p * x;
        case Activation::elu: return x > 0 ? x : p * std::expm1(x);
        case Activation::gelu: return x / 2 * std::erfc(-x / std::sqrt(2.0));
        case Activation::gelu_tanh:
            return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
        case Activation::silu: return x / (1 + std::exp(-x));
        case Activation::sigmoid: return 1 / (1 + std::exp(-x));
        case Activation::tanh: return std::tanh(x);
        case Activation::hardswish: return x * ramp;
        case Activation::hardsigmoid: return ramp;
        case Activation::mish: return x * std::tanh(std::log1p(std::exp(x)));
        case Activation::selu:
            return 1.0507009873554804934 * (x > 0 ? x : 1.6732632423543772848 * std::expm1(x));
        case Activation::exp: return std::exp(x);
        case Activation::expm1: return std::expm1(x);
    }
    return NAN;
}

bool near(double a, double b, double scale) { return std::abs(a - b) <= 1e-5 * (scale + 1); }

// With `depthwise` one that the kernels for depthwise convolutions take.
Geometry draw(Random& random, bool depthwise) {
    for (;;) {
        Geometry g;
        g.groups = between(random, 1, 3);
        g.channels = g.groups * between(random, 1, 9);
        g.outputs = g.groups * between(random, 1, random() % 8 ? 9 : 120);
        g.height = between(random, 1, 17);
        g.width = between(random, 1, 17);
        g.kernel_y = between(random, 1, 4);
        g.kernel_x = between(random, 1, 4);
        g.stride_y = between(random, 1, 3);
        g.stride_x = between(random, 1, 3);
        g.dilation_y = between(random, 1, 2);
        g.dilation_x = between(random, 1, 2);
        g.top = between(random, 0, 2);
        g.left = between(random, 0, 2);
        if (depthwise) {
            g.channels = g.groups = between(random, 1, 9);
            g.outputs = g.groups * between(random, 1, 2);
            g.height = between(random, 1, 40);
            g.width = between(random, 1, 60);
            g.kernel_y = g.kernel_x = 2 * between(random, 1, 3) + 1;
            g.stride_y = g.stride_x = between(random, 1, 2);
            g.dilation_y = g.dilation_x = 1;
        }
        const auto out = [](std::int64_t side, std::int64_t before, std::int64_t after,
                            std::int64_t kernel, std::int64_t stride, std::int64_t dilation) {
            const std::int64_t rest = side + before + after - (kernel - 1) * dilation - 1;
            return rest < 0 ? 0 : rest / stride + 1;
        };
        const std::int64_t bottom = between(random, 0, 2), right = between(random, 0, 2);
        g.out_height = out(g.height, g.top, bottom, g.kernel_y, g.stride_y, g.dilation_y);
        g.out_width = out(g.width, g.left, right, g.kernel_x, g.stride_x, g.dilation_x);
        if (g.out_height > 0 && g.out_width > 0) return g;
    }
}

// One output of a convolution, and the sum of its summands' magnitudes.
std::pair<double, double> at(const Geometry& g, const Array& x, const Array& weight,
                             std::int64_t o, std::int64_t row, std::int64_t column,
                             std::int64_t image) {
    const std::int64_t fan_in = g.channels / g.groups;
    const std::int64_t base = o / (g.outputs / g.groups) * fan_in;
    double sum = 0, scale = 0;
    for (std::int64_t c = 0; c < fan_in; ++c)
        for (std::int64_t i = 0; i < g.kernel_y; ++i)
            for (std::int64_t j = 0; j < g.kernel_x; ++j) {
                const std::int64_t y = row * g.stride_y - g.top + i * g.dilation_y;
                const std::int64_t z = column * g.stride_x - g.left + j * g.dilation_x;
                if (y < 0 || y >= g.height || z < 0 || z >= g.width) continue;
                const auto from =
                    (((base + c) * g.height + y) * g.width + z) * g.batch + image;
                const auto entry = ((o * fan_in + c) * g.kernel_y + i) * g.kernel_x + j;
                const double term = double(x[static_cast<std::size_t>(from)]) *
                                    double(weight[static_cast<std::size_t>(entry)]);
                sum += term;
                scale += std::abs(term);
            }
    return {sum, scale};
}

bool convolves(const Kernels& kernels, Random& random) {
    const bool depthwise = random() % 4 == 0;
    Geometry g = draw(random, depthwise);
    if (!depthwise && random() % 2) g.batch = kernels.lanes;
    constexpr double densities[] = {0, 0.1, 0.5, 1};
    const double density = densities[random() % 4];
    const std::int64_t row = g.channels / g.groups * g.taps();
    const Array weight = noise(random, g.outputs * row, density), bias = noise(random, g.outputs);
    const Array x = noise(random, g.x_size() + slack);
    const Array residual = noise(random, g.out_size() + slack);
    const bool adds = random() % 2;
    constexpr Activation some[] = {Activation::none, Activation::relu, Activation::relu6,
                                   Activation::silu};
    const Epilogue epilogue{some[random() % 4], 0};
    const Nonzeros nonzeros(weight.data(), g.outputs, row);

    const auto all = choices(kernels, g, density, 1000, 1 << 28);
    const auto special = std::find_if(all.begin(), all.end(), [](auto& c) { return c.depthwise; });
    if (depthwise && density >= 0.5 && special == all.end()) return false;
    for (int trial = 0; trial < 6; ++trial) {
        const bool takes = special != all.end() && trial % 2;
        const Choice& choice = takes ? *special : all[random() % all.size()];
        const int threads = random() % 2 ? 3 : 1;
        const ConvPlan plan(kernels, g, nonzeros, bias.data(), epilogue, choice);
        std::vector<Array> scratch(3, Array(plan.scratch_size() + slack));
        Array out(static_cast<std::size_t>(g.out_size() + slack), NAN);
        plan.run(x.data(), adds ? residual.data() : nullptr, out.data(), threads,
                 {scratch[0].data(), scratch[1].data(), scratch[2].data()});
        std::size_t n = 0;
        for (std::int64_t o = 0; o < g.outputs; ++o)
            for (std::int64_t i = 0; i < g.out_height; ++i)
                for (std::int64_t j = 0; j < g.out_width; ++j)
                    for (std::int64_t image = 0; image < g.batch; ++image, ++n) {
                        auto [sum, scale] = at(g, x, weight, o, i, j, image);
                        sum += bias[static_cast<std::size_t>(o)] + (adds ? residual[n] : 0.0f);
                        if (!near(out[n], activated(epilogue.activation, 0, sum), scale))
                            return false;
                    }
    }
    return true;
}

bool activates(const Kernels& kernels, Random& random) {
    for (int kind = 0; kind <= static_cast<int>(last_activation); ++kind)
        for (std::size_t length : {0, 1, 7, 33}) {
            const Array x = noise(random, static_cast<std::int64_t>(length));
            Array y(length);
            kernels.activate(static_cast<Activation>(kind), 0.3f, x.data(), y.data(), length);
            for (std::size_t i = 0; i < length; ++i)
                if (!near(y[i], activated(static_cast<Activation>(kind), 0.3f, x[i]), 0))
                    return false;
        }
    return true;
}

bool sums(const Kernels& kernels, Random& random) {
    const std::int64_t rows = 23, width = 67;
    const Array weight = noise(random, rows * width, 0.3), bias = noise(random, rows);
    const Array x = noise(random, width);
    const Nonzeros n(weight.data(), rows, width);
    Array out(rows);
    kernels.sparse_rows(n.ends.data(), n.index.data(), n.value.data(), bias.data(), 0, rows,
                        x.data(), out.data());
    for (std::int64_t row = 0; row < rows; ++row) {
        const float* const w = weight.data() + row * width;
        double sum = 0;
        for (std::int64_t i = 0; i < width; ++i) sum += double(w[i]) * double(x[std::size_t(i)]);
        const float b = bias[static_cast<std::size_t>(row)];
        if (!near(kernels.dot(w, x.data(), width), sum, width) ||
            !near(out[static_cast<std::size_t>(row)], sum + b, width))
            return false;
    }
    return true;
}

bool normalizes(const Kernels& kernels, Random& random) {
    for (std::size_t n : {1, 3, 8, 37, 200})
        for (std::size_t batch : {std::size_t(1), static_cast<std::size_t>(kernels.lanes)})
            for (float offset : {0.0f, 1000.0f}) {
                Array x = noise(random, static_cast<std::int64_t>(n * batch)), y(n * batch);
                for (float& v : x) v += offset;
                const Array weight = noise(random, static_cast<std::int64_t>(n));
                const Array bias = noise(random, static_cast<std::int64_t>(n));
                const float eps = 1e-5f;
                kernels.layer_norm(x.data(), weight.data(), bias.data(), eps, y.data(), n,
                                   static_cast<int>(batch));
                for (std::size_t b = 0; b < batch; ++b) {
                    double mean = 0, variance = 0;
                    for (std::size_t i = 0; i < n; ++i) mean += x[i * batch + b] / double(n);
                    for (std::size_t i = 0; i < n; ++i)
                        variance += std::pow(x[i * batch + b] - mean, 2) / double(n);
                    for (std::size_t i = 0; i < n; ++i) {
                        const double z = (x[i * batch + b] - mean) / std::sqrt(variance + eps);
                        if (!near(y[i * batch + b], z * weight[i] + bias[i], 10)) return false;
                    }
                }
            }
    return true;
}

bool softens(const Kernels& kernels, Random& random) {
    for (std::size_t n : {1, 7, 16, 45}) {
        const Array x = noise(random, static_cast<std::int64_t>(n));
        Array y(n);
        kernels.softmax_row(x.data(), y.data(), n);
        double total = 0;
        for (float v : x) total += std::exp(double(v));
        for (std::size_t i = 0; i < n; ++i)
            if (!near(y[i], std::exp(double(x[i])) / total, 0)) return false;
    }
    return true;
}

bool transposes(const Kernels& kernels, Random& random) {
    for (int trial = 0; trial < 40; ++trial) {
        const auto rows = static_cast<std::size_t>(between(random, 1, 40));
        const auto columns = static_cast<std::size_t>(between(random, 1, 40));
        const auto batch = static_cast<std::size_t>(random() % 2 ? 1 : kernels.lanes);
        const Array x = noise(random, static_cast<std::int64_t>(rows * columns * batch));
        Array y(x.size());
        kernels.transpose(x.data(), static_cast<std::ptrdiff_t>(columns), y.data(),
                          static_cast<std::ptrdiff_t>(rows), rows, columns, batch);
        for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t j = 0; j < columns; ++j)
                for (std::size_t b = 0; b < batch; ++b)
                    if (y[(j * rows + i) * batch + b] != x[(i * columns + j) * batch + b])
                        return false;
    }
    return true;
}

bool multiplies(const Kernels& kernels, Random& random) {
    for (int trial = 0; trial < 40; ++trial) {
        const std::int64_t rows = between(random, 1, 9), inner = between(random, 1, 20);
        const std::int64_t columns = between(random, 1, 9);
        const std::int64_t batch = kernels.lanes * between(random, 1, 2);
        const Array a = noise(random, rows * inner * batch), b = noise(random, inner * columns * batch);
        Array out(static_cast<std::size_t>(rows * columns * batch));
        kernels.batched_product(a.data(), b.data(), out.data(), std::size_t(rows), std::size_t(inner),
                                std::size_t(columns), std::size_t(batch));
        for (std::int64_t i = 0; i < rows; ++i)
            for (std::int64_t j = 0; j < columns; ++j)
                for (std::int64_t image = 0; image < batch; ++image) {
                    double sum = 0;
                    for (std::int64_t k = 0; k < inner; ++k)
                        sum += double(a[std::size_t((i * inner + k) * batch + image)]) *
                               double(b[std::size_t((k * columns + j) * batch + image)]);
                    if (!near(out[std::size_t((i * columns + j) * batch + image)], sum, double(inner)))
                        return false;
                }
    }
    return true;
}

bool softens_ramps(const Kernels& kernels, Random& random) {
    const Array x = noise(random, 77);
    Array y(x.size());
    for (float beta : {0.5f, 1.0f, 4.0f}) {
        kernels.softplus(beta, 3, x.data(), y.data(), x.size());
        for (std::size_t i = 0; i < x.size(); ++i) {
            const double z = double(beta) * double(x[i]);
            if (!near(y[i], z > 3 ? double(x[i]) : std::log1p(std::exp(z)) / double(beta), 0)) return false;
        }
    }
    return true;
}

}  // namespace

void test_engine() {
    for (Isa isa : available()) {
        const Kernels& table = kernels(isa);
        const std::string suffix = ", " + std::string(name(isa));
        Random random(1);
        bool good = true;
        for (int i = 0; i < 500; ++i) good = convolves(table, random) && good;
        check(good, ("convolutions in many ways" + suffix).c_str());
        check(activates(table, random), ("activations" + suffix).c_str());
        check(normalizes(table, random), ("layer norms" + suffix).c_str());
        check(softens(table, random), ("softmax" + suffix).c_str());
        check(transposes(table, random), ("transpositions" + suffix).c_str());
        check(multiplies(table, random), ("products of batches" + suffix).c_str());
        check(softens_ramps(table, random), ("softplus" + suffix).c_str());
        check(sums(table, random), ("products of sparse and dense rows" + suffix).c_str());
    }
}

}  // namespace dirprune::selftest
