/* SPDX-License-Identifier: MIT
 * Search in inverted lists: the codes of the probed lists, nearest list first, each with the tables of the query's residual.
 * Exact among the probed lists. A list is passed over when its radius says that none of its codes can be near enough. */
#include <math.h>

#include "dot.h"
#include "kernels.h"
#include "portable.h"
#include "scan/run.h"
#include "scan/terms.h"
#include "threads.h"

/* TERMS_PROBES: from which on terms are faster than rough tables. CHUNK: queries whose answers lie side by side go to one
 * thread, as heaps that share a cache line hold up two. */
enum { TERMS_PROBES = 8, CHUNK = 16 };

typedef struct {
    const fpq_adc *adc;
    const fpq_lists *lists;
    const float *q;
    int d, per_list;                       /* whether each list has tables of its own */
    float q_length, magnitude;
    float *residuals;                      /* (FPQ_ROUGH, d) */
    fpq_query *queries;                    /* FPQ_ROUGH of them, or one where one serves all lists */
    const fpq_terms *terms;                /* NULL: none */
    fpq_term own;
} visitor;

static size_t up(size_t bytes) { return (bytes + 63) / 64 * 64; }

static size_t visitor_size(const fpq_adc *adc) {
    return FPQ_ROUGH * (fpq_query_size(adc) + up((size_t)adc->offsets[adc->m] * sizeof(float))) + fpq_term_size(adc);
}

static visitor visit_query(const fpq_adc *adc, const fpq_lists *lists, const fpq_terms *terms, const float *q, char *memory,
                           fpq_query *queries) {
    visitor v = {.adc = adc, .lists = lists, .q = q, .d = adc->offsets[adc->m], .queries = queries,
                 .per_list = lists->residual && !adc->inner_product};
    for (int i = 0; i < FPQ_ROUGH; i++) fpq_query_place(adc, memory + (size_t)i * fpq_query_size(adc), queries + i);
    memory += FPQ_ROUGH * fpq_query_size(adc);
    v.residuals = (float *)(void *)memory;
    if (terms && terms->lists) {
        v.terms = terms;
        v.own.steps = (uint16_t *)(void *)(memory + FPQ_ROUGH * up((size_t)v.d * sizeof(float)));
        fpq_term_of_query(terms, q, v.residuals, queries->table, &v.own);
    }
    v.q_length = (float)sqrt(fpq_dot(q, q, v.d));
    if (!v.per_list) {
        fpq_query_tables(adc, q, 0, queries);
        fpq_query_sort(adc, queries);
    }
    v.magnitude = queries->magnitude;
    return v;
}

/* Tables for the codes of n <= FPQ_ROUGH lists, in queries[0], queries[1], ... Rough ones do where most lists have no near
 * row. For inner products q.(c + r) = q.c + q.r: n is 1 and only the offset changes. */
static void enter_lists(const visitor *v, const int64_t *lists, int n, int rough, int64_t next) {
    if (!v->lists->residual) return;
    if (v->adc->inner_product) {
        v->queries->offset = (float)-fpq_dot(v->q, v->lists->centroids + lists[0] * v->d, v->d);
        v->queries->magnitude = v->magnitude + fabsf(v->queries->offset);
        v->queries->limit = INFINITY;
        return;
    }
    for (int i = 0; i < n; i++)
        for (int t = 0; t < v->d; t++)
            v->residuals[i * v->d + t] = v->q[t] - v->lists->centroids[lists[i] * v->d + t];
    if (rough && v->terms)
        for (int i = 0; i < n; i++)
            fpq_query_term_tables(v->terms, &v->own, lists[i], next, v->residuals + (ptrdiff_t)i * v->d, v->queries + i);
    else if (rough)
        fpq_query_rough_tables(v->adc, v->residuals, n, v->queries);
    for (int i = 0; i < n && !rough; i++) fpq_query_tables(v->adc, v->residuals + (ptrdiff_t)i * v->d, 0, v->queries + i);
}

/* Whether every code of a list is farther than limit, by the triangle inequality. */
static int out_of_reach(const visitor *v, int64_t list, float limit) {
    const float margin = 1 - 1e-4f, *centroid = v->lists->centroids + list * v->d;
    if (!v->lists->radius || !(limit < INFINITY)) return 0;
    const float radius = v->lists->radius[list];
    if (v->adc->inner_product) {
        const float reach = v->q_length * radius, product = (float)fpq_dot(v->q, centroid, v->d);
        return -product - reach > limit + 1e-4f * (reach + fabsf(product) + fabsf(limit));
    }
    const float gap = margin * sqrtf(fpq_active()->l2_f32(v->q, centroid, v->d)) - radius;
    return gap > 0 && margin * gap * gap > limit;
}

/* Call up what will be read of a list: all codes, or by the first stage of the sieve. */
static void fetch_list(const fpq_scan *s, const visitor *v, int64_t list, int all) {
    const int planes = all || s->code_size < 8 ? s->code_size : s->code_size / 2;
    for (int64_t b = v->lists->first[list]; b < v->lists->first[list + 1]; b++) {
        const uint8_t *codes = s->blocks + (ptrdiff_t)v->lists->chain[b] * 64 * s->code_size;
        for (int o = 0; o < planes; o++) FPQ_PREFETCH(codes + v->queries->order[o] * s->adc->nbits / 8 * 64);
    }
}

static void scan_list(const fpq_scan *s, const fpq_lists *lists, int64_t list, fpq_query *query, fpq_topk *top) {
    uint64_t rows[FPQ_RUN];
    int32_t which[FPQ_RUN];
    for (int64_t b = lists->first[list]; b < lists->first[list + 1];) {
        int n = 0;
        for (; b < lists->first[list + 1] && n < FPQ_RUN; b++) {
            which[n] = lists->chain[b];
            rows[n] = lists->rows[which[n]];
            n += rows[n] != 0;
        }
        fpq_scan_run(s, query, which, rows, n, top);
    }
}

static int is_wanted(const visitor *v, int64_t list, float limit) {
    uint64_t any = 0;
    for (int64_t b = v->lists->first[list]; b < v->lists->first[list + 1]; b++) any |= v->lists->rows[v->lists->chain[b]];
    return any && !out_of_reach(v, list, limit);
}

/* Every step-th of n probed lists from the first on, some at a time as soon as the k best so far say what is near. */
static void scan_probes(const fpq_scan *s, const visitor *v, const int64_t *probes, int n, int step, fpq_topk *top) {
    for (int p = 0; p < n;) {
        const int rough = s->sieves && fpq_topk_limit(top) < INFINITY;
        int64_t lists[FPQ_ROUGH];
        int found = 0;
        for (; p < n && found < (rough && v->per_list && !v->terms ? FPQ_ROUGH : 1); p += step)
            if (is_wanted(v, probes[p], fpq_topk_limit(top))) {
                lists[found++] = probes[p];
                const int ahead = v->per_list ? p : p + step; /* to be there when tables are made, or one list later */
                if (ahead < n) fetch_list(s, v, probes[ahead], !rough);
            }
        if (found) enter_lists(v, lists, found, rough, probes[p < n ? p : 0]);
        for (int i = 0; i < found; i++) scan_list(s, v->lists, lists[i], v->queries + i, top);
    }
}

int fpq_ivf_search(const fpq_adc *adc, const fpq_lists *lists, const float *queries, int64_t nq, const int64_t *probes,
                   int n_probe, const uint8_t *blocks, const int64_t *slot_ids, int k, float *distances, int64_t *ids,
                   int threads) {
    const fpq_scan s = fpq_scan_of(adc, blocks, slot_ids);
    const int d = adc->offsets[adc->m];
    const size_t each = visitor_size(adc);
    /* Few queries share their probes among the threads: every ranges-th list each. */
    const int ranges = nq < threads ? threads : 1, tasks = (int)nq * ranges;
    threads = fpq_threads(threads, tasks);
    const int share = tasks / threads / 4, chunk = share < 1 ? 1 : share < CHUNK ? share : CHUNK;
    char *memory = fpq_alloc((size_t)threads * each);
    int64_t *parts = ranges > 1 ? fpq_alloc((size_t)tasks * (size_t)k * (sizeof(int64_t) + sizeof(float))) : NULL;
    fpq_terms terms = {.adc = adc};
    int status = memory && (parts || ranges == 1) ? 0 : -1;
    fpq_poll poll = {0};
    if (!status && s.sieves && lists->residual && !adc->inner_product && n_probe >= TERMS_PROBES)
        status = fpq_terms_make(adc, lists, probes, nq * n_probe, &terms, threads);
    if (status) goto done;
    float *part_distances = (float *)(void *)(parts + (parts ? (int64_t)tasks * k : 0));
#pragma omp parallel for schedule(dynamic, chunk) num_threads(threads)
    for (int task = 0; task < tasks; task++) {
        if (fpq_stopped(&poll)) continue;
        const int64_t i = task / ranges, at = (int64_t)task * k;
        fpq_query mine[FPQ_ROUGH];
        const visitor v = visit_query(adc, lists, &terms, queries + i * d, memory + (size_t)FPQ_THREAD_NUMBER() * each, mine);
        fpq_topk top = parts ? (fpq_topk){part_distances + at, parts + at, k} : (fpq_topk){distances + at, ids + at, k};
        fpq_topk_init(&top);
        scan_probes(&s, &v, probes + i * n_probe + task % ranges, n_probe - task % ranges, ranges, &top);
        if (!parts) fpq_topk_sort(&top);
    }
    for (int64_t i = 0; i < nq && parts; i++)
        fpq_topk_merge((fpq_topk){distances + i * k, ids + i * k, k}, part_distances + i * ranges * k, parts + i * ranges * k,
                       (int64_t)ranges * k);
    if (poll.stop) status = -1;
done:
    fpq_terms_free(&terms);
    fpq_free(memory);
    fpq_free(parts);
    return status;
}

int fpq_ivf_all(const fpq_adc *adc, const fpq_lists *lists, const float *queries, int64_t nq, const int64_t *probes, int n_probe,
                const uint8_t *blocks, const int64_t *starts, float *out, int threads) {
    const fpq_kernels *kern = fpq_active();
    const int d = adc->offsets[adc->m], code_size = fpq_code_size(adc->m, adc->nbits), tasks = (int)nq;
    const size_t each = visitor_size(adc);
    threads = fpq_threads(threads, tasks);
    char *memory = fpq_alloc((size_t)threads * each);
    if (!memory) return -1;
    fpq_poll poll = {0};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < tasks; i++) {
        if (fpq_stopped(&poll)) continue;
        fpq_query mine[FPQ_ROUGH];
        const visitor v =
            visit_query(adc, lists, NULL, queries + (ptrdiff_t)i * d, memory + (size_t)FPQ_THREAD_NUMBER() * each, mine);
        float *sums = out + starts[i] * 64;
        for (int p = 0; p < n_probe; p++) {
            const int64_t list = probes[(ptrdiff_t)i * n_probe + p];
            enter_lists(&v, &list, 1, 0, list);
            for (int64_t b = lists->first[list]; b < lists->first[list + 1]; b++, sums += 64) {
                kern->adc(mine->table, fpq_ld_table(adc), adc->m, adc->nbits,
                          blocks + (ptrdiff_t)lists->chain[b] * 64 * code_size, sums);
                for (int r = 0; r < 64 && mine->offset != 0; r++) sums[r] += mine->offset;
            }
        }
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}
