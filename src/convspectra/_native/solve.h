// A batch of matrices: filled in, reduced, diagonalised, sorted.
#pragma once

#include "matrices.h"

namespace {

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

// The first H vectors of each of these packs.
template <int H, int L, int G> struct FirstVectors {
  const Pack<double, L, G> *packs;
  Pack<double, L, H> operator[](int64_t k) const {
    Pack<double, L, H> part;
    for (int g = 0; g < H; g++)
      part.v[g] = packs[k].v[g];
    return part;
  }
};

// `slots` bidiagonal matrices at a time, L of them a vector, and where their singular values go.
template <class T, int L, int G> class BidiagonalBatch {
public:
  static constexpr int slots = L * G;
  using P = Pack<double, L, G>;

  BidiagonalBatch(Arena &arena, int64_t n) : n_(n) {
    for (P **packs : {&d_, &e_, &q_, &off_, &other_q_, &other_off_, &found_})
      *packs = arena.take<P>(n);
    for (double **one : {&one_d_, &one_e_, &one_values_})
      *one = arena.take<double>(n);
  }

  void clear() {
    used_ = 0;
    for (int k = 0; k < slots; k++)
      target_[k] = nullptr, factor_[k] = 1;
    for (int64_t k = 0; k < n_; k++)
      d_[k] = e_[k] = P(0);
  }

  // Whether `count` more, which begin at a multiple of `count`, have slots.
  bool has_slots(int count) const { return used_ + count <= slots && used_ % count == 0; }

  // Reduces the matrices in `a`, which were multiplied by `factor`; the values of the first `wanted` go to `values`.
  template <class Form, int ROWS, class S>
  [[gnu::noinline]] void add(typename Form::V *a, const Problem<T> &p,
                             const ReductionWorkspace<T, Form::Layout::L> &work, S factor, T *values, int64_t wanted) {
    static_assert(slots % Form::count == 0);
    bidiagonalize<typename Form::Layout, ROWS>(a, int(p.rows), int(p.columns), int(Form::stride(p)), work);
    put_diagonals<typename Form::Layout>(work, int(p.columns), used_, d_, e_);
    for (int l = 0; l < Form::count; l++, used_++) {
      factor_[used_] = lane(factor, l);
      target_[used_] = l < wanted ? values + l * n_ : nullptr;
    }
  }

  // The values of all that were added, by packs no wider than that takes; returns how many bisection finished.
  [[gnu::noinline]] int64_t finish(int64_t max_sweeps) {
    constexpr int half = G > 2 ? G / 2 : G;
    const int64_t sweeps = 8 * n_ + 20, most = max_sweeps < sweeps ? max_sweeps : sweeps;
    const bool done = used_ <= half * L ? by_dqds<half>(most) : by_dqds<G>(most);
    const int64_t bisected = done ? 0 : by_qr(max_sweeps - sweeps);
    clear();
    return bisected;
  }

private:
  // Whether dqds has found all values, which then are where they go.
  template <int H> bool by_dqds(int64_t sweeps) {
    using Q = Pack<double, L, H>;
    Q *q = reinterpret_cast<Q *>(q_), *off = reinterpret_cast<Q *>(off_), *found = reinterpret_cast<Q *>(found_);
    Q *other_q = reinterpret_cast<Q *>(other_q_), *other_off = reinterpret_cast<Q *>(other_off_);
    const FirstVectors<H, L, G> d{d_}, e{e_};
    const int n = static_cast<int>(n_);
    const BidiagonalScale<Q> scale(d, e, n);
    scale.squares(d, e, n, q, off);
    {
      const FlushSubnormals flush;
      if (!squared_values<Q>(q, off, other_q, other_off, found, n, Limits<T>::negligible, sweeps))
        return false;
    }
    for (int k = 0; k < n; k++)
      found[k] = scale.most * root(found[k]);
    for (int slot = 0; slot < H * L; slot++)
      write(slot, scale, found);
    return true;
  }

  // The same by implicit QR, or else by bisection; returns how many bisection finished.
  [[gnu::noinline]] int64_t by_qr(int64_t sweeps) {
    const int n = static_cast<int>(n_);
    const BidiagonalScale<P> scale(d_, e_, n);
    scale.entries(d_, e_, n, q_, off_);
    bool done;
    {
      const FlushSubnormals flush;
      done = implicit_qr<P>(q_, off_, n, std::sqrt(Limits<T>::negligible), sweeps);
    }
    for (int k = 0; k < n; k++)
      found_[k] = scale.most * magnitude(q_[k]);
    int64_t bisected = 0;
    for (int slot = 0; slot < slots; slot++)
      if (target_[slot] && !done && scale.finite.m[slot / L][slot % L]) {
        write_bisected(slot, scale);
        bisected++;
      } else
        write(slot, scale, found_);
    return bisected;
  }

  // The values of one matrix to where they go.
  template <class Q> void write(int slot, const BidiagonalScale<Q> &scale, const Q *found) {
    const int g = slot / L, l = slot % L;
    T *values = target_[slot];
    if (!values)
      return;
    const double back = 1 / static_cast<double>(factor_[slot]);
    const bool finite = scale.finite.m[g][l] != 0;
    for (int64_t k = 0; k < n_; k++)
      values[k] = finite ? static_cast<T>(back * found[k].v[g][l]) : std::numeric_limits<T>::quiet_NaN();
    sort_descending(values, n_);
  }

  void write_bisected(int slot, const BidiagonalScale<P> &scale) {
    const int g = slot / L, l = slot % L;
    for (int64_t k = 0; k < n_; k++) {
      one_d_[k] = d_[k].v[g][l] * scale.inverse.v[g][l];
      one_e_[k] = k + 1 < n_ ? e_[k].v[g][l] * scale.inverse.v[g][l] : 0;
    }
    bisect(one_d_, one_e_, static_cast<int>(n_), one_values_);
    const double by = scale.most.v[g][l] / static_cast<double>(factor_[slot]);
    for (int64_t k = 0; k < n_; k++)
      target_[slot][k] = static_cast<T>(by * one_values_[k]);
    sort_descending(target_[slot], n_);
  }

  int64_t n_;
  int used_ = 0;
  P *d_, *e_, *q_, *off_, *other_q_, *other_off_, *found_;
  double *one_d_, *one_e_, *one_values_;
  T *target_[slots];
  T factor_[slots]; // the matrix was multiplied by it
};

template <class T, int BYTES, int G> struct SolveWorkspace {
  static constexpr int L = BYTES / sizeof(T);
  Vector<T, L> *a;
  MatrixPerLane<T, L> per_lane; // between: rows of `a` and of `rows` at equal offsets would share few cache lines
  RowAcrossLanes<T, L> across;
  ReductionWorkspace<T, L> rows;
  BidiagonalBatch<T, BYTES / sizeof(double), G> batch;

  // `stride`: of the longest row that is to be in `a`.
  SolveWorkspace(Arena &arena, const Problem<T> &p, int64_t stride)
      : a(arena.take<Vector<T, L>>(p.rows * stride)), per_lane(arena, p), across(arena, p), rows(arena, stride, p.columns),
        batch(arena, p.columns) {}
};

// A matrix a lane as long as L of them take no more bytes than this, that is, about stay in the second cache;
// beyond that a row across the lanes (measured).
template <class T, int BYTES>
constexpr int64_t bytes_of_lanes = sizeof(T) == 8 ? 3 << 19 : BYTES == 64 ? 1 << 20 : 5 << 19;

template <class T, int BYTES, int G, int ROWS> int64_t solve(const Problem<T> &p) {
  constexpr int L = BYTES / sizeof(T);
  static thread_local Arena arena;
  const bool fits = p.rows * p.columns * 2 * BYTES <= bytes_of_lanes<T, BYTES>;
  const bool by_lanes = p.layout == 1 || (p.layout != 2 && fits);
  // How many matrices of a row across the lanes take as long as one group of a matrix a lane (measured).
  const int64_t worthwhile = p.layout == 1 ? 0 : int64_t(L / (1 + 45.0 / p.columns));
  // Rows of a matrix a lane are the longer ones.
  auto work = arena.make<SolveWorkspace<T, BYTES, G>>(p, by_lanes ? MatrixPerLane<T, L>::stride(p)
                                                                  : RowAcrossLanes<T, L>::stride(p));
  work.batch.clear();

  const Runs<T> runs(p);
  int64_t bisected = 0;
  for (int64_t run = 0; run < runs.count; run++)
    for (int64_t first = 0; first < runs.length;) {
      T *values = p.values + (run * runs.length + first) * p.columns;
      const auto add = [&](const auto &form) {
        using Form = std::decay_t<decltype(form)>;
        if (!work.batch.has_slots(Form::count))
          bisected += work.batch.finish(p.max_sweeps);
        form.fill(p, run, first, runs.length, work.a);
        const auto factor = Form::rescale(work.a, p.rows * Form::stride(p));
        work.batch.template add<Form, ROWS>(work.a, p, work.rows, factor, values, runs.length - first);
        first += Form::count;
      };
      if (by_lanes && runs.length - first > worthwhile)
        add(work.per_lane);
      else
        add(work.across);
    }
  return bisected + work.batch.finish(p.max_sweeps);
}

} // namespace
