// Reflectors that are kept, and applied to a few rows that stay in the nearest cache: those from the right to rows
// one after the other, and those from the left to rows of the transpose.
#pragma once

#include "bidiagonal.h"
#include "layouts.h"

namespace {

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

// The reflectors of one side, a row each: u, or conj(v) for those from the left, so that both sides do
// x -= factor (x . u) conj(u) to a row x (a row of the transpose for the left ones).
template <class Layout> struct Reflectors {
  using V = typename Layout::V;
  using S = typename Layout::Scalar;
  V *rows;
  S *factors;     // complex
  int64_t stride; // vectors from one row to the next
  int count, shift; // reflector s begins at entry s + shift
};

// x <- x (I - factor u conj(u)^T), for all reflectors from the last to the first, of ROWS rows.
template <class Layout, int ROWS>
[[gnu::noinline]] void reflect(typename Layout::V *__restrict x, int64_t step, int vectors, const Reflectors<Layout> &by) {
  using S = typename Layout::Scalar;
  using V = typename Layout::V;
  for (int s = by.count - 1; s >= 0; s--) {
    const V *__restrict u = by.rows + s * by.stride;
    const int from = (s + by.shift) / Layout::per_vector;
    V p[ROWS], q[ROWS];
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++)
      p[k] = q[k] = V{};
    for (int j = from; j < vectors; j++) {
      const V u_r = u[2 * j], u_i = u[2 * j + 1];
#pragma GCC unroll 4
      for (int k = 0; k < ROWS; k++) {
        const V a = x[k * step + 2 * j], b = x[k * step + 2 * j + 1];
        p[k] += a * u_r - b * u_i;
        q[k] += a * u_i + b * u_r;
      }
    }
    const S f_r = by.factors[2 * s], f_i = by.factors[2 * s + 1];
    S y_r[ROWS], y_i[ROWS];
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++) {
      const S a = Layout::sum(p[k]), b = Layout::sum(q[k]);
      y_r[k] = f_r * a - f_i * b, y_i[k] = f_r * b + f_i * a;
    }
    for (int j = from; j < vectors; j++) {
      const V u_r = u[2 * j], u_i = u[2 * j + 1];
#pragma GCC unroll 4
      for (int k = 0; k < ROWS; k++) {
        x[k * step + 2 * j] -= y_r[k] * u_r + y_i[k] * u_i;
        x[k * step + 2 * j + 1] -= y_i[k] * u_r - y_r[k] * u_i;
      }
    }
  }
}

template <class Layout> struct KeepReflectors {
  using V = typename Layout::V;
  using S = typename Layout::Scalar;
  Reflectors<Layout> lefts, rights;
  int rows, stride;

  void left(int s, const Reflector<Layout> &by, const V *a) const {
    V *to = lefts.rows + s * lefts.stride;
    const int first = s / Layout::per_vector * Layout::per_vector;
    for (int i = first; i < s; i++)
      Layout::put(to, i, 0, S{}), Layout::put(to, i, 1, S{});
    Layout::put(to, s, 0, S{} + typename Layout::T(1)), Layout::put(to, s, 1, S{});
    for (int i = s + 1; i < rows; i++) {
      const S x = Layout::get(a + int64_t(i) * stride, s, 0), y = Layout::get(a + int64_t(i) * stride, s, 1);
      Layout::put(to, i, 0, x * by.q_r - y * by.q_i);
      Layout::put(to, i, 1, -(x * by.q_i + y * by.q_r));
    }
    for (int i = rows; i % Layout::per_vector; i++)
      Layout::put(to, i, 0, S{}), Layout::put(to, i, 1, S{});
    lefts.factors[2 * s] = by.tau_r, lefts.factors[2 * s + 1] = by.tau_i;
  }
  void right(int s, const Reflector<Layout> &by, const V *u) const {
    V *to = rights.rows + s * rights.stride;
    for (int64_t j = (s + 1) / Layout::per_vector; j < rights.stride / 2; j++)
      to[2 * j] = u[2 * j], to[2 * j + 1] = u[2 * j + 1];
    rights.factors[2 * s] = by.tau_r, rights.factors[2 * s + 1] = -by.tau_i;
  }
};

} // namespace
