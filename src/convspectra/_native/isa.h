// The table of one instruction set. Each isa_*.cpp is this, compiled for another one.
#include "gram.h"
#include "largest.h"
#include "threshold.h"

// bytes: of a vector. pack: vectors in flight in the bidiagonal iteration. rows: updated together.
#define CONVSPECTRA_KERNELS(name, bytes, pack, rows)                                                         \
  namespace convspectra {                                                                                    \
  const Kernels *kernels_##name() {                                                                          \
    static const Kernels kernels = {                                                                         \
        #name,                                                                                               \
        bytes / 4,                                                                                           \
        bytes / 8,                                                                                           \
        [](const Problem<float> &p) { return solve<float, bytes, pack, rows>(p); },                  \
        [](const Problem<double> &p) { return solve<double, bytes, pack, rows>(p); },                \
        [](const Problem<float> &p, float floor) { return largest<float, bytes, pack, rows>(p, floor); },    \
        [](const Problem<double> &p, double floor) { return largest<double, bytes, pack, rows>(p, floor); }, \
        [](const Problem<float> &p, const Lowering<float> &to) { lowered<float, bytes, rows>(p, to); },      \
        [](const Problem<double> &p, const Lowering<double> &to) { lowered<double, bytes, rows>(p, to); },   \
        test_gram<bytes>,                                                                                    \
    };                                                                                                       \
    return &kernels;                                                                                         \
  }                                                                                                          \
  }
