/* SPDX-License-Identifier: MIT
 * Search in inverted lists: the codes of the probed lists, nearest list first, each with the tables of the query's
 * residual. Exact among the probed lists. A list is passed over when its radius says that none of its codes can be near
 * enough. */
#include <math.h>
#include <string.h>

#include "dot.h"
#include "isa/kernels.h"
#include "portable.h"
#include "scan/scan.h"
#include "lut/precomputed.h"
#include "parallel.h"

/* PRECOMPUTED_PROBES: from which on terms are faster than rough tables. GROUP: queries that share what they read of a
 * list. FIRST: times k rows that a query_state begins with, where one set of tables serves all lists. MOST_VISITS: of a
 * group, and answers. */
enum { PRECOMPUTED_PROBES = 3, GROUP = 32, FIRST = 16, MOST_VISITS = 1 << 20 };

typedef struct {
    const float *q;
    float length, magnitude;
    fpq_topk top;
    fpq_lut16 own;
    fpq_lut query; /* where one set of tables serves all lists */
} query_state;

/* Neighbouring queries. A list that several of them probe is visited by one after the other, while it is in the cache.
 */
typedef struct {
    const fpq_scan *scan;
    const fpq_lists *lists;
    const fpq_precomputed *terms; /* NULL: none */
    const fpq_codeword_norms *squares;
    const int64_t *slot_ids;
    fpq_poll *poll;
    int d, per_list; /* whether each list has tables of its own */
    int n;
    query_state states[GROUP];
    /* Visits that wait for tables, which are made for some in one pass over the codebooks: exact ones from the front,
     * rough ones, which do once a query_state knows what is near, from the back. */
    int exact, rough;
    query_state *of[FPQ_LUT_QUERIES];
    int64_t waiting[FPQ_LUT_QUERIES]; /* their lists */
    float *residuals;                 /* (FPQ_LUT_QUERIES, d) */
    fpq_lut queries[FPQ_LUT_QUERIES];
    int32_t *head;    /* (n_lists): the first visit of a list, -1: none */
    int32_t *next;    /* (GROUP, n_probe): after each visit the one that follows in its list */
    int32_t *touched; /* (GROUP, n_probe): lists that are visited */
} group;

static int group_most(int n_probe, int k) {
    const int most = MOST_VISITS / (n_probe > k ? n_probe : k);
    return most < 1 ? 1 : most < GROUP ? most : GROUP;
}

/* Bytes of memory of a thread, for groups of at most `most` queries. */
static size_t group_size(const fpq_adc *adc, const fpq_lists *lists, int most, int n_probe, int k) {
    const size_t visits = (size_t)most * (size_t)n_probe, m = (size_t)most;
    return (FPQ_LUT_QUERIES + m) * fpq_lut_size(adc) + m * fpq_lut16_size(adc) +
           fpq_lines(FPQ_LUT_QUERIES * (size_t)adc->offsets[adc->m] * sizeof(float)) +
           m * (fpq_lines((size_t)k * sizeof(float)) + fpq_lines((size_t)k * sizeof(int64_t))) +
           fpq_lines((size_t)lists->n * sizeof(int32_t)) + 2 * fpq_lines(visits * sizeof(int32_t));
}

static void group_place(group *g, const fpq_adc *adc, int most, int n_probe, int k, char *memory) {
    const size_t visits = fpq_lines((size_t)most * (size_t)n_probe * sizeof(int32_t));
    for (int i = 0; i < FPQ_LUT_QUERIES; i++, memory += fpq_lut_size(adc)) fpq_lut_place(adc, memory, g->queries + i);
    for (int i = 0; i < most; i++) {
        query_state *v = g->states + i;
        fpq_lut_place(adc, memory, &v->query);
        v->own.steps = (uint16_t *)(void *)(memory += fpq_lut_size(adc));
        v->top = (fpq_topk){.distance = (float *)(void *)(memory += fpq_lut16_size(adc)), .k = k};
        v->top.id = (int64_t *)(void *)(memory += fpq_lines((size_t)k * sizeof(float)));
        memory += fpq_lines((size_t)k * sizeof(int64_t));
    }
    g->residuals = (float *)(void *)memory;
    g->head = (int32_t *)(void *)(memory += fpq_lines(FPQ_LUT_QUERIES * (size_t)g->d * sizeof(float)));
    g->next = (int32_t *)(void *)(memory += fpq_lines((size_t)g->lists->n * sizeof(int32_t)));
    g->touched = (int32_t *)(void *)(memory + visits);
}

/* Begin with the n listed queries. */
static void start(group *g, const float *queries, const int64_t *list, int n) {
    const fpq_adc *adc = g->scan->adc;
    g->n = n;
    for (int i = 0; i < n; i++) {
        query_state *v = g->states + i;
        v->q = queries + list[i] * g->d;
        v->length = adc->inner_product ? (float)sqrt(fpq_dot(v->q, v->q, g->d)) : 0;
        fpq_topk_init(&v->top);
        v->top.ids = g->slot_ids;
    }
    for (int i = 0; i < n && (g->terms || !g->per_list); i += FPQ_LUT_QUERIES) {
        fpq_lut *of[FPQ_LUT_QUERIES];
        fpq_lut16 *own[FPQ_LUT_QUERIES];
        int t = 0;
        for (; t < FPQ_LUT_QUERIES && i + t < n; t++) {
            of[t] = &g->states[i + t].query;
            own[t] = &g->states[i + t].own;
            memcpy(g->residuals + t * g->d, g->states[i + t].q, (size_t)g->d * sizeof(float));
        }
        if (g->terms)
            fpq_precomputed_query_terms(g->terms, g->residuals, t, own);
        else
            fpq_lut_make(adc, g->residuals, t, of);
    }
    for (int i = 0; i < n && !g->per_list; i++) {
        fpq_lut_order(adc, &g->states[i].query);
        g->states[i].magnitude = g->states[i].query.magnitude;
    }
}

/* Whether every code of a list is farther than limit, by the triangle inequality. */
static int out_of_reach(const group *g, const query_state *v, int64_t list, float limit) {
    const float margin = 1 - 1e-4f, *centroid = g->lists->centroids + list * g->d;
    if (!g->lists->max_residual || !(limit < INFINITY)) return 0;
    const float radius = g->lists->max_residual[list];
    if (g->scan->adc->inner_product) {
        const float reach = v->length * radius, product = (float)fpq_dot(v->q, centroid, g->d);
        return -product - reach > limit + 1e-4f * (reach + fabsf(product) + fabsf(limit));
    }
    const float squared = g->scan->kern->l2_f32(v->q, centroid, g->d), gap = margin * sqrtf(squared) - radius;
    return squared < INFINITY && gap > 0 && margin * gap * gap > limit;
}

static int is_empty(const fpq_lists *lists, int64_t list) {
    uint64_t any = 0;
    for (int64_t b = lists->first[list]; b < lists->first[list + 1]; b++) any |= lists->live_rows[lists->block_ids[b]];
    return !any;
}

/* Call up what will be read of a list. */
static void fetch_list(const group *g, int64_t list) {
    const fpq_scan *s = g->scan;
    for (int64_t b = g->lists->first[list]; b < g->lists->first[list + 1]; b++) {
        const uint8_t *codes = s->blocks + (ptrdiff_t)g->lists->block_ids[b] * 64 * s->code_size;
        for (int o = 0; o < s->code_size; o++) FPQ_PREFETCH(codes + o * 64);
    }
    if (g->terms) fpq_precomputed_prefetch(g->terms, list);
}

/* Blocks of a list with rows that may be returned, from the b-th of all lists on, while there is room for them; how
 * many rows. */
static int gather(const fpq_lists *lists, int64_t *b, int64_t end, int32_t *which, uint64_t *rows, int *n) {
    int n_rows = 0;
    for (; *b < end && *n < FPQ_BLOCK_RUN; ++*b) {
        which[*n] = lists->block_ids[*b];
        rows[*n] = lists->live_rows[which[*n]];
        n_rows += fpq_popcount(rows[*n]);
        *n += rows[*n] != 0;
    }
    return n_rows;
}

static void scan_list(const fpq_scan *s, const fpq_lists *lists, int64_t list, fpq_lut *query, fpq_topk *top) {
    uint64_t rows[FPQ_BLOCK_RUN];
    int32_t which[FPQ_BLOCK_RUN];
    for (int64_t b = lists->first[list]; b < lists->first[list + 1];) {
        int n = 0;
        gather(lists, &b, lists->first[list + 1], which, rows, &n);
        fpq_scan_blocks(s, query, which, rows, n, top);
    }
}

/* Make the visits that wait. */
static void visit_waiting(group *g) {
    const int from = FPQ_LUT_QUERIES - g->rough;
    fpq_lut *of[FPQ_LUT_QUERIES];
    for (int i = 0; i < FPQ_LUT_QUERIES; i++) of[i] = g->queries + i;
    if (g->exact) fpq_lut_make(g->scan->adc, g->residuals, g->exact, of);
    if (g->rough)
        fpq_lut_make_approx(g->scan->adc, g->squares, g->residuals + (ptrdiff_t)from * g->d, g->rough,
                            g->queries + from);
    for (int i = 0; i < FPQ_LUT_QUERIES; i++)
        if (i < g->exact || i >= from) scan_list(g->scan, g->lists, g->waiting[i], g->queries + i, &g->of[i]->top);
    g->exact = g->rough = 0;
}

static void visit(group *g, query_state *v, int64_t list) {
    const float *centroid = g->lists->centroids + list * g->d, limit = fpq_topk_threshold(&v->top);
    if (out_of_reach(g, v, list, limit)) return;
    if (!g->per_list) {
        if (g->lists->residual) { /* of inner products: q.(c + r) = q.c + q.r, only the offset changes */
            v->query.offset = (float)-fpq_dot(v->q, centroid, g->d);
            v->query.magnitude = v->magnitude + fabsf(v->query.offset);
            v->query.limit = -INFINITY;
        }
        scan_list(g->scan, g->lists, list, &v->query, &v->top);
        return;
    }
    const int is_rough = g->scan->prunes && limit < INFINITY, place = g->terms   ? 0
                                                                      : is_rough ? FPQ_LUT_QUERIES - ++g->rough
                                                                                 : g->exact++;
    float *residual = g->residuals + (ptrdiff_t)place * g->d;
    for (int t = 0; t < g->d; t++) residual[t] = v->q[t] - centroid[t];
    if (g->terms) {
        fpq_lut_make_precomputed(g->terms, &v->own, list, residual, g->queries);
        scan_list(g->scan, g->lists, list, g->queries, &v->top);
        return;
    }
    g->of[place] = v;
    g->waiting[place] = list;
    if (g->exact + g->rough == FPQ_LUT_QUERIES) visit_waiting(g);
}

/* Visit the first lists, in one run if possible: the first limit is the lower the more rows it is chosen from. How
 * many. */
static int begin_visits(group *g, query_state *v, const int64_t *probes, int count, int step) {
    const fpq_lists *lists = g->lists;
    uint64_t rows[FPQ_BLOCK_RUN];
    int32_t which[FPQ_BLOCK_RUN];
    int n = 0, p = 0, n_rows = 0;
    if (lists->residual || lists->first[probes[0] + 1] - lists->first[probes[0]] > FPQ_BLOCK_RUN) {
        if (!is_empty(lists, probes[0])) visit(g, v, probes[0]);
        return 1;
    }
    for (; p < count; p++) {
        const int64_t list = probes[(ptrdiff_t)p * step], end = lists->first[list + 1];
        int64_t b = lists->first[list];
        if (p && (n_rows >= FIRST * v->top.k || n + end - b > FPQ_BLOCK_RUN)) break;
        n_rows += gather(lists, &b, end, which, rows, &n);
    }
    fpq_scan_blocks(g->scan, &v->query, which, rows, n, &v->top);
    return p;
}

/* Every query_state looks into its nearest lists first; then list after list is visited by all that probe it, in the
 * order in which the first of them comes to it. probes[i]: those of a query_state, `count` of them, `step` apart. */
static void visit_all(group *g, const int64_t *const *probes, int count, int step) {
    int n_touched = 0, begun[GROUP];
    for (int p = 0; p < count; p++)
        for (int i = 0; i < g->n; i++) g->head[probes[i][(ptrdiff_t)p * step]] = -1;
    for (int i = 0; i < g->n && count; i++) begun[i] = begin_visits(g, g->states + i, probes[i], count, step);
    if (g->per_list) visit_waiting(g);
    for (int p = 1; p < count; p++)
        for (int i = 0; i < g->n; i++) {
            const int64_t list = probes[i][(ptrdiff_t)p * step];
            if (p < begun[i]) continue;
            const int32_t visit = p * g->n + i;
            if (g->head[list] < 0) g->touched[n_touched++] = (int32_t)list;
            g->next[visit] = g->head[list];
            g->head[list] = visit;
        }
    for (int t = 0; t < n_touched; t++) {
        const int64_t list = g->touched[t];
        const int skip = is_empty(g->lists, list) || fpq_stopped(g->poll);
        if (t + 1 < n_touched) fetch_list(g, g->touched[t + 1]);
        for (int32_t v = skip ? -1 : g->head[list]; v >= 0; v = g->next[v]) visit(g, g->states + v % g->n, list);
    }
    if (g->per_list) visit_waiting(g);
}

/* The queries in the order of their nearest lists: neighbours probe the same lists. starts: n_lists + 1 numbers. */
static void put_in_order(const int64_t *probes, int64_t nq, int n_probe, int64_t n_lists, int64_t *starts,
                         int64_t *order) {
    order[0] = 0;
    if (nq == 1) return;
    memset(starts, 0, (size_t)(n_lists + 1) * sizeof *starts);
    for (int64_t i = 0; i < nq; i++) starts[probes[i * n_probe] + 1]++;
    for (int64_t list = 0; list < n_lists; list++) starts[list + 1] += starts[list];
    for (int64_t i = 0; i < nq; i++) order[starts[probes[i * n_probe]]++] = i;
}

typedef struct {
    const float *queries;
    int64_t nq, size;
    const int64_t *order, *probes;
    int n_probe, ranges, k;
    float *distances; /* of each query, or with ranges of each task, (., k) */
    int64_t *ids;
} work;

/* Up to `size` queries in order, and every ranges-th of their lists. */
static void do_task(const work *w, int task, group *g) {
    if (fpq_stopped(g->poll)) return;
    const int64_t first = task / w->ranges * w->size, *of[GROUP];
    const int range = task % w->ranges;
    start(g, w->queries, w->order + first, w->nq - first < w->size ? (int)(w->nq - first) : (int)w->size);
    for (int i = 0; i < g->n; i++) of[i] = w->probes + w->order[first + i] * w->n_probe + range;
    visit_all(g, of, (w->n_probe - range + w->ranges - 1) / w->ranges, w->ranges);
    for (int i = 0; i < g->n; i++) {
        fpq_topk *top = &g->states[i].top;
        const int64_t at = (w->ranges > 1 ? task : w->order[first + i]) * w->k;
        fpq_topk_rows_to_ids(top);
        if (w->ranges == 1) fpq_topk_sort(top);
        memcpy(w->distances + at, top->distance, (size_t)w->k * sizeof(float));
        memcpy(w->ids + at, top->id, (size_t)w->k * sizeof(int64_t));
    }
}

int fpq_ivf_search(const fpq_adc *adc, const fpq_lists *lists, const float *queries, int64_t nq, const int64_t *probes,
                   int n_probe, const uint8_t *blocks, const int64_t *slot_ids, int k, float *distances, int64_t *ids,
                   int threads) {
    const fpq_scan s = fpq_scan_of(adc, blocks);
    /* Few queries share their probes among the threads: every ranges-th list each. */
    const int ranges = nq < threads ? threads : 1, most = group_most(n_probe, k);
    const int64_t fair = nq / (2 * threads), size = ranges > 1 || fair < 1 ? 1 : fair < most ? fair : most;
    const int tasks = (int)((nq + size - 1) / size) * ranges;
    threads = fpq_threads(threads, tasks);
    const size_t each = group_size(adc, lists, (int)size, n_probe, k);
    char *memory = fpq_alloc((size_t)threads * each + fpq_codeword_norms_size(adc) * sizeof(float));
    int64_t *order = fpq_alloc((size_t)(nq + lists->n + 1) * sizeof *order);
    int64_t *parts = ranges > 1 ? fpq_alloc((size_t)tasks * (size_t)k * (sizeof(int64_t) + sizeof(float))) : NULL;
    fpq_codeword_norms squares = {.half = NULL};
    fpq_precomputed terms = {.adc = adc};
    int status = memory && order && (parts || ranges == 1) ? 0 : -1;
    fpq_poll poll = {0};
    if (status) goto done;
    if (s.prunes && lists->residual && !adc->inner_product && n_probe > 1)
        squares = fpq_codeword_norms_of(adc, (float *)(void *)(memory + (size_t)threads * each));
    if (squares.half && n_probe >= PRECOMPUTED_PROBES)
        status = fpq_precomputed_make(adc, &squares, lists, probes, nq * n_probe, &terms, threads);
    if (status) goto done;
    put_in_order(probes, nq, n_probe, lists->n, order + nq, order);
    float *part_distances = (float *)(void *)(parts + (parts ? (int64_t)tasks * k : 0));
    const work w = {
        queries, nq, size, order, probes, n_probe, ranges, k, parts ? part_distances : distances, parts ? parts : ids};
    group g = {.scan = &s,
               .lists = lists,
               .squares = &squares,
               .terms = terms.lists ? &terms : NULL,
               .slot_ids = slot_ids,
               .poll = &poll,
               .d = adc->offsets[adc->m],
               .per_list = lists->residual && !adc->inner_product};
    if (threads == 1) { /* a query alone is answered before OpenMP would have begun */
        group_place(&g, adc, (int)size, n_probe, k, memory);
        for (int task = 0; task < tasks; task++) do_task(&w, task, &g);
    } else {
#pragma omp parallel num_threads(threads) firstprivate(g)
        {
            group_place(&g, adc, (int)size, n_probe, k, memory + (size_t)FPQ_THREAD_NUMBER() * each);
#pragma omp for schedule(dynamic)
            for (int task = 0; task < tasks; task++) do_task(&w, task, &g);
        }
    }
    for (int64_t i = 0; i < nq && parts; i++)
        fpq_topk_merge((fpq_topk){.distance = distances + order[i] * k, .id = ids + order[i] * k, .k = k},
                       part_distances + i * ranges * k, parts + i * ranges * k, (int64_t)ranges * k);
    if (poll.stop) status = -1;
done:
    fpq_precomputed_free(&terms);
    fpq_free(memory);
    fpq_free(order);
    fpq_free(parts);
    return status;
}

int fpq_ivf_all(const fpq_adc *adc, const fpq_lists *lists, const float *queries, int64_t nq, const int64_t *probes,
                int n_probe, const uint8_t *blocks, const int64_t *starts, float *out, int threads) {
    const fpq_kernels *kern = fpq_active();
    const int tasks = (int)nq, d = adc->offsets[adc->m], ld = fpq_ld_table(adc),
              code_size = fpq_code_size(adc->m, adc->nbits);
    const int per_list = lists->residual && !adc->inner_product;
    const size_t table = fpq_float_lines((size_t)adc->m * (size_t)ld), each = table + fpq_float_lines((size_t)d);
    threads = fpq_threads(threads, tasks);
    float *memory = fpq_alloc((size_t)threads * each * sizeof(float));
    if (!memory) return -1;
    fpq_poll poll = {0};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < tasks; i++) {
        if (fpq_stopped(&poll)) continue;
        const float *q = queries + (ptrdiff_t)i * d;
        float *tables = memory + (size_t)FPQ_THREAD_NUMBER() * each, *residual = tables + table,
              *sums = out + starts[i] * 64;
        if (!per_list) fpq_adc_table(adc, q, tables);
        for (int p = 0; p < n_probe; p++) {
            const int64_t list = probes[(ptrdiff_t)i * n_probe + p];
            const float *centroid = lists->centroids + list * d;
            const float offset = lists->residual && !per_list ? (float)-fpq_dot(q, centroid, d) : 0;
            for (int t = 0; t < d && per_list; t++) residual[t] = q[t] - centroid[t];
            if (per_list) fpq_adc_table(adc, residual, tables);
            for (int64_t b = lists->first[list]; b < lists->first[list + 1]; b++, sums += 64) {
                kern->adc(tables, ld, adc->m, adc->nbits, blocks + (ptrdiff_t)lists->block_ids[b] * 64 * code_size,
                          sums);
                for (int r = 0; r < 64 && offset != 0; r++) sums[r] += offset;
            }
        }
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}
