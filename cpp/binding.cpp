// The one file that knows Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "grda.hpp"

namespace nb = nanobind;

namespace {

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Addresses as numbers: a hundred tensors would cost a millisecond as DLPack capsules.
void grda_step(const std::vector<std::uintptr_t>& w, const std::vector<std::uintptr_t>& v,
               const std::vector<std::uintptr_t>& d, const std::vector<std::uintptr_t>& m,
               const std::vector<std::size_t>& lengths, double lr, double g, double momentum,
               double decay, bool nesterov, bool maximize, std::size_t threads) {
    const std::size_t n = lengths.size();
    if (w.size() != n || v.size() != n || d.size() != n || (m.size() != n && !m.empty()))
        throw std::invalid_argument("grda_step needs as many addresses as lengths");
    const dirprune::Isa isa = dirprune::chosen();
    std::vector<dirprune::Row> rows;
    rows.reserve(n);
    for (std::size_t i = 0; i < n; ++i)
        rows.push_back({pointer<float>(w[i]), pointer<float>(v[i]), pointer<const float>(d[i]),
                        m.empty() ? nullptr : pointer<float>(m[i]), lengths[i]});
    const dirprune::Rule rule{static_cast<float>(lr),       static_cast<float>(g),
                              static_cast<float>(momentum), static_cast<float>(decay),
                              nesterov,                     maximize};
    nb::gil_scoped_release release;
    dirprune::grda_step(rows, rule, isa, threads);
}

}  // namespace

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
    m.def("grda_step", &grda_step, nb::arg("w"), nb::arg("v"), nb::arg("d"), nb::arg("m"),
          nb::arg("lengths"), nb::kw_only(), nb::arg("lr"), nb::arg("g"), nb::arg("momentum"),
          nb::arg("decay"), nb::arg("nesterov"), nb::arg("maximize"), nb::arg("threads"),
          "gRDA's step in place, on float32 arrays given by address and length.");
}
