// The one file that knows Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "dispatch.hpp"

namespace nb = nanobind;

NB_MODULE(_cpp, m) {
    m.doc() = "dirprune's C++ extension.";
    m.def(
        "available",
        [] {
            std::vector<std::string> names;
            for (dirprune::Isa isa : dirprune::available()) names.emplace_back(dirprune::name(isa));
            return names;
        },
        "The instruction sets of this CPU that there are kernels for, the best last.");
    m.def(
        "chosen", [] { return std::string(dirprune::name(dirprune::chosen())); },
        "The instruction set in use: the best one, or what DIRPRUNE_ISA names.");
}
