// A batch of matrices: filled in, reduced, diagonalised, sorted.
#pragma once

#include "kernels.h"
#include "reduce.h"

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <new>
#include <type_traits>
#include <utility>

namespace {

using convspectra::Problem;
using convspectra::Source;

// Memory that a thread keeps from call to call.
class Arena {
public:
  ~Arena() { std::free(memory_); }
  void reserve(std::size_t bytes) {
    if (bytes <= size_)
      return;
    std::free(memory_);
    size_ = 0;
    memory_ = static_cast<char *>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    if (!memory_)
      throw std::bad_alloc();
    size_ = bytes;
  }
  void rewind() { used_ = 0; }
  template <class X> X *take(std::size_t count) {
    char *start = memory_ + used_;
    used_ += (count * sizeof(X) + 63) / 64 * 64;
    return reinterpret_cast<X *>(start);
  }
  static constexpr std::size_t slack = 64 * 16;

private:
  char *memory_ = nullptr;
  std::size_t size_ = 0, used_ = 0;
};

// The power of two that brings a largest entry near 1, or 1 where that is not needed.
template <class T> T scale_for(T largest) {
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

template <class T, int L> struct MatrixALane {
  using Layout = AcrossMatrices<T, L>;
  using V = Vector<T, L>;

  // Matrices `first` to `first + L` of a run; lanes beyond its end repeat the last matrix.
  static void fill(const Problem<T> &p, int64_t run, int64_t first, int64_t length, V *a, V *phases) {
    const Source<T> &s = p.source;
    const int64_t m = p.rows, n = p.columns;
    if (s.blocks) {
      for (int l = 0; l < L; l++) {
        const int64_t b = first + l < length ? first + l : length - 1;
        const T *block = s.blocks + 2 * b * m * n;
        for (int64_t i = 0; i < m; i++)
          for (int64_t j = 0; j < n; j++) {
            const T *z = block + 2 * (s.transposed ? j * m + i : i * n + j);
            a[2 * (i * n + j)][l] = z[0];
            a[2 * (i * n + j) + 1][l] = z[1];
          }
      }
      return;
    }
    const int64_t taps = s.taps_in_all();
    for (int64_t t = 0; t < taps; t++)
      for (int l = 0; l < L; l++) {
        const int64_t f = first + l < length ? first + l : length - 1;
        phases[2 * t][l] = static_cast<T>(s.phases[2 * (t * s.frequencies + f)]);
        phases[2 * t + 1][l] = static_cast<T>(s.phases[2 * (t * s.frequencies + f) + 1]);
      }
    const int64_t part = s.part_rows * s.part_columns;
    const T *taps_of = s.taps;
    for (int64_t c = 0; c < s.classes; c++) {
      const int64_t count = s.taps_of_class[c], step = s.groups * part;
      const T *mine = taps_of + run * part;
      for (int64_t r = 0; r < s.part_rows; r++) {
        const int64_t i = s.stacked ? c * s.part_rows + r : r, j0 = s.stacked ? 0 : c * s.part_columns;
        V *row = a + 2 * (i * n + j0);
        const T *weights = mine + r * s.part_columns;
        int64_t j = 0;
        for (; j + 4 <= s.part_columns; j += 4)
          entries<4>(weights + j, step, count, phases, row + 2 * j);
        for (; j < s.part_columns; j++)
          entries<1>(weights + j, step, count, phases, row + 2 * j);
      }
      taps_of += count * step;
      phases += 2 * count;
    }
  }

  template <int N>
  static void entries(const T *weights, int64_t step, int64_t count, const V *__restrict phases, V *__restrict out) {
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

  static V rescale(V *a, int64_t count) {
    V largest{};
    for (int64_t e = 0; e < count; e++) {
      V x = magnitude(a[e]);
      largest = x > largest ? x : largest;
    }
    V factor = V{} + T(1);
    bool any = false;
    for (int l = 0; l < L; l++) {
      factor[l] = scale_for<T>(largest[l]);
      any |= factor[l] != 1;
    }
    if (any)
      for (int64_t e = 0; e < count; e++)
        a[e] *= factor;
    return factor;
  }
};

template <class T, int L> struct RowAcrossLanes {
  using Layout = AcrossColumns<T, L>;
  using V = Vector<T, L>;

  static int64_t stride(const Problem<T> &p) { return 2 * ((p.columns + L - 1) / L); }

  static void fill(const Problem<T> &p, int64_t run, int64_t index, V *a, T *row_r, T *row_i) {
    const Source<T> &s = p.source;
    const int64_t m = p.rows, n = p.columns, step = stride(p);
    for (int64_t e = 0; e < m * step; e++)
      a[e] = V{};
    if (s.blocks) {
      const T *block = s.blocks + 2 * index * m * n;
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
          const T *z = block + 2 * (s.transposed ? j * m + i : i * n + j);
          Layout::put(a + i * step, static_cast<int>(j), 0, z[0]);
          Layout::put(a + i * step, static_cast<int>(j), 1, z[1]);
        }
      return;
    }
    const int64_t part = s.part_rows * s.part_columns, columns = s.part_columns;
    const T *taps_of = s.taps;
    int64_t tap = 0;
    for (int64_t c = 0; c < s.classes; c++) {
      const int64_t count = s.taps_of_class[c];
      for (int64_t r = 0; r < s.part_rows; r++) {
        const int64_t i = s.stacked ? c * s.part_rows + r : r, j0 = s.stacked ? 0 : c * columns;
        for (int64_t j = 0; j < columns; j++)
          row_r[j] = row_i[j] = 0;
        for (int64_t t = 0; t < count; t++) {
          const double *phase = s.phases + 2 * ((tap + t) * s.frequencies + index);
          const T x = static_cast<T>(phase[0]), y = static_cast<T>(phase[1]);
          const T *__restrict weights = taps_of + (t * s.groups + run) * part + r * columns;
          T *__restrict to_r = row_r, *__restrict to_i = row_i;
          for (int64_t j = 0; j < columns; j++) {
            to_r[j] += weights[j] * x;
            to_i[j] += weights[j] * y;
          }
        }
        T *row = reinterpret_cast<T *>(a + i * step);
        for (int64_t j = 0; j < columns;) {
          const int64_t at = j0 + j, lane = at % L;
          const int64_t width = L - lane < columns - j ? L - lane : columns - j;
          T *to = row + 2 * L * (at / L) + lane;
          for (int64_t l = 0; l < width; l++)
            to[l] = row_r[j + l], to[L + l] = row_i[j + l];
          j += width;
        }
      }
      taps_of += count * s.groups * part;
      tap += count;
    }
  }

  static T rescale(V *a, int64_t count) {
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
};

// The iteration leaves them nearly in order, so that insertion is near one comparison an entry.
template <class T> void sort_descending(T *x, int64_t n) {
  for (int64_t i = 1; i < n; i++) {
    const T value = x[i];
    int64_t j = i;
    for (; j > 0 && x[j - 1] < value; j--)
      x[j] = x[j - 1];
    x[j] = value;
  }
}

// `count` bidiagonal matrices at a time, L of them a vector: their values to where `target` says, null
// for nowhere.
template <class T, int L, int G> struct Finish {
  static constexpr int count = L * G;
  using P = Pack<double, L, G>;
  P *d, *e, *q, *off, *other_q, *other_off, *found;
  double *one_d, *one_e, *one_values;
  T *target[count];
  T factor[count]; // the matrix was multiplied by it

  static std::size_t bytes(int64_t n) { return (7 * sizeof(P) + 3 * sizeof(double)) * n; }
  Finish(Arena &arena, int64_t n) {
    for (P **packs : {&d, &e, &q, &off, &other_q, &other_off, &found})
      *packs = arena.take<P>(n);
    for (double **one : {&one_d, &one_e, &one_values})
      *one = arena.take<double>(n);
    clear(n);
  }

  void clear(int64_t n) {
    for (int k = 0; k < count; k++)
      target[k] = nullptr, factor[k] = 1;
    for (int64_t k = 0; k < n; k++)
      d[k] = e[k] = P(0);
  }

  // The first `used` of them, by packs no wider than that takes.
  int64_t operator()(int64_t n, int64_t max_sweeps, int used) {
    int64_t bisected;
    if (G > 2 && used <= count / 2)
      bisected = run<(G > 2 ? G / 2 : G)>(n, max_sweeps);
    else
      bisected = run<G>(n, max_sweeps);
    clear(n);
    return bisected;
  }

private:
  template <int H> static Pack<double, L, H> first(const P &pack) {
    Pack<double, L, H> part;
    for (int g = 0; g < H; g++)
      part.v[g] = pack.v[g];
    return part;
  }

  template <int H> int64_t run(int64_t n, int64_t max_sweeps) {
    using Q = Pack<double, L, H>;
    const auto d = [&](int64_t k) { return first<H>(this->d[k]); };
    const auto e = [&](int64_t k) { return first<H>(this->e[k]); };
    Q *q = reinterpret_cast<Q *>(this->q), *off = reinterpret_cast<Q *>(this->off);
    Q *other_q = reinterpret_cast<Q *>(this->other_q), *other_off = reinterpret_cast<Q *>(this->other_off);
    Q *found = reinterpret_cast<Q *>(this->found);
    const Q zero(0);
    Q most(0);
    for (int64_t k = 0; k < n; k++)
      most = larger(most, larger(magnitude(d(k)), k + 1 < n ? magnitude(e(k)) : zero));
    // A matrix with NaN or infinity is left out here, and its values are NaN.
    const auto finite = most <= Q(std::numeric_limits<double>::max());
    const Q inverse = select(finite & (most > zero), Q(1) / most, zero);
    // From the larger end: dqds finds the smallest values first, at the bottom.
    const auto reversed = magnitude(d(n - 1)) > magnitude(d(0));
    for (int64_t k = 0; k < n; k++) {
      const Q x = select(finite, select(reversed, d(n - 1 - k), d(k)) * inverse, zero);
      q[k] = larger(x * x, Q(least_square));
      if (k + 1 < n) {
        const Q y = select(finite, select(reversed, e(n - 2 - k), e(k)) * inverse, zero);
        off[k] = y * y;
      }
    }
    const int side = static_cast<int>(n);
    const int64_t sweeps = 8 * n + 20;
    bool done;
    {
      const FlushSubnormals flush;
      done = squared_values<Q>(q, off, other_q, other_off, found, side, Limits<T>::negligible,
                               max_sweeps < sweeps ? max_sweeps : sweeps);
    }
    if (done)
      for (int64_t k = 0; k < n; k++)
        found[k] = most * root(found[k]);
    else {
      for (int64_t k = 0; k < n; k++) {
        q[k] = select(finite, d(k) * inverse, zero);
        off[k] = select(finite, e(k) * inverse, zero);
      }
      const FlushSubnormals flush;
      done = implicit_qr<Q>(q, off, side, std::sqrt(Limits<T>::negligible), max_sweeps - sweeps);
      for (int64_t k = 0; k < n; k++)
        found[k] = most * magnitude(q[k]);
    }
    int64_t bisected = 0;
    for (int g = 0; g < H; g++)
      for (int l = 0; l < L; l++) {
        T *values = target[g * L + l];
        if (!values)
          continue;
        const double back = 1 / static_cast<double>(factor[g * L + l]), scale = most.v[g][l] * back;
        if (!finite.m[g][l])
          for (int64_t k = 0; k < n; k++)
            values[k] = std::numeric_limits<T>::quiet_NaN();
        else if (done)
          for (int64_t k = 0; k < n; k++)
            values[k] = static_cast<T>(back * found[k].v[g][l]);
        else {
          const double by = inverse.v[g][l];
          for (int64_t k = 0; k < n; k++) {
            one_d[k] = this->d[k].v[g][l] * by;
            one_e[k] = k + 1 < n ? this->e[k].v[g][l] * by : 0;
          }
          bisect(one_d, one_e, side, one_values);
          for (int64_t k = 0; k < n; k++)
            values[k] = static_cast<T>(scale * one_values[k]);
          bisected++;
        }
        sort_descending(values, n);
      }
    return bisected;
  }
};

// Where a reduction leaves its diagonals: entry k of the matrices from `slot` on, as many as `from` holds.
template <class P, int L> struct Column {
  P *packs;
  int slot;
  struct Place {
    P &pack;
    int slot;
    template <class V> void operator=(V from) const {
      if constexpr (std::is_floating_point_v<V>)
        pack.v[slot / L][slot % L] = from;
      else {
        using T = std::remove_reference_t<decltype(from[0])>;
        constexpr int parts = sizeof(V) / sizeof(T) / L;
        for (int k = 0; k < parts; k++)
          pack.v[slot / L + k] =
              __builtin_convertvector(reinterpret_cast<const Vector<T, L> *>(&from)[k], Vector<double, L>);
      }
    }
  };
  Place operator[](int64_t k) const { return {packs[k], slot}; }
};

// A matrix a lane as long as L of them take no more bytes than this, that is, about stay in the second cache;
// beyond that a row across the lanes. In single precision narrower vectors are taken first (all measured).
template <class T, int BYTES>
constexpr int64_t bytes_of_lanes = sizeof(T) == 8 ? 3 << 19 : BYTES == 64 ? 1 << 20 : 5 << 19;

template <class T, int BYTES, int G, int ROWS> int64_t solve(const Problem<T> &p) {
  constexpr int L = BYTES / sizeof(T), LD = BYTES / sizeof(double);
  using V = Vector<T, L>;
  using End = Finish<T, LD, G>;
  using P = typename End::P;
  static_assert(End::count % L == 0);
  static thread_local Arena arena;
  const int64_t m = p.rows, n = p.columns;
  const bool fits = m * n * 2 * int64_t(sizeof(V)) <= bytes_of_lanes<T, BYTES>;
  // How many matrices of a row across the lanes take as long as one group of a matrix a lane (measured).
  const int64_t worthwhile = p.layout == 1 ? 0 : p.layout == 2 || !fits ? L : int64_t(L / (1 + 45.0 / n));
  const int64_t lane_stride = 2 * n, row_stride = RowAcrossLanes<T, L>::stride(p);
  const int64_t stride = worthwhile < L ? lane_stride : row_stride; // the longer of those that are used
  const int64_t phases = 2 * p.source.taps_in_all(), part = p.source.part_columns;
  arena.reserve(sizeof(V) * (m * stride + 3 * stride + phases) + End::bytes(n) + 2 * sizeof(T) * part + Arena::slack);
  arena.rewind();
  V *a = arena.take<V>(m * stride), *turns = arena.take<V>(phases);
  V *w = arena.take<V>(stride), *u = arena.take<V>(stride), *next = arena.take<V>(stride);
  End finish(arena, n);
  T *row_r = arena.take<T>(part), *row_i = arena.take<T>(part);

  const Runs<T> runs(p);
  const int rows = static_cast<int>(m), columns = static_cast<int>(n);
  int64_t bisected = 0;
  int slot = 0;
  for (int64_t run = 0; run < runs.count; run++)
    for (int64_t first = 0; first < runs.length;) {
      const bool a_lane_each = worthwhile < L && runs.length - first > worthwhile;
      if (slot == End::count || (a_lane_each && slot % L != 0)) {
        bisected += finish(n, p.max_sweeps, slot);
        slot = 0;
      }
      T *values = p.values + (run * runs.length + first) * n;
      const Column<P, LD> d{finish.d, slot}, e{finish.e, slot};
      if (a_lane_each) {
        using Form = MatrixALane<T, L>;
        Form::fill(p, run, first, runs.length, a, turns);
        const V factor = Form::rescale(a, m * lane_stride);
        bidiagonalize<AcrossMatrices<T, L>, ROWS>(a, rows, columns, static_cast<int>(lane_stride), {w, u, next}, d, e);
        for (int l = 0; l < L; l++) {
          finish.factor[slot + l] = factor[l];
          finish.target[slot + l] = first + l < runs.length ? values + l * n : nullptr;
        }
        slot += L, first += L;
      } else {
        using Form = RowAcrossLanes<T, L>;
        Form::fill(p, run, first, a, row_r, row_i);
        finish.factor[slot] = Form::rescale(a, m * row_stride);
        finish.target[slot] = values;
        bidiagonalize<AcrossColumns<T, L>, ROWS>(a, rows, columns, static_cast<int>(row_stride), {w, u, next}, d, e);
        slot++, first++;
      }
    }
  if (slot > 0)
    bisected += finish(n, p.max_sweeps, slot);
  return bisected;
}

// The same by vectors of half the width where only so many matrices at once stay in the cache.
template <class T, int BYTES, int G, int ROWS> int64_t solve_by_size(const Problem<T> &p) {
  if constexpr (BYTES == 64 && sizeof(T) == 4) {
    const int64_t bytes = 2 * p.rows * p.columns * BYTES;
    if (p.layout == 0 && bytes > bytes_of_lanes<T, BYTES> && bytes / 2 <= bytes_of_lanes<T, BYTES / 2>)
      return solve<T, BYTES / 2, G, ROWS>(p);
  }
  return solve<T, BYTES, G, ROWS>(p);
}

} // namespace
