// Threads of our own, and the loop over them.
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

// Calls body(part, seat) for every part in [0, parts) on up to `threads` threads, the caller's
// among them, and returns when all are done. A seat in [0, threads) belongs to one thread for the
// duration of the call, so that it can name scratch space.
//
// A seat takes neighbouring parts, in rising order, and then what others have left. The caller has
// the first seat, the workers the others as they come: of two threads each gets the same parts of
// every call, and what it wrote in one is in its cache at the next. Any number of threads may call
// at a time, also from inside a body, and the child of a fork may call. An exception stops the
// parts that have not begun and is thrown here. Workers compute with the caller's floating-point
// environment (rounding, flushing of denormals): what comes out does not depend on who computes it.
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
