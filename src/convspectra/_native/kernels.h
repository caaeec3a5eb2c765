// What one build of the solver, for one instruction set, offers to the dispatcher.
#pragma once

#include <cstddef>
#include <cstdint>

namespace convspectra {

// Where the matrices of a batch come from. Matrix `b` of the batch belongs to frequency
// `b % frequencies` and group `b / frequencies`, and is rows x columns with rows >= columns.
template <class T> struct Source {
  // Given matrices, complex, one after the other, each row by row; or null.
  const T *blocks = nullptr;
  // Given as read or with rows and columns exchanged (the singular values are the same).
  bool transposed = false;
  // Otherwise the symbol: `classes` blocks side by side (one below the other if `stacked`), each
  // part_rows x part_columns, the sum over its taps of tap times phase.
  // taps: for each class in turn (taps of the class, groups, part_rows, part_columns).
  const T *taps = nullptr;
  // phases: (taps of all classes, frequencies, 2), cosine and sine.
  const double *phases = nullptr;
  const int64_t *taps_of_class = nullptr;
  int64_t classes = 0, groups = 1, part_rows = 0, part_columns = 0;
  bool stacked = false;
  int64_t frequencies = 0;

  int64_t total_taps() const {
    int64_t count = 0;
    for (int64_t c = 0; c < classes; c++)
      count += taps_of_class[c];
    return count;
  }
};

template <class T> struct Problem {
  Source<T> source;
  int64_t batch = 0, rows = 0, columns = 0; // rows >= columns >= 1
  T *values = nullptr;                      // (batch, columns), descending
  int64_t max_sweeps = 0;                   // of the bidiagonal iteration; then bisection takes over
  int64_t layout = 0;                       // 0 chosen by size, 1 a matrix a lane, 2 a row across the lanes
};

// A singular value, and the matrix of the batch that has it, or -1.
template <class T> struct Largest {
  T value;
  int64_t matrix;
};

// The largest singular value of the batch if it exceeds `floor`.
template <class T> using FindLargest = Largest<T> (*)(const Problem<T> &, T floor);

// What becomes of matrices whose singular values are lowered by `level`.
template <class T> struct Lowering {
  T level = 0;
  // (frequencies, groups, rows, columns) complex, as the source has them.
  T *blocks = nullptr;
  // (frequencies, groups, 2): the sum of the lowered values, the largest of all; NaN: not found.
  double *stats = nullptr;

  int64_t place(const Problem<T> &p, int64_t run, int64_t index) const {
    return p.source.blocks ? index : index * p.source.groups + run;
  }
};
template <class T> using Lower = void (*)(const Problem<T> &, const Lowering<T> &);

// Returns how many matrices bisection had to finish.
template <class T> using Solve = int64_t (*)(const Problem<T> &);

// Gram matrices at the centres of cells; those of a group follow each other.
struct GramTest {
  const double *coefficients = nullptr; // (groups, side (side + 1) / 2, 1 + 2 waves): of 1, then of each cosine and sine
  const double *phases = nullptr;       // (cells, waves, 2): cosine and sine
  const int64_t *first_cells = nullptr; // (groups + 1)
  int64_t groups = 0, side = 0, waves = 0; // side a multiple of 4
  int64_t steps = 0;                       // of the power iteration
  double level = 0;
  double *quotients = nullptr; // (cells): a lower bound of the largest eigenvalue
  uint8_t *below = nullptr;    // (cells): whether the factorisation shows that no eigenvalue exceeds the level
  double *vectors = nullptr;   // (cells, side, 2): complex, where the power iteration starts, then where it ended
};
using TestGram = void (*)(const GramTest &);

struct Kernels {
  const char *name;
  int lanes_f32, lanes_f64;
  Solve<float> solve_f32;
  Solve<double> solve_f64;
  FindLargest<float> largest_f32;
  FindLargest<double> largest_f64;
  Lower<float> lower_f32;
  Lower<double> lower_f64;
  TestGram test_gram;
};

const Kernels *kernels_baseline();
const Kernels *kernels_avx2();
const Kernels *kernels_avx512();

} // namespace convspectra
