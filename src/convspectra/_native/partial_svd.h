// A few singular pairs, those above a level: the values by dqds, then for each in turn a sweep or two of implicit QR
// with that very value as shift, which brings it to the end of the matrix; the rotations of the sweeps, applied to a
// unit vector, are its singular vector. Large values have their vectors at the beginning of B, and a shift loses its
// way to an end where the vector is small (Parlett and Le 1993): the sweeps are those of B reversed, whose right
// singular vectors are the left ones of B.
#pragma once

#include "matrices.h"
#include "reflectors.h"
#include "singular_vectors.h"

#include <algorithm>

namespace {

// All that one group of matrices, m x n, needs to have its singular values lowered.
template <class Form_, class P_> struct ThresholdWorkspace {
  using Form = Form_;
  using P = P_;
  using Layout = typename Form::Layout;
  using V = typename Layout::V;
  using S = typename Layout::Scalar;
  static constexpr int ROWS = 4; // that reflectors are applied to at a time
  int m, n;
  int64_t row, column; // vectors that n and m entries take
  Form form;
  V *a; // the matrices, then the transpose of the result
  ReductionWorkspace<typename Layout::T, Layout::L> rows;
  Reflectors<Layout> lefts, rights;
  RightVectors<Layout> vectors;
  int64_t few_row; // whole blocks of `vectors`
  V *few_rows, *pairs;
  S *shares; // what is left of each value above the level, relative to it
  P *d, *e, *off, *values;
  P *q, *f, *other_q, *other_f, *squares;
  int *order; // of the vectors whose value is above; lengths of sweeps

  template <class T>
  ThresholdWorkspace(Arena &arena, const Problem<T> &p)
      : m(static_cast<int>(p.rows)), n(static_cast<int>(p.columns)), row(row_length<Layout>(n)),
        column(row_length<Layout>(m)), form(arena, p), a(arena.take<V>(std::max(m * row, (n + ROWS) * column))),
        rows(arena, row, n), lefts{arena.take<V>(n * column), arena.take<S>(2 * n), column, n, 0},
        rights{arena.take<V>(n * row), arena.take<S>(2 * n), row, n - 1, 1}, vectors(arena, n),
        few_row(2 * vectors.blocks * RightVectors<Layout>::WIDE), few_rows(arena.take<V>(ROWS * few_row)),
        pairs(arena.take<V>((n / 2 + ROWS) * (row + column))), shares(arena.take<S>(n)) {
    for (P **packs : {&d, &e, &off, &values, &q, &f, &other_q, &other_f, &squares})
      *packs = arena.take<P>(n);
    order = arena.take<int>(n);
  }
};

// The sum of the lowered values and the largest value of each matrix.
template <class P> struct Stats {
  P sum{0}, top{0};
};

// Where the vectors of a few pairs, of at most half of the values, are, as rows.
template <class Work> struct Pairs {
  using V = typename Work::V;
  int whole; // rows of each, a multiple of ROWS
  V *right, *left;
  int64_t size;
  Pairs(const Work &work, int count)
      : whole((count + Work::ROWS - 1) / Work::ROWS * Work::ROWS), right(work.pairs), left(right + whole * work.row),
        size(whole * (work.row + work.column)) {}
  void clear() const {
    for (int64_t e = 0; e < size; e++)
      right[e] = V{};
  }
};

template <class P> P largest_of(const P *x, int n) {
  P most(0);
  for (int k = 0; k < n; k++)
    most = larger(most, x[k]);
  return most;
}

// The largest of x, with -1 in its place from then on.
template <class P> P take_largest(P *x, int n) {
  const P most = largest_of(x, n);
  auto found = P(0) > P(1);
  for (int k = 0; k < n; k++) {
    const auto hit = (x[k] == most) & !found;
    x[k] = select(hit, P(-1), x[k]);
    found = found | hit;
  }
  return most;
}

// How many values are above `level` in the matrix that has most of them. work.squares are those of the values, relative
// to the scale. -1 where the iteration did not end.
template <class Work, class P> int count_above(const Work &work, const BidiagonalScale<P> &scale, P level) {
  using T = typename Work::Layout::T;
  constexpr int lanes = sizeof(P::v[0]) / sizeof(double);
  scale.squares(work.d, work.e, work.n, work.q, work.f);
  if (!squared_values<P>(work.q, work.f, work.other_q, work.other_f, work.squares, work.n, Limits<T>::negligible,
                         8 * work.n + 20))
    return -1;
  P count(0);
  for (int k = 0; k < work.n; k++)
    count = count + select(scale.most * root(work.squares[k]) > level, P(1), P(0));
  int above = 0;
  for (const auto &part : count.v)
    for (int l = 0; l < lanes; l++)
      above = std::max(above, static_cast<int>(part[l]));
  return above;
}

// The rotations that bring the largest `above` values to the end of B reversed, one after the other. Uses up
// work.squares. Returns whether all arrived.
template <class Work, class P>
bool deflate(const Work &work, const BidiagonalScale<P> &scale, P level, int above,
             Rotations<typename Work::Layout> &rotations, Stats<P> &stats) {
  using S = typename Work::S;
  constexpr int ATTEMPTS = 4;
  const int n = work.n;
  const P zero(0), one(1), near(16 * std::sqrt(Limits<typename Work::Layout::T>::negligible));
  for (int k = 0; k < n; k++) {
    work.values[n - 1 - k] = scale(work.d[k]);
    if (k + 1 < n)
      work.off[n - 2 - k] = scale(work.e[k]);
  }
  for (int p = 0; p < above; p++) {
    const P shift = root(take_largest(work.squares, n)), value = scale.most * shift;
    const auto inside = !(value > level);
    stats.sum = stats.sum + select(inside, zero, value - level);
    work.shares[p] = as_scalar<S>(select(inside, zero, one - level / select(inside, one, value)));
    const int high = n - 1 - p;
    auto good = inside;
    for (int attempt = 0; attempt < ATTEMPTS && high > 0; attempt++) {
      if (rotations.used + high > rotations.capacity)
        return false;
      qr_sweep(work.values, work.off, high, shift, rotations);
      rotations.end_sweep(high); // at most 4 n / 4 times
      const P error = magnitude(magnitude(work.values[high]) - shift);
      good = inside | ((magnitude(work.off[high - 1]) <= near) & (error <= near));
      if (all(good))
        break;
    }
    if (!all(good))
      return false;
  }
  return true;
}

// The first pairs, B^T u and u times its share, from the rotations. Sweeps that came after a value was found do not
// reach its place.
template <class Work>
void write_pairs(const Work &work, const Rotations<typename Work::Layout> &rotations, int above) {
  using Layout = typename Work::Layout;
  using S = typename Work::S;
  constexpr int WIDE = 4;
  static_assert(WIDE <= 2 * RightVectors<Layout>::SWEEPS);
  const int n = work.n;
  const Pairs<Work> pairs(work, above);
  pairs.clear();
  S *vectors = work.vectors.rotations; // WIDE of them, interleaved
  for (int first = 0; first < above; first += WIDE) {
    for (int64_t i = 0; i < int64_t(WIDE) * n; i++)
      vectors[i] = S{};
    for (int w = 0; w < WIDE && first + w < above; w++)
      vectors[(n - 1 - first - w) * WIDE + w] = S{} + typename Layout::T(1);
    rotations.template apply_transposed<WIDE>(vectors);
    for (int w = 0; w < WIDE && first + w < above; w++) {
      S before{};
      for (int i = 0; i < n; i++) {
        const S u = vectors[(n - 1 - i) * WIDE + w], image = as_scalar<S>(work.d[i]) * u + before;
        Layout::put(pairs.right + (first + w) * work.row, i, 0, image);
        Layout::put(pairs.left + (first + w) * work.column, i, 0, work.shares[first + w] * u);
        if (i + 1 < n)
          before = as_scalar<S>(work.e[i]) * u;
      }
    }
  }
}

// Whether few values of each matrix are above `level`, and their left singular vectors were found: then how many, at
// most, with the pairs in their place, else -1.
template <class Work, class P>
int partial_svd(const Work &work, const BidiagonalScale<P> &scale, P level, Stats<P> &stats) {
  using Layout = typename Work::Layout;
  using S = typename Work::S;
  const int above = count_above(work, scale, level);
  if (above < 0 || 4 * above > work.n)
    return -1;
  stats = {P(0), scale.most * root(largest_of(work.squares, work.n))};
  const int64_t capacity = work.vectors.size() * int64_t(sizeof(typename Work::V)) / int64_t(2 * sizeof(S));
  Rotations<Layout> rotations{reinterpret_cast<S *>(work.vectors.z), capacity, work.order};
  if (!deflate(work, scale, level, above, rotations, stats))
    return -1;
  write_pairs(work, rotations, above);
  return above;
}

} // namespace
