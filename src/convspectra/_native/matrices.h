// Matrices as the reduction takes them: filled in from a problem's source, brought near 1.
#pragma once

#include "arena.h"
#include "kernels.h"
#include "reduce.h"

#include <type_traits>

namespace {

using convspectra::Problem;
using convspectra::Source;

// The power of two that brings a largest entry near 1, or 1 where that is not needed.
template <class T> [[gnu::noinline]] T scale_for(T largest) {
  if (!(largest > 0) || (largest >= Limits<T>::small && largest <= Limits<T>::large) ||
      !(largest <= std::numeric_limits<T>::max()))
    return 1;
  int exponent;
  std::frexp(largest, &exponent);
  // Subnormal entries are brought as near to 1 as a factor in range can.
  const int most = std::numeric_limits<T>::max_exponent - 2;
  return std::ldexp(T(1), -exponent < most ? -exponent : most);
}

// Consecutive matrices of one run share their taps; a group of lanes never spans two runs.
template <class T> struct Runs {
  int64_t count, length;
  explicit Runs(const Problem<T> &p)
      : count(p.source.blocks ? 1 : p.source.groups), length(p.source.blocks ? p.batch : p.source.frequencies) {}
};

// What lane l has of a factor: of a vector of them, or of one for all lanes.
template <class S> auto lane(S factor, int l) {
  if constexpr (std::is_floating_point_v<S>)
    return factor;
  else
    return factor[l];
}

// A form says how many matrices it fills in at a time, and `stride`: vectors from one row of them to the next.
template <class T, int L> class MatrixPerLane {
public:
  using Layout = AcrossMatrices<T, L>;
  using V = Vector<T, L>;
  static constexpr int count = L;

  MatrixPerLane(Arena &arena, const Problem<T> &p) : phases_(arena.take<V>(2 * p.source.total_taps())) {}
  static int64_t stride(const Problem<T> &p) { return 2 * p.columns; }

  // Matrices `first` to `first + L` of a run; lanes beyond its end repeat the last matrix.
  [[gnu::noinline]] void fill(const Problem<T> &p, int64_t run, int64_t first, int64_t length, V *a) const {
    if (p.source.blocks)
      copy_blocks(p, first, length, a);
    else
      sum_taps(p, run, first, length, a);
  }

  [[gnu::noinline]] static V rescale(V *a, int64_t count) {
    V largest{};
    for (int64_t e = 0; e < count; e++) {
      V x = magnitude(a[e]);
      largest = x > largest ? x : largest;
    }
    const auto fine = (largest >= Limits<T>::small) & (largest <= Limits<T>::large);
    bool all = true;
    for (int l = 0; l < L; l++)
      all &= fine[l] != 0;
    V factor = V{} + T(1);
    if (all)
      return factor;
    for (int l = 0; l < L; l++)
      factor[l] = scale_for<T>(largest[l]);
    for (int64_t e = 0; e < count; e++)
      a[e] *= factor;
    return factor;
  }

private:
  static int64_t in_run(int64_t index, int64_t length) { return index < length ? index : length - 1; }

  static void copy_blocks(const Problem<T> &p, int64_t first, int64_t length, V *a) {
    const int64_t m = p.rows, n = p.columns;
    for (int l = 0; l < L; l++) {
      const T *block = p.source.blocks + 2 * in_run(first + l, length) * m * n;
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
          const T *z = block + 2 * (p.source.transposed ? j * m + i : i * n + j);
          a[2 * (i * n + j)][l] = z[0];
          a[2 * (i * n + j) + 1][l] = z[1];
        }
    }
  }

  void sum_taps(const Problem<T> &p, int64_t run, int64_t first, int64_t length, V *a) const {
    const Source<T> &s = p.source;
    const int64_t taps = s.total_taps(), part = s.part_rows * s.part_columns;
    V *phases = phases_;
    for (int64_t t = 0; t < taps; t++)
      for (int l = 0; l < L; l++) {
        const int64_t f = in_run(first + l, length);
        phases[2 * t][l] = static_cast<T>(s.phases[2 * (t * s.frequencies + f)]);
        phases[2 * t + 1][l] = static_cast<T>(s.phases[2 * (t * s.frequencies + f) + 1]);
      }
    const T *taps_of_class = s.taps;
    for (int64_t c = 0; c < s.classes; c++) {
      const int64_t count = s.taps_of_class[c], step = s.groups * part;
      for (int64_t r = 0; r < s.part_rows; r++) {
        const int64_t i = s.stacked ? c * s.part_rows + r : r, j0 = s.stacked ? 0 : c * s.part_columns;
        V *row = a + 2 * (i * p.columns + j0);
        const T *weights = taps_of_class + run * part + r * s.part_columns;
        int64_t j = 0;
        for (; j + 4 <= s.part_columns; j += 4)
          sum_entries<4>(weights + j, step, count, phases, row + 2 * j);
        for (; j < s.part_columns; j++)
          sum_entries<1>(weights + j, step, count, phases, row + 2 * j);
      }
      taps_of_class += count * step;
      phases += 2 * count;
    }
  }

  template <int N>
  static void sum_entries(const T *weights, int64_t step, int64_t count, const V *__restrict phases,
                          V *__restrict out) {
    V x[N], y[N];
#pragma GCC unroll 4
    for (int k = 0; k < N; k++)
      x[k] = y[k] = V{};
    for (int64_t t = 0; t < count; t++) {
      const V c = phases[2 * t], s = phases[2 * t + 1];
#pragma GCC unroll 4
      for (int k = 0; k < N; k++) {
        x[k] += weights[t * step + k] * c;
        y[k] += weights[t * step + k] * s;
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < N; k++)
      out[2 * k] = x[k], out[2 * k + 1] = y[k];
  }

  V *phases_;
};

template <class T, int L> class RowAcrossLanes {
public:
  using Layout = AcrossColumns<T, L>;
  using V = Vector<T, L>;
  static constexpr int count = 1;

  RowAcrossLanes(Arena &arena, const Problem<T> &p)
      : real_(arena.take<T>(p.source.part_columns)), imaginary_(arena.take<T>(p.source.part_columns)) {}
  static int64_t stride(const Problem<T> &p) { return row_length<Layout>(p.columns); }

  // Matrix `index` of a run.
  [[gnu::noinline]] void fill(const Problem<T> &p, int64_t run, int64_t index, int64_t /*length*/, V *a) const {
    const int64_t m = p.rows, n = p.columns, step = stride(p);
    for (int64_t e = 0; e < m * step; e++)
      a[e] = V{};
    if (!p.source.blocks)
      return sum_taps(p, run, index, a);
    const T *block = p.source.blocks + 2 * index * m * n;
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++) {
        const T *z = block + 2 * (p.source.transposed ? j * m + i : i * n + j);
        Layout::put(a + i * step, static_cast<int>(j), 0, z[0]);
        Layout::put(a + i * step, static_cast<int>(j), 1, z[1]);
      }
  }

  [[gnu::noinline]] static T rescale(V *a, int64_t count) {
    V most{};
    for (int64_t e = 0; e < count; e++) {
      V x = magnitude(a[e]);
      most = x > most ? x : most;
    }
    T largest = 0;
    for (int l = 0; l < L; l++)
      largest = most[l] > largest ? most[l] : largest;
    const T factor = scale_for<T>(largest);
    if (factor != 1)
      for (int64_t e = 0; e < count; e++)
        a[e] *= factor;
    return factor;
  }

private:
  void sum_taps(const Problem<T> &p, int64_t run, int64_t index, V *a) const {
    const Source<T> &s = p.source;
    const int64_t part = s.part_rows * s.part_columns, columns = s.part_columns;
    const T *taps_of_class = s.taps;
    int64_t tap = 0;
    for (int64_t c = 0; c < s.classes; c++) {
      const int64_t count = s.taps_of_class[c];
      for (int64_t r = 0; r < s.part_rows; r++) {
        for (int64_t j = 0; j < columns; j++)
          real_[j] = imaginary_[j] = 0;
        for (int64_t t = 0; t < count; t++) {
          const double *phase = s.phases + 2 * ((tap + t) * s.frequencies + index);
          const T x = static_cast<T>(phase[0]), y = static_cast<T>(phase[1]);
          const T *__restrict weights = taps_of_class + (t * s.groups + run) * part + r * columns;
          T *__restrict to_r = real_, *__restrict to_i = imaginary_;
          for (int64_t j = 0; j < columns; j++) {
            to_r[j] += weights[j] * x;
            to_i[j] += weights[j] * y;
          }
        }
        const int64_t i = s.stacked ? c * s.part_rows + r : r, j0 = s.stacked ? 0 : c * columns;
        spread(columns, j0, reinterpret_cast<T *>(a + i * stride(p)));
      }
      taps_of_class += count * s.groups * part;
      tap += count;
    }
  }

  // The summed entries to columns j0 on of a row.
  void spread(int64_t columns, int64_t j0, T *row) const {
    for (int64_t j = 0; j < columns;) {
      const int64_t at = j0 + j, lane = at % L;
      const int64_t width = L - lane < columns - j ? L - lane : columns - j;
      T *to = row + 2 * L * (at / L) + lane;
      for (int64_t l = 0; l < width; l++)
        to[l] = real_[j + l], to[L + l] = imaginary_[j + l];
      j += width;
    }
  }

  T *real_, *imaginary_;
};

} // namespace
