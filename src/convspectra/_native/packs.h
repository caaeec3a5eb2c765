// Vectors of T, and packs of several vectors that hide each other's latency.
//
// Everything is in an unnamed namespace: each instruction set compiles its own copy, and no function of
// one can be linked in place of another's.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#ifdef __SSE__
#include <immintrin.h>
#endif

namespace {

// While it lives, results too small for a normal number become zero, where the processor can do that:
// in matrices scaled to about 1 they mean nothing, and computing with them is many times slower.
class [[maybe_unused]] FlushSubnormals {
#ifdef __SSE__
public:
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8000); }
  ~FlushSubnormals() { _mm_setcsr(before_); }

private:
  unsigned before_;
#endif
};

template <class T, int L> struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * L), may_alias));
};
template <class T, int L> using Vector = typename VectorOf<T, L>::type;

template <class T, int L> inline Vector<T, L> root(Vector<T, L> x) {
  Vector<T, L> y;
  for (int l = 0; l < L; l++)
    y[l] = std::sqrt(x[l]);
  return y;
}

// The sum of the entries, half to half.
template <class T, int L> inline T sum(Vector<T, L> x) {
  if constexpr (L == 1)
    return x[0];
  else {
    const auto *halves = reinterpret_cast<const Vector<T, L / 2> *>(&x);
    return sum<T, L / 2>(halves[0] + halves[1]);
  }
}

template <class V> inline V magnitude(V x) { return x < 0 ? -x : x; }
template <class V> inline V smaller(V x, V y) { return x < y ? x : y; }

// G vectors, with the arithmetic of one.
template <class T, int L, int G> struct Pack {
  using V = Vector<T, L>;
  V v[G];
  Pack() = default;
  Pack(T x) {
    for (int g = 0; g < G; g++)
      v[g] = V{} + x;
  }
};

#define CONVSPECTRA_EACH _Pragma("GCC unroll 8") for (int g = 0; g < G; g++)
#define CONVSPECTRA_ARITHMETIC(op)                                                                           \
  template <class T, int L, int G> inline Pack<T, L, G> operator op(Pack<T, L, G> a, Pack<T, L, G> b) {      \
    Pack<T, L, G> r;                                                                                         \
    CONVSPECTRA_EACH r.v[g] = a.v[g] op b.v[g];                                                              \
    return r;                                                                                                \
  }
CONVSPECTRA_ARITHMETIC(+)
CONVSPECTRA_ARITHMETIC(-)
CONVSPECTRA_ARITHMETIC(*)
CONVSPECTRA_ARITHMETIC(/)
#undef CONVSPECTRA_ARITHMETIC

// Truth values: all bits set or none, as the compiler's vector comparisons give them.
template <class T, int L, int G> struct Mask {
  using M = decltype(Vector<T, L>{} < Vector<T, L>{});
  M m[G];
};
#define CONVSPECTRA_COMPARISON(op)                                                                           \
  template <class T, int L, int G> inline Mask<T, L, G> operator op(Pack<T, L, G> a, Pack<T, L, G> b) {      \
    Mask<T, L, G> r;                                                                                         \
    CONVSPECTRA_EACH r.m[g] = a.v[g] op b.v[g];                                                              \
    return r;                                                                                                \
  }
CONVSPECTRA_COMPARISON(<=)
CONVSPECTRA_COMPARISON(>=)
CONVSPECTRA_COMPARISON(==)
CONVSPECTRA_COMPARISON(>)
#undef CONVSPECTRA_COMPARISON
#define CONVSPECTRA_LOGIC(op)                                                                                \
  template <class T, int L, int G> inline Mask<T, L, G> operator op(Mask<T, L, G> a, Mask<T, L, G> b) {      \
    Mask<T, L, G> r;                                                                                         \
    CONVSPECTRA_EACH r.m[g] = a.m[g] op b.m[g];                                                              \
    return r;                                                                                                \
  }
CONVSPECTRA_LOGIC(|)
CONVSPECTRA_LOGIC(&)
#undef CONVSPECTRA_LOGIC
template <class T, int L, int G>
inline Pack<T, L, G> select(Mask<T, L, G> a, Pack<T, L, G> x, Pack<T, L, G> y) {
  Pack<T, L, G> r;
  CONVSPECTRA_EACH r.v[g] = a.m[g] ? x.v[g] : y.v[g];
  return r;
}
template <class T, int L, int G> inline bool all(Mask<T, L, G> a) {
  auto both = a.m[0];
  for (int g = 1; g < G; g++)
    both &= a.m[g];
  int64_t yes = 1;
  for (int l = 0; l < L; l++)
    yes &= both[l] != 0;
  return yes != 0;
}
template <class T, int L, int G> inline Pack<T, L, G> root(Pack<T, L, G> x) {
  CONVSPECTRA_EACH x.v[g] = root<T, L>(x.v[g]);
  return x;
}
template <class T, int L, int G> inline Pack<T, L, G> magnitude(Pack<T, L, G> x) {
  CONVSPECTRA_EACH x.v[g] = magnitude(x.v[g]);
  return x;
}
template <class T, int L, int G> inline Pack<T, L, G> smaller(Pack<T, L, G> x, Pack<T, L, G> y) {
  CONVSPECTRA_EACH x.v[g] = smaller(x.v[g], y.v[g]);
  return x;
}
template <class T, int L, int G> inline Mask<T, L, G> operator!(Mask<T, L, G> a) {
  CONVSPECTRA_EACH a.m[g] = ~a.m[g];
  return a;
}
// 1 / x to a few units in the last place, for normal x.
template <class T, int L, int G> inline Pack<T, L, G> reciprocal(Pack<T, L, G> x) {
#ifdef __AVX512F__
  if constexpr (sizeof(T) == 8 && L == 8) {
    // Divisions leave the multipliers idle: an estimate of 14 bits and two Newton steps instead.
    CONVSPECTRA_EACH {
      Vector<T, L> y = _mm512_maskz_rcp14_pd(0xff, x.v[g]); // unmasked, GCC 12 warns of its undefined operand
      y += y * (T(1) - x.v[g] * y);
      y += y * (T(1) - x.v[g] * y);
      x.v[g] = y;
    }
    return x;
  }
#endif
  return Pack<T, L, G>(T(1)) / x;
}
// A NaN in either argument wins.
template <class T, int L, int G> inline Pack<T, L, G> larger(Pack<T, L, G> x, Pack<T, L, G> y) {
  CONVSPECTRA_EACH x.v[g] = x.v[g] >= y.v[g] ? x.v[g] : y.v[g] >= x.v[g] ? y.v[g] : x.v[g] + y.v[g];
  return x;
}

} // namespace
