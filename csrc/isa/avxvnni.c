/* SPDX-License-Identifier: MIT */
#include "isa/kernels.h"
#include "portable.h"

#if defined(FPQ_X86)
#define FPQ_ISA avxvnni
#define FPQ_VNNI
#include "isa/vec_avx2.h"
#include "isa/vector.inc"
#endif
