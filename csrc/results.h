/* SPDX-License-Identifier: MIT
 * What a search finds: the k smallest (distance, id) of a query, or all within a radius. A scan asks for the threshold
 * and offers what is within; the two kinds of search differ in nothing else. Pairs are ordered by distance, then id, so
 * the outcome does not depend on the order in which they are offered. */
#ifndef FPQ_RESULTS_H
#define FPQ_RESULTS_H

#include <math.h>

#include "fpq.h"
#include "ids.h"
#include "parallel.h"
#include "portable.h"

/* A small top-k: a heap with the worst pair on top, in the arrays of the answer. A large one: a reservoir, pairs in any
 * order with room for more than k; when the room is full, only pairs that can be among the k smallest stay, which costs
 * less per pair than a heap. With re-ranking, k is the number of candidates. Radius: pairs in any order. */
typedef struct {
    float *distance;
    int64_t *id;
    int64_t k, n;    /* n pairs are held */
    int64_t room;    /* of the arrays; a heap: k */
    fpq_ids ids;     /* id holds rows, of which these are the ids, until fpq_results_finish; none: id holds ids */
    float threshold; /* pairs with a larger distance cannot enter */
    int appends;     /* no heap */
    int grows;       /* radius: the arrays grow, and k is 0 */
    int failed;      /* memory ran out */
} fpq_results;

/* The results of query i, to be offered rows of these ids, or ids if there are none. */
fpq_results fpq_results_of(const fpq_answers *answers, int64_t i, fpq_ids ids);
/* Rows become ids, and the answer of query i is sorted. 0, or -1 when memory ran out. */
int fpq_results_finish(fpq_results *r, const fpq_answers *answers, int64_t i);
/* Answers query i with the nearest, by exact distances, of n candidates, which go to `distances` (n). exact/rank.c */
int fpq_rank(const fpq_ranking *ranking, const fpq_answers *answers, int64_t i, const int64_t *ids, int64_t n,
             float *distances);
void fpq_results_make_room(fpq_results *r); /* for another pair, unless r->failed */
void fpq_results_first_k(fpq_results *r);   /* a reservoir holds k pairs for the first time */

/* The distance within which k rows are expected, where the pairs are those of a share of the rows, cut out in blocks of
 * 64 that are spread over all: INFINITY if the pairs do not tell. */
float fpq_results_expected(const fpq_results *r, float share);
/* Top-k: only pairs within the threshold stay or enter. With fewer than k of them in the end, it was too low. */
void fpq_results_lower(fpq_results *r, float threshold);
/* Top-k: to begin anew, without pairs. */
void fpq_results_restart(fpq_results *r);

/* Runs the n tasks of a search for nq queries. Where its rows are cut into `ranges` > 1, *of_tasks becomes answers for
 * the parts, query i in range r having number i * ranges + r, and they are merged; else *of_tasks is `answers`. 0, or
 * -1 when memory ran out or the call was stopped. */
int fpq_search_ranges(const fpq_answers *answers, int64_t nq, int64_t ranges, const fpq_answers **of_tasks, int64_t n,
                      size_t scratch, int threads, fpq_task task, void *context);

FPQ_INLINE int fpq_results_worse(const fpq_results *r, float da, int64_t a, float db, int64_t b) {
    if (da == db) return fpq_id_of(r->ids, a) > fpq_id_of(r->ids, b);
    return da > db;
}

/* Put a pair where `at` is free, or further up. */
FPQ_INLINE void fpq_results_rise(fpq_results *r, int64_t at, float distance, int64_t id) {
    for (int64_t parent; at > 0; at = parent) {
        parent = (at - 1) / 2;
        if (!fpq_results_worse(r, distance, id, r->distance[parent], r->id[parent])) break;
        r->distance[at] = r->distance[parent];
        r->id[at] = r->id[parent];
    }
    r->distance[at] = distance;
    r->id[at] = id;
}

/* Put a pair in place of the first of `size`: down to the bottom, where most belong, then up. The choice of the worse
 * child is no branch that the CPU would have to predict. */
FPQ_INLINE void fpq_results_replace(fpq_results *r, int64_t size, float distance, int64_t id) {
    int64_t at = 0;
    for (int64_t child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size)
            child += fpq_results_worse(r, r->distance[child + 1], r->id[child + 1], r->distance[child], r->id[child]);
        r->distance[at] = r->distance[child];
        r->id[at] = r->id[child];
    }
    fpq_results_rise(r, at, distance, id);
}

/* A pair with a distance of at most the threshold. */
FPQ_INLINE void fpq_results_offer(fpq_results *r, float distance, int64_t id) {
    if (r->appends) {
        if (r->n == r->room) fpq_results_make_room(r);
        if (r->failed) return;
        r->distance[r->n] = distance;
        r->id[r->n++] = id;
        if (r->n == r->k) fpq_results_first_k(r);
        return;
    }
    if (r->n < r->k)
        fpq_results_rise(r, r->n++, distance, id);
    else if (fpq_results_worse(r, r->distance[0], r->id[0], distance, id))
        fpq_results_replace(r, r->k, distance, id);
    if (r->n == r->k) r->threshold = r->distance[0];
}

#endif
