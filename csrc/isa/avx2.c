/* SPDX-License-Identifier: MIT */
#include "isa/kernels.h"
#include "portable.h"

#if defined(FPQ_X86)
#define FPQ_ISA avx2
#include "isa/vec_avx2.h"
#include "isa/vector.inc"
#endif
