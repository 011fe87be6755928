/* SPDX-License-Identifier: MIT
 * The k smallest (distance, id) seen so far: a heap with the worst on top, in the arrays that will hold the answer.
 * Pairs are ordered by distance, then id, so the outcome does not depend on the order they come in. */
#ifndef FPQ_TOPK_H
#define FPQ_TOPK_H

#include <math.h>

#include "portable.h"

typedef struct {
    float *distance;
    int64_t *id;
    int k, n;           /* n of them are taken */
    const int64_t *ids; /* id holds rows, of which these are the ids, until fpq_topk_rows_to_ids; NULL: it holds ids */
} fpq_topk;

/* What is not taken is +inf, -1. */
FPQ_INLINE void fpq_topk_init(fpq_topk *top) {
    top->n = 0;
    for (int i = 0; i < top->k; i++) {
        top->distance[i] = INFINITY;
        top->id[i] = -1;
    }
}

FPQ_INLINE int fpq_topk_worse(const fpq_topk *top, float da, int64_t a, float db, int64_t b) {
    if (da == db) return top->ids ? top->ids[a] > top->ids[b] : a > b;
    return da > db;
}

/* Put a pair where `at` is free, or further up. */
FPQ_INLINE void fpq_topk_rise(fpq_topk *top, int at, float distance, int64_t id) {
    for (int parent; at > 0; at = parent) {
        parent = (at - 1) / 2;
        if (!fpq_topk_worse(top, distance, id, top->distance[parent], top->id[parent])) break;
        top->distance[at] = top->distance[parent];
        top->id[at] = top->id[parent];
    }
    top->distance[at] = distance;
    top->id[at] = id;
}

/* Put a pair in place of the first of `size`: down to the bottom, where most belong, then up. Which of two children is
 * worse is no branch to be guessed. */
FPQ_INLINE void fpq_topk_replace(fpq_topk *top, int size, float distance, int64_t id) {
    int at = 0;
    for (int child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size)
            child += fpq_topk_worse(top, top->distance[child + 1], top->id[child + 1], top->distance[child],
                                    top->id[child]);
        top->distance[at] = top->distance[child];
        top->id[at] = top->id[child];
    }
    fpq_topk_rise(top, at, distance, id);
}

/* Pairs with a distance above this cannot enter. */
FPQ_INLINE float fpq_topk_threshold(const fpq_topk *top) { return top->n < top->k ? INFINITY : top->distance[0]; }

FPQ_INLINE void fpq_topk_push(fpq_topk *top, float distance, int64_t id) {
    if (top->n < top->k)
        fpq_topk_rise(top, top->n++, distance, id);
    else if (fpq_topk_worse(top, top->distance[0], top->id[0], distance, id))
        fpq_topk_replace(top, top->k, distance, id);
}

/* From rows to ids. */
FPQ_INLINE void fpq_topk_rows_to_ids(fpq_topk *top) {
    if (!top->ids) return;
    for (int i = 0; i < top->n; i++) FPQ_PREFETCH(top->ids + top->id[i]);
    for (int i = 0; i < top->n; i++) top->id[i] = top->ids[top->id[i]];
    top->ids = NULL;
}

/* From a heap to ascending order. */
FPQ_INLINE void fpq_topk_sort(fpq_topk *top) {
    for (int size = top->n - 1; size > 0; size--) {
        const float distance = top->distance[size];
        const int64_t id = top->id[size];
        top->distance[size] = top->distance[0];
        top->id[size] = top->id[0];
        fpq_topk_replace(top, size, distance, id);
    }
}

/* The best of n pairs that other places have found; ids of -1 are none, NaN counts as +inf. */
FPQ_INLINE void fpq_topk_merge(fpq_topk top, const float *distance, const int64_t *id, int64_t n) {
    fpq_topk_init(&top);
    for (int64_t p = 0; p < n; p++)
        if (id[p] >= 0) fpq_topk_push(&top, distance[p] <= INFINITY ? distance[p] : INFINITY, id[p]);
    fpq_topk_sort(&top);
}

#endif
