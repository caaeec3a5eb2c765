// The Python module: arrays in, arrays out, the instruction set chosen when it is loaded.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kernels.h"

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

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

class WithoutLock {
public:
  WithoutLock() : state_(PyEval_SaveThread()) {}
  ~WithoutLock() { PyEval_RestoreThread(state_); }

private:
  PyThreadState *state_;
};

// In single precision vectors of half the width are faster where only so few matrices at once stay in the second cache
// (measured).
bool prefers_narrow([[maybe_unused]] const Problem<float> &p) {
  const int64_t bytes = 64 * 2 * p.rows * p.columns;
  return p.layout == 0 && bytes > 1 << 20 && bytes / 2 <= 5 << 19;
}

template <class T> int64_t solve(const Problem<T> &problem, const char *isa) {
  const Kernels &kernels = kernels_named(isa);
  const WithoutLock unlocked;
  if constexpr (sizeof(T) == 4) {
#ifdef CONVSPECTRA_X86
    if (kernels.lanes_f32 == 16 && prefers_narrow(problem))
      return kernels_avx2()->solve_f32(problem);
#endif
    return kernels.solve_f32(problem);
  } else
    return kernels.solve_f64(problem);
}

template <class T> Largest<T> largest(const Problem<T> &problem, T floor, const char *isa) {
  const Kernels &kernels = kernels_named(isa);
  const WithoutLock unlocked;
  if constexpr (sizeof(T) == 4)
    return kernels.largest_f32(problem, floor);
  else
    return kernels.largest_f64(problem, floor);
}

template <class T> PyObject *lower(const Problem<T> &problem, const Lowering<T> &to, const char *isa) {
  const Kernels &kernels = kernels_named(isa);
  {
    const WithoutLock unlocked;
    if constexpr (sizeof(T) == 4)
      kernels.lower_f32(problem, to);
    else
      kernels.lower_f64(problem, to);
  }
  return Py_NewRef(Py_None);
}

// Python has been told what is wrong.
struct PythonError {};

// What buffers call a type.
template <class T> constexpr const char *type_codes = nullptr;
template <> constexpr const char *type_codes<float> = "f";
template <> constexpr const char *type_codes<double> = "d";
template <> constexpr const char *type_codes<int64_t> = "lq";
template <> constexpr const char *type_codes<uint8_t> = "B";

// The memory of an array, C-contiguous; never a copy, which what is written would be lost in.
template <class T> class Array {
public:
  Array(PyObject *from, const char *name, int axes) {
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (std::is_const_v<T> ? 0 : PyBUF_WRITABLE);
    if (PyObject_GetBuffer(from, &view_, flags) != 0)
      throw PythonError();
    constexpr const char *codes = type_codes<std::remove_const_t<T>>;
    const char *format = view_.format ? view_.format : "B"; // as the protocol says
    if (view_.ndim == axes && view_.itemsize == sizeof(T) && std::strchr(codes, format[0]))
      return;
    PyErr_Format(PyExc_TypeError, "%s must be an array of %d axes and of type %c, got %d and %s", name, axes, codes[0],
                 view_.ndim, format);
    PyBuffer_Release(&view_);
    throw PythonError();
  }
  ~Array() { PyBuffer_Release(&view_); }
  Array(const Array &) = delete;
  Array &operator=(const Array &) = delete;

  int64_t shape(int axis) const { return view_.shape[axis]; }
  T *data() const { return static_cast<T *>(view_.buf); }

private:
  Py_buffer view_;
};

template <class... Places> void parse(PyObject *arguments, const char *format, Places... places) {
  if (!PyArg_ParseTuple(arguments, format, places...))
    throw PythonError();
}

// `solve` of a float or a double, as this array has them.
template <class Solve> PyObject *by_type(PyObject *array, const Solve &solve) {
  Py_buffer view;
  if (PyObject_GetBuffer(array, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0)
    throw PythonError();
  const bool single = view.itemsize == sizeof(float);
  PyBuffer_Release(&view);
  return single ? solve(float()) : solve(double());
}

PyObject *instruction_sets(PyObject *arguments) {
  parse(arguments, "");
  const auto found = supported();
  PyObject *names = PyList_New(found.size());
  for (std::size_t i = 0; names && i < found.size(); i++)
    PyList_SET_ITEM(names, i, PyUnicode_FromString(found[i]->name));
  return names;
}

template <class T> Problem<T> problem_of_blocks(const Array<const T> &blocks) {
  const int64_t m = blocks.shape(1), n = blocks.shape(2);
  require(blocks.shape(3) == 2, "blocks must be (batch, rows, columns, 2)");
  require(m >= 1 && n >= 1 && m * n < (int64_t(1) << 30), "blocks must not be empty or have 2^30 entries");
  Problem<T> p;
  p.source.blocks = blocks.data();
  p.source.transposed = m < n;
  p.batch = blocks.shape(0), p.rows = m < n ? n : m, p.columns = m < n ? m : n;
  return p;
}

PyObject *values_of_blocks(PyObject *arguments) {
  PyObject *from, *to;
  const char *isa;
  long long sweeps, layout;
  parse(arguments, "OOsLL", &from, &to, &isa, &sweeps, &layout);
  return by_type(from, [&](auto zero) {
    using T = decltype(zero);
    const Array<const T> blocks(from, "blocks", 4);
    const Array<T> values(to, "values", 2);
    Problem<T> p = problem_of_blocks(blocks);
    require(values.shape(0) == p.batch && values.shape(1) == p.columns, "values must be (batch, min(rows, columns))");
    p.values = values.data();
    p.max_sweeps = sweeps, p.layout = layout;
    return PyLong_FromLongLong(solve(p, isa));
  });
}

// The arguments that say what a symbol is.
struct SymbolArguments {
  PyObject *taps, *taps_of_class, *phases;
  long long part_rows, part_columns;
  int stacked;
};

// A problem of a symbol, and the arrays that it lies in.
template <class T> struct SymbolProblem {
  const Array<const T> taps;
  const Array<const int64_t> taps_of_class;
  const Array<const double> phases;
  Problem<T> problem;

  SymbolProblem(const SymbolArguments &given, int64_t groups)
      : taps(given.taps, "taps", 1), taps_of_class(given.taps_of_class, "taps_of_class", 1),
        phases(given.phases, "phases", 3) {
    const int64_t rows = given.part_rows, columns = given.part_columns;
    Problem<T> &p = problem;
    Source<T> &s = p.source;
    s.classes = taps_of_class.shape(0), s.groups = groups, s.frequencies = phases.shape(1);
    s.part_rows = rows, s.part_columns = columns, s.stacked = given.stacked != 0;
    require(rows >= 1 && columns >= 1 && s.classes >= 1 && s.groups >= 1, "nothing to solve");
    p.rows = s.stacked ? s.classes * rows : rows;
    p.columns = s.stacked ? columns : s.classes * columns;
    require(p.rows >= p.columns && p.rows * p.columns < (int64_t(1) << 30), "blocks must have rows >= columns");
    s.taps = taps.data(), s.taps_of_class = taps_of_class.data(), s.phases = phases.data();
    for (int64_t c = 0; c < s.classes; c++)
      require(s.taps_of_class[c] >= 1, "a class must have taps");
    const int64_t count = s.total_taps();
    require(taps.shape(0) == count * s.groups * rows * columns, "taps and classes do not fit");
    require(phases.shape(0) == count && phases.shape(2) == 2, "phases must be (taps, frequencies, 2)");
    p.batch = s.groups * s.frequencies;
  }
};

PyObject *values_of_symbol(PyObject *arguments) {
  SymbolArguments symbol;
  PyObject *to;
  const char *isa;
  long long sweeps, layout;
  parse(arguments, "OOOLLpOsLL", &symbol.taps, &symbol.taps_of_class, &symbol.phases, &symbol.part_rows,
        &symbol.part_columns, &symbol.stacked, &to, &isa, &sweeps, &layout);
  return by_type(symbol.taps, [&](auto zero) {
    using T = decltype(zero);
    const Array<T> values(to, "values", 3);
    SymbolProblem<T> of(symbol, values.shape(0));
    Problem<T> &p = of.problem;
    require(values.shape(1) == p.source.frequencies && values.shape(2) == p.columns,
            "values must be (groups, frequencies, columns)");
    p.values = values.data();
    p.max_sweeps = sweeps, p.layout = layout;
    return PyLong_FromLongLong(solve(p, isa));
  });
}

PyObject *largest_of_symbol(PyObject *arguments) {
  SymbolArguments symbol;
  long long groups, sweeps;
  double floor;
  const char *isa;
  parse(arguments, "OOOLLLpdsL", &symbol.taps, &symbol.taps_of_class, &symbol.phases, &groups, &symbol.part_rows,
        &symbol.part_columns, &symbol.stacked, &floor, &isa, &sweeps);
  return by_type(symbol.taps, [&](auto zero) {
    using T = decltype(zero);
    SymbolProblem<T> of(symbol, groups);
    of.problem.max_sweeps = sweeps;
    const Largest<T> found = largest(of.problem, static_cast<T>(floor), isa);
    return Py_BuildValue("dL", static_cast<double>(found.value), static_cast<long long>(found.matrix));
  });
}

PyObject *lowered_blocks(PyObject *arguments) {
  PyObject *from, *to, *stats_to;
  double level;
  const char *isa;
  long long sweeps, layout;
  parse(arguments, "OdOOsLL", &from, &level, &to, &stats_to, &isa, &sweeps, &layout);
  return by_type(from, [&](auto zero) {
    using T = decltype(zero);
    const Array<const T> blocks(from, "blocks", 4);
    const Array<T> lowered(to, "lowered", 4);
    const Array<double> stats(stats_to, "stats", 2);
    Problem<T> p = problem_of_blocks(blocks);
    for (int axis = 0; axis < 4; axis++)
      require(lowered.shape(axis) == blocks.shape(axis), "lowered must be of the shape of blocks");
    require(stats.shape(0) == p.batch && stats.shape(1) == 2, "stats must be (batch, 2)");
    p.max_sweeps = sweeps, p.layout = layout;
    return lower(p, Lowering<T>{static_cast<T>(level), lowered.data(), stats.data()}, isa);
  });
}

PyObject *lowered_symbol(PyObject *arguments) {
  SymbolArguments symbol;
  double level;
  PyObject *to, *stats_to;
  const char *isa;
  long long sweeps, layout;
  parse(arguments, "OOOLLpdOOsLL", &symbol.taps, &symbol.taps_of_class, &symbol.phases, &symbol.part_rows,
        &symbol.part_columns, &symbol.stacked, &level, &to, &stats_to, &isa, &sweeps, &layout);
  return by_type(symbol.taps, [&](auto zero) {
    using T = decltype(zero);
    const Array<T> lowered(to, "lowered", 5);
    const Array<double> stats(stats_to, "stats", 3);
    SymbolProblem<T> of(symbol, stats.shape(1));
    Problem<T> &p = of.problem;
    require(stats.shape(0) == p.source.frequencies && stats.shape(2) == 2, "stats must be (frequencies, groups, 2)");
    require(lowered.shape(0) == stats.shape(0) && lowered.shape(1) == stats.shape(1) &&
                lowered.shape(2) == (symbol.stacked ? p.columns : p.rows) &&
                lowered.shape(3) == (symbol.stacked ? p.rows : p.columns) && lowered.shape(4) == 2,
            "lowered must be (frequencies, groups, rows, columns, 2)");
    p.max_sweeps = sweeps, p.layout = layout;
    return lower(p, Lowering<T>{static_cast<T>(level), lowered.data(), stats.data()}, isa);
  });
}

PyObject *test_gram(PyObject *arguments) {
  PyObject *given[6];
  double level;
  long long steps;
  const char *isa;
  parse(arguments, "OOOdLOOOs", &given[0], &given[1], &given[2], &level, &steps, &given[3], &given[4], &given[5], &isa);
  const Array<const double> coefficients(given[0], "coefficients", 3), phases(given[1], "phases", 3);
  const Array<const int64_t> first_cells(given[2], "first_cells", 1);
  const Array<double> quotients(given[3], "quotients", 1);
  const Array<uint8_t> below(given[4], "below", 1);
  const Array<double> vectors(given[5], "vectors", 3);
  GramTest t;
  const int64_t cells = phases.shape(0);
  t.groups = coefficients.shape(0), t.side = vectors.shape(1), t.waves = phases.shape(1);
  require(t.side >= 4 && t.side % 4 == 0, "side must be a multiple of 4");
  require(coefficients.shape(1) == t.side * (t.side + 1) / 2 &&
              coefficients.shape(2) == 1 + 2 * t.waves && phases.shape(2) == 2,
          "coefficients must be (groups, triangle, 1 + 2 waves) and phases (cells, waves, 2)");
  require(first_cells.shape(0) == t.groups + 1 && first_cells.data()[0] == 0 &&
              first_cells.data()[t.groups] == cells,
          "first_cells must be (groups + 1), from 0 to the number of cells");
  for (int64_t g = 0; g < t.groups; g++)
    require(first_cells.data()[g] <= first_cells.data()[g + 1], "first_cells must ascend");
  require(quotients.shape(0) == cells && below.shape(0) == cells &&
              vectors.shape(0) == cells && vectors.shape(2) == 2,
          "quotients and below must be (cells), vectors (cells, side, 2)");
  t.coefficients = coefficients.data(), t.phases = phases.data(), t.first_cells = first_cells.data();
  t.level = level, t.steps = steps;
  t.quotients = quotients.data(), t.below = below.data(), t.vectors = vectors.data();
  const Kernels &kernels = kernels_named(isa);
  {
    const WithoutLock unlocked;
    kernels.test_gram(t);
  }
  return Py_NewRef(Py_None);
}

// A function as Python calls it: exceptions of C++ become those of Python.
template <PyObject *(*function)(PyObject *)> PyObject *method(PyObject *, PyObject *arguments) {
  try {
    return function(arguments);
  } catch (const PythonError &) {
  } catch (const std::invalid_argument &error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::bad_alloc &) {
    PyErr_NoMemory();
  }
  return nullptr;
}

PyMethodDef methods[] = {
    {"instruction_sets", method<instruction_sets>, METH_VARARGS, nullptr},
    {"values_of_blocks", method<values_of_blocks>, METH_VARARGS, nullptr},
    {"values_of_symbol", method<values_of_symbol>, METH_VARARGS, nullptr},
    {"largest_of_symbol", method<largest_of_symbol>, METH_VARARGS, nullptr},
    {"lowered_blocks", method<lowered_blocks>, METH_VARARGS, nullptr},
    {"lowered_symbol", method<lowered_symbol>, METH_VARARGS, nullptr},
    {"test_gram", method<test_gram>, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef_Slot slots[] = {{0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "core", nullptr, 0, methods, slots, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit_core() { return PyModuleDef_Init(&module); }
