/* SPDX-License-Identifier: MIT
 * What k-means remembers of earlier iterations, so that a row meets few centroids again (Yinyang k-means, Ding et al.
 * 2015).
 *
 * The centroids of a subspace are in groups. A bound of each row and group is a distance that no centroid of the group
 * comes below, except the row's own; centroids that move make it smaller by the way of the farthest-moving one of their
 * group. A row whose own centroid is nearer than every bound keeps it, otherwise the groups in doubt are searched. What
 * is chosen is what a search of all centroids chooses, bit for bit.
 *
 * Bounds are kept as whole units plus the drift of their group, the sum of its ways so far: what is below drift +
 * distance is in doubt. So a bound is written only when its group has been searched.
 *
 * Centroids stand in panels of `span` blocks of 16; a group is a column of a panel: 16 groups a panel, and the search
 * of all centroids has the nearest of each group in the lanes of its vectors. */
#ifndef FPQ_BOUNDS_H
#define FPQ_BOUNDS_H

#include "assign/assign.h"

typedef struct {
    const fpq_packed_codebook *packed;
    int groups, span, blocks;    /* blocks: of 16 columns that hold a group */
    float *packed_groups, *bias; /* (groups, blocks, d, 16), (groups, blocks, 16) */
    int has_int8;
    fpq_int8_codebook bytes; /* of the groups */
    fpq_bound_scale bound_scale;
} fpq_grouped_codebook;

/* One grouped codebook a subspace, in one piece of memory: free it with fpq_free. NULL when memory ran out. */
fpq_grouped_codebook *fpq_group_codebooks(const fpq_codebooks *cb, const fpq_packed_codebook *packed,
                                          fpq_bounds *bounds, int threads);

/* Nearest centroids and squared distances of rows; ids are those of the iteration before, or -1. The scratch of the
 * assignment is fpq_yinyang_scratch(cb) bytes. */
size_t fpq_yinyang_scratch(const fpq_codebooks *cb);
void fpq_yinyang_nearest(const fpq_assignment *assignment, const fpq_grouped_codebook *codebook, int32_t *ids,
                         float *errors, uint16_t *bounds, const uint16_t *drift);

/* Adds the ways from `before` to the centroids (k, dsub) of a subspace to its drift. */
void fpq_add_drift(const fpq_grouped_codebook *codebook, const float *before, const float *centroids, int dsub,
                   uint16_t *drift);

#endif
