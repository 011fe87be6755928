/* SPDX-License-Identifier: MIT
 * Search in inverted lists: the codes of the probed lists, nearest list first, each with the tables of the query's residual.
 * Exact among the probed lists. A list is passed over when its radius says that none of its codes can be near enough. */
#include <math.h>

#include "dot.h"
#include "kernels.h"
#include "portable.h"
#include "scan/run.h"
#include "threads.h"

typedef struct {
    const fpq_adc *adc;
    const fpq_lists *lists;
    const float *q;
    int d;
    float q_length, magnitude;
    float *residual;                       /* (d) scratch */
    fpq_query *query;
} visitor;

static size_t up(size_t bytes) { return (bytes + 63) / 64 * 64; }

static size_t visitor_size(const fpq_adc *adc) {
    return fpq_query_size(adc) + up((size_t)adc->offsets[adc->m] * sizeof(float));
}

static visitor visit_query(const fpq_adc *adc, const fpq_lists *lists, const float *q, char *memory, fpq_query *query) {
    visitor v = {.adc = adc, .lists = lists, .q = q, .d = adc->offsets[adc->m], .query = query};
    fpq_query_place(adc, memory, query);
    v.residual = (float *)(void *)(memory + fpq_query_size(adc));
    v.q_length = (float)sqrt(fpq_dot(q, q, v.d));
    if (!lists->residual || adc->inner_product) fpq_query_tables(adc, q, 0, query);
    v.magnitude = query->magnitude;
    return v;
}

/* Tables for the codes of a list. For inner products q.(c + r) = q.c + q.r: only the offset changes. */
static void enter_list(const visitor *v, int64_t list) {
    const float *centroid = v->lists->centroids + list * v->d;
    if (!v->lists->residual) return;
    if (v->adc->inner_product) {
        v->query->offset = (float)-fpq_dot(v->q, centroid, v->d);
        v->query->magnitude = v->magnitude + fabsf(v->query->offset);
        v->query->limit = INFINITY;
        return;
    }
    for (int t = 0; t < v->d; t++) v->residual[t] = v->q[t] - centroid[t];
    fpq_query_tables(v->adc, v->residual, 0, v->query);
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

/* Codes are far away while the tables for them are worked out. */
static void fetch(const fpq_scan *s, int32_t block) {
    const uint8_t *codes = s->blocks + (ptrdiff_t)block * 64 * s->code_size;
    for (int j = 0; j < s->code_size; j++) FPQ_PREFETCH(codes + j * 64);
}

static void scan_list(const fpq_scan *s, const visitor *v, int64_t list, fpq_topk *top) {
    uint64_t rows[FPQ_RUN];
    int32_t which[FPQ_RUN];
    int entered = 0;
    if (out_of_reach(v, list, fpq_topk_limit(top))) return;
    for (int64_t b = v->lists->first[list]; b < v->lists->first[list + 1];) {
        int n = 0;
        for (; b < v->lists->first[list + 1] && n < FPQ_RUN; b++) {
            which[n] = v->lists->chain[b];
            rows[n] = v->lists->rows[which[n]];
            n += rows[n] != 0;
        }
        if (n && !entered) {
            for (int i = 0; i < n; i++) fetch(s, which[i]);
            enter_list(v, list);
        }
        entered |= n;
        fpq_scan_run(s, v->query, which, rows, n, top);
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
    char *memory = fpq_alloc((size_t)threads * each);
    int64_t *parts = ranges > 1 ? fpq_alloc((size_t)tasks * (size_t)k * (sizeof(int64_t) + sizeof(float))) : NULL;
    int status = memory && (parts || ranges == 1) ? 0 : -1;
    fpq_poll poll = {0};
    if (status) goto done;
    float *part_distances = (float *)(void *)(parts + (parts ? (int64_t)tasks * k : 0));
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int task = 0; task < tasks; task++) {
        if (fpq_stopped(&poll)) continue;
        const int64_t i = task / ranges, at = (int64_t)task * k;
        fpq_query query;
        const visitor v = visit_query(adc, lists, queries + i * d, memory + (size_t)FPQ_THREAD_NUMBER() * each, &query);
        fpq_topk top = parts ? (fpq_topk){part_distances + at, parts + at, k} : (fpq_topk){distances + at, ids + at, k};
        fpq_topk_init(&top);
        for (int p = task % ranges; p < n_probe; p += ranges) scan_list(&s, &v, probes[i * n_probe + p], &top);
        if (!parts) fpq_topk_sort(&top);
    }
    for (int64_t i = 0; i < nq && parts; i++)
        fpq_topk_merge((fpq_topk){distances + i * k, ids + i * k, k}, part_distances + i * ranges * k, parts + i * ranges * k,
                       (int64_t)ranges * k);
    if (poll.stop) status = -1;
done:
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
        fpq_query query;
        const visitor v =
            visit_query(adc, lists, queries + (ptrdiff_t)i * d, memory + (size_t)FPQ_THREAD_NUMBER() * each, &query);
        float *sums = out + starts[i] * 64;
        for (int p = 0; p < n_probe; p++) {
            const int64_t list = probes[(ptrdiff_t)i * n_probe + p];
            enter_list(&v, list);
            for (int64_t b = lists->first[list]; b < lists->first[list + 1]; b++, sums += 64) {
                kern->adc(query.table, fpq_ld_table(adc), adc->m, adc->nbits,
                          blocks + (ptrdiff_t)lists->chain[b] * 64 * code_size, sums);
                for (int r = 0; r < 64 && query.offset != 0; r++) sums[r] += query.offset;
            }
        }
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}
