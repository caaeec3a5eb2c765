// Complex matrices to real bidiagonal form by Householder reflectors, one read and one write a step.
//
// A step subtracts the left and the right reflector's rank-one terms from each row and, while the row
// is in the nearest cache, already adds what it contributes to the next left reflector: that needs
// the next column before its own normalisation only, which is known as soon as the row is.
//
// Source: Golub and Kahan (1965); LAPACK's conventions for real d and e (zgebd2).
#pragma once

#include "arena.h"
#include "reflectors.h"

namespace {

// Rows of complex vectors, and what a reduction leaves: scalars of the layout, the diagonal and above it.
template <class T, int L> struct ReductionWorkspace {
  Vector<T, L> *w, *u, *next, *d, *e;
  ReductionWorkspace(Arena &arena, int64_t length, int64_t columns) {
    for (Vector<T, L> **row : {&w, &u, &next})
      *row = arena.take<Vector<T, L>>(length);
    for (Vector<T, L> **diagonal : {&d, &e})
      *diagonal = arena.take<Vector<T, L>>(columns);
  }
};

// The diagonals d and e to doubles, in the lanes of the packs from `slot` on.
template <class Layout, class Work, int L, int G>
void put_diagonals(const Work &work, int n, int slot, Pack<double, L, G> *d, Pack<double, L, G> *e) {
  using S = typename Layout::Scalar;
  using T = typename Layout::T;
  const auto put = [slot](Vector<double, L> *to, const S &from) {
    if constexpr (Layout::per_vector > 1)
      to[slot / L][slot % L] = from;
    else {
      const auto *parts = reinterpret_cast<const Vector<T, L> *>(&from);
      for (int k = 0; k < Layout::L / L; k++)
        to[slot / L + k] = __builtin_convertvector(parts[k], Vector<double, L>);
    }
  };
  for (int k = 0; k < n; k++) {
    put(d[k].v, reinterpret_cast<const S *>(work.d)[k]);
    if (k + 1 < n)
      put(e[k].v, reinterpret_cast<const S *>(work.e)[k]);
  }
}

// The sums that the first left reflector needs: over the rows below the first, |a_i0|^2, and a row
// of sum conj(a_i0) a_ij.
template <class Layout>
typename Layout::Scalar first_sums(const typename Layout::V *a, int rows, int stride, int vectors,
                                   typename Layout::V *next) {
  using S = typename Layout::Scalar;
  S square{};
  for (int j = 0; j < 2 * vectors; j++)
    next[j] = typename Layout::V{};
  for (int i = 1; i < rows; i++) {
    const auto *row = a + (std::ptrdiff_t)i * stride;
    S x = Layout::get(row, 0, 0), y = Layout::get(row, 0, 1);
    square += x * x + y * y;
    for (int j = 0; j < vectors; j++) {
      next[2 * j] += x * row[2 * j] + y * row[2 * j + 1];
      next[2 * j + 1] += x * row[2 * j + 1] - y * row[2 * j];
    }
  }
  return square;
}

// One step: column s and row s are done with. `j0` is the first vector that is touched of `vectors`; `right` is not
// read in a reduction to triangular form.
template <class Layout> struct Step {
  using V = typename Layout::V;
  int stride, s, j0, vectors;
  Reflector<Layout> left, right;
  const V *w, *u;
  V *next;
};

// A few rows that are updated together: their entries v of the left reflector, their products p with the right
// one, and what their entries c of column s + 1 become.
template <class Layout, int ROWS> struct Rows {
  using V = typename Layout::V;
  using S = typename Layout::Scalar;
  V *row[ROWS];
  S v_r[ROWS], v_i[ROWS], p_r[ROWS], p_i[ROWS], c_r[ROWS], c_i[ROWS];
};

// Subtracts the left reflector's term, and finds p and c by the right one.
template <class Layout, int ROWS>
[[gnu::always_inline]] inline void subtract_left(Rows<Layout, ROWS> &of, const Step<Layout> &by) {
  using S = typename Layout::Scalar;
  using V = typename Layout::V;
  const V *__restrict w = by.w, *__restrict u = by.u;
  V x_r[ROWS], x_i[ROWS];
#pragma GCC unroll 4
  for (int k = 0; k < ROWS; k++)
    x_r[k] = x_i[k] = V{};
  for (int j = by.j0; j < by.vectors; j++) {
    V w_r = w[2 * j], w_i = w[2 * j + 1], u_r = u[2 * j], u_i = u[2 * j + 1];
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++) {
      V *row = of.row[k];
      V b_r = row[2 * j] - of.v_r[k] * w_r + of.v_i[k] * w_i;
      V b_i = row[2 * j + 1] - of.v_r[k] * w_i - of.v_i[k] * w_r;
      row[2 * j] = b_r, row[2 * j + 1] = b_i;
      x_r[k] += b_r * u_r - b_i * u_i;
      x_i[k] += b_r * u_i + b_i * u_r;
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < ROWS; k++) {
    S y_r = Layout::sum(x_r[k]), y_i = Layout::sum(x_i[k]);
    of.p_r[k] = y_r * by.right.tau_r - y_i * by.right.tau_i, of.p_i[k] = y_r * by.right.tau_i + y_i * by.right.tau_r;
    // u of the next column is 1.
    of.c_r[k] = Layout::get(of.row[k], by.s + 1, 0) - of.p_r[k];
    of.c_i[k] = Layout::get(of.row[k], by.s + 1, 1) - of.p_i[k];
  }
}

// Subtracts the term that is left: of the right reflector, or of the left one where there is no right one; and adds
// to `next` what the rows contribute.
template <class Layout, int ROWS, bool RIGHT>
[[gnu::always_inline]] inline void subtract_last(const Rows<Layout, ROWS> &of, const Step<Layout> &by, int from) {
  using V = typename Layout::V;
  const V *__restrict f = RIGHT ? by.u : by.w;
  V *__restrict next = by.next;
  for (int j = from; j < by.vectors; j++) {
    V f_r = f[2 * j], f_i = f[2 * j + 1], n_r = next[2 * j], n_i = next[2 * j + 1];
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++) {
      V *row = of.row[k];
      V b_r = row[2 * j], b_i = row[2 * j + 1];
      if constexpr (RIGHT) {
        b_r -= of.p_r[k] * f_r + of.p_i[k] * f_i;
        b_i -= of.p_i[k] * f_r - of.p_r[k] * f_i;
      } else {
        b_r -= of.v_r[k] * f_r - of.v_i[k] * f_i;
        b_i -= of.v_r[k] * f_i + of.v_i[k] * f_r;
      }
      row[2 * j] = b_r, row[2 * j + 1] = b_i;
      n_r += of.c_r[k] * b_r + of.c_i[k] * b_i;
      n_i += of.c_r[k] * b_i - of.c_i[k] * b_r;
    }
    next[2 * j] = n_r, next[2 * j + 1] = n_i;
  }
}

// One step's update of ROWS rows at once, from `a` on.
template <class Layout, int ROWS, bool RIGHT>
[[gnu::always_inline]] inline void update_rows(typename Layout::V *__restrict a, const Step<Layout> &by,
                                               typename Layout::Scalar &square) {
  using S = typename Layout::Scalar;
  constexpr bool per_lane = Layout::per_vector == 1;
  Rows<Layout, ROWS> of;
#pragma GCC unroll 4
  for (int k = 0; k < ROWS; k++) {
    of.row[k] = a + (std::ptrdiff_t)k * by.stride;
    S x = Layout::get(of.row[k], by.s, 0), y = Layout::get(of.row[k], by.s, 1);
    of.v_r[k] = x * by.left.q_r - y * by.left.q_i, of.v_i[k] = x * by.left.q_i + y * by.left.q_r;
  }
  if constexpr (RIGHT)
    subtract_left(of, by);
  else {
    S w_r = Layout::get(by.w, by.s + 1, 0), w_i = Layout::get(by.w, by.s + 1, 1);
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++) {
      of.c_r[k] = Layout::get(of.row[k], by.s + 1, 0) - of.v_r[k] * w_r + of.v_i[k] * w_i;
      of.c_i[k] = Layout::get(of.row[k], by.s + 1, 1) - of.v_r[k] * w_i - of.v_i[k] * w_r;
    }
  }
  const auto put_next_column = [&] {
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++)
      Layout::put(of.row[k], by.s + 1, 0, of.c_r[k]), Layout::put(of.row[k], by.s + 1, 1, of.c_i[k]);
  };
  if constexpr (per_lane)
    put_next_column();
#pragma GCC unroll 4
  for (int k = 0; k < ROWS; k++)
    square += of.c_r[k] * of.c_r[k] + of.c_i[k] * of.c_i[k];
  subtract_last<Layout, ROWS, RIGHT>(of, by, by.j0 + per_lane);
  // Exactly what the sums were taken of: rounded otherwise, a column of pure rounding would differ.
  if constexpr (!per_lane)
    put_next_column();
}

// w = conj(tau) (row s + conj(q) next), which row s loses, as v is 1 there.
template <class Layout>
inline void subtract_from_top(typename Layout::V *top, const Step<Layout> &by, typename Layout::V *w) {
  using V = typename Layout::V;
  for (int j = by.j0; j < by.vectors; j++) {
    V n_r = by.next[2 * j], n_i = by.next[2 * j + 1];
    V t_r = top[2 * j] + by.left.q_r * n_r + by.left.q_i * n_i;
    V t_i = top[2 * j + 1] + by.left.q_r * n_i - by.left.q_i * n_r;
    w[2 * j] = t_r * by.left.tau_r + t_i * by.left.tau_i;
    w[2 * j + 1] = t_i * by.left.tau_r - t_r * by.left.tau_i;
  }
  Layout::clear_before(w, by.s + 1);
  for (int j = 2 * by.j0; j < 2 * by.vectors; j++)
    top[j] -= w[j];
}

// The reflector of what is left of row s, and its vector u, which is 1 in column s + 1.
template <class Layout>
inline Reflector<Layout> right_reflector(const typename Layout::V *top, const Step<Layout> &by, typename Layout::V *u) {
  using S = typename Layout::Scalar;
  using V = typename Layout::V;
  V squares{};
  for (int j = by.j0; j < by.vectors; j++)
    u[2 * j] = top[2 * j], u[2 * j + 1] = -top[2 * j + 1];
  S y_r = Layout::get(u, by.s + 1, 0), y_i = Layout::get(u, by.s + 1, 1);
  Layout::clear_before(u, by.s + 1);
  Layout::put(u, by.s + 1, 0, S{}), Layout::put(u, by.s + 1, 1, S{});
  for (int j = 2 * by.j0; j < 2 * by.vectors; j++)
    squares += u[j] * u[j];
  const Reflector<Layout> right(y_r, y_i, Layout::sum(squares));
  for (int j = by.j0; j < by.vectors; j++) {
    V b_r = u[2 * j], b_i = u[2 * j + 1];
    u[2 * j] = b_r * right.q_r - b_i * right.q_i, u[2 * j + 1] = b_r * right.q_i + b_i * right.q_r;
  }
  Layout::put(u, by.s + 1, 0, S{} + typename Layout::T(1));
  return right;
}

// All steps. RIGHT: to bidiagonal form, work.d and work.e; otherwise to triangular form, in place. `keep`, if there is
// one, is told of each reflector: of a left one by its entries in column s of `a`, not normalised, of a right one by u.
template <class Layout, bool RIGHT, int ROWS>
[[gnu::noinline]] void reduce(typename Layout::V *a, int rows, int columns, int stride,
                              ReductionWorkspace<typename Layout::T, Layout::L> work,
                              const KeepReflectors<Layout> *keep = nullptr) {
  using S = typename Layout::Scalar;
  using V = typename Layout::V;
  const int vectors = (columns + Layout::per_vector - 1) / Layout::per_vector;
  S square = first_sums<Layout>(a, rows, stride, vectors, work.next);
  for (int s = 0; s < columns; s++) {
    V *top = a + (std::ptrdiff_t)s * stride;
    const Reflector<Layout> left(Layout::get(top, s, 0), Layout::get(top, s, 1), square);
    if (keep)
      keep->left(s, left, a);
    if constexpr (RIGHT)
      reinterpret_cast<S *>(work.d)[s] = left.beta;
    else
      Layout::put(top, s, 0, left.beta), Layout::put(top, s, 1, S{});
    if (s + 1 == columns)
      break;
    Step<Layout> step{stride, s, (s + 1) / Layout::per_vector, vectors, left, left, work.w, work.u, work.next};
    subtract_from_top(top, step, work.w);
    if constexpr (RIGHT) {
      step.right = right_reflector(top, step, work.u);
      reinterpret_cast<S *>(work.e)[s] = step.right.beta;
      if (keep)
        keep->right(s, step.right, work.u);
    }
    int i = s + 1;
    for (const int singles = 1 + (rows - i - 1) % ROWS; i <= s + singles; i++) {
      update_rows<Layout, 1, RIGHT>(a + (std::ptrdiff_t)i * stride, step, square);
      if (i > s + 1)
        continue;
      square = S{}; // the sums are of the rows below this one
      for (int j = 2 * step.j0; j < 2 * vectors; j++)
        work.next[j] = V{};
    }
    for (; i < rows; i += ROWS)
      update_rows<Layout, ROWS, RIGHT>(a + (std::ptrdiff_t)i * stride, step, square);
  }
}

// Tall matrices first to a triangle: fewer operations from rows > 5/3 columns on (Chan 1982).
template <class Layout, int ROWS>
void bidiagonalize(typename Layout::V *a, int rows, int columns, int stride,
                   ReductionWorkspace<typename Layout::T, Layout::L> work) {
  const FlushSubnormals flush;
  if (3 * rows > 5 * columns) {
    reduce<Layout, false, ROWS>(a, rows, columns, stride, work);
    using S = typename Layout::Scalar;
    for (int i = 1; i < columns; i++)
      for (int j = 0; j < i; j++)
        for (int part = 0; part < 2; part++)
          Layout::put(a + (std::ptrdiff_t)i * stride, j, part, S{});
    rows = columns;
  }
  reduce<Layout, true, ROWS>(a, rows, columns, stride, work);
}

} // namespace
