/* SPDX-License-Identifier: MIT
 * k-means: sums for means, bounds of Yinyang k-means, potentials of k-means++. A contract per kernel; kmeans/scalar.inc
 * is its specification. */
#ifndef FPQ_KMEANS_KERNELS_H
#define FPQ_KMEANS_KERNELS_H

#include "fpq.h"
#include "portable.h"

/* How distances of one subspace are quantized to 16 bits: kmeans/quantized_distance.h. */
typedef struct {
    float radius;             /* squared: every centroid's squared norm is at most this */
    float steps_per_distance; /* quantized distance = distance times steps_per_distance */
} fpq_bound_scale;

#define FPQ_KMEANS_KERNELS(X)                                                                                          \
    /* The group filter of Yinyang k-means (kmeans/yinyang.h). For each row: its squared norm, its squared distance to \
     * its assigned centroid, and in groups_to_search a bit for each group whose bound does not prove that all its     \
     * other centroids are farther. `groups` is a multiple of 16, at most 64. */                                       \
    X(void, yinyang_filter,                                                                                            \
      (const float *x, ptrdiff_t ldx, int n, int d, const fpq_bound_scale *bound_scale, const float *centroids,        \
       const int32_t *id, const uint16_t *bounds, const uint16_t *drift, int groups, float *square, float *error,      \
       uint64_t *groups_to_search))                                                                                    \
    /* Writes the bounds of 16 groups for the n listed rows r, bounds[r * ld .. + 15], from the largest score of each  \
     * group, lane_max[r * 16 .. + 15], where searched[r] has a bit for the group. max_other[r] is raised to the       \
     * largest of all 16 scores. */                                                                                    \
    X(void, yinyang_update,                                                                                            \
      (const float *lane_max, const uint8_t *rows, int n, int d, const fpq_bound_scale *bound_scale,                   \
       const float *square, const uint16_t *searched, const uint16_t *drift, uint16_t *bounds, ptrdiff_t ld,           \
       float *max_other))                                                                                              \
    /* sum[id[i]][:] += x[i][:] - centroids[id[i]][:], count[id[i]] += 1; centroids and sums are d numbers apart. */   \
    X(void, accumulate,                                                                                                \
      (const float *x, ptrdiff_t ldx, int n, int d, const float *centroids, const int32_t *id, float *sum,             \
       int32_t *count))                                                                                                \
    /* The k-means++ potential, the sum of squared distances to the nearest centroid, for each of 16 candidates:       \
     * potential[t] = sum over i < n of min(min_distance[i], distance[i][t]), distance (n, 16). First, unless          \
     * chosen < 0, candidate `chosen` becomes a centroid: min_distance[i] = min(min_distance[i],                       \
     * distance[i][chosen]). */                                                                                        \
    X(void, kmeanspp_potential, (const float *distance, int n, int chosen, float *min_distance, float *potential))

#endif
