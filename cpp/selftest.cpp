// What can be checked without Python, so also under an emulator: the pool of threads, and that the
// kernels of every instruction set agree.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "dispatch.hpp"
#include "grda.hpp"
#include "pool.hpp"

using namespace dirprune;

namespace {

int failures = 0;

void check(bool good, const char* what) {
    std::printf("%-4s %s\n", good ? "ok" : "FAIL", what);
    failures += !good;
}

bool all_once(std::size_t parts, std::size_t threads) {
    std::vector<std::atomic<int>> seen(parts), busy(threads);
    std::atomic<bool> good{true};
    parallel_for(parts, threads, [&](std::size_t part, std::size_t seat) {
        if (seat >= threads || busy[seat]++ != 0) good = false;
        ++seen[part];
        --busy[seat];
    });
    for (const auto& n : seen) good = good && n == 1;
    return good;
}

void test_pool() {
    bool good = true;
    for (std::size_t parts : {0, 1, 2, 3, 17, 1000})
        for (std::size_t threads : {1, 2, 5})
            for (int round = 0; round < 50; ++round) good = good && all_once(parts, threads);
    check(good, "every part runs once, a seat has one thread");

    std::atomic<int> begun{0};
    bool thrown = false;
    try {
        parallel_for(100000, 4, [&](std::size_t part, std::size_t) {
            ++begun;
            if (part == 3) throw std::runtime_error("three");
            std::this_thread::sleep_for(std::chrono::microseconds(100));
        });
    } catch (const std::runtime_error& error) {
        thrown = std::strcmp(error.what(), "three") == 0;
    }
    check(thrown && begun < 100000, "an exception stops the rest and reaches the caller");
    check(all_once(100, 4), "the pool works after an exception");

    std::atomic<int> inner{0};
    parallel_for(8, 4, [&](std::size_t, std::size_t) {
        parallel_for(8, 4, [&](std::size_t, std::size_t) { ++inner; });
    });
    check(inner == 64, "calls nest");

    std::atomic<bool> together{true};
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i)
        callers.emplace_back([&] {
            for (int round = 0; round < 200; ++round)
                if (!all_once(50, 3)) together = false;
        });
    for (auto& caller : callers) caller.join();
    check(together, "several threads can call at a time");

}

void test_fork() {
    const pid_t child = fork();
    if (child == 0) _exit(all_once(1000, 4) ? 0 : 1);
    int status = 1;
    waitpid(child, &status, 0);
    check(status == 0, "the child of a fork can call");
}

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

}  // namespace

// An argument leaves out the fork, which emulators may not manage beside threads.
int main(int count, char**) {
    test_pool();
    if (count == 1) test_fork();
    test_grda();
    return failures != 0;
}
