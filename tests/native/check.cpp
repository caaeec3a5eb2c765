// The core alone, for a build with sanitizers, against LAPACK: every size up to 20, every layout, every instruction
// set that this processor has, given blocks and symbols. Its argument is a library that has LAPACK's zgesvd.
#include "arena.h"
#include "kernels.h"

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdio>
#include <random>
#include <vector>

using namespace convspectra;

namespace {

using Complex = std::complex<double>;
using Zgesvd = void (*)(const char *, const char *, const int64_t *, const int64_t *, Complex *, const int64_t *,
                        double *, Complex *, const int64_t *, Complex *, const int64_t *, Complex *, const int64_t *,
                        double *, int64_t *, std::size_t, std::size_t);

Zgesvd zgesvd;
std::mt19937_64 generator(0);
int checks = 0, failures = 0;

void check(bool good, const char *what, int m, int n, const char *isa) {
  checks++;
  if (!good) {
    failures++;
    std::printf("FAILED %s: %d x %d, %s\n", what, m, n, isa);
  }
}

template <class T> std::vector<T> numbers(std::size_t count) {
  std::normal_distribution<double> normal;
  std::vector<T> made(count);
  for (T &x : made)
    x = static_cast<T>(normal(generator));
  return made;
}

// A = sum_k left[k][i] values[k] right[k][j], with unit vectors left[k] and right[k].
struct Svd {
  int m, n;
  std::vector<double> values;
  std::vector<Complex> left, right;

  // Of a matrix row by row, which to LAPACK is its transpose.
  Svd(std::vector<Complex> a, int m, int n) : m(m), n(n), values(std::min(m, n)) {
    const int64_t rows = n, columns = m, side = std::min(m, n), length = 20 * (m + n);
    left.resize(side * m), right.resize(side * n);
    std::vector<Complex> work(length);
    std::vector<double> real_work(5 * side);
    int64_t info = 0; // with 32-bit integers LAPACK reads and writes the lower half of each
    zgesvd("S", "S", &rows, &columns, a.data(), &rows, values.data(), right.data(), &rows, left.data(), &side,
           work.data(), &length, real_work.data(), &info, 1, 1);
    if (info != 0)
      std::printf("LAPACK failed: %d\n", static_cast<int>(info)), failures++;
  }

  Complex lowered(int i, int j, double level) const {
    Complex sum = 0;
    for (std::size_t k = 0; k < values.size(); k++)
      sum += left[i * values.size() + k] * std::max(values[k] - level, 0.0) * right[k * n + j];
    return sum;
  }
};

template <class T> constexpr double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-13;

template <class T> void solve(const Kernels &kernels, const Problem<T> &p) {
  if constexpr (sizeof(T) == 4)
    kernels.solve_f32(p);
  else
    kernels.solve_f64(p);
}

template <class T> void lower(const Kernels &kernels, const Problem<T> &p, const Lowering<T> &to) {
  if constexpr (sizeof(T) == 4)
    kernels.lower_f32(p, to);
  else
    kernels.lower_f64(p, to);
}

template <class T> Largest<T> largest(const Kernels &kernels, const Problem<T> &p, double floor) {
  if constexpr (sizeof(T) == 4)
    return kernels.largest_f32(p, static_cast<T>(floor));
  else
    return kernels.largest_f64(p, floor);
}

// The singular values of the problem's matrices against `expected`, by every layout, and by bisection alone. All
// arrays are exactly as long as they must be: what is read or written beyond is an error of the sanitizer.
template <class T> void check_values(const Kernels &kernels, Problem<T> p, const std::vector<Svd> &expected) {
  const int n = static_cast<int>(p.columns);
  for (int64_t layout : {1, 2, 0})
    for (int64_t sweeps : {40 * n + 100, 0}) {
      if (sweeps == 0 && (layout == 0 || p.rows > 8))
        continue;
      std::vector<T> values(p.batch * n, T(-1));
      p.values = values.data(), p.max_sweeps = sweeps, p.layout = layout;
      solve(kernels, p);
      bool good = true;
      for (int64_t b = 0; b < p.batch; b++)
        for (int k = 0; k < n; k++)
          good &= std::fabs(values[b * n + k] - expected[b].values[k]) <= tolerance<T> * expected[b].values[0];
      check(good, "values", int(p.rows), n, kernels.name);
    }
}

template <class T> void check_lowered(const Kernels &kernels, Problem<T> p, const std::vector<Svd> &expected) {
  const int m = expected[0].m, n = expected[0].n;
  const int64_t length = p.source.blocks ? p.batch : p.source.frequencies;
  p.max_sweeps = 40 * p.columns + 100;
  for (int64_t layout : {1, 2})
    for (double level : {0.5, 3.0, 6.0, 1000.0}) {
      std::vector<T> lowered(2 * p.batch * m * n, T(-1));
      std::vector<double> stats(2 * p.batch, -1);
      const Lowering<T> to{T(level), lowered.data(), stats.data()};
      p.layout = layout;
      lower(kernels, p, to);
      bool good = true;
      for (int64_t b = 0; b < p.batch; b++) {
        const Svd &svd = expected[b];
        const int64_t place = to.place(p, b / length, b % length);
        const double allowed = tolerance<T> * svd.values[0];
        double sum = 0;
        for (double value : svd.values)
          sum += std::max(value - level, 0.0);
        good &= std::fabs(stats[2 * place] - sum) <= allowed * double(svd.values.size());
        good &= std::fabs(stats[2 * place + 1] - svd.values[0]) <= allowed;
        for (int i = 0; i < m; i++)
          for (int j = 0; j < n; j++) {
            const T *found = &lowered[2 * ((place * m + i) * n + j)];
            good &= std::abs(Complex(found[0], found[1]) - svd.lowered(i, j, level)) <= allowed;
          }
      }
      check(good, "lowered", m, n, kernels.name);
    }
}

template <class T> void check_largest(const Kernels &kernels, Problem<T> p, const std::vector<Svd> &expected) {
  const int m = expected[0].m, n = expected[0].n;
  double most = 0;
  for (const Svd &svd : expected)
    most = std::max(most, svd.values[0]);
  p.max_sweeps = 40 * p.columns + 100;
  const Largest<T> top = largest(kernels, p, 0.0);
  check(std::fabs(top.value - most) <= tolerance<T> * most && top.matrix >= 0 && top.matrix < p.batch &&
            expected[top.matrix].values[0] >= (1 - 2 * tolerance<T>) * most,
        "the largest", m, n, kernels.name);
  check(largest(kernels, p, 2 * most).matrix == -1, "a floor that nothing exceeds", m, n, kernels.name);
}

// A row-major matrix, complex numbers in turn, of a kind that is hard in its own way.
template <class T> std::vector<T> block(int m, int n, int kind) {
  std::vector<T> a = numbers<T>(2 * std::size_t(m) * n);
  for (int i = 0; i < m; i++)
    for (int j = 0; j < n; j++)
      for (int part = 0; part < 2; part++) {
        T &x = a[2 * (i * n + j) + part];
        if (kind == 1)
          x = 0;
        else if (kind == 2) // rank one
          x = a[part];
        else if (kind == 3) // one value, many times
          x = T(i == j && part == 0 ? 4 : 0);
        else if (kind == 4) // graded
          x = T(i == j ? std::ldexp(1.0, -2 * i) : 0);
        else if (kind == 5)
          x = std::ldexp(x, sizeof(T) == 4 ? 100 : 900);
        else if (kind == 6)
          x = std::ldexp(x, sizeof(T) == 4 ? -110 : -900);
        else if (kind == 7) // upper triangle of ones
          x = T(i <= j && part == 0);
      }
  return a;
}

template <class T> void blocks(const Kernels &kernels) {
  for (int m = 1; m <= 20; m++)
    for (int n = 1; n <= 20; n++) {
      const int batch = 1 + (7 * m + n) % 40;
      std::vector<T> a;
      std::vector<Svd> expected;
      for (int b = 0; b < batch; b++) {
        const std::vector<T> one = block<T>(m, n, b % 12);
        a.insert(a.end(), one.begin(), one.end());
        std::vector<Complex> dense;
        for (int e = 0; e < m * n; e++)
          dense.emplace_back(one[2 * e], one[2 * e + 1]);
        expected.emplace_back(dense, m, n);
      }
      a.shrink_to_fit();
      Problem<T> p;
      p.source.blocks = a.data(), p.source.transposed = m < n;
      p.batch = batch, p.rows = std::max(m, n), p.columns = std::min(m, n);
      check_values(kernels, p, expected);
      check_lowered(kernels, p, expected);
    }
}

// The matrix of one group and frequency by the definition, as lowered blocks are laid out.
template <class T> std::vector<Complex> symbol(const Source<T> &s, int64_t group, int64_t frequency) {
  const int64_t columns = s.stacked ? s.classes * s.part_rows : s.classes * s.part_columns;
  std::vector<Complex> dense(s.classes * s.part_rows * s.part_columns);
  for (int64_t c = 0, tap = 0; c < s.classes; c++)
    for (int64_t t = 0; t < s.taps_of_class[c]; t++, tap++) {
      const double *phase = s.phases + 2 * (tap * s.frequencies + frequency);
      for (int64_t i = 0; i < s.part_rows; i++)
        for (int64_t j = 0; j < s.part_columns; j++) {
          const double w = s.taps[((tap * s.groups + group) * s.part_rows + i) * s.part_columns + j];
          const int64_t at = s.stacked ? j * columns + c * s.part_rows + i : i * columns + c * s.part_columns + j;
          dense[at] += w * Complex(phase[0], phase[1]);
        }
    }
  return dense;
}

template <class T> void symbols(const Kernels &kernels) {
  for (int rows = 1; rows <= 9; rows++)
    for (int columns = 1; columns <= 9; columns++)
      for (bool stacked : {false, true}) {
        const std::vector<int64_t> taps_of_class = {3, 1};
        const int classes = 2, taps = 4, groups = 1 + rows % 3, frequencies = 1 + (5 * rows + columns) % 37;
        const int m = stacked ? classes * rows : rows, n = stacked ? columns : classes * columns;
        if (m < n)
          continue;
        const std::vector<T> weights = numbers<T>(std::size_t(taps) * groups * rows * columns);
        const std::vector<double> phases = numbers<double>(std::size_t(taps) * frequencies * 2);
        Problem<T> p;
        p.source.taps = weights.data(), p.source.phases = phases.data();
        p.source.taps_of_class = taps_of_class.data(), p.source.classes = classes, p.source.groups = groups;
        p.source.part_rows = rows, p.source.part_columns = columns, p.source.stacked = stacked;
        p.source.frequencies = frequencies;
        p.batch = groups * frequencies, p.rows = m, p.columns = n;
        std::vector<Svd> expected;
        for (int g = 0; g < groups; g++)
          for (int f = 0; f < frequencies; f++)
            expected.emplace_back(symbol(p.source, g, f), stacked ? n : m, stacked ? m : n);
        check_values(kernels, p, expected);
        check_lowered(kernels, p, expected);
        check_largest(kernels, p, expected);
      }
}

// That what lies between and behind the pieces of a workspace is an error of the sanitizer.
void gaps() {
#ifdef CONVSPECTRA_ASAN
  struct Pieces {
    char *first, *second;
    explicit Pieces(Arena &arena, int64_t count) : first(arena.take<char>(count)), second(arena.take<char>(64)) {}
  };
  Arena arena;
  for (int64_t count : {64, 3, 8}) { // the second and third in memory that was given out before
    const Pieces pieces = arena.make<Pieces>(count);
    check(!__asan_region_is_poisoned(pieces.first, count) && !__asan_region_is_poisoned(pieces.second, 64), "pieces",
          int(count), 64, "arena");
    check(__asan_address_is_poisoned(pieces.first + count) && __asan_address_is_poisoned(pieces.second + 64), "gaps",
          int(count), 64, "arena");
  }
#endif
}

} // namespace

int main(int count, char **arguments) {
  void *library = count == 2 ? dlopen(arguments[1], RTLD_NOW) : nullptr;
  for (const char *name : {"zgesvd_", "scipy_zgesvd_64_", "scipy_zgesvd_", "zgesvd_64_"})
    if (library && !zgesvd)
      zgesvd = reinterpret_cast<Zgesvd>(dlsym(library, name));
  if (!zgesvd)
    return std::printf("give the path of a library that has LAPACK's zgesvd\n"), 2;
  gaps();
  std::vector<const Kernels *> tables = {kernels_baseline()};
#ifdef CONVSPECTRA_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    tables.push_back(kernels_avx2());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    tables.push_back(kernels_avx512());
#endif
  for (const Kernels *kernels : tables) {
    blocks<float>(*kernels), blocks<double>(*kernels);
    symbols<float>(*kernels), symbols<double>(*kernels);
  }
  std::printf("%zu instruction sets, %d passed, %d failed\n", tables.size(), checks - failures, failures);
  return failures != 0;
}
