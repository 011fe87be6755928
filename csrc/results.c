/* SPDX-License-Identifier: MIT */
#include "results.h"

#include <stdlib.h>
#include <string.h>

fpq_results fpq_results_of(const fpq_answers *answers, int64_t i, const int64_t *ids) {
    if (!answers->k) return (fpq_results){.ids = ids, .threshold = answers->radius, .grows = 1};
    fpq_results r = {.distance = answers->distances + i * answers->k,
                     .id = answers->ids + i * answers->k,
                     .k = answers->k,
                     .ids = ids,
                     .threshold = INFINITY};
    for (int64_t p = 0; p < r.k; p++) {
        r.distance[p] = INFINITY;
        r.id[p] = -1;
    }
    return r;
}

fpq_answers fpq_answers_from(const fpq_answers *answers, int64_t first) {
    fpq_answers from = *answers;
    from.distances = from.k ? from.distances + first * from.k : NULL;
    from.ids = from.k ? from.ids + first * from.k : NULL;
    from.hits = from.k ? NULL : from.hits + first;
    return from;
}

void fpq_results_grow(fpq_results *r) {
    const int64_t room = r->k ? 2 * r->k : 64;
    float *distance = realloc(r->distance, (size_t)room * sizeof *distance);
    if (distance) r->distance = distance;
    int64_t *id = distance ? realloc(r->id, (size_t)room * sizeof *id) : NULL;
    if (id) r->id = id;
    r->failed = !id;
    if (id) r->k = room;
}

/* To ascending order: pairs of a radius become a heap first, which those of a top-k are. */
static void sort(fpq_results *r) {
    for (int64_t p = 1; p < r->n && r->grows; p++) fpq_results_rise(r, p, r->distance[p], r->id[p]);
    for (int64_t size = r->n - 1; size > 0; size--) {
        const float distance = r->distance[size];
        const int64_t id = r->id[size];
        r->distance[size] = r->distance[0];
        r->id[size] = r->id[0];
        fpq_results_replace(r, size, distance, id);
    }
}

int fpq_results_finish(fpq_results *r, const fpq_answers *answers, int64_t i) {
    for (int64_t p = 0; p < r->n && r->ids; p++) FPQ_PREFETCH(r->ids + r->id[p]);
    for (int64_t p = 0; p < r->n && r->ids; p++) r->id[p] = r->ids[r->id[p]];
    r->ids = NULL;
    if (!answers->are_parts) sort(r);
    if (r->grows) answers->hits[i] = (fpq_hits){.distances = r->distance, .ids = r->id, .n = r->n};
    return r->failed ? -1 : 0;
}

static int make_parts(const fpq_answers *answers, int64_t n, fpq_answers *parts) {
    *parts = (fpq_answers){.k = answers->k, .radius = answers->radius, .are_parts = 1};
    if (!answers->k) {
        parts->hits = fpq_hits_make(n);
        return parts->hits ? 0 : -1;
    }
    parts->ids = fpq_alloc((size_t)(n * answers->k) * (sizeof(int64_t) + sizeof(float)));
    if (!parts->ids) return -1;
    parts->distances = (float *)(void *)(parts->ids + n * answers->k);
    return 0;
}

static int merge(const fpq_answers *answers, int64_t i, const fpq_answers *parts, int64_t ranges) {
    fpq_results r = fpq_results_of(answers, i, NULL);
    for (int64_t part = i * ranges; part < (i + 1) * ranges; part++) {
        const fpq_hits here = parts->k ? (fpq_hits){.distances = parts->distances + part * parts->k,
                                                    .ids = parts->ids + part * parts->k,
                                                    .n = parts->k}
                                       : parts->hits[part];
        for (int64_t p = 0; p < here.n; p++)
            if (here.ids[p] >= 0) fpq_results_offer(&r, here.distances[p], here.ids[p]);
    }
    return fpq_results_finish(&r, answers, i);
}

fpq_hits *fpq_hits_make(int64_t nq) { return calloc((size_t)(nq ? nq : 1), sizeof(fpq_hits)); }

void fpq_hits_counts(const fpq_hits *hits, int64_t nq, int64_t *out) {
    for (int64_t i = 0; i < nq; i++) out[i] = hits[i].n;
}

void fpq_hits_copy(const fpq_hits *hits, int64_t nq, float *distances, int64_t *ids) {
    for (int64_t i = 0; i < nq; i++) {
        if (!hits[i].n) continue;
        memcpy(distances, hits[i].distances, (size_t)hits[i].n * sizeof *distances);
        memcpy(ids, hits[i].ids, (size_t)hits[i].n * sizeof *ids);
        distances += hits[i].n;
        ids += hits[i].n;
    }
}

void fpq_hits_free(fpq_hits *hits, int64_t nq) {
    for (int64_t i = 0; i < nq && hits; i++) {
        free(hits[i].distances);
        free(hits[i].ids);
    }
    free(hits);
}

int fpq_search_ranges(const fpq_answers *answers, int64_t nq, int64_t ranges, const fpq_answers **of_tasks, int64_t n,
                      size_t scratch, int threads, fpq_task task, void *context) {
    fpq_answers parts = {0};
    *of_tasks = answers;
    if (ranges == 1) return fpq_parallel(n, scratch, threads, task, context);
    if (make_parts(answers, nq * ranges, &parts)) return -1;
    *of_tasks = &parts;
    int status = fpq_parallel(n, scratch, threads, task, context);
    for (int64_t i = 0; i < nq && !status; i++) status = merge(answers, i, &parts, ranges);
    fpq_hits_free(parts.hits, nq * ranges);
    fpq_free(parts.ids);
    return status;
}
