// The inner loops, compiled once for each instruction set by kernels_*.cpp.
#include "engine/depthwise.inl"
#include "engine/kernels.hpp"
#include "engine/vec.hpp"

namespace dirprune {
namespace {

// Stores a tile that is not full from `values`, its sums row by row.
__attribute__((noinline)) void finish_segments(const Tile& t, const float* values, float* out) {
    const Vec low = broadcast(t.low), high = broadcast(t.high);
    for (int i = 0; i < t.num_segments; ++i) {
        const Segment segment = t.segments[i];
        float* to = out + segment.out;
        Vec v = load(values + segment.lane);
        if (t.has_residual) v += load(to + t.residual);
        v = at_most(at_least(v, low), high);
        if (segment.whole) {
            store(to, v);
        } else {
            store_front(to, v, segment.count);
        }
    }
}

// Independent chains of additions hide their latency. A tile with too few sums uses `sets` of them.
constexpr int chains = 8;

// The results and residuals of the next group of channels are far from those of this one: the
// hardware does not prefetch them.
template <int rows, int columns>
INLINE void prefetch_results(const Tile& t, std::ptrdiff_t channel) {
    constexpr int line = 16;  // floats
    const float* const out = t.out + channel * t.out_channel;
    unrolled<rows>([&](auto r) INLINE_LAMBDA {
        unrolled<(columns * lanes + line - 1) / line>([&](auto i) INLINE_LAMBDA {
            __builtin_prefetch(out + r * t.out_row + i * line, 1);
        });
    });
    if (t.has_residual)
        unrolled<rows>([&](auto r) INLINE_LAMBDA {
            unrolled<(columns * lanes + line - 1) / line>([&](auto i) INLINE_LAMBDA {
                __builtin_prefetch(out + t.residual + r * t.out_row + i * line);
            });
        });
}

// The weights of a dense network are read from memory for every image. The hardware does not prefetch
// beyond the end of a page.
INLINE void prefetch_weights(const void* p) {
    constexpr int page = 4096, second_cache = 2;
    __builtin_prefetch(static_cast<const char*>(p) + page, 0, second_cache);
}

template <int height, int rows, int columns>
void tile_kernel(const Tile& t) {
    constexpr int vectors = rows * columns;
    constexpr int sets = height > 1 || vectors >= 6 ? 1 : (chains + vectors - 1) / vectors;
    const auto* entries = static_cast<const Entry<height>*>(t.entries);
    const std::ptrdiff_t x_row = t.x_row, tail = t.tail;
    const auto lane = [tail](auto c) INLINE_LAMBDA -> std::ptrdiff_t {
        return c + 1 < columns ? c * lanes : tail;
    };

    for (std::int32_t i = t.first; i < t.last; ++i) {
        const std::ptrdiff_t group = t.order[i];
        Vec acc[sets][height][vectors];
        float* partial = t.partial + group * height * vectors * lanes;
        if (t.begin) {
            unrolled<height>([&](auto h) INLINE_LAMBDA {
                const Vec bias = broadcast(t.bias[group * height + h]);
                unrolled<vectors>([&](auto v) INLINE_LAMBDA { acc[0][h][v] = bias; });
            });
        } else {
            unrolled<height>([&](auto h) INLINE_LAMBDA {
                unrolled<vectors>([&](auto v) INLINE_LAMBDA {
                    acc[0][h][v] = load(partial + (h * vectors + v) * lanes);
                });
            });
        }
        unrolled<sets - 1>([&](auto s) INLINE_LAMBDA {
            unrolled<vectors>([&](auto v) INLINE_LAMBDA { acc[s + 1][0][v] = Vec{}; });
        });

        if (height == 1 && t.end && i + 1 < t.last)
            prefetch_results<rows, columns>(t, t.order[i + 1]);
        const auto* entry = entries + t.ends[i];
        const auto* const end = entries + t.ends[i + 1];
        const auto add = [&](auto s, const Entry<height>& e) INLINE_LAMBDA {
            if constexpr (height > 1) prefetch_weights(&e);
            // One register for each row; the compiler would use one for each vector.
            const float* x[rows];
            unrolled<rows>([&](auto r) INLINE_LAMBDA {
                x[r] = r ? x[r - (r > 0)] + x_row : t.x + e.offset;
                asm("" : "+r"(x[r]));
            });
            if constexpr (height == 1) {
                const Vec weight = broadcast(e.weight[0]);
                unrolled<rows>([&](auto r) INLINE_LAMBDA {
                    unrolled<columns>([&](auto c) INLINE_LAMBDA {
                        Vec& a = acc[s][0][r * columns + c];
                        a = multiply_add(weight, load(x[r] + lane(c)), a);
                    });
                });
            } else {
                Vec pixel[vectors];
                unrolled<rows>([&](auto r) INLINE_LAMBDA {
                    unrolled<columns>([&](auto c) INLINE_LAMBDA {
                        pixel[r * columns + c] = load(x[r] + lane(c));
                    });
                });
                unrolled<height>([&](auto h) INLINE_LAMBDA {
                    const Vec weight = broadcast(e.weight[h]);
                    unrolled<vectors>([&](auto v) INLINE_LAMBDA {
                        acc[s][h][v] = multiply_add(weight, pixel[v], acc[s][h][v]);
                    });
                });
            }
        };
        for (; end - entry >= sets; entry += sets)
            unrolled<sets>([&](auto s) INLINE_LAMBDA { add(s, entry[s]); });
        if constexpr (sets > 1) {
            for (; entry != end; ++entry) add(std::integral_constant<int, 0>{}, *entry);
            unrolled<sets - 1>([&](auto s) INLINE_LAMBDA {
                unrolled<vectors>([&](auto v) INLINE_LAMBDA { acc[0][0][v] += acc[s + 1][0][v]; });
            });
        }

        if (!t.end) {
            unrolled<height>([&](auto h) INLINE_LAMBDA {
                unrolled<vectors>([&](auto v) INLINE_LAMBDA {
                    store(partial + (h * vectors + v) * lanes, acc[0][h][v]);
                });
            });
            continue;
        }
        unrolled<height>([&](auto h) INLINE_LAMBDA {
            const std::ptrdiff_t channel = group * height + h;
            if (height > 1 && channel >= t.channels) return;
            float* out = t.out + channel * t.out_channel;
            if (t.num_segments) {
                alignas(64) float values[(vectors + 1) * lanes];
                unrolled<vectors>([&](auto v)
                                      INLINE_LAMBDA { store(values + v * lanes, acc[0][h][v]); });
                finish_segments(t, values, out);
                return;
            }
            const auto place = [&](auto r, auto c) INLINE_LAMBDA {
                return out + r * t.out_row + lane(c);
            };
            if (t.has_residual)
                unrolled<rows>([&](auto r) INLINE_LAMBDA {
                    unrolled<columns>([&](auto c) INLINE_LAMBDA {
                        acc[0][h][r * columns + c] += load(place(r, c) + t.residual);
                    });
                });
            const Vec low = broadcast(t.low), high = broadcast(t.high);
            unrolled<rows>([&](auto r) INLINE_LAMBDA {
                unrolled<columns>([&](auto c) INLINE_LAMBDA {
                    const Vec v = acc[0][h][r * columns + c];
                    store(place(r, c), at_most(at_least(v, low), high));
                });
            });
        });
    }
}

template <int rows, int columns>
void row_kernel(const RowTile& t) {
    Vec acc[rows][columns];
    // The last vector may be partly beyond the row, where another thread may be writing.
    const auto part = [&](const float* p, auto c) INLINE_LAMBDA {
        return c + 1 < columns ? load(p) : load_front(p, t.last);
    };
    if (t.begin) {
        unrolled<columns>([&](auto c) INLINE_LAMBDA {
            const Vec bias = load(t.bias + c * lanes);
            unrolled<rows>([&](auto r) INLINE_LAMBDA { acc[r][c] = bias; });
        });
    } else {
        unrolled<rows>([&](auto r) INLINE_LAMBDA {
            unrolled<columns>([&](auto c) INLINE_LAMBDA {
                acc[r][c] = part(t.out + r * t.out_row + c * lanes, c);
            });
        });
    }
    const float* panel = t.panel;
    const float* x = t.x;
    const std::ptrdiff_t x_row = t.x_row;
    for (std::int32_t i = 0; i < t.depth; ++i, panel += t.panel_row, ++x) {
        Vec weight[columns];
        unrolled<columns>([&](auto c) INLINE_LAMBDA {
            weight[c] = load(panel + c * lanes);
            prefetch_weights(panel + c * lanes);
        });
        unrolled<rows>([&](auto r) INLINE_LAMBDA {
            const Vec value = broadcast(x[r * x_row]);
            unrolled<columns>([&](auto c) INLINE_LAMBDA {
                acc[r][c] = multiply_add(value, weight[c], acc[r][c]);
            });
        });
    }
    const Vec low = broadcast(t.low), high = broadcast(t.high);
    unrolled<rows>([&](auto r) INLINE_LAMBDA {
        unrolled<columns>([&](auto c) INLINE_LAMBDA {
            float* const to = t.out + r * t.out_row + c * lanes;
            Vec v = acc[r][c];
            if (t.end) {
                if (t.has_residual) v += part(to + t.residual, c);
                v = at_most(at_least(v, low), high);
            }
            if (c + 1 < columns)
                store(to, v);
            else
                store_front(to, v, t.last);
        });
    });
}

// Copies whole vectors: up to one vector more than `count` is read and written. The next copy starts
// `ahead` floats further, usually in another page, which the hardware does not prefetch.
INLINE void copy(float* to, const float* from, std::ptrdiff_t count, std::ptrdiff_t ahead = 0) {
    if (ahead)
        for (std::ptrdiff_t i = 0; i < count; i += 16) __builtin_prefetch(from + ahead + i);
    for (std::ptrdiff_t i = 0; i < count; i += lanes) store(to + i, load(from + i));
}
INLINE Vec load_even(const float* p) { return even(load(p), load(p + lanes)); }
// Writes whole vectors, as `copy` does.
INLINE void fill_zeros(float* to, std::ptrdiff_t count) {
    for (std::ptrdiff_t i = 0; i < count; i += lanes) store(to + i, Vec{});
}
INLINE void copy_strided(float* to, const float* from, std::ptrdiff_t count, int batch,
                         std::ptrdiff_t stride) {
    if (batch > 1)
        for (std::ptrdiff_t i = 0; i < count; ++i)
            copy(to + i * batch, from + i * batch * stride, batch);
    else if (stride == 2)
        for (std::ptrdiff_t i = 0; i < count; i += lanes) store(to + i, load_even(from + 2 * i));
    else
        for (std::ptrdiff_t i = 0; i < count; ++i) to[i] = from[i * stride];
}

// One plane of a channel: the columns from `left` and the rows from `y` on, every stride. Everything is
// written in order, so that what follows overwrites the excess of a last vector.
INLINE void pack_plane(const Packing& p, const float* x, float* to, int y, int left,
                       std::ptrdiff_t ahead) {
    // Columns [first, last) are inside the input. Divisions are slow.
    const auto columns = [&](int distance) INLINE_LAMBDA {
        if (distance <= 0) return 0;
        const int n = p.stride_x == 1 ? distance : (distance + p.stride_x - 1) / p.stride_x;
        return n < p.columns ? n : p.columns;
    };
    const int first = columns(-left), stop = columns(p.width - left);
    const int last = stop > first ? stop : first;
    const std::ptrdiff_t begin = std::ptrdiff_t(first) * p.batch, end = std::ptrdiff_t(last) * p.batch;
    for (int row = 0; row < p.rows; ++row, y += p.stride_y, to += p.to_row) {
        if (y < 0 || y >= p.height) {
            fill_zeros(to, p.to_row);
            continue;
        }
        const float* from =
            x + (std::ptrdiff_t(y) * p.width + left + std::ptrdiff_t(first) * p.stride_x) * p.batch;
        fill_zeros(to, begin);
        if (p.stride_x == 1)
            copy(to + begin, from, end - begin, ahead);
        else
            copy_strided(to + begin, from, last - first, p.batch, p.stride_x);
        fill_zeros(to + end, p.to_row - end);
    }
}

void pack(const Packing& p) {
    constexpr std::int32_t ahead = 8;  // channels
    for (std::int32_t c = 0; c < p.channels; ++c) {
        const float* const x = p.x + c * p.x_channel;
        float* to = p.to + c * p.to_channel;
        const std::ptrdiff_t next = c + ahead < p.channels ? ahead * p.x_channel : 0;
        for (int i = 0; i < p.num_phases_y; ++i)
            for (int j = 0; j < p.num_phases_x; ++j, to += p.to_plane)
                pack_plane(p, x, to, p.top + p.phase_y[i], p.left + p.phase_x[j], next);
    }
}

void sparse_rows(const std::uint32_t* ends, const std::uint32_t* index, const float* value,
                 const float* bias, std::int64_t first, std::int64_t last, const float* x,
                 float* out) {
    for (std::int64_t row = first; row < last; ++row) {
        float total[4] = {bias[row], 0, 0, 0};
        std::uint32_t i = ends[row];
        const std::uint32_t end = ends[row + 1];
        for (; end - i >= 4; i += 4)
            for (std::uint32_t j = 0; j < 4; ++j) total[j] += value[i + j] * x[index[i + j]];
        for (; i < end; ++i) total[0] += value[i] * x[index[i]];
        out[row] = (total[0] + total[1]) + (total[2] + total[3]);
    }
}

float dot(const float* a, const float* b, std::size_t n) {
    Vec acc[4] = {};
    std::size_t i = 0;
    for (; i + 4 * lanes <= n; i += 4 * lanes)
        for (int j = 0; j < 4; ++j)
            acc[j] = multiply_add(load(a + i + j * lanes), load(b + i + j * lanes), acc[j]);
    float total = sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
}

// y = f(x...) over arrays of any length.
template <typename F>
INLINE void map(const float* x, float* y, std::size_t n, const F& f) {
    std::size_t i = 0;
    for (; i + lanes <= n; i += lanes) store(y + i, f(load(x + i)));
    const int left = static_cast<int>(n - i);
    if (left) store_front(y + i, f(load_front(x + i, left)), left);
}
template <typename F>
INLINE void map2(const float* a, const float* b, float* y, std::size_t n, const F& f) {
    std::size_t i = 0;
    for (; i + lanes <= n; i += lanes) store(y + i, f(load(a + i), load(b + i)));
    const int left = static_cast<int>(n - i);
    if (left) store_front(y + i, f(load_front(a + i, left), load_front(b + i, left)), left);
}

// exp(x) = 2^n exp(r), r = x - n log 2 in two parts, |r| <= log(2) / 2.
struct Exponential {
    Ints n;
    Vec remainder;  // exp(r) - 1 by its Taylor polynomial of degree 7; the next term is below 6e-9
};
INLINE Exponential exponential(Vec x, float least, float most) {
    x = at_most(at_least(x, broadcast(least)), broadcast(most));
    const Vec magic = broadcast(12582912.0f);  // 1.5 2^23: adding it rounds to an integer
    const Vec shifted = x * 1.44269504f + magic;
    const Vec n = shifted - magic;
    Vec r = multiply_add(n, broadcast(-0.693359375f), x);
    r = multiply_add(n, broadcast(2.12194440e-4f), r);
    Vec p = broadcast(1.0f / 5040);
    p = multiply_add(p, r, broadcast(1.0f / 720));
    p = multiply_add(p, r, broadcast(1.0f / 120));
    p = multiply_add(p, r, broadcast(1.0f / 24));
    p = multiply_add(p, r, broadcast(1.0f / 6));
    p = multiply_add(p, r, broadcast(0.5f));
    p = multiply_add(p, r, broadcast(1.0f));
    return {(Ints)shifted - 0x4b400000, p * r};
}
INLINE Vec power_of_two(Ints n) { return (Vec)((n + 127) << 23); }

// Zero below -88, as masked logits need it (2^n is zero for n = -127); above 88, the value at 88.
INLINE Vec exp(Vec x) {
    const Exponential e = exponential(x, -88, 88);
    const Vec power = power_of_two(e.n);
    return multiply_add(power, e.remainder, power);
}
// exp(x) - 1, exact to the last digits near 0 too; beyond -87 and 88, the value there.
INLINE Vec expm1(Vec x) {
    const Exponential e = exponential(x, -87, 88);
    const Vec power = power_of_two(e.n);
    return multiply_add(power, e.remainder, power - 1.0f);
}
// For every argument: 2^n is multiplied in two parts, so that the product can overflow to infinity.
INLINE Vec exp_anywhere(Vec x) {
    const Exponential e = exponential(x, -105, 90);
    const Ints half = e.n >> 1;
    const Vec power = power_of_two(half);
    return multiply_add(power, e.remainder, power) * power_of_two(e.n - half);
}
INLINE Vec expm1_anywhere(Vec x) { return x > 1.0f ? exp_anywhere(x) - 1.0f : expm1(x); }

// log(1 + u) for u from 0 to 1: 2 artanh(u / (2 + u)); the next term of the series is below 2e-9.
INLINE Vec log1p_unit(Vec u) {
    const Vec s = u / (u + 2.0f), square = s * s;
    Vec p = broadcast(1.0f / 15);
    for (int n = 13; n > 0; n -= 2) p = multiply_add(p, square, broadcast(1.0f / n));
    return 2.0f * s * p;
}
// x tanh(log(1 + e)) with e = exp(x), as a fraction in e. From 20 on it is x.
INLINE Vec mish(Vec x) {
    const Vec e = x < -87.0f ? Vec{} : exp(at_most(x, broadcast(20.0f)));
    const Vec n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}
INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }
INLINE Vec tanh(Vec x) {
    const Vec e = expm1(2.0f * x);
    return e / (e + 2.0f);
}

// Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
INLINE Vec erf(Vec x) {
    const Vec a = x < 0.0f ? -x : x;
    const Vec t = 1.0f / (1.0f + 0.3275911f * a);
    Vec p = broadcast(1.061405429f);
    p = multiply_add(p, t, broadcast(-1.453152027f));
    p = multiply_add(p, t, broadcast(1.421413741f));
    p = multiply_add(p, t, broadcast(-0.284496736f));
    p = multiply_add(p, t, broadcast(0.254829592f));
    const Vec y = 1.0f - p * t * exp(-a * a);
    return x < 0.0f ? -y : y;
}
INLINE Vec unit_ramp(Vec x) {
    return at_most(at_least((x + 3.0f) * (1.0f / 6), Vec{}), broadcast(1.0f));
}

void activate(Activation activation, float parameter, const float* x, float* y, std::size_t n) {
    const auto apply = [&](const auto& f) INLINE_LAMBDA { map(x, y, n, f); };
    const Vec zero{}, six = broadcast(6.0f);
    switch (activation) {
        case Activation::none: return apply([](Vec v) { return v; });
        case Activation::relu: return apply([=](Vec v) { return at_least(v, zero); });
        case Activation::relu6:
            return apply([=](Vec v) { return at_most(at_least(v, zero), six); });
        case Activation::leaky_relu:
            return apply([=](Vec v) { return v > 0.0f ? v : parameter * v; });
        case Activation::elu:
            return apply([=](Vec v) { return v > 0.0f ? v : parameter * expm1(v); });
        case Activation::gelu:
            return apply([](Vec v) { return 0.5f * v * (1.0f + erf(v * 0.70710678f)); });
        case Activation::gelu_tanh:
            return apply([](Vec v) {
                return v * sigmoid(1.59576912f * multiply_add(0.044715f * v * v, v, v));
            });
        case Activation::silu: return apply([](Vec v) { return v * sigmoid(v); });
        case Activation::sigmoid: return apply([](Vec v) { return sigmoid(v); });
        case Activation::tanh: return apply([](Vec v) { return tanh(v); });
        case Activation::hardswish: return apply([](Vec v) { return v * unit_ramp(v); });
        case Activation::hardsigmoid: return apply([](Vec v) { return unit_ramp(v); });
        case Activation::mish: return apply([](Vec v) { return mish(v); });
        case Activation::selu:
            return apply([](Vec v) {
                constexpr float scale = 1.0507009873554804934f, alpha = 1.6732632423543772848f;
                return scale * (v > 0.0f ? v : alpha * expm1(v));
            });
        case Activation::exp: return apply([](Vec v) { return exp_anywhere(v); });
        case Activation::expm1: return apply([](Vec v) { return expm1_anywhere(v); });
    }
}

template <typename F>
INLINE void broadcasting(const float* a, int a_step, const float* b, int b_step, float* y,
                         std::size_t n, const F& f) {
    if (a_step && b_step) return map2(a, b, y, n, f);
    if (a_step) return map(a, y, n, [&, c = broadcast(*b)](Vec v) { return f(v, c); });
    map(b, y, b_step ? n : 0, [&, c = broadcast(*a)](Vec v) { return f(c, v); });
    if (!b_step) map(y, y, n, [&, c = f(broadcast(*a), broadcast(*b))](Vec) { return c; });
}

void binary(Binary op, const float* a, std::ptrdiff_t a_row, int a_step, const float* b,
            std::ptrdiff_t b_row, int b_step, float* y, std::size_t rows, std::size_t n) {
    const auto apply = [&](const auto& f) INLINE_LAMBDA {
        for (std::size_t i = 0; i < rows; ++i, a += a_row, b += b_row, y += n)
            broadcasting(a, a_step, b, b_step, y, n, f);
    };
    switch (op) {
        case Binary::add: return apply([](Vec u, Vec v) { return u + v; });
        case Binary::sub: return apply([](Vec u, Vec v) { return u - v; });
        case Binary::mul: return apply([](Vec u, Vec v) { return u * v; });
        case Binary::div: return apply([](Vec u, Vec v) { return u / v; });
    }
}

void scale_shift(const float* x, float scale, float shift, const float* residual, float* y,
                 std::size_t n) {
    const Vec a = broadcast(scale), b = broadcast(shift);
    if (residual)
        map2(x, residual, y, n, [=](Vec v, Vec r) { return multiply_add(v, a, b) + r; });
    else
        map(x, y, n, [=](Vec v) { return multiply_add(v, a, b); });
}

INLINE Vec larger(Vec a, Vec b) { return (a > b) | (a != a) ? a : b; }
INLINE float larger(float a, float b) { return a > b || a != a ? a : b; }

void maximum(const float* a, const float* b, float* y, std::size_t n) {
    map2(a, b, y, n, [](Vec u, Vec v) { return larger(u, v); });
}

// Reduces the rows of a window, in vectors, then its columns. `row` begins and ends with neutral
// columns, so that windows over the edge need no special case.
template <typename F, typename Finish>
INLINE void pool(const Pooling& p, float start, const F& reduce, const Finish& finish) {
    const std::ptrdiff_t width = std::ptrdiff_t(p.width) * p.batch;
    float* y = p.y;
    for (int i = 0; i < p.num_rows; ++i) {
        const Window rows = p.rows[i];
        for (std::ptrdiff_t at = 0; at < width; at += lanes) {
            Vec total = broadcast(start);
            for (std::ptrdiff_t row = rows.start; row < rows.end; row += rows.step)
                total = reduce(total, load(p.x + row * width + at));
            store(p.row + at, total);
        }
        for (std::ptrdiff_t at = 0; at < p.margin; ++at) p.row[width + at] = start;
        if (p.stride == 2 && p.batch == 1) {
            const float* from = p.row - p.padding;
            float* const end = y + p.num_columns;
            for (; y < end; y += lanes, from += 2 * lanes) {
                Vec total = broadcast(start);
                for (std::ptrdiff_t c = 0; c < p.kernel; ++c)
                    total = reduce(total, load_even(from + c));
                const std::ptrdiff_t left = end - y;
                store_front(y, total, left < lanes ? static_cast<int>(left) : lanes);
            }
            y = end;
            continue;
        }
        for (int j = 0; j < p.num_columns; ++j, y += p.batch) {
            const Window columns = p.columns[j];
            const float scale = 1.0f / (rows.count * columns.count);
            int b = 0;
            for (; b + lanes <= p.batch; b += lanes) {
                Vec total = broadcast(start);
                for (std::ptrdiff_t c = columns.start; c < columns.end; c += columns.step)
                    total = reduce(total, load(p.row + c * p.batch + b));
                store(y + b, finish(total, scale));
            }
            for (; b < p.batch; ++b) {
                float total = start;
                for (std::ptrdiff_t c = columns.start; c < columns.end; c += columns.step)
                    total = reduce(total, p.row[c * p.batch + b]);
                y[b] = finish(total, scale);
            }
        }
    }
}
void max_pool(const Pooling& p) {
    pool(
        p, -__builtin_inff(), [](auto a, auto b) { return larger(a, b); },
        [](auto v, float) { return v; });
}
void average_pool(const Pooling& p) {
    pool(
        p, 0.0f, [](auto a, auto b) { return a + b; },
        [](auto v, float scale) { return v * scale; });
}

void add_exp(const float* x, const float* largest, float* y, float* sum, std::size_t n) {
    map2(x, largest, y, n, [](Vec v, Vec m) { return exp(v - m); });
    map2(sum, y, sum, n, [](Vec s, Vec e) { return s + e; });
}

INLINE Vec inverse_root(Vec v) {
    for (int i = 0; i < lanes; ++i) v[i] = 1.0f / __builtin_sqrtf(v[i]);
    return v;
}

// The sum of f(x[i]), in four chains of vectors.
template <typename F>
INLINE float sum_row(const float* x, std::size_t n, const F& f) {
    Vec acc[4] = {};
    std::size_t i = 0;
    for (; i + 4 * lanes <= n; i += 4 * lanes)
        for (int j = 0; j < 4; ++j) acc[j] += f(load(x + i + j * lanes));
    for (; i + lanes <= n; i += lanes) acc[0] += f(load(x + i));
    float total = sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
    if (i < n) {
        const Vec last = f(load_front(x + i, static_cast<int>(n - i)));
        for (std::size_t j = 0; i + j < n; ++j) total += last[static_cast<int>(j)];
    }
    return total;
}

// The deviations from the mean m are corrected by their own mean, which is what rounding left out
// of m. So rows that are nearly constant keep their digits.
void layer_norm(const float* x, const float* weight, const float* bias, float eps, float* y,
                std::size_t n, int batch) {
    const float count = static_cast<float>(n);
    if (batch == 1) {
        const Vec m = broadcast(sum_row(x, n, [](Vec v) { return v; }) / count);
        const Vec rest = broadcast(sum_row(x, n, [=](Vec v) { return v - m; }) / count);
        const auto deviation = [=](Vec v) { return (v - m) - rest; };
        const auto square = [=](Vec v) { return deviation(v) * deviation(v); };
        const float variance = sum_row(x, n, square) / count;
        const Vec inverse = broadcast(1.0f / __builtin_sqrtf(variance + eps));
        const auto normalized = [=](Vec v) { return deviation(v) * inverse; };
        if (!weight)
            map(x, y, n, normalized);
        else
            map2(x, weight, y, n, [=](Vec v, Vec w) { return normalized(v) * w; });
        if (bias) map2(y, bias, y, n, [](Vec v, Vec b) { return v + b; });
        return;
    }
    Vec total{}, rest{}, squares{};
    for (std::size_t i = 0; i < n; ++i) total += load(x + i * lanes);
    const Vec m = total / count;
    for (std::size_t i = 0; i < n; ++i) rest += load(x + i * lanes) - m;
    rest /= count;
    for (std::size_t i = 0; i < n; ++i) {
        const Vec d = (load(x + i * lanes) - m) - rest;
        squares = multiply_add(d, d, squares);
    }
    const Vec inverse = inverse_root(squares / count + eps);
    for (std::size_t i = 0; i < n; ++i) {
        const Vec v = ((load(x + i * lanes) - m) - rest) * inverse;
        const Vec w = broadcast(weight ? weight[i] : 1.0f), b = broadcast(bias ? bias[i] : 0.0f);
        store(y + i * lanes, multiply_add(v, w, b));
    }
}

void softmax_row(const float* x, float* y, std::size_t n) {
    float most = x[0];
    std::size_t i = 0;
    if (n >= lanes) {
        Vec best = load(x);
        for (i = lanes; i + lanes <= n; i += lanes) best = larger(load(x + i), best);
        for (int j = 0; j < lanes; ++j) most = larger(best[j], most);
    }
    for (; i < n; ++i) most = larger(x[i], most);
    const Vec m = broadcast(most);
    map(x, y, n, [=](Vec v) { return exp(v - m); });
    const float total = sum_row(y, n, [](Vec v) { return v; });
    map(y, y, n, [=](Vec v) { return v / total; });
}

// log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|))
void softplus(float beta, float threshold, const float* x, float* y, std::size_t n) {
    map(x, y, n, [=](Vec v) {
        const Vec z = beta * v, positive = at_least(z, Vec{});
        const Vec soft = (positive + log1p_unit(exp(z - 2.0f * positive))) / beta;
        return z > threshold ? v : soft;
    });
}

template <int rows, int columns>
INLINE void batched_tile(const float* a, std::ptrdiff_t a_row, const float* b, std::ptrdiff_t b_row,
                         float* out, std::size_t inner, std::ptrdiff_t batch) {
    Vec acc[rows][columns] = {};
    for (std::size_t k = 0; k < inner; ++k, a += batch, b += b_row) {
        Vec right[columns];
        unrolled<columns>([&](auto c) INLINE_LAMBDA { right[c] = load(b + c * batch); });
        unrolled<rows>([&](auto r) INLINE_LAMBDA {
            const Vec left = load(a + r * a_row);
            unrolled<columns>([&](auto c) INLINE_LAMBDA {
                acc[r][c] = multiply_add(left, right[c], acc[r][c]);
            });
        });
    }
    unrolled<rows>([&](auto r) INLINE_LAMBDA {
        unrolled<columns>(
            [&](auto c) INLINE_LAMBDA { store(out + r * b_row + c * batch, acc[r][c]); });
    });
}

template <int rows>
INLINE void batched_rows(const float* a, const float* b, float* out, std::size_t inner,
                         std::ptrdiff_t columns, std::ptrdiff_t batch) {
    constexpr int wide = 3;
    const std::ptrdiff_t a_row = static_cast<std::ptrdiff_t>(inner) * batch, row = columns * batch;
    std::ptrdiff_t j = 0;
    for (; j + wide <= columns; j += wide)
        batched_tile<rows, wide>(a, a_row, b + j * batch, row, out + j * batch, inner, batch);
    for (; j < columns; ++j)
        batched_tile<rows, 1>(a, a_row, b + j * batch, row, out + j * batch, inner, batch);
}

void batched_product(const float* a, const float* b, float* out, std::size_t rows,
                     std::size_t inner, std::size_t columns, std::size_t batch) {
    constexpr std::size_t tall = 3;  // with `wide`, 9 sums and 4 operands: AVX2 has 16 registers
    const auto elements = static_cast<std::ptrdiff_t>(columns), size = static_cast<std::ptrdiff_t>(batch);
    for (std::size_t image = 0; image < batch; image += lanes) {
        const float *left = a + image, *right = b + image;
        float* to = out + image;
        std::size_t i = 0;
        for (; i + tall <= rows; i += tall, left += tall * inner * batch, to += tall * columns * batch)
            batched_rows<tall>(left, right, to, inner, elements, size);
        for (; i < rows; ++i, left += inner * batch, to += columns * batch)
            batched_rows<1>(left, right, to, inner, elements, size);
    }
}

template <std::size_t... i>
INLINE Vec low_interleaved(Vec a, Vec b, std::index_sequence<i...>) {
    return __builtin_shufflevector(a, b, (i % 2 ? lanes + i / 2 : i / 2)...);
}
template <std::size_t... i>
INLINE Vec high_interleaved(Vec a, Vec b, std::index_sequence<i...>) {
    return __builtin_shufflevector(a, b, (lanes / 2 + (i % 2 ? lanes + i / 2 : i / 2))...);
}

// A square of lanes x lanes floats. Interleaving row i with row i + lanes / 2 is a step of a perfect
// shuffle; log2(lanes) steps transpose.
INLINE void transpose_square(const float* from, std::ptrdiff_t from_row, float* to,
                             std::ptrdiff_t to_row) {
    constexpr auto all = std::make_index_sequence<lanes>{};
    Vec v[lanes], w[lanes];
    unrolled<lanes>([&](auto i) INLINE_LAMBDA { v[i] = load(from + i * from_row); });
    unrolled<lanes == 4 ? 2 : lanes == 8 ? 3 : 4>([&](auto) INLINE_LAMBDA {
        unrolled<lanes / 2>([&](auto i) INLINE_LAMBDA {
            w[2 * i] = low_interleaved(v[i], v[i + lanes / 2], all);
            w[2 * i + 1] = high_interleaved(v[i], v[i + lanes / 2], all);
        });
        unrolled<lanes>([&](auto i) INLINE_LAMBDA { v[i] = w[i]; });
    });
    unrolled<lanes>([&](auto i) INLINE_LAMBDA { store(to + i * to_row, v[i]); });
}

void transpose(const float* from, std::ptrdiff_t from_row, float* to, std::ptrdiff_t to_row,
               std::size_t rows, std::size_t columns, std::size_t batch) {
    const auto at = [](std::size_t i) { return static_cast<std::ptrdiff_t>(i); };
    if (batch > 1) {
        for (std::size_t column = 0; column < columns; ++column)
            for (std::size_t row = 0; row < rows; ++row)
                for (std::size_t b = 0; b < batch; b += lanes)
                    store(to + (at(column) * to_row + at(row)) * at(batch) + at(b),
                          load(from + (at(row) * from_row + at(column)) * at(batch) + at(b)));
        return;
    }
    const std::size_t full_rows = rows / lanes * lanes, full_columns = columns / lanes * lanes;
    for (std::size_t column = 0; column < full_columns; column += lanes)
        for (std::size_t row = 0; row < full_rows; row += lanes)
            transpose_square(from + at(row) * from_row + at(column), from_row,
                             to + at(column) * to_row + at(row), to_row);
    for (std::size_t column = 0; column < columns; ++column)
        for (std::size_t row = column < full_columns ? full_rows : 0; row < rows; ++row)
            to[at(column) * to_row + at(row)] = from[at(row) * from_row + at(column)];
}

template <int height, int limit, int widest>
struct Fill {
    TileKernel (*table)[max_columns + 1];

    template <int rows, int columns>
    constexpr void one() const {
        if constexpr (rows * columns <= limit && (rows == 1 || columns <= widest))
            table[rows][columns] = tile_kernel<height, rows, columns>;
    }
    template <int rows, std::size_t... i>
    constexpr void row(std::index_sequence<i...>) const {
        (one<rows, i + 1>(), ...);
    }
    template <std::size_t... i>
    constexpr void all(std::index_sequence<i...>) const {
        (row<i + 1>(std::make_index_sequence<max_columns>{}), ...);
    }
};

template <int rows, int columns>
struct FillRows {
    RowKernel (*table)[max_panel + 1];

    template <int row, std::size_t... i>
    constexpr void row_of(std::index_sequence<i...>) const {
        ((table[row][i + 1] = row_kernel<row, static_cast<int>(i) + 1>), ...);
    }
    template <std::size_t... i>
    constexpr void all(std::index_sequence<i...>) const {
        (row_of<static_cast<int>(i) + 1>(std::make_index_sequence<columns>{}), ...);
    }
};

// tile: vectors that fit into the registers beside the other operands.
// row_tile, panel: rows and vectors of a tile of a dense linear layer.
template <int tile, int dense_height, int dense_tile, int row_tile, int panel>
constexpr Kernels make_kernels() {
    Kernels table{};
    table.lanes = lanes;
    table.max_tile = tile;
    table.dense_height = dense_height;
    table.dense_tile = dense_tile;
    const std::make_index_sequence<max_rows> rows;
    Fill<1, tile, 8>{table.sparse}.all(rows);
    Fill<dense_height, dense_tile, dense_tile>{table.dense}.all(rows);
    table.panel = panel;
    table.row_tile = row_tile;
    FillRows<row_tile, panel>{table.dense_rows}.all(std::make_index_sequence<row_tile>{});
    table.depthwise[3][1] = depthwise<3, 1>;
    table.depthwise[3][2] = depthwise<3, 2>;
    table.depthwise[5][1] = depthwise<5, 1>;
    table.depthwise[5][2] = depthwise<5, 2>;
    table.depthwise[7][1] = depthwise<7, 1>;
    table.depthwise[7][2] = depthwise<7, 2>;
    table.pack = pack;
    table.sparse_rows = sparse_rows;
    table.dot = dot;
    table.activate = activate;
    table.binary = binary;
    table.scale_shift = scale_shift;
    table.maximum = maximum;
    table.add_exp = add_exp;
    table.layer_norm = layer_norm;
    table.softmax_row = softmax_row;
    table.softplus = softplus;
    table.transpose = transpose;
    table.batched_product = batched_product;
    table.max_pool = max_pool;
    table.average_pool = average_pool;
    return table;
}

}  // namespace
}  // namespace dirprune
