/* SPDX-License-Identifier: MIT */
#include "results.h"

#include <stdlib.h>
#include <string.h>

#include "isa/kernels.h"

enum {
    MIN_RESERVOIR = 32,      /* a smaller top-k is a heap, whose threshold follows every pair; */
    MAX_RESERVOIR = 1 << 16, /* a larger one too, as it needs no memory beside the answer */
    MAX_RANKED = 256,        /* pairs that are sorted faster by counting than by a heap */
    GROUP = 64,              /* distances that the kernel at_most compares */
    MAX_SAMPLE = 256         /* pairs by which the distance of the k-th is estimated */
};

/* Memory for `room` distances, a multiple of GROUP, then as many ids. */
static float *make_pairs(int64_t room) {
    float *distance = fpq_alloc((size_t)room * (sizeof(float) + sizeof(int64_t)));
    for (int64_t p = 0; p < room && distance; p++) distance[p] = INFINITY;
    return distance;
}

static int64_t width_of(const fpq_answers *answers) {
    return answers->ranking ? answers->ranking->candidates : answers->k;
}

fpq_results fpq_results_of(const fpq_answers *answers, int64_t i, fpq_ids ids) {
    if (!answers->k) return (fpq_results){.ids = ids, .threshold = answers->radius, .appends = 1, .grows = 1};
    const int64_t k = width_of(answers), room = (k + k / 2 + GROUP - 1) / GROUP * GROUP;
    const int is_heap = k < MIN_RESERVOIR || (k > MAX_RESERVOIR && !answers->ranking);
    float *pairs = is_heap && !answers->ranking ? NULL : make_pairs(room);
    if (pairs)
        return (fpq_results){.distance = pairs,
                             .id = (int64_t *)(void *)(pairs + room),
                             .k = k,
                             .room = is_heap ? k : room,
                             .ids = ids,
                             .threshold = INFINITY,
                             .appends = !is_heap};
    if (answers->ranking) return (fpq_results){.appends = 1, .failed = 1, .threshold = -INFINITY};
    fpq_results r = {.distance = answers->distances + i * k, .id = answers->ids + i * k, .k = k, .room = k, .ids = ids};
    fpq_results_restart(&r);
    return r;
}

void fpq_results_restart(fpq_results *r) {
    for (int64_t p = 0; p < r->k && !r->appends; p++) {
        r->distance[p] = INFINITY;
        r->id[p] = -1;
    }
    r->threshold = INFINITY;
    r->n = 0;
}

fpq_answers fpq_answers_from(const fpq_answers *answers, int64_t first) {
    fpq_answers from = *answers;
    from.distances = from.k ? from.distances + first * from.k : NULL;
    from.ids = from.k ? from.ids + first * from.k : NULL;
    from.hits = from.k ? NULL : from.hits + first;
    from.first_query += first;
    return from;
}

static void grow(fpq_results *r) {
    const int64_t room = r->room ? 2 * r->room : 64;
    float *distance = realloc(r->distance, (size_t)room * sizeof *distance);
    if (distance) r->distance = distance;
    int64_t *id = distance ? realloc(r->id, (size_t)room * sizeof *id) : NULL;
    if (id) r->id = id;
    r->failed = !id;
    if (id) r->room = room;
}

/* Floats in the order of these numbers. */
static int32_t rank_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits < 0 ? bits ^ INT32_MAX : bits;
}

static float of_rank(int32_t rank) {
    const int32_t bits = rank < 0 ? rank ^ INT32_MAX : rank;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static int64_t count_at_most(const fpq_kernels *kern, const fpq_results *r, float limit) {
    int64_t count = 0;
    for (int64_t p = 0; p < r->n; p += GROUP) {
        const uint64_t present = r->n - p < GROUP ? ((uint64_t)1 << (r->n - p)) - 1 : ~(uint64_t)0;
        count += fpq_popcount(present & kern->at_most(r->distance + p, limit));
    }
    return count;
}

static void keep_at_most(fpq_results *r, float limit) {
    int64_t kept = 0;
    for (int64_t p = 0; p < r->n; p++) {
        const float here = r->distance[p];
        r->id[kept] = r->id[p];
        r->distance[kept] = here;
        kept += here <= limit;
    }
    r->n = kept;
}

/* Of the pairs at the largest distance, those with the lowest ids stay, so that k are left. */
static void keep_first_ties(fpq_results *r, float largest) {
    int64_t n = 0;
    for (int64_t p = 0; p < r->n; p++) { /* nearer pairs go to the front */
        if (r->distance[p] == largest) continue;
        const float distance = r->distance[p];
        const int64_t id = r->id[p];
        r->distance[p] = r->distance[n];
        r->id[p] = r->id[n];
        r->distance[n] = distance;
        r->id[n++] = id;
    }
    fpq_results ties = {.distance = r->distance + n, .id = r->id + n, .k = r->k - n, .ids = r->ids};
    for (int64_t p = n; p < r->n; p++) fpq_results_offer(&ties, r->distance[p], r->id[p]);
    r->n = r->k;
}

/* At most `most` >= k pairs stay, among them the k smallest. A limit is found by bisection. */
static void shrink(fpq_results *r, int64_t most) {
    const fpq_kernels *kern = fpq_active();
    int64_t low = (int64_t)INT32_MIN - 1, high = rank_of(r->threshold), count = r->n;
    while (count > most && high - low > 1) {
        const int64_t middle = low + (high - low) / 2, here = count_at_most(kern, r, of_rank((int32_t)middle));
        if (here < r->k) {
            low = middle;
        } else {
            high = middle;
            count = here;
        }
    }
    fpq_results_lower(r, of_rank((int32_t)high));
    if (r->n > most) keep_first_ties(r, r->threshold);
}

void fpq_results_make_room(fpq_results *r) {
    if (r->grows)
        grow(r);
    else
        shrink(r, r->k + (r->room - r->k) / 4);
}

void fpq_results_first_k(fpq_results *r) {
    float largest = r->distance[0];
    for (int64_t p = 1; p < r->n; p++) largest = r->distance[p] > largest ? r->distance[p] : largest;
    r->threshold = largest;
}

static void make_heap(fpq_results *r) {
    for (int64_t p = 1; p < r->n; p++) fpq_results_rise(r, p, r->distance[p], r->id[p]);
}

void fpq_results_lower(fpq_results *r, float threshold) {
    keep_at_most(r, threshold);
    if (!r->appends) make_heap(r);
    r->threshold = threshold;
}

/* To ascending order: pairs in any order become a heap first, which those of a small top-k are. */
static void sort(fpq_results *r) {
    if (r->appends) make_heap(r);
    for (int64_t size = r->n - 1; size > 0; size--) {
        const float distance = r->distance[size];
        const int64_t id = r->id[size];
        r->distance[size] = r->distance[0];
        r->id[size] = r->id[0];
        fpq_results_replace(r, size, distance, id);
    }
}

/* Pairs in the order of their distances are sorted if ties are in that of their ids. */
static void sort_ties(fpq_results *r) {
    for (int64_t p = 1; p < r->n; p++) {
        const float distance = r->distance[p];
        const int64_t id = r->id[p];
        int64_t at = p;
        for (; at > 0 && fpq_results_worse(r, r->distance[at - 1], r->id[at - 1], distance, id); at--) {
            r->distance[at] = r->distance[at - 1];
            r->id[at] = r->id[at - 1];
        }
        r->distance[at] = distance;
        r->id[at] = id;
    }
}

/* Of the k nearest rows, a sample of independent rows holds a Poisson number, hardly ever more than three deviations
 * and two above the mean. Near rows often stand together, so blocks are counted instead, as many rows in each as here.
 */
float fpq_results_expected(const fpq_results *r, float share) {
    float distance[MAX_SAMPLE];
    int64_t id[MAX_SAMPLE];
    fpq_results nearest = {.distance = distance, .id = id, .k = MAX_SAMPLE, .threshold = INFINITY};
    for (int64_t p = 0; p < r->n; p++) fpq_results_offer(&nearest, r->distance[p], r->id[p]);
    sort(&nearest);
    int64_t blocks = 0;
    for (int64_t p = 0; p < nearest.n && p + 1 < r->k; p++) {
        int64_t same = 0;
        while (id[same] / 64 != id[p] / 64) same++;
        blocks += same == p;
        const float mean = share * (float)r->k * (float)blocks / (float)(p + 1);
        if ((float)blocks >= mean + 3 * sqrtf(mean) + 2) return distance[p];
    }
    return INFINITY;
}

static int is_ranked(const fpq_results *r, const fpq_answers *answers) {
    return r->appends && !r->grows && !answers->unsorted && r->n <= MAX_RANKED;
}

/* The pairs of a reservoir in the order of their distances: so many pairs are as near as a pair or nearer, and of ties
 * so many have gone before. */
static void copy_by_rank(const fpq_results *r, float *distance, int64_t *id) {
    const fpq_kernels *kern = fpq_active();
    int gone_before[MAX_RANKED + 1] = {0};
    for (int64_t p = 0; p < r->n; p++) {
        const int64_t last = count_at_most(kern, r, r->distance[p]), at = last - ++gone_before[last];
        distance[at] = r->distance[p];
        id[at] = r->id[p];
    }
}

/* The pairs of a reservoir go to the arrays of the answer. */
static void empty_reservoir(fpq_results *r, const fpq_answers *answers, int64_t i) {
    float *reservoir = r->distance, *distance = answers->distances + i * r->k;
    int64_t *id = answers->ids + i * r->k;
    if (r->n > r->k) shrink(r, r->k);
    if (is_ranked(r, answers)) {
        copy_by_rank(r, distance, id);
    } else {
        memcpy(distance, r->distance, (size_t)r->n * sizeof *distance);
        memcpy(id, r->id, (size_t)r->n * sizeof *id);
    }
    for (int64_t p = r->n; p < r->k; p++) {
        distance[p] = INFINITY;
        id[p] = -1;
    }
    r->distance = distance;
    r->id = id;
    fpq_free(reservoir);
}

static void rows_to_ids(fpq_results *r) {
    for (int64_t p = 0; p < r->n; p++) fpq_prefetch_id(r->ids, r->id[p]);
    for (int64_t p = 0; p < r->n; p++) r->id[p] = fpq_id_of(r->ids, r->id[p]);
    r->ids = (fpq_ids){0};
}

static int rank_again(fpq_results *r, const fpq_answers *answers, int64_t i) {
    if (r->n > r->k) shrink(r, r->k);
    if (fpq_has_ids(r->ids)) rows_to_ids(r);
    const int status = r->failed ? -1 : fpq_rank(answers->ranking, answers, i, r->id, r->n, r->distance);
    fpq_free(r->distance);
    return status;
}

int fpq_results_finish(fpq_results *r, const fpq_answers *answers, int64_t i) {
    if (answers->ranking) return rank_again(r, answers, i);
    if (r->appends && !r->grows) empty_reservoir(r, answers, i);
    if (fpq_has_ids(r->ids) && !fpq_has_ids(answers->rows_of)) rows_to_ids(r);
    if (is_ranked(r, answers))
        sort_ties(r);
    else if (!answers->unsorted)
        sort(r);
    if (r->grows) answers->hits[i] = (fpq_hits){.distances = r->distance, .ids = r->id, .n = r->n};
    return r->failed ? -1 : 0;
}

static int make_parts(const fpq_answers *answers, int64_t n, fpq_answers *parts) {
    *parts = (fpq_answers){
        .k = width_of(answers), .radius = answers->radius, .unsorted = 1, .rows_of = answers->rows_of};
    if (!parts->k) {
        parts->hits = fpq_hits_make(n);
        return parts->hits ? 0 : -1;
    }
    parts->ids = fpq_alloc((size_t)(n * parts->k) * (sizeof(int64_t) + sizeof(float)));
    if (!parts->ids) return -1;
    parts->distances = (float *)(void *)(parts->ids + n * parts->k);
    return 0;
}

static int merge(const fpq_answers *answers, int64_t i, const fpq_answers *parts, int64_t ranges) {
    fpq_results r = fpq_results_of(answers, i, answers->rows_of);
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
