// Complex matrices to real bidiagonal form by Householder reflectors, one read and one write a step.
//
// One source, two layouts. In the first every lane holds a matrix of its own: an element is a
// vector, and what is a scalar of the algorithm is a vector too. In the second one matrix has its
// rows spread across the lanes, zero-filled to whole vectors.
//
// A step subtracts the left and the right reflector's rank-one terms from each row and, while the row
// is in the nearest cache, already adds what it contributes to the next left reflector: that needs
// the next column before its own normalisation only, which is known as soon as the row is.
//
// Source: Golub and Kahan (1965); LAPACK's conventions for real d and e (zgebd2).
#pragma once

#include "bidiagonal.h"

namespace {

// A matrix a lane.
template <class T_, int L_> struct AcrossMatrices {
  using T = T_;
  static constexpr int L = L_, per_vector = 1;
  using V = Vector<T, L>;
  using Scalar = V;
  static Scalar sum(V x) { return x; }
  static Scalar root(Scalar x) { return ::root<T, L>(x); }
  static Scalar get(const V *row, int j, int part) { return row[2 * j + part]; }
  static void put(V *row, int j, int part, Scalar x) { row[2 * j + part] = x; }
  static void clear_before(V *, int) {}
};

// A row across the lanes.
template <class T_, int L_> struct AcrossColumns {
  using T = T_;
  static constexpr int L = L_, per_vector = L_;
  using V = Vector<T, L>;
  using Scalar = T;
  static Scalar sum(V x) {
    T total = 0;
    for (int l = 0; l < L; l++)
      total += x[l];
    return total;
  }
  static Scalar root(Scalar x) { return std::sqrt(x); }
  static Scalar get(const V *row, int j, int part) { return row[2 * (j / L) + part][j % L]; }
  static void put(V *row, int j, int part, Scalar x) { row[2 * (j / L) + part][j % L] = x; }
  // Zeros in the columns before j of the vector that holds column j.
  static void clear_before(V *row, int j) {
    for (int l = 0; l < j % L; l++)
      row[2 * (j / L)][l] = row[2 * (j / L) + 1][l] = 0;
  }
};

// The reflector I - tau v v^H that takes (alpha, rest) to (beta, 0), beta real; v = (1, q rest).
template <class Layout> struct Reflector {
  using S = typename Layout::Scalar;
  S beta, tau_r, tau_i, q_r, q_i;
  Reflector(S a_r, S a_i, S rest) {
    using T = typename Layout::T;
    S square = rest + a_r * a_r + a_i * a_i;
    // So that NaN is not taken for nothing.
    auto none = square <= S{} + Limits<T>::tiny;
    S norm = Layout::root(square);
    S signed_norm = a_r >= 0 ? -norm : norm;
    S divisor = none ? S{} + T(1) : signed_norm;
    S d_r = none ? S{} + T(1) : a_r - signed_norm, d_i = none ? S{} : a_i;
    S inverse = T(1) / (d_r * d_r + d_i * d_i);
    S one_over = T(1) / divisor;
    beta = none ? S{} : signed_norm;
    tau_r = none ? S{} : (signed_norm - a_r) * one_over;
    tau_i = none ? S{} : -a_i * one_over;
    q_r = none ? S{} : d_r * inverse;
    q_i = none ? S{} : -d_i * inverse;
  }
};

template <class Layout> struct Workspace {
  using V = typename Layout::V;
  V *w, *u, *next; // rows of complex vectors
};

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

// One step's update of ROWS rows at once. `v` are the entries of column s, `j0` the first vector that
// is touched, `next_column` is s + 1.
template <class Layout, int ROWS, bool RIGHT, bool ACCUMULATE>
inline void update_rows(typename Layout::V *__restrict a, int stride, int s, int j0, int vectors,
                        const Reflector<Layout> &left, const Reflector<Layout> *right,
                        const typename Layout::V *__restrict w, const typename Layout::V *__restrict u,
                        typename Layout::V *__restrict next, typename Layout::Scalar &square) {
  using S = typename Layout::Scalar;
  using V = typename Layout::V;
  constexpr bool by_matrix = Layout::per_vector == 1;
  S v_r[ROWS], v_i[ROWS], p_r[ROWS], p_i[ROWS], c_r[ROWS], c_i[ROWS];
  V *row[ROWS];
#pragma GCC unroll 4
  for (int k = 0; k < ROWS; k++) {
    row[k] = a + (std::ptrdiff_t)k * stride;
    S x = Layout::get(row[k], s, 0), y = Layout::get(row[k], s, 1);
    v_r[k] = x * left.q_r - y * left.q_i, v_i[k] = x * left.q_i + y * left.q_r;
  }
  if constexpr (RIGHT) {
    V x_r[ROWS], x_i[ROWS];
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++)
      x_r[k] = x_i[k] = V{};
    for (int j = j0; j < vectors; j++) {
      V w_r = w[2 * j], w_i = w[2 * j + 1], u_r = u[2 * j], u_i = u[2 * j + 1];
#pragma GCC unroll 4
      for (int k = 0; k < ROWS; k++) {
        V b_r = row[k][2 * j] - v_r[k] * w_r + v_i[k] * w_i;
        V b_i = row[k][2 * j + 1] - v_r[k] * w_i - v_i[k] * w_r;
        row[k][2 * j] = b_r, row[k][2 * j + 1] = b_i;
        x_r[k] += b_r * u_r - b_i * u_i;
        x_i[k] += b_r * u_i + b_i * u_r;
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++) {
      S y_r = Layout::sum(x_r[k]), y_i = Layout::sum(x_i[k]);
      p_r[k] = y_r * right->tau_r - y_i * right->tau_i, p_i[k] = y_r * right->tau_i + y_i * right->tau_r;
      // The entry of the next column, whose u is 1.
      c_r[k] = Layout::get(row[k], s + 1, 0) - p_r[k], c_i[k] = Layout::get(row[k], s + 1, 1) - p_i[k];
    }
  } else {
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++) {
      S w_r = Layout::get(w, s + 1, 0), w_i = Layout::get(w, s + 1, 1);
      c_r[k] = Layout::get(row[k], s + 1, 0) - v_r[k] * w_r + v_i[k] * w_i;
      c_i[k] = Layout::get(row[k], s + 1, 1) - v_r[k] * w_i - v_i[k] * w_r;
    }
  }
  int from = j0;
  if constexpr (by_matrix) {
    from = j0 + 1;
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++)
      Layout::put(row[k], s + 1, 0, c_r[k]), Layout::put(row[k], s + 1, 1, c_i[k]);
  }
  if constexpr (ACCUMULATE) {
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++)
      square += c_r[k] * c_r[k] + c_i[k] * c_i[k];
  }
  for (int j = from; j < vectors; j++) {
    V f_r = RIGHT ? u[2 * j] : w[2 * j], f_i = RIGHT ? u[2 * j + 1] : w[2 * j + 1];
    V n_r = next[2 * j], n_i = next[2 * j + 1];
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++) {
      V b_r = row[k][2 * j], b_i = row[k][2 * j + 1];
      if constexpr (RIGHT) {
        b_r -= p_r[k] * f_r + p_i[k] * f_i;
        b_i -= p_i[k] * f_r - p_r[k] * f_i;
      } else {
        b_r -= v_r[k] * f_r - v_i[k] * f_i;
        b_i -= v_r[k] * f_i + v_i[k] * f_r;
      }
      row[k][2 * j] = b_r, row[k][2 * j + 1] = b_i;
      if constexpr (ACCUMULATE) {
        n_r += c_r[k] * b_r + c_i[k] * b_i;
        n_i += c_r[k] * b_i - c_i[k] * b_r;
      }
    }
    if constexpr (ACCUMULATE)
      next[2 * j] = n_r, next[2 * j + 1] = n_i;
  }
  if constexpr (!by_matrix) {
    // Exactly what the sums were taken of: rounded otherwise, a column of pure rounding would differ.
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++)
      Layout::put(row[k], s + 1, 0, c_r[k]), Layout::put(row[k], s + 1, 1, c_i[k]);
  }
}

// Nobody wants the reflectors.
struct NoReflectors {
  template <class... A> void left(A...) {}
  template <class... A> void right(A...) {}
};

// All steps. RIGHT: to bidiagonal form, d and e; otherwise to triangular form, in place. `keep` is told of
// each reflector: of a left one by its entries in column s of `a`, not normalised, of a right one by u.
template <class Layout, bool RIGHT, int ROWS, class Out, class Keep = NoReflectors>
void reduce(typename Layout::V *a, int rows, int columns, int stride, Workspace<Layout> work, Out d, Out e,
            Keep keep = {}) {
  using S = typename Layout::Scalar;
  using V = typename Layout::V;
  constexpr int L = Layout::per_vector;
  const int vectors = (columns + L - 1) / L;
  V *w = work.w, *u = work.u, *next = work.next;
  S square = first_sums<Layout>(a, rows, stride, vectors, next);
  for (int s = 0; s < columns; s++) {
    V *top = a + (std::ptrdiff_t)s * stride;
    Reflector<Layout> left(Layout::get(top, s, 0), Layout::get(top, s, 1), square);
    keep.left(s, left, a);
    if constexpr (RIGHT)
      d[s] = left.beta;
    else {
      Layout::put(top, s, 0, left.beta);
      Layout::put(top, s, 1, S{});
    }
    if (s + 1 == columns)
      break;
    const int j0 = (s + 1) / L;
    // w = conj(tau) (row s + conj(q) next); row s loses it, as v is 1 there.
    for (int j = j0; j < vectors; j++) {
      V n_r = next[2 * j], n_i = next[2 * j + 1];
      V t_r = top[2 * j] + left.q_r * n_r + left.q_i * n_i;
      V t_i = top[2 * j + 1] + left.q_r * n_i - left.q_i * n_r;
      w[2 * j] = t_r * left.tau_r + t_i * left.tau_i;
      w[2 * j + 1] = t_i * left.tau_r - t_r * left.tau_i;
    }
    Layout::clear_before(w, s + 1);
    for (int j = 2 * j0; j < 2 * vectors; j++)
      top[j] -= w[j];
    if constexpr (RIGHT) {
      V squares{};
      for (int j = j0; j < vectors; j++)
        u[2 * j] = top[2 * j], u[2 * j + 1] = -top[2 * j + 1];
      S y_r = Layout::get(u, s + 1, 0), y_i = Layout::get(u, s + 1, 1);
      Layout::clear_before(u, s + 1);
      Layout::put(u, s + 1, 0, S{}), Layout::put(u, s + 1, 1, S{});
      for (int j = 2 * j0; j < 2 * vectors; j++)
        squares += u[j] * u[j];
      Reflector<Layout> right(y_r, y_i, Layout::sum(squares));
      e[s] = right.beta;
      for (int j = j0; j < vectors; j++) {
        V b_r = u[2 * j], b_i = u[2 * j + 1];
        u[2 * j] = b_r * right.q_r - b_i * right.q_i, u[2 * j + 1] = b_r * right.q_i + b_i * right.q_r;
      }
      Layout::put(u, s + 1, 0, S{} + typename Layout::T(1));
      keep.right(s, right, u);
      update_rows<Layout, 1, true, false>(top + stride, stride, s, j0, vectors, left, &right, w, u, next, square);
      square = S{};
      for (int j = 2 * j0; j < 2 * vectors; j++)
        next[j] = V{};
      int i = s + 2;
      for (; i + ROWS <= rows; i += ROWS)
        update_rows<Layout, ROWS, true, true>(a + (std::ptrdiff_t)i * stride, stride, s, j0, vectors, left, &right,
                                              w, u, next, square);
      for (; i < rows; i++)
        update_rows<Layout, 1, true, true>(a + (std::ptrdiff_t)i * stride, stride, s, j0, vectors, left, &right, w,
                                           u, next, square);
    } else {
      update_rows<Layout, 1, false, false>(top + stride, stride, s, j0, vectors, left, nullptr, w, u, next, square);
      square = S{};
      for (int j = 2 * j0; j < 2 * vectors; j++)
        next[j] = V{};
      int i = s + 2;
      for (; i + ROWS <= rows; i += ROWS)
        update_rows<Layout, ROWS, false, true>(a + (std::ptrdiff_t)i * stride, stride, s, j0, vectors, left,
                                               nullptr, w, u, next, square);
      for (; i < rows; i++)
        update_rows<Layout, 1, false, true>(a + (std::ptrdiff_t)i * stride, stride, s, j0, vectors, left, nullptr,
                                            w, u, next, square);
    }
  }
}

// Tall matrices first to a triangle: fewer operations from rows > 5/3 columns on (Chan 1982).
template <class Layout, int ROWS, class Out>
void bidiagonalize(typename Layout::V *a, int rows, int columns, int stride, Workspace<Layout> work, Out d,
                   Out e) {
  const FlushSubnormals flush;
  if (3 * rows > 5 * columns) {
    reduce<Layout, false, ROWS>(a, rows, columns, stride, work, d, e);
    using S = typename Layout::Scalar;
    for (int i = 1; i < columns; i++)
      for (int j = 0; j < i; j++)
        for (int part = 0; part < 2; part++)
          Layout::put(a + (std::ptrdiff_t)i * stride, j, part, S{});
    rows = columns;
  }
  reduce<Layout, true, ROWS>(a, rows, columns, stride, work, d, e);
}

} // namespace
