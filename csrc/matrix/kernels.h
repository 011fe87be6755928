/* SPDX-License-Identifier: MIT
 * Reading and checking of matrices. A contract per kernel; matrix/scalar.inc is its specification. */
#ifndef FPQ_MATRIX_KERNELS_H
#define FPQ_MATRIX_KERNELS_H

#include "fpq.h"
#include "portable.h"

#define FPQ_MATRIX_KERNELS(X)                                                                                        \
    /* out[i] = float32(x[row i][from:to]) - offset, n rows; row i is rows[first + i], or first + i if rows is NULL; \
     * offset (to - from numbers) may be NULL. */                                                                    \
    X(void, read_rows,                                                                                               \
      (const fpq_matrix *x, const int64_t *rows, int64_t first, int n, int from, int to, const float *offset,        \
       float *out))                                                                                                  \
    /* 1 if any of the n numbers is NaN or infinite. */                                                              \
    X(int, has_nonfinite, (const float *x, ptrdiff_t n))

#endif
