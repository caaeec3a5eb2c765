// The largest singular value over a batch, with a certificate instead of a decomposition where one will do.
//
// With the largest value c found so far, c^2 (1 + margin) I - A^H A has only positive pivots in its
// factorisation L D L^H if and only if no singular value of A exceeds c sqrt(1 + margin), up to rounding
// (Sylvester's law of inertia). That takes half the operations of a bidiagonalisation and runs at the rate of matrix
// products. Only matrices that fail are decomposed, and raise c: about as often as a record is set.
#pragma once

#include "solve.h"

namespace {

// Minus the inner products of A rows of `c`, from row i on, with B rows from row j on, where they meet in `out`.
template <class V, int A, int B>
inline void inner_products(const V *__restrict c, int64_t length, int64_t i, int64_t j, V *__restrict out, int64_t n) {
  V x[A][B], y[A][B];
#pragma GCC unroll 4
  for (int p = 0; p < A; p++)
#pragma GCC unroll 4
    for (int q = 0; q < B; q++)
      x[p][q] = y[p][q] = V{};
  const V *first = c + 2 * i * length, *second = c + 2 * j * length;
  for (int64_t r = 0; r < 2 * length; r += 2) {
#pragma GCC unroll 4
    for (int p = 0; p < A; p++) {
      const V u = first[2 * p * length + r], v = first[2 * p * length + r + 1];
#pragma GCC unroll 4
      for (int q = 0; q < B; q++) {
        const V s = second[2 * q * length + r], t = second[2 * q * length + r + 1];
        x[p][q] += u * s + v * t;
        y[p][q] += u * t - v * s;
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < A; p++)
#pragma GCC unroll 4
    for (int q = 0; q < B; q++) {
      out[2 * ((i + p) * n + j + q)] = -x[p][q];
      out[2 * ((i + p) * n + j + q) + 1] = -y[p][q];
    }
}

// Whether all pivots of shift I - A^H A are positive, a matrix a lane; lanes at and beyond `used` do not
// count. `c` takes A, `m` n x n and `column` n entries: all are overwritten.
template <class V>
bool all_below(const V *a, int64_t rows, int64_t n, V shift, int used, V *c, V *m, V *column) {
  // Columns as rows: at the stride of a row they would all fall on the same few lines of the first cache.
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < n; i++) {
      c[2 * (i * rows + r)] = a[2 * (r * n + i)];
      c[2 * (i * rows + r) + 1] = a[2 * (r * n + i) + 1];
    }
  for (int64_t i = 0; i < n; i += 2)
    for (int64_t j = 0; j <= i; j += 2) {
      if (i + 1 < n)
        inner_products<V, 2, 2>(c, rows, i, j, m, n); // j <= i: j + 1 is there too
      else if (j + 1 < n)
        inner_products<V, 1, 2>(c, rows, i, j, m, n);
      else
        inner_products<V, 1, 1>(c, rows, i, j, m, n);
    }
  for (int64_t i = 0; i < n; i++)
    m[2 * (i * n + i)] += shift;
  for (int64_t k = 0; k < n; k++) {
    const V pivot = m[2 * (k * n + k)];
    for (int l = 0; l < used; l++)
      if (!(pivot[l] > 0))
        return false;
    const V inverse = 1 / pivot;
    for (int64_t i = k + 1; i < n; i++) {
      V *row = m + 2 * i * n;
      const V x = row[2 * k], y = row[2 * k + 1];
      column[2 * i] = x, column[2 * i + 1] = y;
      const V p = x * inverse, q = y * inverse;
      for (int64_t j = k + 1; j <= i; j++) {
        const V u = column[2 * j], v = column[2 * j + 1];
        row[2 * j] -= p * u + q * v;
        row[2 * j + 1] -= q * u - p * v;
      }
    }
  }
  return true;
}

template <class T, int BYTES, int G> struct LargestWorkspace {
  static constexpr int L = BYTES / sizeof(T);
  using V = Vector<T, L>;
  V *a, *columns, *gram, *column;
  MatrixPerLane<T, L> form;
  ReductionWorkspace<T, L> rows;
  BidiagonalBatch<T, BYTES / sizeof(double), G> batch;
  T *values;

  LargestWorkspace(Arena &arena, const Problem<T> &p)
      : a(arena.take<V>(2 * p.rows * p.columns)), columns(arena.take<V>(2 * p.rows * p.columns)),
        gram(arena.take<V>(2 * p.columns * p.columns)), column(arena.take<V>(2 * p.columns)), form(arena, p),
        rows(arena, 2 * p.columns, p.columns), batch(arena, p.columns), values(arena.take<T>(L * p.columns)) {}
};

// The largest value of the batch, at least `floor`, and which matrix has it (-1: none exceeds the floor).
template <class T, int BYTES, int G, int ROWS> convspectra::Largest<T> largest(const Problem<T> &p, T floor) {
  constexpr int L = BYTES / sizeof(T);
  using V = Vector<T, L>;
  using Form = MatrixPerLane<T, L>;
  static thread_local Arena arena;
  const int64_t m = p.rows, n = p.columns;
  auto work = arena.make<LargestWorkspace<T, BYTES, G>>(p);
  work.batch.clear();

  const Runs<T> runs(p);
  convspectra::Largest<T> best{floor, -1};
  int tried = 0, failed = 0;
  for (int64_t run = 0; run < runs.count; run++)
    for (int64_t first = 0; first < runs.length; first += L) {
      const int used = static_cast<int>(runs.length - first < L ? runs.length - first : L);
      work.form.fill(p, run, first, runs.length, work.a);
      const V factor = Form::rescale(work.a, 2 * m * n);
      // Where certificates keep failing (all matrices of one norm), they are not worth their price.
      const bool worthwhile = best.value > 0 && !(tried >= 8 && 2 * failed > tried);
      if (worthwhile) {
        const V bound = factor * best.value;
        const V shift = bound * bound * (T(1) + Limits<T>::margin);
        bool in_range = true;
        for (int l = 0; l < used; l++)
          in_range &= shift[l] > Limits<T>::tiny && shift[l] <= std::numeric_limits<T>::max();
        const FlushSubnormals flush;
        tried++;
        if (in_range && all_below<V>(work.a, m, n, shift, used, work.columns, work.gram, work.column))
          continue;
        failed++;
      }
      work.batch.template add<Form, ROWS>(work.a, p, work.rows, factor, work.values, used);
      work.batch.finish(p.max_sweeps);
      for (int l = 0; l < used; l++)
        if (!(work.values[l * n] <= best.value)) {
          best = {work.values[l * n], run * runs.length + first + l};
          if (best.value != best.value)
            return best;
        }
    }
  return best;
}

} // namespace
