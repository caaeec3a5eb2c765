#include "isa.h"

CONVSPECTRA_KERNELS(avx512, 64, 4, 2)
