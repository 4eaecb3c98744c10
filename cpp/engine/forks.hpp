// The programs of this process, so that a fork finds all of them in a consistent state.
#pragma once

#include "engine/program.hpp"

namespace dirprune {

// A fork copies mutexes as they are, and of the threads only the one that forks: a mutex that
// another thread holds stays locked in the child forever. So a fork waits for the mutexes that are
// held briefly, and replaces the others in the child.
struct Program::Registry {
    static void add(Program& program);
    static void remove(Program& program);
};

}  // namespace dirprune
