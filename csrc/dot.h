/* SPDX-License-Identifier: MIT
 * An inner product and a squared distance in double precision. The order of their sums is fixed, so every compiler and
 * instruction set gives the same bits. Squares and products of floats neither overflow nor underflow in doubles. */
#ifndef FPQ_DOT_H
#define FPQ_DOT_H

#include "portable.h"

FPQ_INLINE double fpq_dot(const float *a, const float *b, int d) {
    double sum[4] = {0, 0, 0, 0};
    for (int t = 0; t < d; t++) sum[t % 4] += (double)a[t] * (double)b[t];
    return sum[0] + sum[1] + (sum[2] + sum[3]);
}

FPQ_INLINE double fpq_squared_distance(const float *a, const float *b, int d) {
    double sum[4] = {0, 0, 0, 0};
    for (int t = 0; t < d; t++) {
        const double difference = (double)a[t] - (double)b[t];
        sum[t % 4] += difference * difference;
    }
    return sum[0] + sum[1] + (sum[2] + sum[3]);
}

#endif
