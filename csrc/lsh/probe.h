/* SPDX-License-Identifier: MIT
 * The order in which buckets are probed: query-directed multi-probe, Lv et al., VLDB 2007, over all tables at once.
 *
 * A bucket beside the query's own differs from it by +-1 in some of its n_hashes numbers. What it costs is the sum of
 * the squared distances, in widths, from the query to the boundaries crossed. In a table, the 2 n_hashes crossings
 * are sorted by distance; a set of them is a bit mask, and all sets come in order of cost from {0} by two steps:
 * replace the largest member by the next one, or add the next one. */
#ifndef FPQ_PROBE_H
#define FPQ_PROBE_H

#include "lsh/lsh.h"

enum { FPQ_MAX_HASHES = 32 }; /* twice as many crossings fit a 64-bit mask */

typedef struct {
    uint64_t set;
    float cost;
    int32_t table;
} fpq_probe;

typedef struct {
    int n_hashes, n;
    uint64_t *sums;  /* (n_tables): the query's own sum of hashes times mixers */
    float *crossing; /* (n_tables, 2 n_hashes): squared distances, ascending */
    uint64_t *step;  /* (n_tables, 2 n_hashes): what a crossing adds to the sum */
    fpq_probe *heap; /* the cheapest on top */
} fpq_prober;

/* The prober's parts in fpq_prober_size bytes of memory, for n_probe probes. */
size_t fpq_prober_size(const fpq_hashes *hashes, int64_t n_probe);
fpq_prober fpq_prober_at(char *memory, const fpq_hashes *hashes, int64_t n_probe);
/* values: the query's projections in widths, (n_tables, n_hashes). */
void fpq_prober_start(fpq_prober *p, const fpq_hashes *hashes, const float *values);
/* The table and key of the next bucket, or 0 after the last one. The query's own buckets are left out. */
int fpq_prober_next(fpq_prober *p, int32_t *table, uint32_t *key);

#endif
