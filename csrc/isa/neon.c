/* SPDX-License-Identifier: MIT */
#include "isa/kernels.h"
#include "portable.h"

#if defined(FPQ_ARM64)
#define FPQ_ISA neon
#include "isa/vec_neon.h"
#include "isa/vector.inc"
#endif
