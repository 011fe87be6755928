/* SPDX-License-Identifier: MIT
 * k-means: means, bounds, starting centroids. A contract per kernel; kmeans/scalar.inc is its specification. */
#ifndef FPQ_KMEANS_KERNELS_H
#define FPQ_KMEANS_KERNELS_H

#include "fpq.h"
#include "portable.h"

/* How bounds of distances are counted. */
typedef struct {
    float radius;   /* squared: no centroid is farther from the origin */
    float per_unit; /* times a distance: units */
} fpq_bound_scale;

#define FPQ_KMEANS_KERNELS(X)                                                                                          \
    /* Bounds of k-means (kmeans/yinyang.h). Of each row: squared norm, squared distance to its own centroid, and a    \
     * bit for each group whose bound does not tell that all its other centroids are farther. */                       \
    X(void, yinyang_filter,                                                                                            \
      (const float *x, ptrdiff_t ldx, int n, int d, const fpq_bound_scale *bound_scale, const float *centroids,        \
       const int32_t *id, const uint16_t *bounds, const uint16_t *drift, int groups, float *square, float *error,      \
       uint64_t *doubts))                                                                                              \
    /* The new bounds of 16 groups of the n listed rows r, of which lanes[r * 16 .. + 15] are the largest products:    \
     * those with a bit in searched[r]; most[r] is raised to the largest of them. bounds[r * ld .. + 15]. */           \
    X(void, yinyang_update,                                                                                            \
      (const float *lanes, const uint8_t *rows, int n, int d, const fpq_bound_scale *bound_scale, const float *square, \
       const uint16_t *searched, const uint16_t *drift, uint16_t *bounds, ptrdiff_t ld, float *most))                  \
    /* sum[id[i]][:] += x[i][:] - centroids[id[i]][:], count[id[i]] += 1; centroids and sums are d numbers apart. */   \
    X(void, accumulate,                                                                                                \
      (const float *x, ptrdiff_t ldx, int n, int d, const float *centroids, const int32_t *id, float *sum,             \
       int32_t *count))                                                                                                \
    /* left[i] = min(left[i], distance[i][keep]) unless keep < 0, then sum[t] = sum over i < n of min(left[i],         \
     * distance[i][t]); distance (n, 16). */                                                                           \
    X(void, kmeanspp_potential, (const float *distance, int n, int keep, float *left, float *sum))

#endif
