// The only file that includes Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "engine/operator.hpp"
#include "engine/program.hpp"
#include "grda.hpp"

namespace nb = nanobind;

namespace {

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Addresses as numbers: DLPack capsules of a hundred tensors would take a millisecond.
std::vector<std::size_t> grda_step(
    const std::vector<std::uintptr_t>& w, const std::vector<std::uintptr_t>& v,
    const std::vector<std::uintptr_t>& d, const std::vector<std::uintptr_t>& m,
    const std::vector<std::size_t>& lengths, double lr, double g, double momentum, double decay,
    bool nesterov, bool maximize, bool root, std::size_t threads, std::optional<double> g_before,
    dirprune::Sample* sample) {
    const std::size_t n = lengths.size();
    if (w.size() != n || v.size() != n || (d.size() != n && !d.empty()) ||
        (m.size() != n && !m.empty()))
        throw std::invalid_argument("grda_step needs as many addresses as lengths");
    const dirprune::Isa isa = dirprune::chosen();
    std::vector<dirprune::Row> rows;
    rows.reserve(n);
    for (std::size_t i = 0; i < n; ++i)
        rows.push_back({pointer<float>(w[i]), pointer<float>(v[i]),
                        d.empty() ? nullptr : pointer<const float>(d[i]),
                        m.empty() ? nullptr : pointer<float>(m[i]), lengths[i]});
    const dirprune::Rule rule{static_cast<float>(lr),       static_cast<float>(g),
                              static_cast<float>(momentum), static_cast<float>(decay),
                              nesterov,                     maximize,
                              root};
    const auto before = static_cast<float>(g_before.value_or(0.0));
    nb::gil_scoped_release release;
    return dirprune::grda_step(rows, rule, isa, threads, g_before ? &before : nullptr, sample);
}

std::vector<std::size_t> grda_changed(const std::vector<std::uintptr_t>& w,
                                      const std::vector<std::uintptr_t>& v,
                                      const std::vector<std::size_t>& lengths, double g, bool root,
                                      const dirprune::Sample& sample, std::size_t threads) {
    if (w.size() != lengths.size() || v.size() != lengths.size())
        throw std::invalid_argument("grda_changed needs as many addresses as lengths");
    std::vector<dirprune::Row> rows;
    for (std::size_t i = 0; i < w.size(); ++i)
        rows.push_back({pointer<float>(w[i]), pointer<float>(v[i]), nullptr, nullptr, lengths[i]});
    const dirprune::Isa isa = dirprune::chosen();
    nb::gil_scoped_release release;
    return dirprune::grda_changed(rows, root, {static_cast<float>(g), sample}, isa, threads);
}

using Array = nb::ndarray<const float, nb::numpy, nb::c_contig, nb::device::cpu>;

dirprune::Shape shape_of(const Array& array) {
    dirprune::Shape shape;
    for (std::size_t i = 0; i < array.ndim(); ++i)
        shape.push_back(static_cast<std::int64_t>(array.shape(i)));
    return shape;
}

void make_program(dirprune::Program* self, nb::bytes graph, const std::vector<Array>& tensors,
                  std::int64_t max_bytes, const dirprune::Program* like) {
    std::vector<const float*> data;
    std::vector<dirprune::Shape> shapes;
    for (const Array& tensor : tensors) {
        data.push_back(tensor.data());
        shapes.push_back(shape_of(tensor));
    }
    const std::span bytes(static_cast<const std::uint8_t*>(graph.data()), graph.size());
    new (self) dirprune::Program(bytes, data, shapes, max_bytes, like);
}

std::int64_t batch_of(const dirprune::Program& program, const Array& x) {
    dirprune::Shape shape = shape_of(x);
    if (shape.empty() ||
        dirprune::Shape(shape.begin() + 1, shape.end()) != program.input_shape())
        throw std::invalid_argument("the input has another shape than the network's");
    return shape[0];
}

nb::object run(dirprune::Program& program, const Array& x, int threads, bool tune) {
    const std::int64_t batch = batch_of(program, x);
    std::vector<std::size_t> shape{static_cast<std::size_t>(batch)};
    std::size_t size = shape[0];
    for (std::int64_t dim : program.output_shape()) {
        shape.push_back(static_cast<std::size_t>(dim));
        if (__builtin_mul_overflow(size, shape.back(), &size)) throw std::bad_alloc();
    }
    std::unique_ptr<float[]> out;
    {
        nb::gil_scoped_release release;
        out.reset(new float[size]);
        program.run(x.data(), batch, out.get(), threads, tune);
    }
    float* const data = out.release();
    const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return nb::cast(nb::ndarray<float, nb::numpy>(data, shape.size(), shape.data(), owner));
}

nb::list tuned(dirprune::Program& program) {
    nb::list result;
    for (const auto& mode : program.tuned())
        result.append(nb::make_tuple(mode.batch, mode.threads, mode.choices, mode.seconds));
    return result;
}

nb::list profile(dirprune::Program& program, const Array& x, int threads, bool tune, int repeats) {
    const std::int64_t batch = batch_of(program, x);
    std::vector<dirprune::Timing> rows;
    {
        nb::gil_scoped_release release;
        rows = program.profile(x.data(), batch, threads, tune, repeats);
    }
    nb::list result;
    for (const auto& row : rows)
        result.append(nb::make_tuple(row.path, row.op, row.kernel, row.sparsity, row.milliseconds,
                                     row.gflop));
    return result;
}

// What the engine knows of every operator, for the test that compares it with Python's records.
nb::dict operators() {
    constexpr const char* kinds[] = {"int", "flag", "float", "pair", "four", "ints"};
    nb::dict result;
    for (int code = 0; code < dirprune::num_ops; ++code) {
        const auto op = static_cast<dirprune::Op>(code);
        const dirprune::Operator& entry = dirprune::entry(op);
        nb::list roles, optional_roles;
        nb::dict attributes, optional_attributes, record;
        for (auto role : entry.roles) roles.append(std::string(name(role)));
        for (auto role : entry.optional_roles) optional_roles.append(std::string(name(role)));
        for (const auto& rule : entry.attributes)
            (rule.optional ? optional_attributes : attributes)[std::string(name(rule.key)).c_str()] =
                kinds[static_cast<int>(rule.kind)];
        record["inputs"] = nb::make_tuple(entry.least, entry.most);
        record["tensors"] = nb::tuple(roles);
        record["optional_tensors"] = nb::tuple(optional_roles);
        record["attrs"] = attributes;
        record["optional_attrs"] = optional_attributes;
        record["epilogue"] = entry.epilogue;
        record["reads_constants"] = entry.reads_constants;
        record["complete"] = entry.shape != nullptr;
        result[std::string(name(op)).c_str()] = record;
    }
    return result;
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
    m.def("operators", &operators, "What the engine knows of every operator, in their order.");
    nb::class_<dirprune::Sample>(m, "Sample", "Which weights are compared, and with what.")
        .def(
            "__init__",
            [](dirprune::Sample* self, std::size_t phase) { new (self) dirprune::Sample{phase}; },
            nb::arg("phase") = 0)
        .def(
            "forget", [](dirprune::Sample& self) { self.known = false; },
            "Compare the weights with the threshold of v the next time.");
    m.def("grda_step", &grda_step, nb::arg("w"), nb::arg("v"), nb::arg("d"), nb::arg("m"),
          nb::arg("lengths"), nb::kw_only(), nb::arg("lr"), nb::arg("g"), nb::arg("momentum"),
          nb::arg("decay"), nb::arg("nesterov"), nb::arg("maximize"), nb::arg("root") = false,
          nb::arg("threads"), nb::arg("g_before").none() = nb::none(),
          nb::arg("sample").none() = nb::none(),
          "gRDA's step in place, on float32 arrays given by address and length; without d only the "
          "threshold. With g_before and a sample, rows that were changed since the last step are "
          "not stepped; returns their indices.");
    m.def("grda_changed", &grda_changed, nb::arg("w"), nb::arg("v"), nb::arg("lengths"),
          nb::kw_only(), nb::arg("g"), nb::arg("root"), nb::arg("sample"), nb::arg("threads"),
          "Which rows were changed since the last step, from a sample of long ones.");
    nb::class_<dirprune::Program>(m, "Program", "A network that is ready to run.")
        .def("__init__", &make_program, nb::arg("graph"), nb::arg("tensors"),
             nb::arg("max_bytes") = std::numeric_limits<std::int64_t>::max(),
             nb::arg("like").none() = nb::none())
        .def("run", &run, nb::arg("x"), nb::arg("threads"), nb::arg("tune"))
        .def("profile", &profile, nb::arg("x"), nb::arg("threads"), nb::arg("tune"),
             nb::arg("repeats"))
        .def("tuned", &tuned)
        .def_prop_ro("modes", &dirprune::Program::modes)
        .def(
            "choose",
            [](dirprune::Program& program, int batch, int threads,
               const std::vector<std::vector<int>>& choices, const std::vector<double>& seconds) {
                nb::gil_scoped_release release;
                program.choose({batch, threads, choices, seconds});
            },
            nb::arg("batch"), nb::arg("threads"), nb::arg("choices"), nb::arg("seconds"))
        .def_prop_ro("input_shape", &dirprune::Program::input_shape)
        .def_prop_ro("output_shape", &dirprune::Program::output_shape);
}
