#include "isa.h"

CONVSPECTRA_KERNELS(baseline, 16, 4, 1)
