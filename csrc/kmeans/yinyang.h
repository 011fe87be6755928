/* SPDX-License-Identifier: MIT
 * Assignment by lower bounds, for the iterations of k-means after the first (Yinyang k-means, Ding et al., ICML 2015).
 *
 * Filter. The centroids of a subspace are divided into groups. For each row and group, a lower bound holds for the
 * distances from the row to the centroids of the group, without its assigned centroid. By the triangle inequality, the
 * bound decreases by at most the largest movement of a centroid of the group (Elkan 2003 has one bound per centroid). A
 * group whose bound exceeds the distance to the assigned centroid holds no nearer centroid; the others are searched.
 * A row for which a searched group may hold a nearer centroid is compared with all centroids. The result has the same
 * bits as a search of all centroids.
 *
 * Drift. Bounds and distances are quantized to 16 bits (kmeans/quantized_distance.h). The drift of a group is the sum
 * of its largest movements so far. What is stored is bound + drift at the time of the search, so a filter tests stored
 * <= drift now + distance, and a bound is written only when its group has been searched.
 *
 * Groups. A panel is `span` consecutive column blocks; lane l of its blocks is one group, so a panel has 16 groups of
 * up to `span` centroids. Thus a search of all centroids has the largest score of each group in the lanes of a vector.
 */
#ifndef FPQ_YINYANG_H
#define FPQ_YINYANG_H

#include "assign/assign.h"

typedef struct {
    const fpq_packed_codebook *packed;
    int groups, span, blocks;    /* blocks: column blocks that a group alone fills */
    float *packed_groups, *bias; /* group after group: (groups, blocks, d, 16), (groups, blocks, 16) */
    int has_int8;
    fpq_int8_codebook int8; /* the columns of packed_groups */
    fpq_bound_scale bound_scale;
} fpq_grouped_codebook;

/* The grouped codebooks of all subspaces, in one allocation for fpq_free. NULL when memory ran out or the call was
 * stopped. Unless `drifted`, the previous centroids, is NULL, the drift of each group grows by the largest movement of
 * its centroids. */
fpq_grouped_codebook *fpq_group_codebooks(const fpq_codebooks *cb, const fpq_packed_codebook *packed,
                                          fpq_bounds *bounds, const float *drifted, int threads);

/* Nearest centroids and squared distances of a row batch. On entry, ids hold the assignment of the previous iteration,
 * or -1. The scratch of the assignment is fpq_yinyang_scratch(cb) bytes. */
size_t fpq_yinyang_scratch(const fpq_codebooks *cb);
void fpq_yinyang_nearest(const fpq_assignment *assignment, const fpq_grouped_codebook *codebook, int32_t *ids,
                         float *errors, uint16_t *bounds, const uint16_t *drift);

#endif
