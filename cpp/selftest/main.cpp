#include <cstdio>

#include "selftest/selftest.hpp"

namespace dirprune::selftest {

static int failures = 0;

void check(bool good, const char* what) {
    std::printf("%-4s %s\n", good ? "ok" : "FAIL", what);
    std::fflush(stdout);
    failures += !good;
}

}  // namespace dirprune::selftest

// An argument leaves out the fork, which emulators may not manage beside threads.
int main(int count, char**) {
    using namespace dirprune::selftest;
    test_pool();
    if (count == 1) test_fork();
    test_grda();
    test_engine();
    return failures != 0;
}
