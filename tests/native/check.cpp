// The core alone, for a build with sanitizers: every size up to 20, every layout, every instruction set
// that this processor has, given blocks and symbols, against the Frobenius norm and each other.
//
//   g++ -std=c++20 -O1 -g -fsanitize=address,undefined ... ; see .ci/run
#include "kernels.h"

#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

using namespace convspectra;

namespace {

std::mt19937_64 generator(0);
int checks = 0, failures = 0;

template <class T> std::vector<T> numbers(std::size_t count) {
  std::normal_distribution<double> normal;
  std::vector<T> made(count);
  for (T &x : made)
    x = static_cast<T>(normal(generator));
  return made;
}

void check(bool good, const char *what, int m, int n, const char *isa) {
  checks++;
  if (!good) {
    failures++;
    std::printf("FAILED %s: %d x %d, %s\n", what, m, n, isa);
  }
}

template <class T> Solve<T> solver_of(const Kernels &kernels) {
  if constexpr (sizeof(T) == 4)
    return kernels.solve_f32;
  else
    return kernels.solve_f64;
}

template <class T> void lower(const Kernels &kernels, const Problem<T> &p, const Lowering<T> &to) {
  if constexpr (sizeof(T) == 4)
    kernels.lower_f32(p, to);
  else
    kernels.lower_f64(p, to);
}

// Whether matrices of `entries` complex numbers, lowered by a level, have the sums and the squares that the
// values of each say, `side` apart.
template <class T>
bool is_lowered(const std::vector<T> &lowered, const std::vector<double> &facts, const std::vector<T> &values, int side,
                std::size_t entries, double level, double tolerance) {
  bool good = true;
  for (std::size_t b = 0; b < facts.size() / 2; b++) {
    double sum = 0, squares = 0, found = 0;
    for (int k = 0; k < side; k++) {
      const double over = values[b * side + k] - level;
      sum += over > 0 ? over : 0, squares += over > 0 ? over * over : 0;
    }
    for (std::size_t e = 0; e < 2 * entries; e++)
      found += double(lowered[b * 2 * entries + e]) * lowered[b * 2 * entries + e];
    const double size = 1 + double(values[b * side]) * side;
    good &= std::fabs(facts[2 * b] - sum) <= tolerance * size && std::fabs(found - squares) <= tolerance * size * size;
    good &= std::fabs(facts[2 * b + 1] - values[b * side]) <= tolerance * size;
  }
  return good;
}

template <class T> void blocks(const Kernels &kernels) {
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-13;
  for (int m = 1; m <= 20; m++)
    for (int n = 1; n <= 20; n++) {
      const int batch = 1 + (7 * m + n) % 40, side = m < n ? m : n;
      // Exactly as long as it must be: a read beyond the end is an error of the sanitizer.
      const std::vector<T> a = numbers<T>(2 * std::size_t(batch) * m * n);
      std::vector<std::vector<T>> found;
      for (int64_t layout : {1, 2, 0})
        for (int64_t sweeps : {40 * side + 100, 0}) {
          if (sweeps == 0 && (layout == 0 || m > 8))
            continue;
          std::vector<T> values(std::size_t(batch) * side, T(-1));
          Problem<T> p;
          p.source.blocks = a.data(), p.source.transposed = m < n;
          p.batch = batch, p.rows = m < n ? n : m, p.columns = side;
          p.values = values.data(), p.max_sweeps = sweeps, p.layout = layout;
          solver_of<T>(kernels)(p);
          found.push_back(values);
        }
      for (T level : {T(0.5), T(3), T(6), T(1000)}) {
        std::vector<T> lowered(a.size(), T(-1));
        std::vector<double> facts(2 * batch, -1);
        Problem<T> p;
        p.source.blocks = a.data(), p.source.transposed = m < n;
        p.batch = batch, p.rows = m < n ? n : m, p.columns = side, p.max_sweeps = 40 * side + 100;
        p.layout = 1 + batch % 2;
        lower(kernels, p, Lowering<T>{level, lowered.data(), facts.data()});
        check(is_lowered(lowered, facts, found[0], side, std::size_t(m) * n, level, tolerance), "lowered", m, n,
              kernels.name);
      }
      bool frobenius = true, agree = true, ordered = true;
      for (int b = 0; b < batch; b++) {
        double squares = 0, sum = 0;
        for (int k = 0; k < 2 * m * n; k++)
          squares += double(a[std::size_t(b) * 2 * m * n + k]) * a[std::size_t(b) * 2 * m * n + k];
        for (int k = 0; k < side; k++) {
          const double value = found[0][std::size_t(b) * side + k];
          sum += value * value;
          ordered &= value >= 0 && (k == 0 || value <= found[0][std::size_t(b) * side + k - 1]);
          for (const auto &other : found)
            agree &= std::fabs(other[std::size_t(b) * side + k] - value) <= tolerance * std::sqrt(squares);
        }
        frobenius &= std::fabs(sum - squares) <= tolerance * squares;
      }
      check(frobenius, "sum of squares", m, n, kernels.name);
      check(agree, "agreement of the layouts and of bisection", m, n, kernels.name);
      check(ordered, "order", m, n, kernels.name);
    }
}

template <class T> void symbols(const Kernels &kernels) {
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-13;
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
        std::vector<T> values(std::size_t(groups) * frequencies * n, T(-1)), again = values;
        Problem<T> p;
        p.source.taps = weights.data(), p.source.phases = phases.data();
        p.source.taps_of_class = taps_of_class.data(), p.source.classes = classes, p.source.groups = groups;
        p.source.part_rows = rows, p.source.part_columns = columns, p.source.stacked = stacked;
        p.source.frequencies = frequencies;
        p.batch = groups * frequencies, p.rows = m, p.columns = n, p.max_sweeps = 40 * n + 100;
        p.values = values.data(), p.layout = 1;
        solver_of<T>(kernels)(p);
        p.values = again.data(), p.layout = 2;
        solver_of<T>(kernels)(p);
        const T level = T(0.3 * values[0]);
        std::vector<T> lowered(2 * std::size_t(p.batch) * m * n, T(-1)), in_order(values.size());
        std::vector<double> facts(2 * p.batch, -1);
        lower(kernels, p, Lowering<T>{level, lowered.data(), facts.data()});
        for (int g = 0; g < groups; g++)
          for (int f = 0; f < frequencies; f++)
            for (int k = 0; k < n; k++)
              in_order[(std::size_t(f) * groups + g) * n + k] = values[(std::size_t(g) * frequencies + f) * n + k];
        check(is_lowered(lowered, facts, in_order, n, std::size_t(m) * n, level, tolerance), "lowered symbol", m, n,
              kernels.name);
        double most = 0;
        for (T value : values)
          most = value > most ? value : most;
        Largest<T> top;
        if constexpr (sizeof(T) == 4)
          top = kernels.largest_f32(p, 0);
        else
          top = kernels.largest_f64(p, 0);
        check(std::fabs(top.value - most) <= tolerance * most && top.matrix >= 0 && top.matrix < p.batch,
              "the largest of a symbol", m, n, kernels.name);
        if constexpr (sizeof(T) == 4)
          top = kernels.largest_f32(p, static_cast<T>(2 * most));
        else
          top = kernels.largest_f64(p, static_cast<T>(2 * most));
        check(top.matrix == -1, "a floor that nothing exceeds", m, n, kernels.name);
        bool frobenius = true, agree = true;
        for (int g = 0; g < groups; g++)
          for (int f = 0; f < frequencies; f++) {
            double squares = 0, sum = 0;
            for (int c = 0, first = 0; c < classes; first += static_cast<int>(taps_of_class[c]), c++)
              for (int e = 0; e < rows * columns; e++) {
                double x = 0, y = 0;
                for (int t = 0; t < taps_of_class[c]; t++) {
                  const double w = weights[(std::size_t(first + t) * groups + g) * rows * columns + e];
                  x += w * phases[2 * (std::size_t(first + t) * frequencies + f)];
                  y += w * phases[2 * (std::size_t(first + t) * frequencies + f) + 1];
                }
                squares += x * x + y * y;
              }
            for (int k = 0; k < n; k++) {
              const std::size_t at = (std::size_t(g) * frequencies + f) * n + k;
              sum += double(values[at]) * values[at];
              agree &= std::fabs(values[at] - again[at]) <= tolerance * std::sqrt(squares);
            }
            frobenius &= std::fabs(sum - squares) <= tolerance * squares;
          }
        check(frobenius, "sum of squares of a symbol", m, n, kernels.name);
        check(agree, "agreement of the layouts on a symbol", m, n, kernels.name);
      }
}

} // namespace

int main() {
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
  std::printf("%d instruction sets, %d passed, %d failed\n", static_cast<int>(tables.size()), checks - failures, failures);
  return failures != 0;
}
