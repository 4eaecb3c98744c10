// The OpenMP threads of the host program, for loops between its own loops.
#pragma once

#include "pool.hpp"

namespace dirprune::openmp {

// Like pool::run, but on the threads of the OpenMP runtime (GCC's, which torch's wheels contain) if
// the process has loaded it, otherwise on the pool. The body must not throw.
//
// After a loop, such as the backward pass, OpenMP's threads spin for some milliseconds while they
// wait for the next one, and the pool's threads have to share these cores: a step of VGG16 took 8.5
// to 10.2 ms with the pool and 6.2 to 6.8 ms with OpenMP's threads (2 threads, Zen 3, torch 2.14).
void run(std::size_t parts, std::size_t threads, pool::Body body, void* context);

}  // namespace dirprune::openmp
