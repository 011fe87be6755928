/* SPDX-License-Identifier: MIT
 * The specification of every kernel, in plain C. The other instruction sets are tested against it. */
#include <math.h>
#include <string.h>

#include "isa/kernels.h"
#include "portable.h"

#define FPQ_ISA scalar
#define FPQ_CHECK_WORDS NULL
#define FPQ_FAST_PRUNE 0
#define FPQ_CODE_GROUPS 256
#define FPQ_PRUNES_BY_PAIRS 0
#define FPQ_FAST_INT8 0
#define FPQ_INT8_OFFSET 128
#include "matrix/plain.inc"
#include "metric/scalar.inc"
#include "exact/scalar.inc"
#include "assign/plain.inc"
#include "assign/scalar.inc"
#include "kmeans/scalar.inc"
#include "kmeans/plain.inc"
#include "lut/plain.inc"
#include "lut/scalar.inc"
#include "scan/plain.inc"
#include "scan/scalar.inc"
#include "lsh/plain.inc"
#include "lsh/scalar.inc"
#include "refine/scalar.inc"
#include "maxsim/scalar.inc"
#include "minhash/plain.inc"
#include "minhash/scalar.inc"
#include "isa/table.inc"
