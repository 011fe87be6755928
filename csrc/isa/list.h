/* SPDX-License-Identifier: MIT
 * The instruction sets. To add one: a line here and in flags.txt, isa/NAME.c, isa/vec_NAME.h or words that differ in
 * the vec_*.h of another one, and in cpu.c the detection of a CPU feature that is new. */
#ifndef FPQ_ISA_LIST_H
#define FPQ_ISA_LIST_H

#include "portable.h"

/* What cpu.c detects. vbmi and vnni are those of AVX-512, avxvnni is VNNI for CPUs without AVX-512. */
#define FPQ_FEATURES(X) X(avx2) X(avxvnni) X(avx512) X(vbmi) X(vnni) X(neon)

#define FPQ_FEATURE_MEMBER(name) int name;
typedef struct {
    FPQ_FEATURES(FPQ_FEATURE_MEMBER)
} fpq_features;

/* Name and condition of what this processor family has, slowest first. */
#if defined(FPQ_X86)
#define FPQ_ISAS(X) X(scalar, 1) X(avx2, f->avx2) FPQ_AVXVNNI(X) X(avx512bw, f->avx512) X(avx512, f->vbmi && f->vnni)
#ifdef FPQ_NO_AVXVNNI /* the compiler does not know it */
#define FPQ_AVXVNNI(X)
#else
#define FPQ_AVXVNNI(X) X(avxvnni, f->avxvnni)
#endif
#elif defined(FPQ_ARM64)
#define FPQ_ISAS(X) X(scalar, 1) X(neon, f->neon)
#else
#define FPQ_ISAS(X) X(scalar, 1)
#endif

#endif
