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

// The eigenvalues of B^T B from the squares q of the diagonals and e of the off-diagonals of B, all at
// most about 1, to `found`, unordered; q and e and the other two are room to work. Returns whether
// all converged.
//
// All lanes share the window 0 to `high`. A lane whose last value has converged goes on with the one
// above it (it is `ahead`), so that lanes wait for each other little.
template <class P>
bool squared_values(P *q, P *e, P *other_q, P *other_e, P *found, int n, double negligible, int64_t most) {
  const P zero(0), half(0.5), quarter(0.25), one(1), floor(least_square);
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
    least = {select(done, least.but_one, least.all), select(done, least.but_two, least.but_one), least.but_two};
    ahead = ahead | done;
    if (all(ahead)) {
      high--;
      ahead = zero > one;
      continue;
    }
    if (sweep >= most)
      return false;
    // The last 2 x 2 block of B B^T has an eigenvalue that is an upper bound, and the square of its residual
    // over the gap says how far the true one can lie below (Temple 1928, with the gap guessed).
    P q0 = select(ahead, q[high - 1], q[high]), e0 = select(ahead, e[high - 2], e[high - 1]);
    P q1 = select(ahead, q[high - 2], q[high - 1]);
    P e1 = select(ahead, high > 2 ? e[high - 3] : zero, e[high - 2]);
    P q2 = select(ahead, high > 2 ? q[high - 3] : one, q[high - 2]);
    P corner = q1 + e0, mixed = q0 * e0, spread = half * (corner - q0);
    P radius = root(spread * spread + mixed);
    P upper = q1 * q0 * reciprocal(larger(half * (corner + q0) + radius, floor));
    P apart = spread + radius, gap = half * smaller(q2 + e1 - upper, apart);
    P lower = upper - mixed * q1 * e1 * reciprocal(larger(apart * apart * gap, P(1e-300)));
    P part = quarter * least.all;
    auto inner = (least.all <= q0 * P(0.999)) | (gap <= zero);
    P tau = select(inner, part, larger(lower, part));
    // After a shift that was too large: what is certain if only the last pivot failed; then a part; then none.
    tau = select(failures > zero, retry, tau);
    tau = select((tau > floor) & !(ahead & small(e0, sigma + q0)), tau, zero);
    Least<P> now = dqds(q, e, other_q, other_e, high, tau);
    // What a lane has left behind is not looked at, but must not spread.
    other_q[high] = select(ahead, one, other_q[high]);
    other_e[high - 1] = select(ahead, zero, other_e[high - 1]);
    now = {select(ahead, now.but_one, now.all), select(ahead, now.but_two, now.but_one), now.but_two};
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
      least = {select(good, now.all, least.all), select(good, now.but_one, least.but_one),
               select(good, now.but_two, least.but_two)};
      tau = select(good, tau, zero);
    }
    sigma = sigma + tau;
    P *swap = q;
    q = other_q, other_q = swap;
    swap = e, e = other_e, other_e = swap;
  }
  if (n > 1) {
    P mixed = q[1] * e[0], spread = half * (q[0] + e[0] - q[1]);
    P upper = half * (q[0] + e[0] + q[1]) + root(spread * spread + mixed);
    found[0] = sigma + upper;
    found[1] = sigma + q[0] * q[1] / larger(upper, floor);
  } else
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

// Nobody wants the singular vectors.
struct NoRotations {
  template <class P> void turn(int, P, P) {}
  void sweep_ends(int) {}
};

// One sweep of implicit QR over the entries 0 to `high`, with a shift, or without where it is zero. `right.turn(k, c,
// s)` is told of each rotation from the right, of columns k and k + 1.
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
    right.turn(k, c, s);
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
// Entries of at most about 1. Returns whether all converged. `right` hears of rotations as in `qr_sweep`, and by
// `right.sweep_ends(count)` when it was `count` of them in order.
template <class P, class Right = NoRotations>
bool implicit_qr(P *d, P *e, int n, double negligible, int64_t most, Right right = {}) {
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
    auto vain = (shift * shift <= small * top * top) | (least <= small * top);
    qr_sweep(d, e, high, select(vain, zero, shift), right);
    right.sweep_ends(high);
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
