// Right singular vectors of bidiagonal matrices, from the rotations of implicit QR.
#pragma once

#include "arena.h"
#include "bidiagonal.h"

#include <type_traits>

namespace {

// One double per matrix as a scalar of a layout: a number, or a vector with one matrix a lane.
template <class S, class P> inline S as_scalar(P x) {
  if constexpr (std::is_floating_point_v<S>)
    return static_cast<S>(x.v[0][0]);
  else {
    using T = std::remove_reference_t<decltype(std::declval<S &>()[0])>;
    constexpr int lanes = sizeof(x.v[0]) / sizeof(double), parts = sizeof(S) / sizeof(T) / lanes;
    S y;
    for (int k = 0; k < parts; k++)
      reinterpret_cast<Vector<T, lanes> *>(&y)[k] = __builtin_convertvector(x.v[k], Vector<T, lanes>);
    return y;
  }
}

// Z, the right singular vectors of the bidiagonal matrix: entry i of vector k, for WIDE vectors of entries at a
// time all k in turn, so that what a rotation mixes is near.
template <class Layout> struct RightVectors {
  using T = typename Layout::T;
  using V = typename Layout::V;
  using S = typename Layout::Scalar;
  static constexpr int WIDE = 4, SWEEPS = 4;
  int n, blocks;
  V *z;
  S *rotations; // SWEEPS times n cosines and sines
  int lengths[SWEEPS];
  int filled = 0;

  RightVectors(Arena &arena, int n)
      : n(n), blocks((n + WIDE * Layout::per_vector - 1) / (WIDE * Layout::per_vector)), z(arena.take<V>(size())),
        rotations(arena.take<S>(2 * int64_t(n) * SWEEPS)) {}
  int64_t size() const { return int64_t(blocks) * n * WIDE; }

  void begin() {
    for (int64_t e = 0; e < size(); e++)
      z[e] = V{};
    for (int k = 0; k < n; k++)
      reinterpret_cast<S *>(&vector(k, k))[k % Layout::per_vector] = S{} + T(1);
  }
  V &vector(int k, int i) const {
    const int j = i / Layout::per_vector;
    return z[(int64_t(j / WIDE) * n + k) * WIDE + j % WIDE];
  }
  S entry(int k, int i) const { return reinterpret_cast<const S *>(&vector(k, i))[i % Layout::per_vector]; }

  template <class P> void rotate(int k, P c, P s) {
    rotations[2 * (int64_t(filled) * n + k)] = as_scalar<S>(c);
    rotations[2 * (int64_t(filled) * n + k) + 1] = as_scalar<S>(s);
  }
  void end_sweep(int count) {
    lengths[filled++] = count;
    if (filled == SWEEPS)
      apply();
  }
  void apply() {
    for (int b = 0; b < blocks; b++)
      for (int sweep = 0; sweep < filled; sweep++) {
        V *__restrict row = z + int64_t(b) * n * WIDE;
        const S *by = rotations + 2 * int64_t(sweep) * n;
        V held[WIDE];
#pragma GCC unroll 4
        for (int w = 0; w < WIDE; w++)
          held[w] = row[w];
        for (int k = 0; k < lengths[sweep]; k++, row += WIDE) {
          const S c = by[2 * k], s = by[2 * k + 1];
#pragma GCC unroll 4
          for (int w = 0; w < WIDE; w++) {
            const V next = row[WIDE + w];
            row[w] = c * held[w] + s * next;
            held[w] = c * next - s * held[w];
          }
        }
#pragma GCC unroll 4
        for (int w = 0; w < WIDE; w++)
          row[w] = held[w];
      }
    filled = 0;
  }
};

// Rotations from the right and the lengths of their sweeps, in the order in which they were made.
template <class Layout> struct Rotations {
  using S = typename Layout::Scalar;
  S *at; // cosine and sine in turn
  int64_t capacity;
  int *lengths;
  int64_t used = 0;
  int sweeps = 0;

  template <class P> void rotate(int, P c, P s) {
    at[2 * used] = as_scalar<S>(c), at[2 * used + 1] = as_scalar<S>(s);
    used++;
  }
  void end_sweep(int count) { lengths[sweeps++] = count; }

  // To WIDE vectors, interleaved, the transposes of all of them, the last one first.
  template <int WIDE> void apply_transposed(S *vectors) const {
    const S *from = at + 2 * used;
    for (int sweep = sweeps - 1; sweep >= 0; sweep--)
      for (int k = lengths[sweep] - 1; k >= 0; k--) {
        from -= 2;
        const S c = from[0], s = from[1];
        S *x = vectors + k * WIDE;
#pragma GCC unroll 4
        for (int w = 0; w < WIDE; w++) {
          const S y = x[w], z = x[WIDE + w];
          x[w] = c * y - s * z;
          x[WIDE + w] = s * y + c * z;
        }
      }
  }
};

} // namespace
