// The Python module: arrays in, arrays out, the instruction set chosen when it is loaded.
#include "kernels.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace nb = nanobind;
using namespace nb::literals;
using namespace convspectra;

namespace {

std::vector<const Kernels *> supported() {
  std::vector<const Kernels *> found;
#ifdef CONVSPECTRA_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    found.push_back(kernels_avx512());
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found.push_back(kernels_avx2());
#endif
  found.push_back(kernels_baseline());
  return found;
}

const Kernels &kernels_named(const std::string &name) {
  for (const Kernels *one : supported())
    if (name.empty() || name == one->name)
      return *one;
  throw std::invalid_argument("instruction set " + name + " is not supported by this processor");
}

void require(bool condition, const char *message) {
  if (!condition)
    throw std::invalid_argument(message);
}

template <class T> int64_t solve(const Problem<T> &problem, const std::string &instruction_set) {
  const Kernels &kernels = kernels_named(instruction_set);
  nb::gil_scoped_release release;
  if constexpr (sizeof(T) == 4)
    return kernels.solve_f32(problem);
  else
    return kernels.solve_f64(problem);
}

template <class T, class... Shape> using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu, Shape...>;

template <class T>
int64_t values_of_blocks(Array<const T, nb::ndim<4>> blocks, Array<T, nb::ndim<2>> values, const std::string &isa,
                         int64_t sweeps, int64_t layout) {
  const int64_t batch = blocks.shape(0), m = blocks.shape(1), n = blocks.shape(2);
  require(blocks.shape(3) == 2, "blocks must be (batch, rows, columns, 2)");
  require(m >= 1 && n >= 1 && m * n < (int64_t(1) << 30), "blocks must not be empty or have 2^30 entries");
  require(int64_t(values.shape(0)) == batch && int64_t(values.shape(1)) == (m < n ? m : n),
          "values must be (batch, min(rows, columns))");
  Problem<T> p;
  p.source.blocks = blocks.data();
  p.source.transposed = m < n;
  p.batch = batch, p.rows = m < n ? n : m, p.columns = m < n ? m : n;
  p.values = values.data();
  p.max_sweeps = sweeps, p.layout = layout;
  return solve(p, isa);
}

template <class T>
Problem<T> symbol_problem(const Array<const T, nb::ndim<1>> &taps, const Array<const int64_t, nb::ndim<1>> &taps_of_class,
                          const Array<const double, nb::ndim<3>> &phases, int64_t groups, int64_t part_rows,
                          int64_t part_columns, bool stacked) {
  Problem<T> p;
  Source<T> &s = p.source;
  s.classes = taps_of_class.shape(0), s.groups = groups, s.frequencies = phases.shape(1);
  s.part_rows = part_rows, s.part_columns = part_columns, s.stacked = stacked;
  require(part_rows >= 1 && part_columns >= 1 && s.classes >= 1 && s.groups >= 1, "nothing to solve");
  p.rows = stacked ? s.classes * part_rows : part_rows;
  p.columns = stacked ? part_columns : s.classes * part_columns;
  require(p.rows >= p.columns && p.rows * p.columns < (int64_t(1) << 30), "blocks must have rows >= columns");
  s.taps = taps.data(), s.taps_of_class = taps_of_class.data(), s.phases = phases.data();
  for (int64_t c = 0; c < s.classes; c++)
    require(s.taps_of_class[c] >= 1, "a class must have taps");
  const int64_t count = s.total_taps();
  require(int64_t(taps.shape(0)) == count * s.groups * part_rows * part_columns, "taps and classes do not fit");
  require(int64_t(phases.shape(0)) == count && phases.shape(2) == 2, "phases must be (taps, frequencies, 2)");
  p.batch = s.groups * s.frequencies;
  return p;
}

template <class T>
int64_t values_of_symbol(Array<const T, nb::ndim<1>> taps, Array<const int64_t, nb::ndim<1>> taps_of_class,
                         Array<const double, nb::ndim<3>> phases, int64_t part_rows, int64_t part_columns, bool stacked,
                         Array<T, nb::ndim<3>> values, const std::string &isa, int64_t sweeps, int64_t layout) {
  Problem<T> p = symbol_problem<T>(taps, taps_of_class, phases, values.shape(0), part_rows, part_columns, stacked);
  require(int64_t(values.shape(1)) == p.source.frequencies && int64_t(values.shape(2)) == p.columns,
          "values must be (groups, frequencies, columns)");
  p.values = values.data();
  p.max_sweeps = sweeps, p.layout = layout;
  return solve(p, isa);
}

template <class T>
std::pair<double, int64_t> largest_of_symbol(Array<const T, nb::ndim<1>> taps,
                                             Array<const int64_t, nb::ndim<1>> taps_of_class,
                                             Array<const double, nb::ndim<3>> phases, int64_t groups, int64_t part_rows,
                                             int64_t part_columns, bool stacked, double floor, const std::string &isa,
                                             int64_t sweeps) {
  Problem<T> p = symbol_problem<T>(taps, taps_of_class, phases, groups, part_rows, part_columns, stacked);
  p.max_sweeps = sweeps;
  const Kernels &kernels = kernels_named(isa);
  nb::gil_scoped_release release;
  Largest<T> found;
  if constexpr (sizeof(T) == 4)
    found = kernels.largest_f32(p, static_cast<T>(floor));
  else
    found = kernels.largest_f64(p, floor);
  return {found.value, found.matrix};
}

template <class T>
void lower(const Problem<T> &problem, const Lowering<T> &to, const std::string &isa) {
  const Kernels &kernels = kernels_named(isa);
  nb::gil_scoped_release release;
  if constexpr (sizeof(T) == 4)
    kernels.lower_f32(problem, to);
  else
    kernels.lower_f64(problem, to);
}

template <class T>
void lowered_blocks(Array<const T, nb::ndim<4>> blocks, double level, Array<T, nb::ndim<4>> lowered,
                    Array<double, nb::ndim<2>> stats, const std::string &isa, int64_t sweeps, int64_t layout) {
  const int64_t batch = blocks.shape(0), m = blocks.shape(1), n = blocks.shape(2);
  require(blocks.shape(3) == 2, "blocks must be (batch, rows, columns, 2)");
  require(m >= 1 && n >= 1 && m * n < (int64_t(1) << 30), "blocks must not be empty or have 2^30 entries");
  for (int axis = 0; axis < 4; axis++)
    require(lowered.shape(axis) == blocks.shape(axis), "lowered must be of the shape of blocks");
  require(int64_t(stats.shape(0)) == batch && stats.shape(1) == 2, "stats must be (batch, 2)");
  Problem<T> p;
  p.source.blocks = blocks.data(), p.source.transposed = m < n;
  p.batch = batch, p.rows = m < n ? n : m, p.columns = m < n ? m : n;
  p.max_sweeps = sweeps, p.layout = layout;
  lower(p, Lowering<T>{static_cast<T>(level), lowered.data(), stats.data()}, isa);
}

template <class T>
void lowered_symbol(Array<const T, nb::ndim<1>> taps, Array<const int64_t, nb::ndim<1>> taps_of_class,
                    Array<const double, nb::ndim<3>> phases, int64_t part_rows, int64_t part_columns, bool stacked,
                    double level, Array<T, nb::ndim<5>> lowered, Array<double, nb::ndim<3>> stats,
                    const std::string &isa, int64_t sweeps, int64_t layout) {
  Problem<T> p = symbol_problem<T>(taps, taps_of_class, phases, stats.shape(1), part_rows, part_columns, stacked);
  require(int64_t(stats.shape(0)) == p.source.frequencies && stats.shape(2) == 2,
          "stats must be (frequencies, groups, 2)");
  require(lowered.shape(0) == stats.shape(0) && lowered.shape(1) == stats.shape(1) &&
              int64_t(lowered.shape(2)) == (stacked ? p.columns : p.rows) &&
              int64_t(lowered.shape(3)) == (stacked ? p.rows : p.columns) && lowered.shape(4) == 2,
          "lowered must be (frequencies, groups, rows, columns, 2)");
  p.max_sweeps = sweeps, p.layout = layout;
  lower(p, Lowering<T>{static_cast<T>(level), lowered.data(), stats.data()}, isa);
}

void test_gram(Array<const double, nb::ndim<3>> coefficients, Array<const double, nb::ndim<3>> phases,
               Array<const int64_t, nb::ndim<1>> first_cells, double level, int64_t steps,
               Array<double, nb::ndim<1>> quotients, Array<uint8_t, nb::ndim<1>> below,
               Array<double, nb::ndim<3>> vectors, const std::string &isa) {
  GramTest t;
  const int64_t cells = phases.shape(0);
  t.groups = coefficients.shape(0), t.side = vectors.shape(1), t.waves = phases.shape(1);
  require(t.side >= 4 && t.side % 4 == 0, "side must be a multiple of 4");
  require(int64_t(coefficients.shape(1)) == t.side * (t.side + 1) / 2 &&
              int64_t(coefficients.shape(2)) == 1 + 2 * t.waves && phases.shape(2) == 2,
          "coefficients must be (groups, triangle, 1 + 2 waves) and phases (cells, waves, 2)");
  require(int64_t(first_cells.shape(0)) == t.groups + 1 && first_cells.data()[0] == 0 &&
              first_cells.data()[t.groups] == cells,
          "first_cells must be (groups + 1), from 0 to the number of cells");
  for (int64_t g = 0; g < t.groups; g++)
    require(first_cells.data()[g] <= first_cells.data()[g + 1], "first_cells must ascend");
  require(int64_t(quotients.shape(0)) == cells && int64_t(below.shape(0)) == cells &&
              int64_t(vectors.shape(0)) == cells && vectors.shape(2) == 2,
          "quotients and below must be (cells), vectors (cells, side, 2)");
  t.coefficients = coefficients.data(), t.phases = phases.data(), t.first_cells = first_cells.data();
  t.level = level, t.steps = steps;
  t.quotients = quotients.data(), t.below = below.data(), t.vectors = vectors.data();
  const Kernels &kernels = kernels_named(isa);
  nb::gil_scoped_release release;
  kernels.test_gram(t);
}

} // namespace

NB_MODULE(core, m) {
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Kernels *one : supported())
      names.emplace_back(one->name);
    return names;
  });
  m.def("values_of_blocks", &values_of_blocks<float>);
  m.def("values_of_blocks", &values_of_blocks<double>);
  m.def("values_of_symbol", &values_of_symbol<float>);
  m.def("values_of_symbol", &values_of_symbol<double>);
  m.def("largest_of_symbol", &largest_of_symbol<float>);
  m.def("largest_of_symbol", &largest_of_symbol<double>);
  m.def("test_gram", &test_gram, "coefficients"_a, "phases"_a, "first_cells"_a, "level"_a, "steps"_a,
        "quotients"_a.noconvert(), "below"_a.noconvert(), "vectors"_a.noconvert(), "isa"_a);
  // What is written to must be of the very type: a converted copy would be thrown away.
  m.def("lowered_blocks", &lowered_blocks<float>, "blocks"_a.noconvert(), "level"_a, "lowered"_a.noconvert(),
        "stats"_a.noconvert(), "isa"_a, "sweeps"_a, "layout"_a);
  m.def("lowered_blocks", &lowered_blocks<double>, "blocks"_a.noconvert(), "level"_a, "lowered"_a.noconvert(),
        "stats"_a.noconvert(), "isa"_a, "sweeps"_a, "layout"_a);
  m.def("lowered_symbol", &lowered_symbol<float>, "taps"_a.noconvert(), "taps_of_class"_a, "phases"_a, "part_rows"_a,
        "part_columns"_a, "stacked"_a, "level"_a, "lowered"_a.noconvert(), "stats"_a.noconvert(), "isa"_a, "sweeps"_a, "layout"_a);
  m.def("lowered_symbol", &lowered_symbol<double>, "taps"_a.noconvert(), "taps_of_class"_a, "phases"_a, "part_rows"_a,
        "part_columns"_a, "stacked"_a, "level"_a, "lowered"_a.noconvert(), "stats"_a.noconvert(), "isa"_a, "sweeps"_a, "layout"_a);
}
