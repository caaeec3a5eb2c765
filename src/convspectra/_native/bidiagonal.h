// Singular values of real upper bidiagonal matrices, one a lane, in double precision.
//
// dqds is fastest and has all lanes in step; tight clusters inside a window that splits can stall it, and
// then implicit QR, which restarts at every split, does them; bisection, which cannot fail, is the last.
//
// Source: Fernando and Parlett (1994), Accurate singular values and differential qd algorithms, with shifts
// after Parlett and Marques (2000); Golub and Kahan (1965) and, for the shift of zero, Demmel and Kahan
// (1990); bisection on the Golub-Kahan form, Fernando (1998).
#pragma once

#include "packs.h"

#include <utility>

namespace {

template <class T> struct Limits;
template <> struct Limits<float> {
  // `tiny`: a column whose square is below it is zero, for matrices of norm about 1. `small` and
  // `large`: a largest entry between them needs no scaling. `negligible`: the square of the relative
  // error that the bidiagonal iteration may leave. `margin`: by how much a square may exceed the one that is
  // certified to be the largest.
  static constexpr float tiny = 0x1p-100f, small = 0x1p-10f, large = 0x1p+30f;
  static constexpr double negligible = 0x1p-56;
  static constexpr float margin = 0x1p-19f;
};
template <> struct Limits<double> {
  static constexpr double tiny = 0x1p-900, small = 0x1p-50, large = 0x1p+300;
  static constexpr double negligible = 0x1p-100;
  static constexpr double margin = 0x1p-46;
};

// Squares of singular values below this, relative to the largest entry's, are not told from zero.
constexpr double least_square = 0x1p-160;

// The least of the pivots: of all, of all but the last, of all but the last two.
template <class P> struct Least {
  P all, but_one, but_two;
};

// What the entries of bidiagonal matrices are divided by: the largest of each. Matrices with NaN or infinity are
// left out: zero is put for them.
template <class P> struct BidiagonalScale {
  P most{0}, inverse;
  decltype(P(0) == P(0)) finite;

  template <class Packs> BidiagonalScale(const Packs &d, const Packs &e, int n) {
    const P zero(0);
    for (int k = 0; k < n; k++)
      most = larger(most, larger(magnitude(d[k]), k + 1 < n ? magnitude(e[k]) : zero));
    finite = most <= P(std::numeric_limits<double>::max());
    most = select(finite, most, zero);
    inverse = select(most > zero, P(1) / most, zero);
  }

  P operator()(P x) const { return select(finite, x, P(0)) * inverse; }

  template <class Packs> void entries(const Packs &d, const Packs &e, int n, P *to_d, P *to_e) const {
    for (int k = 0; k < n; k++) {
      to_d[k] = (*this)(d[k]);
      if (k + 1 < n)
        to_e[k] = (*this)(e[k]);
    }
  }

  // Squares for dqds, from the larger end: it finds the smallest values first, at the bottom.
  template <class Packs> void squares(const Packs &d, const Packs &e, int n, P *q, P *off) const {
    const auto reversed = magnitude(P(d[n - 1])) > magnitude(P(d[0]));
    for (int k = 0; k < n; k++) {
      const P x = (*this)(select(reversed, P(d[n - 1 - k]), P(d[k])));
      q[k] = larger(x * x, P(least_square));
      if (k + 1 < n) {
        const P y = (*this)(select(reversed, P(e[n - 2 - k]), P(e[k])));
        off[k] = y * y;
      }
    }
  }
};

// Of a window that ends one entry earlier.
template <class P> inline Least<P> without_last(Least<P> x) { return {x.but_one, x.but_two, x.but_two}; }

template <class M, class P> inline Least<P> select(M a, Least<P> x, Least<P> y) {
  return {select(a, x.all, y.all), select(a, x.but_one, y.but_one), select(a, x.but_two, y.but_two)};
}

// One transformation q, e -> next_q, next_e with shift tau over the entries 0 to `high`.
template <class P>
inline Least<P> dqds(const P *__restrict q, const P *__restrict e, P *__restrict next_q, P *__restrict next_e,
                     int high, P tau) {
  P d = q[0] - tau;
  Least<P> least{d, d, d};
  for (int k = 0; k < high; k++) {
    P sum = d + e[k];
    P ratio = q[k + 1] * reciprocal(sum);
    next_q[k] = sum;
    next_e[k] = e[k] * ratio;
    d = d * ratio - tau;
    least = {smaller(least.all, d), least.all, least.but_one};
  }
  next_q[high] = d;
  return least;
}

// A shift from the last entries q0, e0, q1, ... of a window, counted from its end, and the least pivot so far. The
// last 2 x 2 block of B B^T has an eigenvalue that is an upper bound, and the square of its residual over the gap
// says how far the true one can lie below (Temple 1928, with the gap guessed).
template <class P> inline P dqds_shift(P q0, P e0, P q1, P e1, P q2, P pivot) {
  const P half(0.5), floor(least_square);
  P corner = q1 + e0, mixed = q0 * e0, spread = half * (corner - q0);
  P radius = root(spread * spread + mixed);
  P upper = q1 * q0 * reciprocal(larger(half * (corner + q0) + radius, floor));
  P apart = spread + radius, gap = half * smaller(q2 + e1 - upper, apart);
  P lower = upper - mixed * q1 * e1 * reciprocal(larger(apart * apart * gap, P(1e-300)));
  P part = P(0.25) * pivot;
  auto inner = (pivot <= q0 * P(0.999)) | (gap <= P(0));
  return select(inner, part, larger(lower, part));
}

template <class P>
[[gnu::always_inline]] inline void squared_values_of_two(P q0, P e0, P q1, P sigma, P *found) {
  const P half(0.5);
  P mixed = q1 * e0, spread = half * (q0 + e0 - q1);
  P upper = half * (q0 + e0 + q1) + root(spread * spread + mixed);
  found[0] = sigma + upper;
  found[1] = sigma + q0 * q1 / larger(upper, P(least_square));
}

// The eigenvalues of B^T B from the squares q of the diagonals and e of the off-diagonals of B, all at
// most about 1, to `found`, unordered; q and e and the other two are overwritten. Returns whether
// all converged.
//
// All lanes share the window 0 to `high`. A lane whose last value has converged goes on with the one
// above it (it is `ahead`), so that lanes wait for each other little.
template <class P>
bool squared_values(P *q, P *e, P *other_q, P *other_e, P *found, int n, double negligible, int64_t most) {
  const P zero(0), one(1), quarter(0.25), floor(least_square);
  const P relative(negligible), absolute(negligible * 0x1p-4);
  auto small = [&](P off, P value) { return (off <= relative * value) | (off <= absolute); };
  P sigma(0), failures(0), retry(0);
  int high = n - 1;
  auto ahead = zero > one; // no lane
  Least<P> least{q[0], q[0], q[0]};
  for (int64_t sweep = 0; high > 1; sweep++) {
    auto done = (!ahead) & small(e[high - 1], sigma + q[high]);
    found[high] = select(done, sigma + q[high], found[high]);
    e[high - 1] = select(done, zero, e[high - 1]);
    least = select(done, without_last(least), least);
    ahead = ahead | done;
    if (all(ahead)) {
      high--;
      ahead = zero > one;
      continue;
    }
    if (sweep >= most)
      return false;
    P q0 = select(ahead, q[high - 1], q[high]), e0 = select(ahead, e[high - 2], e[high - 1]);
    P q1 = select(ahead, q[high - 2], q[high - 1]);
    P e1 = select(ahead, high > 2 ? e[high - 3] : zero, e[high - 2]);
    P q2 = select(ahead, high > 2 ? q[high - 3] : one, q[high - 2]);
    P tau = dqds_shift(q0, e0, q1, e1, q2, least.all);
    // After a shift that was too large: what is certain if only the last pivot failed; then a part; then none.
    tau = select(failures > zero, retry, tau);
    tau = select((tau > floor) & !(ahead & small(e0, sigma + q0)), tau, zero);
    Least<P> now = dqds(q, e, other_q, other_e, high, tau);
    // What a lane has left behind is not looked at, but must not spread.
    other_q[high] = select(ahead, one, other_q[high]);
    other_e[high - 1] = select(ahead, zero, other_e[high - 1]);
    now = select(ahead, without_last(now), now);
    auto good = now.all >= zero;
    if (all(good)) {
      failures = zero;
      least = now;
    } else {
      for (int k = 0; k <= high; k++) {
        other_q[k] = select(good, other_q[k], q[k]);
        other_e[k] = select(good, other_e[k], e[k]);
      }
      auto late = (now.but_one > zero) & (failures == zero);
      P next = select(late, (tau + now.all) * P(1 - 0x1p-50), quarter * tau);
      retry = select((next > zero) & (failures <= one), next, zero);
      failures = select(good, zero, failures + one);
      least = select(good, now, least);
      tau = select(good, tau, zero);
    }
    sigma = sigma + tau;
    std::swap(q, other_q), std::swap(e, other_e);
  }
  if (n > 1)
    squared_values_of_two(q[0], e[0], q[1], sigma, found);
  else
    found[0] = q[0];
  return true;
}

// c f + s g = r, c g - s f = 0, r >= 0; the identity where both vanish.
template <class P> inline void rotation(P f, P g, P &c, P &s, P &r) {
  r = root(f * f + g * g);
  auto none = r == P(0);
  P inverse = P(1) / select(none, P(1), r);
  c = select(none, P(1), f * inverse);
  s = g * inverse;
}

// The smaller singular value of [f g; 0 h], all at least 0, to full relative accuracy (LAPACK's dlas2).
template <class P> inline P smaller_of_two(P f, P g, P h) {
  P least = smaller(f, h), most = larger(f, h);
  P inverse = P(1) / larger(most, P(0x1p-300));
  P sum = P(1) + least * inverse, difference = (most - least) * inverse, off = g * inverse;
  off = off * off;
  return least * P(2) / (root(sum * sum + off) + root(difference * difference + off));
}

// Rotations are discarded.
struct NoRotations {
  template <class P> void rotate(int, P, P) {}
  void end_sweep(int) {}
};

// One sweep of implicit QR over the entries 0 to `high`, with a shift, or without where it is zero. `right.rotate(k,
// c, s)` is told of each rotation from the right, of columns k and k + 1.
template <class P, class Right> inline void qr_sweep(P *d, P *e, int high, P shift, Right &right) {
  const P zero(0);
  const auto plain = shift == zero;
  P f(0), g(0), s_left(0), now = e[0];
  auto begins = zero == zero;
  for (int k = 0; k < high; k++) {
    P diagonal = d[k], above = e[k], next = d[k + 1];
    f = select(begins, select(plain, diagonal, (diagonal - shift) * (diagonal + shift)), f);
    g = select(begins, select(plain, above, diagonal * above), g);
    P c, s, r;
    rotation(f, g, c, s, r);
    right.rotate(k, c, s);
    if (k > 0)
      e[k - 1] = select(begins, zero, select(plain, s_left * r, r));
    P f2 = c * diagonal + s * above, g2 = s * next;
    P left_over = select(plain, zero, c * above - s * diagonal);
    next = c * next;
    P c2, s2, r2;
    rotation(f2, g2, c2, s2, r2);
    d[k] = r2;
    d[k + 1] = c2 * next - s2 * left_over;
    P coming = k + 1 < high ? e[k + 1] : zero;
    f = select(plain, next, c2 * left_over + s2 * next);
    g = select(plain, coming, s2 * coming);
    if (k + 1 < high)
      e[k + 1] = c2 * coming;
    begins = now == zero;
    now = coming;
    s_left = s2;
  }
  e[high - 1] = select(begins, zero, select(plain, s_left * f, f));
}

// Diagonalises the bidiagonal matrices d, e in place: d becomes the singular values up to sign, unordered.
// Entries of at most about 1. Returns whether all converged. `right` is told of rotations as in `qr_sweep`, and by
// `right.end_sweep(count)` when a sweep of `count` of them has ended.
template <class P, class Right = NoRotations>
bool implicit_qr(P *d, P *e, int n, double negligible, int64_t most, Right &&right = {}) {
  const P small(negligible), zero(0), floor(0x1p-80);
  int high = n - 1;
  for (int64_t sweep = 0;; sweep++) {
    // What is negligible becomes zero; then, in each lane, the last block that is left gives the shift.
    P first(0), off(0), second(0), top(0), least(0), block_top(0), block_least(0);
    int last = 0;
    auto begins = zero == zero;
    for (int k = 0; k < high; k++) {
      P a = magnitude(d[k]), b = magnitude(e[k]), c = magnitude(d[k + 1]);
      auto done = (b <= small * (a + c)) | (b <= floor);
      e[k] = select(done, zero, e[k]);
      block_top = select(begins, a, block_top);
      block_least = select(begins, a, smaller(block_least, a));
      first = select(done, first, a), off = select(done, off, b), second = select(done, second, c);
      top = select(done, top, block_top), least = select(done, least, smaller(block_least, c));
      if (!all(done))
        last = k + 1;
      begins = done;
    }
    high = last;
    if (high == 0)
      return true;
    if (sweep >= most)
      return false;
    // The smaller singular value of the last 2 x 2 block; none where it would not change the leading
    // entry, or where there is a zero on the diagonal.
    P shift = smaller_of_two(first, off, second);
    auto negligible_shift = (shift * shift <= small * top * top) | (least <= small * top);
    qr_sweep(d, e, high, select(negligible_shift, zero, shift), right);
    right.end_sweep(high);
  }
}

// How many singular values are below x > 0: negative pivots of the Golub-Kahan form.
inline int below(const double *d, const double *e, int n, double x) {
  const double guard = std::numeric_limits<double>::min();
  int negative = 0;
  double pivot = -x;
  for (int i = 0; i < 2 * n; i++) {
    if (i > 0) {
      double off = i % 2 ? d[i / 2] : e[i / 2 - 1];
      pivot = -x - off / pivot * off;
    }
    if (std::fabs(pivot) < guard)
      pivot = -guard;
    negative += pivot < 0;
  }
  return negative - n;
}

// The singular values by bisection, descending: slow, and cannot fail. d and e at most about 1.
inline void bisect(const double *d, const double *e, int n, double *values) {
  double bound = 0;
  for (int i = 0; i < n; i++) {
    double off = i + 1 < n ? std::fabs(e[i]) : 0, before = i > 0 ? std::fabs(e[i - 1]) : 0;
    double both = std::fabs(d[i]) + (off > before ? off : before);
    bound = both > bound ? both : bound;
  }
  for (int i = 0; i < n; i++) {
    double low = 0, high = 2 * bound;
    while (high - low > 0x1p-52 * high && high > 0x1p-80 * bound) {
      double middle = low + (high - low) / 2;
      if (middle <= low || middle >= high)
        break;
      (below(d, e, n, middle) > n - 1 - i ? high : low) = middle;
    }
    values[i] = high <= 0x1p-80 * bound ? 0 : low + (high - low) / 2;
  }
}

} // namespace
