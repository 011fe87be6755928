/* SPDX-License-Identifier: MIT
 * The kernels: one line each. Every instruction set fills one complete table of them. Kernels run on one thread,
 * allocate nothing and check nothing; isa/scalar.c is their specification.
 *
 * Words used below
 *   block    16 columns (centroids, queries, ...), the unit of packing, the same for every instruction set
 *   packed   columns laid out [block][d][16], padded with zeros; on a 64-byte boundary (fpq_pack)
 *   bias     one number a column, padded with -inf
 */
#ifndef FPQ_ISA_KERNELS_H
#define FPQ_ISA_KERNELS_H

#include "fpq.h"
#include "isa/list.h"
#include "portable.h"

#define FPQ_COLUMN_BLOCK 16
#define FPQ_COLUMN_BLOCKS(k) (((k) + FPQ_COLUMN_BLOCK - 1) / FPQ_COLUMN_BLOCK)

#include "matrix/kernels.h"
#include "metric/kernels.h"
#include "assign/kernels.h"
#include "kmeans/kernels.h"
#include "lut/kernels.h"
#include "scan/kernels.h"
#include "exact/kernels.h"
#include "lsh/kernels.h"
#include "refine/kernels.h"
#include "maxsim/kernels.h"
#include "minhash/kernels.h"

#define FPQ_KERNELS(X)    \
    FPQ_MATRIX_KERNELS(X) \
    FPQ_METRIC_KERNELS(X) \
    FPQ_ASSIGN_KERNELS(X) \
    FPQ_KMEANS_KERNELS(X) \
    FPQ_LUT_KERNELS(X)    \
    FPQ_SCAN_KERNELS(X)   \
    FPQ_EXACT_KERNELS(X)  \
    FPQ_LSH_KERNELS(X)    \
    FPQ_REFINE_KERNELS(X) \
    FPQ_MAXSIM_KERNELS(X) \
    FPQ_MINHASH_KERNELS(X)

#define FPQ_MEMBER(type, name, args) type(*name) args;
typedef struct {
    const char *isa;
#ifdef FPQ_SELFTEST
    const char *(*check_words)(uint64_t seed); /* isa/selftest.inc; NULL: scalar */
#endif
    int fast_prune;                           /* whether prune_lut4 and prune_lut8 are faster than adc */
    int code_groups;                          /* entries of prune_lut8's tables */
    int prunes_by_pairs;                      /* whether tables of code_groups / 2 entries are worth a first pass */
    int fast_int8;                            /* whether products of bytes are faster than those of floats */
    int int8_offset;                          /* of the rows of project_int8 and max_other_int8: 64 or 128 */
    fpq_metric_kernels metric[FPQ_N_METRICS]; /* by fpq_metric */
    FPQ_KERNELS(FPQ_MEMBER)
} fpq_kernels;

#define FPQ_EXTERN(name, condition) extern const fpq_kernels fpq_kernels_##name;
FPQ_ISAS(FPQ_EXTERN)

/* The table in use. Take it once before a loop. */
const fpq_kernels *fpq_active(void);

#endif
