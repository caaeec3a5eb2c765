// How matrices lie in vectors. In the first layout every lane holds a matrix of its own: an element is a
// vector, and what is a scalar of the algorithm is a vector too. In the second one matrix has its
// rows spread across the lanes, zero-filled to whole vectors.
#pragma once

#include "packs.h"

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
  static Scalar sum(V x) { return ::sum<T, L>(x); }
  static Scalar root(Scalar x) { return std::sqrt(x); }
  static Scalar get(const V *row, int j, int part) { return row[2 * (j / L) + part][j % L]; }
  static void put(V *row, int j, int part, Scalar x) { row[2 * (j / L) + part][j % L] = x; }
  // Zeros in the columns before j of the vector that holds column j.
  static void clear_before(V *row, int j) {
    for (int l = 0; l < j % L; l++)
      row[2 * (j / L)][l] = row[2 * (j / L) + 1][l] = 0;
  }
};

// Vectors that a row of `n` entries takes, real and imaginary.
template <class Layout> int64_t row_length(int64_t n) {
  return 2 * ((n + Layout::per_vector - 1) / Layout::per_vector);
}

} // namespace
