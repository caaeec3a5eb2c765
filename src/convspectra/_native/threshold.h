// Matrices with their singular values lowered: U max(sigma - t, 0) V^H, which is what lies outside of the
// operator-norm ball of radius t, and the soft threshold of the nuclear norm.
//
// A = Q B P^H by the reflectors of reduce.h; the right singular vectors Z of the real bidiagonal B by
// implicit QR, whose rotations are gathered and applied a few sweeps at a time; then
//
//     U max(sigma - t, 0) V^H = Q [ B Z diag(max(1 - t / sigma, 0)) Z^T ] P^H
//
// needs no left singular vectors, and divides by no value below t. Where few values are above, it is summed pair
// by pair, and only their vectors are found: the values by dqds, then for each in turn a sweep or two of implicit
// QR with that very value as shift, which brings it to the end of the matrix; the rotations of the sweeps, applied
// to a unit vector, are its singular vector. Large values have their vectors at the beginning of B, and a shift
// loses its way to an end where the vector is small (Parlett and Le 1993): the sweeps are those of B reversed, whose
// right singular vectors are the left ones of B. Everything after B works on a few rows that
// stay in the nearest cache: reflectors from the right go through the rows one after the other, and those from
// the left through the rows of the transpose.
#pragma once

#include "solve.h"

namespace {

using convspectra::Lowering;

template <class To, class P> inline To in_lanes(P x) {
  if constexpr (std::is_floating_point_v<To>)
    return static_cast<To>(x.v[0][0]);
  else {
    using T = std::remove_reference_t<decltype(std::declval<To &>()[0])>;
    constexpr int lanes = sizeof(x.v[0]) / sizeof(double), parts = sizeof(To) / sizeof(T) / lanes;
    To y;
    for (int k = 0; k < parts; k++)
      reinterpret_cast<Vector<T, lanes> *>(&y)[k] = __builtin_convertvector(x.v[k], Vector<T, lanes>);
    return y;
  }
}

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
void reflect(typename Layout::V *__restrict x, int64_t step, int vectors, const Reflectors<Layout> &by) {
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

// Z, the right singular vectors of the bidiagonal matrix: entry i of vector k, for WIDE vectors of entries at a
// time all k in turn, so that what a rotation mixes is near.
template <class Layout> struct RightVectors {
  using T = typename Layout::T;
  using V = typename Layout::V;
  using S = typename Layout::Scalar;
  static constexpr int WIDE = 4, SWEEPS = 4;
  V *z;
  S *turns; // SWEEPS times n cosines and sines
  int lengths[SWEEPS];
  int filled = 0;
  int n, blocks;

  RightVectors(V *z, S *turns, int n) : z(z), turns(turns), n(n), blocks(count_blocks(n)) {
    for (int64_t e = 0; e < int64_t(blocks) * n * WIDE; e++)
      z[e] = V{};
    for (int k = 0; k < n; k++)
      reinterpret_cast<S *>(&vector(k, k))[k % Layout::per_vector] = S{} + T(1);
  }
  static int count_blocks(int n) {
    const int vectors = (n + Layout::per_vector - 1) / Layout::per_vector;
    return (vectors + WIDE - 1) / WIDE;
  }
  V &vector(int k, int i) const {
    const int j = i / Layout::per_vector;
    return z[(int64_t(j / WIDE) * n + k) * WIDE + j % WIDE];
  }
  S entry(int k, int i) const { return reinterpret_cast<const S *>(&vector(k, i))[i % Layout::per_vector]; }

  template <class P> void turn(int k, P c, P s) {
    turns[2 * (int64_t(filled) * n + k)] = in_lanes<S>(c);
    turns[2 * (int64_t(filled) * n + k) + 1] = in_lanes<S>(s);
  }
  void sweep_ends(int count) {
    lengths[filled++] = count;
    if (filled == SWEEPS)
      apply();
  }
  void apply() {
    for (int b = 0; b < blocks; b++)
      for (int sweep = 0; sweep < filled; sweep++) {
        V *__restrict row = z + int64_t(b) * n * WIDE;
        const S *by = turns + 2 * int64_t(sweep) * n;
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

// The callback of the iteration is passed by value; this one stands for the one that collects.
template <class Vectors> struct Collect {
  Vectors *into;
  template <class P> void turn(int k, P c, P s) { into->turn(k, c, s); }
  void sweep_ends(int count) { into->sweep_ends(count); }
};

template <class Layout> struct KeepReflectors {
  using V = typename Layout::V;
  using S = typename Layout::Scalar;
  Reflectors<Layout> lefts, rights;
  int rows, stride;

  void left(int s, const Reflector<Layout> &by, const V *a) {
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
  void right(int s, const Reflector<Layout> &by, const V *u) {
    V *to = rights.rows + s * rights.stride;
    for (int64_t j = (s + 1) / Layout::per_vector; j < rights.stride / 2; j++)
      to[2 * j] = u[2 * j], to[2 * j + 1] = u[2 * j + 1];
    rights.factors[2 * s] = by.tau_r, rights.factors[2 * s + 1] = -by.tau_i;
  }
};

// Vectors that a row of `n` entries takes, real and imaginary.
template <class Layout> int64_t row_length(int64_t n) {
  return 2 * ((n + Layout::per_vector - 1) / Layout::per_vector);
}

// All that one group of matrices needs.
template <class Layout, class P> struct Room {
  using V = typename Layout::V;
  using S = typename Layout::Scalar;
  static constexpr int ROWS = 4;
  V *a;          // the matrices, then the transpose of the result
  V *w, *u, *next, *few;
  V *lefts, *rights, *z, *pairs;
  S *left_factors, *right_factors, *turns, *shares;
  P *d, *e, *off, *values;
  P *q, *f, *other_q, *other_f, *squares;
  int *order; // of the vectors whose value is above

  static int64_t size_of_a(int64_t m, int64_t n) {
    return std::max(m * row_length<Layout>(n), (n + ROWS) * row_length<Layout>(m));
  }
  static int64_t size_of_z(int64_t n) {
    return int64_t(RightVectors<Layout>::count_blocks(int(n))) * n * RightVectors<Layout>::WIDE;
  }
  // Of the few singular pairs that half of the vectors are, in whole ROWS.
  static int64_t size_of_pairs(int64_t m, int64_t n) {
    return (n / 2 + ROWS) * (row_length<Layout>(n) + row_length<Layout>(m));
  }
  static std::size_t bytes(int64_t m, int64_t n) {
    const int64_t r = row_length<Layout>(n), c = row_length<Layout>(m);
    return sizeof(V) * (size_of_a(m, n) + 3 * r + ROWS * r + n * (c + r) + size_of_z(n) + size_of_pairs(m, n)) +
           sizeof(S) * (4 * n + 2 * n * RightVectors<Layout>::SWEEPS + n) + (9 * sizeof(P) + sizeof(int)) * n + 24 * 64;
  }
  Room(Arena &arena, int64_t m, int64_t n) {
    const int64_t r = row_length<Layout>(n), c = row_length<Layout>(m);
    a = arena.take<V>(size_of_a(m, n));
    w = arena.take<V>(r), u = arena.take<V>(r), next = arena.take<V>(r), few = arena.take<V>(ROWS * r);
    lefts = arena.take<V>(n * c), rights = arena.take<V>(n * r), z = arena.take<V>(size_of_z(n));
    pairs = arena.take<V>(size_of_pairs(m, n));
    left_factors = arena.take<S>(2 * n), right_factors = arena.take<S>(2 * n);
    turns = arena.take<S>(2 * n * RightVectors<Layout>::SWEEPS), shares = arena.take<S>(n);
    for (P **packs : {&d, &e, &off, &values, &q, &f, &other_q, &other_f, &squares})
      *packs = arena.take<P>(n);
    order = arena.take<int>(n);
  }
};

// Rotations from the right, in the order in which they were made, as many as there is room for.
template <class S> struct Rotations {
  S *at; // cosine and sine in turn
  int64_t used = 0;
  template <class P> void turn(int, P c, P s) {
    at[2 * used] = in_lanes<S>(c), at[2 * used + 1] = in_lanes<S>(s);
    used++;
  }
};

// Where the vectors of a few pairs are, as rows.
template <class Layout, class P> struct Pairs {
  using V = typename Layout::V;
  static constexpr int ROWS = Room<Layout, P>::ROWS;
  int64_t r, c;
  int whole; // rows of each, a multiple of ROWS
  V *right, *left;
  Pairs(const Room<Layout, P> &room, int m, int n, int count)
      : r(row_length<Layout>(n)), c(row_length<Layout>(m)), whole((count + ROWS - 1) / ROWS * ROWS), right(room.pairs),
        left(right + whole * r) {}
  void clear() const {
    for (int64_t e = 0; e < whole * (r + c); e++)
      right[e] = V{};
  }
};

// Whether few values of each matrix are above `level`, and their left singular vectors u were found: then how many,
// at most, else -1. The pairs are B^T u and u times its share; `sums` and `top` as in `lower`. room.values and room.off hold the bidiagonal matrices by their largest entry, `most`, and are used up.
template <class Layout, class P>
int few_pairs(const Room<Layout, P> &room, int m, int n, P most, P level, P &sums, P &top) {
  using S = typename Layout::Scalar;
  using T = typename Layout::T;
  constexpr int WIDE = 4, ATTEMPTS = 4, lanes = sizeof(P::v[0]) / sizeof(double);
  const P zero(0), one(1), near(16 * std::sqrt(Limits<T>::negligible));
  const auto reversed = magnitude(room.values[n - 1]) > magnitude(room.values[0]);
  for (int k = 0; k < n; k++) {
    const P x = select(reversed, room.values[n - 1 - k], room.values[k]);
    room.q[k] = larger(x * x, P(least_square));
    if (k + 1 < n) {
      const P y = select(reversed, room.off[n - 2 - k], room.off[k]);
      room.f[k] = y * y;
    }
  }
  if (!squared_values<P>(room.q, room.f, room.other_q, room.other_f, room.squares, n, Limits<T>::negligible, 8 * n + 20))
    return -1;
  P count(0);
  for (int k = 0; k < n; k++)
    count = count + select(most * root(room.squares[k]) > level, one, zero);
  int above = 0;
  for (const auto &part : count.v)
    for (int l = 0; l < lanes; l++)
      above = std::max(above, static_cast<int>(part[l]));
  if (4 * above > n)
    return -1;

  for (int k = 0; k < n / 2; k++)
    std::swap(room.values[k], room.values[n - 1 - k]);
  for (int k = 0; k < (n - 1) / 2; k++)
    std::swap(room.off[k], room.off[n - 2 - k]);
  Rotations<S> rotations{reinterpret_cast<S *>(room.z)};
  const int64_t most_rotations = Room<Layout, P>::size_of_z(n) * static_cast<int64_t>(sizeof(typename Layout::V)) /
                                 static_cast<int64_t>(2 * sizeof(S));
  int sweeps = 0;
  sums = top = zero;
  for (int p = 0; p < std::max(above, 1); p++) {
    P square(0);
    for (int k = 0; k < n; k++)
      square = larger(square, room.squares[k]);
    auto found = zero > one;
    for (int k = 0; k < n; k++) {
      const auto hit = (room.squares[k] == square) & !found;
      room.squares[k] = select(hit, P(-1), room.squares[k]);
      found = found | hit;
    }
    const P shift = root(square), value = most * shift;
    const auto inside = !(value > level);
    if (p == 0)
      top = value;
    if (p >= above)
      break;
    sums = sums + select(inside, zero, value - level);
    room.shares[p] = in_lanes<S>(select(inside, zero, one - level / select(inside, one, value)));
    const int high = n - 1 - p;
    auto good = inside;
    for (int attempt = 0; attempt < ATTEMPTS && high > 0; attempt++) {
      if (rotations.used + high > most_rotations)
        return -1;
      qr_sweep(room.values, room.off, high, shift, rotations);
      room.order[sweeps++] = high; // at most 4 n / 4
      good = inside | ((magnitude(room.off[high - 1]) <= near) & (magnitude(magnitude(room.values[high]) - shift) <= near));
      if (all(good))
        break;
    }
    if (!all(good))
      return -1;
  }
  const Pairs<Layout, P> pairs(room, m, n, above);
  pairs.clear();
  S *vectors = room.turns; // WIDE of them, interleaved
  for (int first = 0; first < above; first += WIDE) {
    for (int64_t i = 0; i < int64_t(WIDE) * n; i++)
      vectors[i] = S{};
    for (int w = 0; w < WIDE && first + w < above; w++)
      vectors[(n - 1 - first - w) * WIDE + w] = S{} + T(1);
    // Sweeps that came after a value was found do not reach its place.
    const S *at = rotations.at + 2 * rotations.used;
    for (int sweep = sweeps - 1; sweep >= 0; sweep--)
      for (int k = room.order[sweep] - 1; k >= 0; k--) {
        at -= 2;
        const S c = at[0], s = at[1];
        S *x = vectors + k * WIDE;
#pragma GCC unroll 4
        for (int w = 0; w < WIDE; w++) {
          const S y = x[w], z = x[WIDE + w];
          x[w] = c * y - s * z;
          x[WIDE + w] = s * y + c * z;
        }
      }
    for (int w = 0; w < WIDE && first + w < above; w++) {
      S before{};
      for (int i = 0; i < n; i++) {
        const S u = vectors[(n - 1 - i) * WIDE + w], image = in_lanes<S>(room.d[i]) * u + before;
        Layout::put(pairs.right + (first + w) * pairs.r, i, 0, image);
        Layout::put(pairs.left + (first + w) * pairs.c, i, 0, room.shares[first + w] * u);
        if (i + 1 < n)
          before = in_lanes<S>(room.e[i]) * u;
      }
    }
  }
  return above;
}

// The transposes of the sum of the first pairs, (left one by the left reflectors) (right one by the right ones)^H.
template <class Layout, class P>
void add_pairs(const Pairs<Layout, P> &pairs, const Reflectors<Layout> &lefts, const Reflectors<Layout> &rights, int n,
               int above, typename Layout::V *transpose) {
  using S = typename Layout::Scalar;
  using V = typename Layout::V;
  constexpr int ROWS = Pairs<Layout, P>::ROWS, WIDE = 4;
  const int64_t r = pairs.r, c = pairs.c;
  const int vectors_m = static_cast<int>(c / 2);
  V *right = pairs.right, *left = pairs.left;
  for (int p = 0; p < pairs.whole; p += ROWS) {
    reflect<Layout, ROWS>(right + p * r, r, static_cast<int>(r / 2), rights);
    reflect<Layout, ROWS>(left + p * c, c, vectors_m, lefts);
  }
  for (int j = 0; j < n; j++)
    for (int i = 0; i < vectors_m; i += WIDE) {
      V x[WIDE], y[WIDE];
      const int count = i + WIDE <= vectors_m ? WIDE : vectors_m - i;
#pragma GCC unroll 4
      for (int k = 0; k < WIDE; k++)
        x[k] = y[k] = V{};
      for (int p = 0; p < above; p++) {
        const S f = Layout::get(right + p * r, j, 0), g = Layout::get(right + p * r, j, 1);
        const V *from = left + p * c + 2 * i;
#pragma GCC unroll 4
        for (int k = 0; k < WIDE; k++) {
          if (k >= count)
            break;
          x[k] += f * from[2 * k] - g * from[2 * k + 1];
          y[k] += f * from[2 * k + 1] + g * from[2 * k];
        }
      }
      for (int k = 0; k < count; k++)
        transpose[j * c + 2 * (i + k)] = x[k], transpose[j * c + 2 * (i + k) + 1] = y[k];
    }
}

// The matrices in room.a, of largest entries near 1, to the transposes of what is left of them above
// `level`, in room.a with rows of m entries, the sums of the lowered values and the largest of all. Returns whether the
// iteration converged in all lanes; nothing is left where no value is above.
template <class Layout, class P, int UPDATED>
bool lower(const Room<Layout, P> &room, int m, int n, P level, int64_t max_sweeps, P &sums, P &top) {
  using S = typename Layout::Scalar;
  using V = typename Layout::V;
  using T = typename Layout::T;
  constexpr int ROWS = Room<Layout, P>::ROWS, LD = sizeof(P::v[0]) / sizeof(double);
  const int64_t r = row_length<Layout>(n), c = row_length<Layout>(m);
  const Reflectors<Layout> lefts{room.lefts, room.left_factors, c, n, 0};
  const Reflectors<Layout> rights{room.rights, room.right_factors, r, n - 1, 1};
  {
    const FlushSubnormals flush;
    const Column<P, LD> d{room.d, 0}, e{room.e, 0};
    reduce<Layout, true, UPDATED>(room.a, m, n, static_cast<int>(r), {room.w, room.u, room.next}, d, e,
                                  KeepReflectors<Layout>{lefts, rights, m, static_cast<int>(r)});
  }
  P most(0);
  const P zero(0);
  for (int k = 0; k < n; k++)
    most = larger(most, larger(magnitude(room.d[k]), k + 1 < n ? magnitude(room.e[k]) : zero));
  const auto finite = most <= P(std::numeric_limits<double>::max());
  const P inverse = select(finite & (most > zero), P(1) / most, zero);
  for (int k = 0; k < n; k++) {
    room.values[k] = select(finite, room.d[k], zero) * inverse;
    room.off[k] = k + 1 < n ? select(finite, room.e[k], zero) * inverse : zero;
  }
  // What is not known is NaN, in the sums as well.
  const P unknown = select(finite, zero, P(std::numeric_limits<double>::quiet_NaN()));
  {
    const FlushSubnormals flush;
    const int few = few_pairs<Layout, P>(room, m, n, select(finite, most, zero), level, sums, top);
    if (few > 0)
      add_pairs(Pairs<Layout, P>(room, m, n, few), lefts, rights, n, few, room.a);
    if (few >= 0) {
      sums = sums + unknown, top = top + unknown;
      return true;
    }
    for (int k = 0; k < n; k++) {
      room.values[k] = select(finite, room.d[k], zero) * inverse;
      room.off[k] = k + 1 < n ? select(finite, room.e[k], zero) * inverse : zero;
    }
  }
  RightVectors<Layout> vectors(room.z, room.turns, n);
  bool done;
  {
    const FlushSubnormals flush;
    done = implicit_qr<P>(room.values, room.off, n, std::sqrt(Limits<T>::negligible), max_sweeps,
                          Collect<RightVectors<Layout>>{&vectors});
  }
  vectors.apply();
  sums = top = unknown;
  int above = 0;
  for (int k = 0; k < n; k++) {
    const P value = most * magnitude(room.values[k]);
    top = larger(top, value);
    const auto over = value > level;
    const P share = select(over, P(1) - level / select(over, value, P(1)), zero);
    sums = sums + select(over, value - level, zero);
    if (all(!over))
      continue;
    room.order[above] = k;
    room.shares[above++] = in_lanes<S>(share);
  }
  if (!done || above == 0)
    return done;

  const FlushSubnormals flush;
  if (2 * above <= n) {
    const Pairs<Layout, P> pairs(room, m, n, above);
    pairs.clear();
    for (int p = 0; p < above; p++)
      for (int i = 0; i < n; i++) {
        const S z = vectors.entry(room.order[p], i);
        S image = in_lanes<S>(room.d[i]) * z;
        if (i + 1 < n)
          image += in_lanes<S>(room.e[i]) * vectors.entry(room.order[p], i + 1);
        Layout::put(pairs.right + p * r, i, 0, z), Layout::put(pairs.left + p * c, i, 0, room.shares[p] * image);
      }
    add_pairs(pairs, lefts, rights, n, above, room.a);
    return true;
  }
  const int vectors_n = static_cast<int>(r / 2), vectors_m = static_cast<int>(c / 2);
  V *transpose = room.a;
  for (int64_t e = 0; e < (n + ROWS) * c; e++)
    transpose[e] = V{};
  for (int first = 0; first < n; first += ROWS) {
    const int count = first + ROWS <= n ? ROWS : n - first;
    V *few = room.few;
    // Rows of B (Z D Z^T), which are d_i and e_i times rows i and i + 1 of the bracket; real.
    for (int64_t e = 0; e < ROWS * r; e++)
      few[e] = V{};
    S factors[ROWS][2];
    for (int k = 0; k < count; k++) {
      factors[k][0] = in_lanes<S>(room.d[first + k]);
      factors[k][1] = first + k + 1 < n ? in_lanes<S>(room.e[first + k]) : S{};
    }
    for (int block = 0; block < vectors.blocks; block++) {
      constexpr int WIDE = RightVectors<Layout>::WIDE;
      V sum[ROWS][WIDE];
#pragma GCC unroll 4
      for (int k = 0; k < ROWS; k++)
#pragma GCC unroll 4
        for (int j = 0; j < WIDE; j++)
          sum[k][j] = V{};
      for (int p = 0; p < above; p++) {
        const V *from = room.z + (int64_t(block) * n + room.order[p]) * WIDE;
        S before = room.shares[p] * vectors.entry(room.order[p], first);
#pragma GCC unroll 4
        for (int k = 0; k < ROWS; k++) {
          if (k >= count)
            break;
          const S after = first + k + 1 < n ? room.shares[p] * vectors.entry(room.order[p], first + k + 1) : S{};
          const S weight = factors[k][0] * before + factors[k][1] * after;
          before = after;
#pragma GCC unroll 4
          for (int j = 0; j < WIDE; j++)
            sum[k][j] += weight * from[j];
        }
      }
      for (int k = 0; k < count; k++)
        for (int j = 0; j < WIDE && block * WIDE + j < vectors_n; j++)
          few[k * r + 2 * (block * WIDE + j)] = sum[k][j];
    }
    reflect<Layout, ROWS>(few, r, vectors_n, rights);
    for (int k = 0; k < count; k++)
      for (int j = 0; j < n; j++)
        for (int part = 0; part < 2; part++)
          Layout::put(transpose + j * c, first + k, part, Layout::get(few + k * r, j, part));
  }
  for (int j = 0; j < n; j += ROWS) // beyond the last row there are zeros
    reflect<Layout, ROWS>(transpose + j * c, c, vectors_m, lefts);
  return true;
}

template <class T> void write_entry(const Problem<T> &p, T *block, int64_t i, int64_t j, T x, T y) {
  T *to = block + 2 * (p.source.blocks ? (p.source.transposed ? j * p.rows + i : i * p.columns + j)
                                       : (p.source.stacked ? j * p.rows + i : i * p.columns + j));
  to[0] = x, to[1] = y;
}

// What one group of matrices became, from the transposes in room.a, entry by entry where `lane` says.
template <class T, class Layout, class P>
void write_lowered(const Problem<T> &p, const Lowering<T> &to, const Room<Layout, P> &room, int64_t place, int lane,
                   bool done, double sum, double top, T factor) {
  const int64_t m = p.rows, n = p.columns, c = row_length<Layout>(m);
  const double unknown = std::numeric_limits<double>::quiet_NaN(), back = 1 / static_cast<double>(factor);
  to.facts[2 * place] = done ? sum * back : unknown;
  to.facts[2 * place + 1] = done ? top * back : unknown;
  T *block = to.blocks + 2 * place * m * n;
  if (!done || !(sum > 0)) {
    for (int64_t e = 0; e < 2 * m * n; e++)
      block[e] = 0;
    return;
  }
  const T scale = 1 / factor;
  const auto entry = [&](int64_t i, int64_t j, int part) {
    const auto x = Layout::get(room.a + j * c, static_cast<int>(i), part);
    if constexpr (Layout::per_vector == 1)
      return scale * x[lane];
    else
      return scale * x;
  };
  for (int64_t j = 0; j < n; j++)
    for (int64_t i = 0; i < m; i++)
      write_entry(p, block, i, j, entry(i, j, 0), entry(i, j, 1));
}

// Lowered matrices of a batch; the facts of those that did not converge are NaN, and their entries zero.
template <class T, int BYTES, int ROWS> void lowered(const Problem<T> &p, const Lowering<T> &to) {
  constexpr int L = BYTES / sizeof(T), LD = BYTES / sizeof(double);
  using V = Vector<T, L>;
  using Wide = Pack<double, LD, L / LD>;
  using Single = Pack<double, 1, 1>;
  using Each = Room<AcrossMatrices<T, L>, Wide>;
  using One = Room<AcrossColumns<T, L>, Single>;
  static thread_local Arena arena;
  const int64_t m = p.rows, n = p.columns, phases = 2 * p.source.taps_in_all(), part = p.source.part_columns;
  // As in `solve`, measured: the vectors take longer than the reduction, and gain more by lanes.
  const bool fits = m * n <= 40'000;
  const int64_t worthwhile = p.layout == 1 ? 0 : p.layout == 2 || !fits ? L : int64_t(L / (1 + 170.0 / n));
  arena.reserve(std::max(Each::bytes(m, n), One::bytes(m, n)) + sizeof(V) * phases + 2 * sizeof(T) * part + Arena::slack);
  const Runs<T> runs(p);
  for (int64_t run = 0; run < runs.count; run++)
    for (int64_t first = 0; first < runs.length;) {
      arena.rewind();
      if (worthwhile < L && runs.length - first > worthwhile) {
        using Form = MatrixALane<T, L>;
        V *turns = arena.take<V>(phases);
        const Each room(arena, m, n);
        Form::fill(p, run, first, runs.length, room.a, turns);
        const V factor = Form::rescale(room.a, m * 2 * n);
        Wide level, sums, tops;
        for (int l = 0; l < L; l++)
          level.v[l / LD][l % LD] = static_cast<double>(to.level) * factor[l];
        const bool done =
            lower<AcrossMatrices<T, L>, Wide, ROWS>(room, int(m), int(n), level, p.max_sweeps, sums, tops);
        for (int l = 0; l < L && first + l < runs.length; l++)
          write_lowered(p, to, room, to.place(p, run, first + l), l, done, sums.v[l / LD][l % LD],
                        tops.v[l / LD][l % LD], factor[l]);
        first += L;
      } else {
        using Form = RowAcrossLanes<T, L>;
        T *row_r = arena.take<T>(part), *row_i = arena.take<T>(part);
        const One room(arena, m, n);
        Form::fill(p, run, first, room.a, row_r, row_i);
        const T factor = Form::rescale(room.a, m * Form::stride(p));
        Single sums, tops;
        const Single level(static_cast<double>(to.level) * factor);
        const bool done =
            lower<AcrossColumns<T, L>, Single, ROWS>(room, int(m), int(n), level, p.max_sweeps, sums, tops);
        write_lowered(p, to, room, to.place(p, run, first), 0, done, sums.v[0][0], tops.v[0][0], factor);
        first++;
      }
    }
}

} // namespace
