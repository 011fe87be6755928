/* SPDX-License-Identifier: MIT */
#include "isa/kernels.h"
#include "portable.h"

#if defined(FPQ_X86)
#define FPQ_ISA avx512
#define FPQ_VNNI
#include "isa/vec_avx512.h"
#define FPQ_OWN_PRUNE_LUT8
#include "scan/vbmi.inc"
#include "isa/vector.inc"
#endif
