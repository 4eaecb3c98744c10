// The OpenMP threads of the program that we are in, for loops between that program's own loops.
#pragma once

#include "pool.hpp"

namespace dirprune::openmp {

// As pool::run, but on the threads of the OpenMP runtime (GCC's, which torch's wheels bring) if the
// process has loaded it, else on the pool. The body must not throw.
//
// After a loop, such as the backward pass, OpenMP's threads keep their cores busy for some
// milliseconds waiting for the next one. Threads of our own have to share these cores: a step of
// VGG16 took 8.5 to 10.2 ms with the pool and 6.2 to 6.8 so (2 threads, Zen 3, torch 2.14).
void run(std::size_t parts, std::size_t threads, pool::Body body, void* context);

}  // namespace dirprune::openmp
