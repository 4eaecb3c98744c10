// The threads of the process, and the parallel loop.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

namespace dirprune {

namespace pool {

using Body = void (*)(void* context, std::size_t part, std::size_t seat);

using Run = void (*)(std::size_t parts, std::size_t threads, Body body, void* context);

void run(std::size_t parts, std::size_t threads, Body body, void* context);

}  // namespace pool

// Calls body(part, seat) for every part in [0, parts) on up to `threads` threads, including the
// caller's, and returns when all are done. A seat in [0, threads) belongs to one thread for the
// duration of the call, so that it can index scratch space.
//
// A seat takes neighbouring parts in rising order, then parts that other seats have not begun. The
// caller has the first seat, workers take the others as they arrive: with two threads, each gets the
// same parts in every call, so that its results are in its cache at the next call. Any number of
// threads may call at the same time, also from inside a body, and the child of a fork may call. An
// exception stops the parts that have not begun and is rethrown here. Workers use the caller's
// floating-point environment (rounding, flushing of denormals): the result does not depend on which
// thread computes a part.
template <class F>
void parallel_for(std::size_t parts, std::size_t threads, F&& body, pool::Run run = pool::run) {
    using Function = std::remove_reference_t<F>;
    run(
        parts, threads,
        [](void* context, std::size_t part, std::size_t seat) {
            (*static_cast<Function*>(context))(part, seat);
        },
        const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

}  // namespace dirprune
