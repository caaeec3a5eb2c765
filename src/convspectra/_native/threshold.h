// Matrices with their singular values lowered: U max(sigma - t, 0) V^H, which is what lies outside of the
// operator-norm ball of radius t, and the soft threshold of the nuclear norm.
//
// A = Q B P^H by the reflectors of reduce.h; the right singular vectors Z of the real bidiagonal B by
// implicit QR, whose rotations are gathered and applied a few sweeps at a time; then
//
//     U max(sigma - t, 0) V^H = Q [ B Z diag(max(1 - t / sigma, 0)) Z^T ] P^H
//
// needs no left singular vectors, and divides by no value below t. Where few values are above, it is summed pair
// by pair, and only their vectors are found.
#pragma once

#include "partial_svd.h"
#include "solve.h"

namespace {

using convspectra::Lowering;

// The transposes of the sum of the first pairs, (left one by the left reflectors) (right one by the right ones)^H.
template <class Work> void add_pairs(const Work &work, int above) {
  using Layout = typename Work::Layout;
  using S = typename Work::S;
  using V = typename Work::V;
  constexpr int ROWS = Work::ROWS, WIDE = 4;
  const int64_t r = work.row, c = work.column;
  const int vectors = static_cast<int>(c / 2);
  const Pairs<Work> pairs(work, above);
  for (int p = 0; p < pairs.whole; p += ROWS) {
    reflect<Layout, ROWS>(pairs.right + p * r, r, static_cast<int>(r / 2), work.rights);
    reflect<Layout, ROWS>(pairs.left + p * c, c, vectors, work.lefts);
  }
  for (int j = 0; j < work.n; j++)
    for (int i = 0; i < vectors; i += WIDE) {
      V x[WIDE], y[WIDE];
      const int count = i + WIDE <= vectors ? WIDE : vectors - i;
#pragma GCC unroll 4
      for (int k = 0; k < WIDE; k++)
        x[k] = y[k] = V{};
      for (int p = 0; p < above; p++) {
        const S f = Layout::get(pairs.right + p * r, j, 0), g = Layout::get(pairs.right + p * r, j, 1);
        const V *from = pairs.left + p * c + 2 * i;
#pragma GCC unroll 4
        for (int k = 0; k < WIDE; k++) {
          if (k >= count)
            break;
          x[k] += f * from[2 * k] - g * from[2 * k + 1];
          y[k] += f * from[2 * k + 1] + g * from[2 * k];
        }
      }
      V *to = work.a + j * c + 2 * i;
      for (int k = 0; k < count; k++)
        to[2 * k] = x[k], to[2 * k + 1] = y[k];
    }
}

// Which values are above `level` in any matrix, in work.order, and what is left of them, in work.shares; how many.
template <class Work, class P>
int order_above(const Work &work, const BidiagonalScale<P> &scale, P level, Stats<P> &stats) {
  const P zero(0), one(1);
  int above = 0;
  for (int k = 0; k < work.n; k++) {
    const P value = scale.most * magnitude(work.values[k]);
    stats.top = larger(stats.top, value);
    const auto over = value > level;
    const P share = select(over, one - level / select(over, value, one), zero);
    stats.sum = stats.sum + select(over, value - level, zero);
    if (all(!over))
      continue;
    work.order[above] = k;
    work.shares[above++] = as_scalar<typename Work::S>(share);
  }
  return above;
}

// The pairs of those values from Z: z, and B z times its share.
template <class Work>
void write_pairs(const Work &work, const RightVectors<typename Work::Layout> &vectors, int above) {
  using Layout = typename Work::Layout;
  using S = typename Work::S;
  const Pairs<Work> pairs(work, above);
  pairs.clear();
  for (int p = 0; p < above; p++)
    for (int i = 0; i < work.n; i++) {
      const S z = vectors.entry(work.order[p], i);
      S image = as_scalar<S>(work.d[i]) * z;
      if (i + 1 < work.n)
        image += as_scalar<S>(work.e[i]) * vectors.entry(work.order[p], i + 1);
      Layout::put(pairs.right + p * work.row, i, 0, z);
      Layout::put(pairs.left + p * work.column, i, 0, work.shares[p] * image);
    }
}

// Rows `first` to `first + count` of B (Z D Z^T), which are d_i and e_i times rows i and i + 1 of the bracket; real.
template <class Work>
void bracket_rows(const Work &work, const RightVectors<typename Work::Layout> &vectors, int above, int first,
                  int count) {
  using S = typename Work::S;
  using V = typename Work::V;
  constexpr int ROWS = Work::ROWS, WIDE = RightVectors<typename Work::Layout>::WIDE;
  const int n = work.n;
  S factors[ROWS][2];
  for (int k = 0; k < count; k++) {
    factors[k][0] = as_scalar<S>(work.d[first + k]);
    factors[k][1] = first + k + 1 < n ? as_scalar<S>(work.e[first + k]) : S{};
  }
  for (int block = 0; block < vectors.blocks; block++) {
    V sum[ROWS][WIDE];
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++)
#pragma GCC unroll 4
      for (int j = 0; j < WIDE; j++)
        sum[k][j] = V{};
    for (int p = 0; p < above; p++) {
      const V *from = vectors.z + (int64_t(block) * n + work.order[p]) * WIDE;
      S before = work.shares[p] * vectors.entry(work.order[p], first);
#pragma GCC unroll 4
      for (int k = 0; k < ROWS; k++) {
        if (k >= count)
          break;
        const S after = first + k + 1 < n ? work.shares[p] * vectors.entry(work.order[p], first + k + 1) : S{};
        const S weight = factors[k][0] * before + factors[k][1] * after;
        before = after;
#pragma GCC unroll 4
        for (int j = 0; j < WIDE; j++)
          sum[k][j] += weight * from[j];
      }
    }
    V *few = work.few_rows + 2 * block * WIDE;
#pragma GCC unroll 4
    for (int k = 0; k < ROWS; k++, few += work.few_row)
#pragma GCC unroll 4
      for (int j = 0; j < WIDE; j++)
        few[2 * j] = sum[k][j], few[2 * j + 1] = V{};
  }
}

// The transposes of Q [B Z D Z^T] P^H, a few rows at a time.
template <class Work>
void lower_by_rows(const Work &work, const RightVectors<typename Work::Layout> &vectors, int above) {
  using Layout = typename Work::Layout;
  constexpr int ROWS = Work::ROWS;
  const int n = work.n;
  const int64_t r = work.row, c = work.column;
  for (int64_t e = 0; e < (n + ROWS) * c; e++)
    work.a[e] = typename Work::V{};
  for (int first = 0; first < n; first += ROWS) {
    const int count = first + ROWS <= n ? ROWS : n - first;
    bracket_rows(work, vectors, above, first, count);
    reflect<Layout, ROWS>(work.few_rows, work.few_row, static_cast<int>(r / 2), work.rights);
    for (int k = 0; k < count; k++)
      for (int j = 0; j < n; j++)
        for (int part = 0; part < 2; part++)
          Layout::put(work.a + j * c, first + k, part, Layout::get(work.few_rows + k * work.few_row, j, part));
  }
  for (int j = 0; j < n; j += ROWS) // beyond the last row there are zeros
    reflect<Layout, ROWS>(work.a + j * c, c, static_cast<int>(c / 2), work.lefts);
}

// The matrices in work.a, of largest entries near 1, to the transposes of what is left of them above `level`, in
// work.a with rows of m entries. Returns whether the iteration converged in all lanes; nothing is left where no
// value is above.
template <int UPDATED, class Work, class P>
bool lower(const Work &work, P level, int64_t max_sweeps, Stats<P> &stats) {
  using Layout = typename Work::Layout;
  using T = typename Layout::T;
  const FlushSubnormals flush;
  const int n = work.n, stride = static_cast<int>(work.row);
  const KeepReflectors<Layout> keep{work.lefts, work.rights, work.m, stride};
  reduce<Layout, true, UPDATED>(work.a, work.m, n, stride, work.rows, &keep);
  put_diagonals<Layout>(work.rows, n, 0, work.d, work.e);
  const BidiagonalScale<P> scale(work.d, work.e, n);
  // What is not known is NaN, in the sums as well.
  const P unknown = select(scale.finite, P(0), P(std::numeric_limits<double>::quiet_NaN()));
  const int few = partial_svd(work, scale, level, stats);
  if (few >= 0) {
    if (few > 0)
      add_pairs(work, few);
    stats = {stats.sum + unknown, stats.top + unknown};
    return true;
  }
  scale.entries(work.d, work.e, n, work.values, work.off);
  RightVectors<Layout> vectors = work.vectors;
  vectors.begin();
  const bool done =
      implicit_qr<P>(work.values, work.off, n, std::sqrt(Limits<T>::negligible), max_sweeps, vectors);
  vectors.apply();
  stats = {unknown, unknown};
  const int above = order_above(work, scale, level, stats);
  if (!done || above == 0)
    return done;
  if (2 * above <= n) {
    write_pairs(work, vectors, above);
    add_pairs(work, above);
  } else
    lower_by_rows(work, vectors, above);
  return true;
}

// What one matrix became, from the transposes in work.a, where `l` says which lane.
template <class T, class Work>
void write_lowered(const Problem<T> &p, const Lowering<T> &to, const Work &work, int64_t place, int l, bool done,
                   double sum, double top, T factor) {
  const int64_t m = p.rows, n = p.columns;
  const double unknown = std::numeric_limits<double>::quiet_NaN(), back = 1 / static_cast<double>(factor);
  to.stats[2 * place] = done ? sum * back : unknown;
  to.stats[2 * place + 1] = done ? top * back : unknown;
  T *block = to.blocks + 2 * place * m * n;
  if (!done || !(sum > 0)) {
    for (int64_t e = 0; e < 2 * m * n; e++)
      block[e] = 0;
    return;
  }
  const T scale = 1 / factor;
  const bool transposed = p.source.blocks ? p.source.transposed : p.source.stacked;
  for (int64_t j = 0; j < n; j++)
    for (int64_t i = 0; i < m; i++)
      for (int part = 0; part < 2; part++)
        block[2 * (transposed ? j * m + i : i * n + j) + part] =
            scale * lane(Work::Layout::get(work.a + j * work.column, static_cast<int>(i), part), l);
}

// Matrices `first` on of a run, as many as the form takes at a time; returns how many these are.
template <class Form, class P, int ROWS, class T>
int lower_group(const Problem<T> &p, const Lowering<T> &to, Arena &arena, int64_t run, int64_t first, int64_t length) {
  constexpr int lanes = sizeof(P::v[0]) / sizeof(double);
  const auto work = arena.make<ThresholdWorkspace<Form, P>>(p);
  work.form.fill(p, run, first, length, work.a);
  const auto factor = Form::rescale(work.a, p.rows * Form::stride(p));
  P level(0);
  for (int l = 0; l < Form::count; l++)
    level.v[l / lanes][l % lanes] = static_cast<double>(to.level) * lane(factor, l);
  Stats<P> stats;
  const bool done = lower<ROWS>(work, level, p.max_sweeps, stats);
  for (int l = 0; l < Form::count && first + l < length; l++)
    write_lowered(p, to, work, to.place(p, run, first + l), l, done, stats.sum.v[l / lanes][l % lanes],
                  stats.top.v[l / lanes][l % lanes], lane(factor, l));
  return Form::count;
}

// Lowered matrices of a batch; the stats of those that did not converge are NaN, and their entries zero.
template <class T, int BYTES, int ROWS> void lowered(const Problem<T> &p, const Lowering<T> &to) {
  constexpr int L = BYTES / sizeof(T), LD = BYTES / sizeof(double);
  static thread_local Arena arena;
  // As in `solve`, measured: the vectors take longer than the reduction, and gain more by lanes.
  const bool by_lanes = p.layout == 1 || (p.layout != 2 && p.rows * p.columns <= 40'000);
  const int64_t worthwhile = p.layout == 1 ? 0 : int64_t(L / (1 + 170.0 / p.columns));
  const auto per_lane = lower_group<MatrixPerLane<T, L>, Pack<double, LD, L / LD>, ROWS, T>;
  const auto across = lower_group<RowAcrossLanes<T, L>, Pack<double, 1, 1>, ROWS, T>;
  const Runs<T> runs(p);
  for (int64_t run = 0; run < runs.count; run++)
    for (int64_t first = 0; first < runs.length;) {
      const bool together = by_lanes && runs.length - first > worthwhile;
      first += (together ? per_lane : across)(p, to, arena, run, first, runs.length);
    }
}

} // namespace
