#include "isa.h"

CONVSPECTRA_KERNELS(avx2, 32, 4, 2)
