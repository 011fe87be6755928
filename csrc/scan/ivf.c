/* SPDX-License-Identifier: MIT
 * Search in inverted lists: the codes of the probed lists, nearest list first, each with the tables of the query's residual.
 * Exact among the probed lists. A list is passed over when its radius says that none of its codes can be near enough. */
#include <math.h>
#include <string.h>

#include "dot.h"
#include "kernels.h"
#include "portable.h"
#include "scan/run.h"
#include "scan/terms.h"
#include "threads.h"

/* TERMS_PROBES: from which on terms are faster than rough tables. CHUNK: groups whose answers lie side by side go to one
 * thread, as heaps that share a cache line hold up two. */
enum { TERMS_PROBES = 12, CHUNK = 4 };

typedef struct {
    const float *q;
    float length, magnitude;
    const int64_t *probes;
    int at;                                /* of the probes: which one is next */
    fpq_topk top;
    fpq_term own;
} visitor;

/* Queries that visit their lists side by side, so that tables are made in one pass over the codebooks. */
typedef struct {
    const fpq_scan *scan;
    const fpq_lists *lists;
    const fpq_terms *terms;                /* NULL: none */
    const fpq_squares *squares;
    int d, per_list;                       /* whether each list has tables of its own */
    int n_probe, step, n;
    visitor visitors[FPQ_TABLES];
    float *residuals;                      /* (FPQ_TABLES, d) */
    fpq_query queries[FPQ_TABLES];         /* of the lists that are visited now, or of visitors whose tables serve all lists */
} group;

static size_t group_size(const fpq_adc *adc) {
    return FPQ_TABLES * (fpq_query_size(adc) + fpq_term_size(adc) + fpq_lines((size_t)adc->offsets[adc->m] * sizeof(float)));
}

static group group_of(const fpq_scan *s, const fpq_lists *lists, const fpq_squares *squares, const fpq_terms *terms, char *memory) {
    const fpq_adc *adc = s->adc;
    group g = {.scan = s, .lists = lists, .squares = squares, .terms = terms && terms->lists ? terms : NULL, .d = adc->offsets[adc->m],
               .per_list = lists->residual && !adc->inner_product};
    for (int i = 0; i < FPQ_TABLES; i++, memory += fpq_query_size(adc)) fpq_query_place(adc, memory, g.queries + i);
    for (int i = 0; i < FPQ_TABLES; i++, memory += fpq_term_size(adc)) g.visitors[i].own.steps = (uint16_t *)(void *)memory;
    g.residuals = (float *)(void *)memory;
    return g;
}

/* Begin with the n <= FPQ_TABLES listed queries. */
static void start(group *g, const float *queries, const int64_t *list, int n) {
    g->n = n;
    for (int i = 0; i < n; i++) {
        g->visitors[i].q = queries + list[i] * g->d;
        memcpy(g->residuals + i * g->d, g->visitors[i].q, (size_t)g->d * sizeof(float));
    }
    if (!g->per_list) fpq_query_tables(g->scan->adc, g->residuals, n, g->queries);
    for (int i = 0; i < n; i++) {
        visitor *v = g->visitors + i;
        v->length = (float)sqrt(fpq_dot(v->q, v->q, g->d));
        if (g->terms) fpq_term_of_query(g->terms, v->q, g->residuals, g->queries->table, &v->own);
        if (!g->per_list) fpq_query_sort(g->scan->adc, g->queries + i);
        v->magnitude = g->queries[i].magnitude;
    }
}

/* For the codes of a list, of residuals: the residual of a visitor in place i, for tables to be made of it. For inner products
 * q.(c + r) = q.c + q.r: only the offset changes. */
static void enter(group *g, const visitor *v, int64_t list, int i) {
    const float *centroid = g->lists->centroids + list * g->d;
    if (g->per_list) {
        for (int t = 0; t < g->d; t++) g->residuals[i * g->d + t] = v->q[t] - centroid[t];
    } else if (g->lists->residual) {
        g->queries[i].offset = (float)-fpq_dot(v->q, centroid, g->d);
        g->queries[i].magnitude = v->magnitude + fabsf(g->queries[i].offset);
        g->queries[i].limit = INFINITY;
    }
}

/* Whether every code of a list is farther than limit, by the triangle inequality. */
static int out_of_reach(const group *g, const visitor *v, int64_t list, float limit) {
    const float margin = 1 - 1e-4f, *centroid = g->lists->centroids + list * g->d;
    if (!g->lists->radius || !(limit < INFINITY)) return 0;
    const float radius = g->lists->radius[list];
    if (g->scan->adc->inner_product) {
        const float reach = v->length * radius, product = (float)fpq_dot(v->q, centroid, g->d);
        return -product - reach > limit + 1e-4f * (reach + fabsf(product) + fabsf(limit));
    }
    const float gap = margin * sqrtf(g->scan->kern->l2_f32(v->q, centroid, g->d)) - radius;
    return gap > 0 && margin * gap * gap > limit;
}

/* The list that a visitor has to look into next; -1: none. */
static int64_t next_list(const group *g, visitor *v) {
    while (v->at < g->n_probe) {
        const int64_t list = v->probes[v->at];
        uint64_t any = 0;
        v->at += g->step;
        for (int64_t b = g->lists->first[list]; b < g->lists->first[list + 1]; b++) any |= g->lists->rows[g->lists->chain[b]];
        if (any && !out_of_reach(g, v, list, fpq_topk_limit(&v->top))) return list;
    }
    return -1;
}

/* Call up what will be read of a list: all codes, or by the first stage of the sieve. */
static void fetch_list(const group *g, const fpq_query *query, int64_t list, int all) {
    const fpq_scan *s = g->scan;
    const int planes = all || s->code_size < 8 ? s->code_size : s->code_size / 2;
    for (int64_t b = g->lists->first[list]; b < g->lists->first[list + 1]; b++) {
        const uint8_t *codes = s->blocks + (ptrdiff_t)g->lists->chain[b] * 64 * s->code_size;
        for (int o = 0; o < planes; o++) FPQ_PREFETCH(codes + query->order[o] * s->adc->nbits / 8 * 64);
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

/* One set of tables serves all lists of a visitor. */
static void visit_by_one(group *g, int i) {
    visitor *v = g->visitors + i;
    for (int64_t list = next_list(g, v); list >= 0; list = next_list(g, v)) {
        if (v->at < g->n_probe) fetch_list(g, g->queries + i, v->probes[v->at], fpq_topk_limit(&v->top) == INFINITY);
        enter(g, v, list, i);
        scan_list(g->scan, g->lists, list, g->queries + i, &v->top);
    }
}

/* Tables for each list: some lists at a time, one of each visitor and more where visitors are few. Rough tables do where most
 * lists have no near row, once the k best so far say what is near. Exact ones take places from the front, rough ones from the
 * back. 0 when all visits are made. */
static int visit_some(group *g) {
    int64_t lists[FPQ_TABLES];
    visitor *of[FPQ_TABLES];
    int exact = 0, rough = 0, found = 1;
    unsigned waiting = 0;                  /* bit i: visitor i has to see what is near */
    while (found) {
        found = 0;
        for (int i = 0; i < g->n && exact + rough < FPQ_TABLES; i++) {
            visitor *v = g->visitors + i;
            const int is_rough = g->scan->sieves && fpq_topk_limit(&v->top) < INFINITY;
            const int64_t list = waiting >> i & 1 ? -1 : next_list(g, v);
            if (list < 0) continue;
            const int place = is_rough ? FPQ_TABLES - ++rough : exact++;
            found = 1;
            if (!is_rough) waiting |= 1u << i;
            lists[place] = list;
            of[place] = v;
            enter(g, v, list, place);
            fetch_list(g, g->queries + place, list, !is_rough);
        }
    }
    const int from = FPQ_TABLES - rough;
    if (exact) fpq_query_tables(g->scan->adc, g->residuals, exact, g->queries);
    if (rough && !g->terms) fpq_query_rough_tables(g->scan->adc, g->squares, g->residuals + (ptrdiff_t)from * g->d, rough, g->queries + from);
    for (int i = 0; i < exact; i++) scan_list(g->scan, g->lists, lists[i], g->queries + i, &of[i]->top);
    for (int i = from; i < FPQ_TABLES; i++) {
        if (g->terms)
            fpq_query_term_tables(g->terms, &of[i]->own, lists[i], lists[i + 1 < FPQ_TABLES ? i + 1 : i],
                                  g->residuals + (ptrdiff_t)i * g->d, g->queries + i);
        scan_list(g->scan, g->lists, lists[i], g->queries + i, &of[i]->top);
    }
    return exact + rough;
}

/* The queries in the order of their nearest lists: what neighbours read is in the cache. starts: n_lists + 1 numbers. */
static void put_in_order(const int64_t *probes, int64_t nq, int n_probe, int64_t n_lists, int64_t *starts, int64_t *order) {
    memset(starts, 0, (size_t)(n_lists + 1) * sizeof *starts);
    for (int64_t i = 0; i < nq; i++) starts[probes[i * n_probe] + 1]++;
    for (int64_t list = 0; list < n_lists; list++) starts[list + 1] += starts[list];
    for (int64_t i = 0; i < nq; i++) order[starts[probes[i * n_probe]]++] = i;
}

int fpq_ivf_search(const fpq_adc *adc, const fpq_lists *lists, const float *queries, int64_t nq, const int64_t *probes,
                   int n_probe, const uint8_t *blocks, const int64_t *slot_ids, int k, float *distances, int64_t *ids,
                   int threads) {
    const fpq_scan s = fpq_scan_of(adc, blocks, slot_ids);
    const size_t each = group_size(adc);
    /* Few queries share their probes among the threads: every ranges-th list each. */
    const int ranges = nq < threads ? threads : 1, size = nq < FPQ_TABLES * threads ? 1 : FPQ_TABLES;
    const int tasks = (int)((nq + size - 1) / size) * ranges;
    threads = fpq_threads(threads, tasks);
    const int share = tasks / threads / 4, chunk = share < 1 ? 1 : share < CHUNK ? share : CHUNK;
    char *memory = fpq_alloc((size_t)threads * each + fpq_squares_size(adc) * sizeof(float));
    int64_t *order = fpq_alloc((size_t)(nq + lists->n + 1) * sizeof *order);
    int64_t *parts = ranges > 1 ? fpq_alloc((size_t)tasks * (size_t)k * (sizeof(int64_t) + sizeof(float))) : NULL;
    fpq_squares squares = {.half = NULL};
    fpq_terms terms = {.adc = adc};
    int status = memory && order && (parts || ranges == 1) ? 0 : -1;
    fpq_poll poll = {0};
    if (status) goto done;
    if (s.sieves && lists->residual && !adc->inner_product && n_probe > 1)
        squares = fpq_squares_of(adc, (float *)(void *)(memory + (size_t)threads * each));
    if (squares.half && n_probe >= TERMS_PROBES) status = fpq_terms_make(adc, &squares, lists, probes, nq * n_probe, &terms, threads);
    if (status) goto done;
    put_in_order(probes, nq, n_probe, lists->n, order + nq, order);
    float *part_distances = (float *)(void *)(parts + (parts ? (int64_t)tasks * k : 0));
#pragma omp parallel for schedule(dynamic, chunk) num_threads(threads)
    for (int task = 0; task < tasks; task++) {
        if (fpq_stopped(&poll)) continue;
        const int64_t first = (int64_t)(task / ranges) * size;
        group g = group_of(&s, lists, &squares, &terms, memory + (size_t)FPQ_THREAD_NUMBER() * each);
        g.n_probe = n_probe;
        g.step = ranges;
        start(&g, queries, order + first, nq - first < size ? (int)(nq - first) : size);
        for (int i = 0; i < g.n; i++) {
            visitor *v = g.visitors + i;
            const int64_t query = order[first + i], at = (parts ? task : query) * k;
            v->top = (fpq_topk){(parts ? part_distances : distances) + at, (parts ? parts : ids) + at, k};
            v->probes = probes + query * n_probe;
            v->at = task % ranges;
            fpq_topk_init(&v->top);
        }
        for (int i = 0; i < g.n && !g.per_list; i++) visit_by_one(&g, i);
        while (g.per_list && visit_some(&g)) continue;
        for (int i = 0; i < g.n && !parts; i++) fpq_topk_sort(&g.visitors[i].top);
    }
    for (int64_t i = 0; i < nq && parts; i++)
        fpq_topk_merge((fpq_topk){distances + order[i] * k, ids + order[i] * k, k}, part_distances + i * ranges * k, parts + i * ranges * k,
                       (int64_t)ranges * k);
    if (poll.stop) status = -1;
done:
    fpq_terms_free(&terms);
    fpq_free(memory);
    fpq_free(order);
    fpq_free(parts);
    return status;
}

int fpq_ivf_all(const fpq_adc *adc, const fpq_lists *lists, const float *queries, int64_t nq, const int64_t *probes, int n_probe,
                const uint8_t *blocks, const int64_t *starts, float *out, int threads) {
    const fpq_scan s = fpq_scan_of(adc, blocks, NULL);
    const int tasks = (int)nq;
    const size_t each = group_size(adc);
    threads = fpq_threads(threads, tasks);
    char *memory = fpq_alloc((size_t)threads * each);
    if (!memory) return -1;
    fpq_poll poll = {0};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < tasks; i++) {
        if (fpq_stopped(&poll)) continue;
        group g = group_of(&s, lists, NULL, NULL, memory + (size_t)FPQ_THREAD_NUMBER() * each);
        float *sums = out + starts[i] * 64;
        const int64_t query = i;
        start(&g, queries, &query, 1);
        for (int p = 0; p < n_probe; p++) {
            const int64_t list = probes[(ptrdiff_t)i * n_probe + p];
            enter(&g, g.visitors, list, 0);
            if (g.per_list) fpq_query_tables(adc, g.residuals, 1, g.queries);
            for (int64_t b = lists->first[list]; b < lists->first[list + 1]; b++, sums += 64) {
                s.kern->adc(g.queries->table, fpq_ld_table(adc), adc->m, adc->nbits,
                            blocks + (ptrdiff_t)lists->chain[b] * 64 * s.code_size, sums);
                for (int r = 0; r < 64 && g.queries->offset != 0; r++) sums[r] += g.queries->offset;
            }
        }
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}
