/* SPDX-License-Identifier: MIT */
#include "isa/kernels.h"
#include "portable.h"

#if defined(FPQ_X86)
#define FPQ_ISA avx512
#define FPQ_VBMI
#define FPQ_VNNI
#include "isa/vec_avx512.h"
#include "isa/vector.inc"
#endif
