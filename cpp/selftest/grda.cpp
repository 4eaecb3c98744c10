// gRDA's step: every instruction set against the portable one.
#include "grda.hpp"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "selftest/selftest.hpp"

namespace dirprune::selftest {
namespace {

using Array = std::vector<float>;

Array noise(std::size_t length, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 0.05f);
    Array a(length);
    for (float& x : a) x = normal(random);
    const float odd[] = {0.0f, -0.0f, 1e-45f, -1e-39f, INFINITY, -INFINITY, NAN};
    for (std::size_t i = 0; i + 5 < length; i += 11) a[i] = odd[(i + seed) % 7];
    return a;
}

bool near(const Array& a, const Array& b) {
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (std::isnan(a[i]) && std::isnan(b[i])) continue;
        if (a[i] == b[i]) continue;
        if (!(std::abs(a[i] - b[i]) <= 1e-6f * (std::abs(a[i]) + 0.1f))) return false;
    }
    return true;
}

}  // namespace

void test_grda() {
    for (Isa isa : available()) {
        bool good = true;
        for (std::size_t length : {0, 1, 7, 16, 33, 100003})
            for (std::size_t offset : {0, 3})
                for (int kind = 0; kind < 8; ++kind) {
                    if (offset > length) continue;
                    const Rule rule{0.1f, kind == 5 ? 0.0f : 0.03f, 0.9f, kind & 1 ? 0.01f : 0.0f,
                                    kind >= 4,  kind == 3};
                    Array d = noise(length, 1), columns[2][3];
                    for (auto& column : columns)
                        for (unsigned i = 0; i < 3; ++i) column[i] = noise(length, i + 2);
                    for (int i = 0; i < 2; ++i) {
                        auto& [w, v, m] = columns[i];
                        const Row row{w.data() + offset, v.data() + offset, d.data() + offset,
                                      kind & 2 ? m.data() + offset : nullptr, length - offset};
                        grda_step({row}, rule, i ? isa : Isa::portable, i ? 3 : 1);
                    }
                    for (int i = 0; i < 3; ++i) good = good && near(columns[0][i], columns[1][i]);
                    for (std::size_t i = offset; i < length; ++i) {
                        const float w = columns[1][0][i], v = columns[1][1][i];
                        good = good && !(w == 0.0f && std::signbit(w));
                        good = good && ((w == 0.0f) == (std::abs(v) <= rule.g)) &&
                               std::isnan(w) == std::isnan(v);
                    }
                }
        check(good, ("gRDA's step, " + std::string(name(isa))).c_str());
    }
}

}  // namespace dirprune::selftest
