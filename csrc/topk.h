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
    int k;
} fpq_topk;

/* An id of -1 marks a place not taken yet, at a distance of INFINITY; it is worse than any pair. */
FPQ_INLINE int fpq_worse(float da, int64_t ia, float db, int64_t ib) {
    return da > db || (da == db && (uint64_t)ia > (uint64_t)ib);
}

FPQ_INLINE void fpq_topk_init(fpq_topk *top) {
    for (int i = 0; i < top->k; i++) {
        top->distance[i] = INFINITY;
        top->id[i] = -1;
    }
}

FPQ_INLINE void fpq_topk_sink(fpq_topk *top, int at, int size, float distance, int64_t id) {
    for (;;) {
        int child = 2 * at + 1;
        if (child >= size) break;
        if (child + 1 < size &&
            fpq_worse(top->distance[child + 1], top->id[child + 1], top->distance[child], top->id[child]))
            child++;
        if (!fpq_worse(top->distance[child], top->id[child], distance, id)) break;
        top->distance[at] = top->distance[child];
        top->id[at] = top->id[child];
        at = child;
    }
    top->distance[at] = distance;
    top->id[at] = id;
}

/* Pairs with a distance above this cannot enter. */
FPQ_INLINE float fpq_topk_limit(const fpq_topk *top) { return top->distance[0]; }

FPQ_INLINE void fpq_topk_push(fpq_topk *top, float distance, int64_t id) {
    if (fpq_worse(top->distance[0], top->id[0], distance, id)) fpq_topk_sink(top, 0, top->k, distance, id);
}

/* From a heap to ascending order. */
FPQ_INLINE void fpq_topk_sort(fpq_topk *top) {
    for (int size = top->k - 1; size > 0; size--) {
        const float distance = top->distance[size];
        const int64_t id = top->id[size];
        top->distance[size] = top->distance[0];
        top->id[size] = top->id[0];
        fpq_topk_sink(top, 0, size, distance, id);
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
