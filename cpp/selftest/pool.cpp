// The pool of threads.
#include "pool.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include "selftest/selftest.hpp"

namespace dirprune::selftest {
namespace {

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

}  // namespace

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

}  // namespace dirprune::selftest
