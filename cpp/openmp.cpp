#include "openmp.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>

namespace dirprune::openmp {

namespace {

using Parallel = void (*)(void (*body)(void*), void* context, unsigned threads, unsigned flags);

// Looked up instead of linked: without torch, OpenMP is not needed.
Parallel parallel() {
    static const Parallel found = [] {
        void* runtime = dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD);
        return runtime ? reinterpret_cast<Parallel>(dlsym(runtime, "GOMP_parallel")) : nullptr;
    }();
    return found;
}

const pid_t home = getpid();  // in the child of a fork OpenMP waits for threads that do not exist

struct Team {
    const pool::Body body;
    void* const context;
    const std::size_t parts;
    std::fenv_t arithmetic{};
    std::atomic<std::size_t> next{0}, seats{0};

    void work() {
        std::fenv_t own;
        std::fegetenv(&own);
        std::fesetenv(&arithmetic);
        const std::size_t seat = seats++;
        for (std::size_t part; (part = next++) < parts;) body(context, part, seat);
        std::fesetenv(&own);
    }
};

}  // namespace

void run(std::size_t parts, std::size_t threads, pool::Body body, void* context) {
    const std::size_t seats = threads < parts ? threads : parts;
    if (seats <= 1 || parallel() == nullptr || getpid() != home)
        return pool::run(parts, threads, body, context);
    Team team{.body = body, .context = context, .parts = parts};
    std::fegetenv(&team.arithmetic);
    parallel()([](void* t) { static_cast<Team*>(t)->work(); }, &team,
               static_cast<unsigned>(seats), 0);
}

}  // namespace dirprune::openmp
