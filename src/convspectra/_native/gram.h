// Whether Gram matrices at many frequencies have no eigenvalue above a level: a Cholesky factorisation each, in doubles.
//
// G(theta) = S(theta)^H S(theta) = sum_q G_q exp(i q.theta), with the autocorrelation of the taps for G_q: made once, it
// leaves no matrix product to a frequency. level I - G = L L^H exists if no eigenvalue exceeds the level, up to rounding,
// which `gram.py` accounts for. A few steps of power iteration find most of those that do without a factorisation.
//
// A matrix a lane, its lower triangle row by row; rows are computed four at a time from all rows above, which reads
// them once (left-looking).
#pragma once

#include "arena.h"
#include "kernels.h"
#include "packs.h"

namespace {

using convspectra::GramTest;

template <int BYTES> class GramLanes {
public:
  static constexpr int L = BYTES / sizeof(double);
  using V = Vector<double, L>;
  using M = decltype(V{} < V{});

  GramLanes(Arena &arena, const GramTest &t)
      : side_(t.side), waves_(t.waves), matrix_(arena.take<V>(t.side * (t.side + 1))),
        x_(arena.take<V>(2 * t.side)), y_(arena.take<V>(2 * t.side)), inverse_(arena.take<V>(t.side)),
        phase_(arena.take<V>(2 * t.waves)) {}

  // Minus the matrices of cells `first` to `first + used` of a group; lanes beyond repeat the last one.
  void fill(const GramTest &t, int64_t group, int64_t first, int used) {
    for (int64_t e = 0; e < 2 * waves_; e++)
      for (int l = 0; l < L; l++)
        phase_[e][l] = t.phases[2 * waves_ * (first + (l < used ? l : used - 1)) + e];
    const int64_t entries = side_ * (side_ + 1) / 2, stride = 1 + 2 * waves_;
    const double *from = t.coefficients + group * entries * stride;
    int64_t e = 0;
    for (; e + 4 <= entries; e += 4)
      sum_entries<4>(from + e * stride, matrix_ + 2 * e);
    for (; e < entries; e += 2)
      sum_entries<2>(from + e * stride, matrix_ + 2 * e);
    for (int64_t e = 0; e < 2 * side_; e++)
      for (int l = 0; l < L; l++)
        x_[e][l] = t.vectors[2 * side_ * (first + (l < used ? l : used - 1)) + e];
  }

  // ||G x|| / ||x||, a lower bound of the largest eigenvalue, after so many steps x <- G x; call after `fill`.
  V power(int64_t steps) {
    V quotient{};
    for (int64_t step = 0; step < steps; step++) {
      multiply();
      V before{}, after{};
      for (int64_t e = 0; e < 2 * side_; e++) {
        before += x_[e] * x_[e];
        after += y_[e] * y_[e];
      }
      const V length = root<double, L>(after);
      quotient = before > 0 ? length / root<double, L>(before > 0 ? before : V{} + 1) : V{};
      const V inverse = length > 0 ? 1 / (length > 0 ? length : V{} + 1) : V{};
      for (int64_t e = 0; e < 2 * side_; e++)
        x_[e] = y_[e] * inverse;
    }
    return quotient;
  }

  V vector(int64_t entry) const { return x_[entry]; }

  // In which lanes level I - G has a pivot that is not positive; `used` lanes count. Call after `fill`, once.
  M exceeds(double level, int used) {
    for (int64_t i = 0; i < side_; i++)
      row(i)[2 * i] += level;
    M failed{};
    for (int64_t i = 0; i < side_; i += ROWS) {
      for (int64_t j = 0; j < i; j += COLUMNS) {
        subtract(i, j, j);
        solve(i, j);
      }
      for (int64_t j = i; j < i + ROWS; j += COLUMNS)
        subtract(i, j, i);
      factor_block(i, failed);
      bool all = true;
      for (int l = 0; l < used; l++)
        all &= failed[l] != 0;
      if (all)
        break;
    }
    return failed;
  }

private:
  static constexpr int ROWS = 4, COLUMNS = 2;

  V *row(int64_t i) const { return matrix_ + i * (i + 1); }

  template <int N> void sum_entries(const double *from, V *to) const {
    const int64_t stride = 1 + 2 * waves_;
    V x[N], y[N];
#pragma GCC unroll 4
    for (int k = 0; k < N; k++) {
      x[k] = V{} - from[k * stride];
      y[k] = V{};
    }
    for (int64_t w = 0; w < waves_; w++) {
      const V cosine = phase_[2 * w], sine = phase_[2 * w + 1];
#pragma GCC unroll 4
      for (int k = 0; k < N; k++) {
        x[k] -= from[k * stride + 1 + 2 * w] * cosine;
        y[k] -= from[k * stride + 2 + 2 * w] * sine;
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < N; k++)
      to[2 * k] = x[k], to[2 * k + 1] = y[k];
  }

  // y = G x.
  void multiply() {
    for (int64_t i = 0; i < side_; i++) {
      const V *entries = row(i);
      const V u = x_[2 * i], v = x_[2 * i + 1];
      V a = entries[2 * i] * u, b = entries[2 * i] * v;
      for (int64_t j = 0; j < i; j++) {
        const V g = entries[2 * j], h = entries[2 * j + 1], s = x_[2 * j], t = x_[2 * j + 1];
        a += g * s - h * t;
        b += g * t + h * s;
        y_[2 * j] -= g * u + h * v;
        y_[2 * j + 1] -= g * v - h * u;
      }
      y_[2 * i] = -a, y_[2 * i + 1] = -b;
    }
  }

  // Entries (i .. i + ROWS, j .. j + COLUMNS), as far as they are in the triangle, less the products of the first
  // `length` entries of their rows.
  void subtract(int64_t i, int64_t j, int64_t length) {
    V x[ROWS][COLUMNS], y[ROWS][COLUMNS];
#pragma GCC unroll 4
    for (int p = 0; p < ROWS; p++)
#pragma GCC unroll 2
      for (int q = 0; q < COLUMNS; q++)
        x[p][q] = y[p][q] = V{};
    const V *left[ROWS], *right[COLUMNS];
#pragma GCC unroll 4
    for (int p = 0; p < ROWS; p++)
      left[p] = row(i + p);
#pragma GCC unroll 2
    for (int q = 0; q < COLUMNS; q++)
      right[q] = row(j + q);
    for (int64_t k = 0; k < 2 * length; k += 2) {
#pragma GCC unroll 2
      for (int q = 0; q < COLUMNS; q++) {
        const V s = right[q][k], t = right[q][k + 1];
#pragma GCC unroll 4
        for (int p = 0; p < ROWS; p++) {
          const V u = left[p][k], v = left[p][k + 1];
          x[p][q] += u * s + v * t;
          y[p][q] += v * s - u * t;
        }
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < ROWS; p++)
#pragma GCC unroll 2
      for (int q = 0; q < COLUMNS; q++)
        if (j + q <= i + p) {
          row(i + p)[2 * (j + q)] -= x[p][q];
          row(i + p)[2 * (j + q) + 1] -= y[p][q];
        }
  }

  // Those entries, of rows below, become those of L.
  void solve(int64_t i, int64_t j) {
    const V s = row(j + 1)[2 * j], t = row(j + 1)[2 * j + 1], first = inverse_[j], second = inverse_[j + 1];
#pragma GCC unroll 4
    for (int p = 0; p < ROWS; p++) {
      V *entry = row(i + p) + 2 * j;
      const V u = entry[0] * first, v = entry[1] * first;
      entry[0] = u, entry[1] = v;
      entry[2] = (entry[2] - (u * s + v * t)) * second;
      entry[3] = (entry[3] - (v * s - u * t)) * second;
    }
  }

  void factor_block(int64_t first, M &failed) {
    for (int64_t k = first; k < first + ROWS; k++) {
      const V *above = row(k);
      V pivot = above[2 * k];
      for (int64_t l = first; l < k; l++)
        pivot -= above[2 * l] * above[2 * l] + above[2 * l + 1] * above[2 * l + 1];
      failed |= ~(pivot > 0);
      const V inverse = 1 / root<double, L>(pivot > 0 ? pivot : V{} + 1);
      inverse_[k] = inverse;
      for (int64_t i = k + 1; i < first + ROWS; i++) {
        V *entries = row(i);
        V x = entries[2 * k], y = entries[2 * k + 1];
        for (int64_t l = first; l < k; l++) {
          const V u = entries[2 * l], v = entries[2 * l + 1], s = above[2 * l], t = above[2 * l + 1];
          x -= u * s + v * t;
          y -= v * s - u * t;
        }
        entries[2 * k] = x * inverse, entries[2 * k + 1] = y * inverse;
      }
    }
  }

  int64_t side_, waves_;
  V *matrix_, *x_, *y_, *inverse_, *phase_;
};

template <int BYTES> void test_gram(const GramTest &t) {
  using Lanes = GramLanes<BYTES>;
  constexpr int L = Lanes::L;
  static thread_local Arena arena;
  auto lanes = arena.make<Lanes>(t);
  const FlushSubnormals flush;
  for (int64_t group = 0; group < t.groups; group++)
    for (int64_t first = t.first_cells[group]; first < t.first_cells[group + 1]; first += L) {
      const int64_t left = t.first_cells[group + 1] - first;
      const int used = static_cast<int>(left < L ? left : L);
      lanes.fill(t, group, first, used);
      const auto quotient = lanes.power(t.steps);
      bool all = true;
      for (int l = 0; l < used; l++) {
        t.quotients[first + l] = quotient[l];
        t.below[first + l] = 0;
        all &= quotient[l] > t.level;
      }
      for (int l = 0; l < used; l++)
        for (int64_t e = 0; e < 2 * t.side; e++)
          t.vectors[2 * t.side * (first + l) + e] = lanes.vector(e)[l];
      if (all)
        continue;
      const auto failed = lanes.exceeds(t.level, used);
      for (int l = 0; l < used; l++)
        t.below[first + l] = failed[l] == 0 && !(quotient[l] > t.level);
    }
}

} // namespace
