// What can be checked without Python, so also under an emulator.
#pragma once

namespace dirprune::selftest {

// Prints a line, and remembers whether one was bad.
void check(bool good, const char* what);

void test_pool();
void test_fork();
void test_grda();
void test_engine();

}  // namespace dirprune::selftest
