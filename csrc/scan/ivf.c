/* SPDX-License-Identifier: MIT
 * Search in inverted lists: the codes of the probed lists, each list with the look-up tables of the query's residual.
 * Exact among the probed lists. Queries with near coarse centroids form a batch: a list that several of them probe is
 * scanned for one after the other, while its codes are in the cache. */
#include <math.h>
#include <string.h>

#include "dot.h"
#include "isa/kernels.h"
#include "lut/precomputed.h"
#include "parallel.h"
#include "portable.h"
#include "scan/scan.h"

enum {
    MIN_PROBES_PRECOMPUTED =
        3,                  /* from so many probes per query on, precomputed tables are faster than approximate ones */
    QUERY_BATCH = 32,       /* queries per batch at most; */
    SMALL_QUERY_BATCH = 16, /* where queries share few lists, the tables of fewer stay in the cache: */
    MIN_SHARED_LISTS = 10,  /* where each probes less than one list of so many */
    MAX_BATCH_PROBES = 1 << 20 /* probes of a batch at most, for its memory */
};

typedef struct {
    const float *q;
    float length;    /* of q, for inner products */
    float magnitude; /* lut.magnitude before a list's offset */
    float reach;     /* the largest absolute value of an offset in the run */
    fpq_results results;
    fpq_lut16 terms; /* the query's part of precomputed tables */
    fpq_lut lut;     /* where one set of tables serves all lists */
    fpq_run run;     /* and the blocks of several lists that are scanned together */
} query_state;

typedef struct {
    fpq_scan scan;
    const fpq_lists *lists;
    fpq_precomputed precomputed;
    fpq_codeword_norms norms;
    int d, code_d, per_list; /* per_list: each list has tables of its own */
    const float *queries;
    int64_t nq, batch; /* queries per batch */
    int64_t *order;    /* (nq): queries with the same nearest list stand together */
    const int64_t *probes;
    const float *residuals;     /* those of fpq_probes, or NULL */
    int n_probe, ranges;        /* with ranges, a task takes every ranges-th list of one query */
    const fpq_answers *answers; /* of query i in range r: number i * ranges + r */
} search;

/* A batch of queries, and the probes that wait for their tables: FPQ_LUT_QUERIES tables are made in one pass over the
 * codebooks. Exact ones stand in front; approximate ones, which do once a query has a threshold, at the back. */
typedef struct {
    const search *s;
    fpq_poll *poll;
    int n;
    query_state states[QUERY_BATCH];
    int n_exact, n_approx;
    query_state *waiting[FPQ_LUT_QUERIES];
    int64_t waiting_lists[FPQ_LUT_QUERIES];
    float *residuals; /* (FPQ_LUT_QUERIES, code_d) */
    fpq_lut luts[FPQ_LUT_QUERIES];
    int32_t *head;    /* (n_lists): the first probe of a list, -1: none */
    int32_t *next;    /* (batch * n_probe): after each probe the next one of the same list */
    int32_t *touched; /* (batch * n_probe): lists that are probed */
} batch;

static size_t batch_scratch(const search *s) {
    const size_t probes = (size_t)s->batch * (size_t)s->n_probe, n = (size_t)s->batch;
    const fpq_adc *adc = s->scan.adc;
    return (FPQ_LUT_QUERIES + n) * fpq_lut_size(s->scan.kern, adc) + n * fpq_lut16_size(adc) +
           fpq_lines(FPQ_LUT_QUERIES * (size_t)s->code_d * sizeof(float)) +
           fpq_lines((size_t)s->lists->n * sizeof(int32_t)) + 2 * fpq_lines(probes * sizeof(int32_t));
}

static void place_batch(const search *s, batch *b, char *memory) {
    const fpq_adc *adc = s->scan.adc;
    const size_t lut_size = fpq_lut_size(s->scan.kern, adc);
    b->s = s;
    b->n_exact = b->n_approx = 0;
    for (int i = 0; i < FPQ_LUT_QUERIES; i++, memory += lut_size) fpq_lut_place(s->scan.kern, adc, memory, b->luts + i);
    for (int i = 0; i < s->batch; i++) {
        fpq_lut_place(s->scan.kern, adc, memory, &b->states[i].lut);
        b->states[i].terms.entries = (uint16_t *)(void *)(memory += lut_size);
        memory += fpq_lut16_size(adc);
    }
    b->residuals = (float *)(void *)memory;
    b->head = (int32_t *)(void *)(memory += fpq_lines(FPQ_LUT_QUERIES * (size_t)s->code_d * sizeof(float)));
    b->next = (int32_t *)(void *)(memory += fpq_lines((size_t)s->lists->n * sizeof(int32_t)));
    b->touched = (int32_t *)(void *)(memory + fpq_lines((size_t)s->batch * (size_t)s->n_probe * sizeof(int32_t)));
}

/* Where the answer of the i-th query of a task belongs. */
static int64_t answer_of(const search *s, int64_t task, int i) {
    return s->order[task / s->ranges * s->batch + i] * s->ranges + task % s->ranges;
}

/* The results and what of the tables does not depend on the list. */
static void begin_batch(batch *b, int64_t task) {
    const search *s = b->s;
    const int64_t number = task / s->ranges;
    b->n = fpq_batch_size(s->nq, s->batch, number);
    for (int i = 0; i < b->n; i++) {
        query_state *state = b->states + i;
        state->q = s->queries + s->order[number * s->batch + i] * s->d;
        state->length = s->scan.adc->metric == FPQ_IP ? (float)sqrt(fpq_dot(state->q, state->q, s->d)) : 0;
        state->reach = 0;
        state->run.n = 0;
        state->run.has_offsets = s->lists->residual;
        state->results = fpq_results_of(s->answers, answer_of(s, task, i), s->lists->slot_ids);
    }
    for (int i = 0; i < b->n && (s->precomputed.lists || !s->per_list); i += FPQ_LUT_QUERIES) {
        fpq_lut *luts[FPQ_LUT_QUERIES];
        fpq_lut16 *terms[FPQ_LUT_QUERIES];
        int n = 0;
        for (; n < FPQ_LUT_QUERIES && i + n < b->n; n++) {
            luts[n] = &b->states[i + n].lut;
            terms[n] = &b->states[i + n].terms;
            memcpy(b->residuals + n * s->d, b->states[i + n].q, (size_t)s->d * sizeof(float));
        }
        if (s->precomputed.lists)
            fpq_precomputed_query_terms(&s->precomputed, b->residuals, n, terms);
        else
            fpq_lut_make(b->residuals, n, luts);
    }
    for (int i = 0; i < b->n && !s->per_list; i++) b->states[i].magnitude = b->states[i].lut.magnitude;
}

/* Whether every code of the list of a probe is farther than the threshold, by the triangle inequality. With a rotation
 * to fewer dimensions, distances are those of the rotated residuals. */
static int is_out_of_reach(const search *s, const query_state *state, const int64_t *at) {
    const int64_t list = *at;
    const float margin = 1 - 1e-4f, *centroid = s->lists->centroids + list * s->d, threshold = state->results.threshold;
    if (!s->lists->max_residual || !(threshold < INFINITY) || s->scan.adc->metric != FPQ_L2) return 0;
    const float *rotated = s->residuals ? s->residuals + (at - s->probes) * s->code_d : NULL;
    const float squared = rotated ? s->scan.kern->ip_f32(rotated, rotated, s->code_d)
                                  : s->scan.kern->l2_f32(state->q, centroid, s->d);
    const float gap = margin * sqrtf(squared) - s->lists->max_residual[list];
    return squared < INFINITY && gap > 0 && margin * gap * gap > threshold;
}

/* The same for inner products, from that of the query and the centroid. */
static int is_product_out_of_reach(const search *s, const query_state *state, int64_t list, float product) {
    const float threshold = state->results.threshold;
    if (!s->lists->max_residual || !(threshold < INFINITY)) return 0;
    const float reach = state->length * s->lists->max_residual[list];
    return -product - reach > threshold + 1e-4f * (reach + fabsf(product) + fabsf(threshold));
}

static int is_empty(const fpq_lists *lists, int64_t list) {
    uint64_t any = 0;
    for (int64_t b = lists->first[list]; b < lists->first[list + 1]; b++) any |= lists->live_rows[lists->block_ids[b]];
    return !any;
}

/* To the L2 cache: the L1 cache is for tables and the blocks that are scanned. */
static void prefetch_list(const search *s, int64_t list) {
    for (int64_t b = s->lists->first[list]; b < s->lists->first[list + 1]; b++) {
        const uint8_t *codes = s->scan.blocks + (ptrdiff_t)s->lists->block_ids[b] * 64 * s->scan.code_size;
        for (int o = 0; o < s->scan.code_size; o++) FPQ_PREFETCH_L2(codes + o * 64);
    }
    if (s->precomputed.lists) fpq_precomputed_prefetch(&s->precomputed, list);
}

/* Appends blocks of a list that have live rows, from *at on, while there is room. */
static void gather(const fpq_lists *lists, int64_t *at, int64_t end, fpq_run *run) {
    for (; *at < end && run->n < FPQ_BLOCK_RUN; ++*at) {
        const int32_t block = lists->block_ids[*at];
        const uint64_t rows = lists->live_rows[block];
        run->block_ids[run->n] = block;
        run->rows[run->n] = rows;
        run->n += rows != 0;
    }
}

static void scan_list(const search *s, int64_t list, fpq_lut *lut, fpq_results *results) {
    fpq_run run;
    run.n = run.has_offsets = 0;
    for (int64_t at = s->lists->first[list]; at < s->lists->first[list + 1];) {
        gather(s->lists, &at, s->lists->first[list + 1], &run);
        fpq_scan_run(&s->scan, lut, &run, results);
    }
}

/* Inner products: q.(c + r) = q.c + q.r, where the first term is the list's offset. magnitude: that of q.r. */
static void set_list(const search *s, const query_state *state, int64_t list, fpq_lut *lut, float magnitude) {
    lut->offset = (float)-fpq_dot(state->q, s->lists->centroids + list * s->d, s->d);
    lut->magnitude = magnitude + fabsf(lut->offset);
    lut->lut8.threshold = -INFINITY;
}

/* Where one set of tables serves all lists: appends the blocks of a list to the query's run, and scans the run when it
 * is full. A larger offset than those before makes a larger bound of rounding errors, which the tables in bytes hold.
 */
static void extend_run(const search *s, query_state *state, int64_t list, float offset) {
    fpq_run *run = &state->run;
    if (fabsf(offset) > state->reach) {
        state->reach = fabsf(offset);
        state->lut.magnitude = state->magnitude + 2 * state->reach; /* the threshold is the other part */
        state->lut.lut8.threshold = -INFINITY;
    }
    for (int64_t at = s->lists->first[list], end = s->lists->first[list + 1]; at < end;) {
        const int begin = run->n;
        gather(s->lists, &at, end, run);
        for (int b = begin; b < run->n; b++) run->offsets[b] = offset;
        if (at < end) fpq_scan_run(&s->scan, &state->lut, run, &state->results);
    }
}

/* Makes the tables of the waiting probes and scans their lists. */
static void scan_waiting(batch *b) {
    const int from = FPQ_LUT_QUERIES - b->n_approx;
    fpq_lut *luts[FPQ_LUT_QUERIES];
    for (int i = 0; i < FPQ_LUT_QUERIES; i++) luts[i] = b->luts + i;
    if (b->n_exact) fpq_lut_make(b->residuals, b->n_exact, luts);
    for (int i = 0; i < b->n_exact && b->s->scan.adc->metric == FPQ_IP; i++)
        set_list(b->s, b->waiting[i], b->waiting_lists[i], luts[i], luts[i]->magnitude);
    if (b->n_approx)
        fpq_lut_make_approx(&b->s->norms, b->residuals + (ptrdiff_t)from * b->s->code_d, b->n_approx, b->luts + from);
    for (int i = 0; i < FPQ_LUT_QUERIES; i++)
        if (i < b->n_exact || i >= from) scan_list(b->s, b->waiting_lists[i], b->luts + i, &b->waiting[i]->results);
    b->n_exact = b->n_approx = 0;
}

static void probe(batch *b, query_state *state, const int64_t *at) {
    const search *s = b->s;
    const int64_t list = *at;
    const float *centroid = s->lists->centroids + list * s->d;
    if (!s->per_list) {
        const float product = s->lists->residual ? (float)fpq_dot(state->q, centroid, s->d) : 0;
        if (!is_product_out_of_reach(s, state, list, product)) extend_run(s, state, list, -product);
        return;
    }
    if (is_out_of_reach(s, state, at)) return;
    const int is_approx = s->norms.half && state->results.threshold < INFINITY,
              place = s->precomputed.lists ? 0
                      : is_approx          ? FPQ_LUT_QUERIES - ++b->n_approx
                                           : b->n_exact++;
    float *residual = b->residuals + (ptrdiff_t)place * s->code_d;
    if (s->residuals)
        memcpy(residual, s->residuals + (at - s->probes) * s->code_d, (size_t)s->code_d * sizeof *residual);
    else
        for (int t = 0; t < s->d; t++) residual[t] = state->q[t] - centroid[t];
    if (s->precomputed.lists) {
        fpq_lut_make_precomputed(&s->precomputed, &state->terms, list, residual, b->luts);
        scan_list(s, list, b->luts, &state->results);
        return;
    }
    b->waiting[place] = state;
    b->waiting_lists[place] = list;
    if (b->n_exact + b->n_approx == FPQ_LUT_QUERIES) scan_waiting(b);
}

/* Scans a query's first lists, as many as fit into one run: the more rows the first threshold is chosen from, the
 * lower. Returns how many lists. */
static int probe_first(batch *b, query_state *state, const int64_t *probes, int count, int step) {
    const search *s = b->s;
    const fpq_lists *lists = s->lists;
    fpq_run *run = &state->run;
    int p = 0;
    if (lists->residual && !s->per_list) {
        set_list(s, state, probes[0], &state->lut, state->magnitude);
        scan_list(s, probes[0], &state->lut, &state->results);
        state->lut.offset = 0;
        state->lut.lut8.threshold = -INFINITY;
        return 1;
    }
    if (lists->residual || lists->first[probes[0] + 1] - lists->first[probes[0]] > FPQ_BLOCK_RUN) {
        if (!is_empty(lists, probes[0])) probe(b, state, probes);
        return 1;
    }
    for (; p < count; p++) {
        const int64_t list = probes[(ptrdiff_t)p * step], end = lists->first[list + 1];
        int64_t at = lists->first[list];
        if (p && run->n + end - at > FPQ_BLOCK_RUN) break;
        gather(lists, &at, end, run);
    }
    fpq_scan_run(&s->scan, &state->lut, run, &state->results);
    return p;
}

/* Every query scans its nearest lists first; then the other lists follow, each for all queries that probe it, in the
 * order in which the first of these comes to it. probes[i]: those of query i, `count` of them, `step` apart. */
static void probe_all(batch *b, const int64_t *const *probes, int count, int step) {
    const search *s = b->s;
    int n_touched = 0, begun[QUERY_BATCH];
    for (int p = 0; p < count; p++)
        for (int i = 0; i < b->n; i++) b->head[probes[i][(ptrdiff_t)p * step]] = -1;
    for (int i = 0; i < b->n && count; i++) begun[i] = probe_first(b, b->states + i, probes[i], count, step);
    if (s->per_list) scan_waiting(b);
    for (int p = 1; p < count; p++)
        for (int i = 0; i < b->n; i++) {
            const int64_t list = probes[i][(ptrdiff_t)p * step];
            if (p < begun[i]) continue;
            const int32_t number = p * b->n + i;
            if (b->head[list] < 0) b->touched[n_touched++] = (int32_t)list;
            b->next[number] = b->head[list];
            b->head[list] = number;
        }
    for (int t = 0; t < n_touched; t++) {
        const int64_t list = b->touched[t];
        const int skip = is_empty(s->lists, list) || fpq_stopped(b->poll);
        if (t + 1 < n_touched) prefetch_list(s, b->touched[t + 1]);
        for (int32_t p = skip ? -1 : b->head[list]; p >= 0; p = b->next[p])
            probe(b, b->states + p % b->n, probes[p % b->n] + (ptrdiff_t)(p / b->n) * step);
    }
    if (s->per_list) scan_waiting(b);
    for (int i = 0; i < b->n && !s->per_list; i++)
        fpq_scan_run(&s->scan, &b->states[i].lut, &b->states[i].run, &b->states[i].results);
}

static void search_batch(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    const int range = (int)(task % s->ranges);
    const int64_t *probes[QUERY_BATCH];
    batch b;
    place_batch(s, &b, worker->scratch);
    b.poll = worker->poll;
    begin_batch(&b, task);
    for (int i = 0; i < b.n; i++)
        probes[i] = s->probes + s->order[task / s->ranges * s->batch + i] * s->n_probe + range;
    probe_all(&b, probes, (s->n_probe - range + s->ranges - 1) / s->ranges, s->ranges);
    for (int i = 0; i < b.n; i++) {
        b.states[i].results.failed |= fpq_stopped(worker->poll);
        if (fpq_results_finish(&b.states[i].results, s->answers, answer_of(s, task, i))) fpq_fail(worker);
    }
}

/* Orders the queries by their nearest lists: neighbours probe the same lists. starts: n_lists + 1 numbers. */
static void order_queries(const search *s, int64_t *starts) {
    s->order[0] = 0;
    if (s->nq == 1) return;
    memset(starts, 0, (size_t)(s->lists->n + 1) * sizeof *starts);
    for (int64_t i = 0; i < s->nq; i++) starts[s->probes[i * s->n_probe] + 1]++;
    for (int64_t list = 0; list < s->lists->n; list++) starts[list + 1] += starts[list];
    for (int64_t i = 0; i < s->nq; i++) s->order[starts[s->probes[i * s->n_probe]]++] = i;
}

static int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

/* As many queries per batch as give every thread two batches. */
static int64_t batch_size(const search *s, int threads) {
    const int shares = (int64_t)s->n_probe * MIN_SHARED_LISTS >= s->lists->n;
    const int64_t size = lesser(shares ? QUERY_BATCH : SMALL_QUERY_BATCH, s->nq / (2 * threads)),
                  most = MAX_BATCH_PROBES / s->n_probe;
    return size < 1 || most < 1 ? 1 : lesser(size, most);
}

/* Bytes of the codes in the probed lists, and of the tables that they need. */
static int64_t work_of(const search *s) {
    const fpq_adc *adc = s->scan.adc;
    const int64_t n = s->nq * s->n_probe, table = (int64_t)sizeof(float) * adc->m * fpq_ld_table(adc);
    int64_t blocks = 0;
    for (int64_t p = 0; p < n; p++) blocks += s->lists->first[s->probes[p] + 1] - s->lists->first[s->probes[p]];
    return blocks * 64 * s->scan.code_size + (s->per_list ? n : s->nq) * table;
}

/* The lists with the nearest centroids. distances: as many floats as there are probes. */
static int find_probes(const fpq_probes *probes, const fpq_lists *lists, int64_t nq, float *distances, int64_t *found,
                       int threads) {
    const fpq_selector all = {.n = lists->n};
    const fpq_answers nearest = {.k = probes->per_query, .distances = distances, .ids = found};
    if (!probes->lengths) return fpq_small_flat_search(probes->coarse, probes->queries, nq, &all, &nearest, threads);
    const ptrdiff_t step = (ptrdiff_t)sizeof(float);
    const fpq_matrix x = {(const char *)probes->queries, nq, probes->d, probes->d * step, step, FPQ_F32, 0};
    float *longer = fpq_alloc((size_t)nq * ((size_t)probes->d + 1) * sizeof *longer);
    int status = longer ? fpq_append_lengths(&x, probes->lengths, longer, threads) : -1;
    if (!status) status = fpq_small_flat_search(probes->coarse, longer, nq, &all, &nearest, threads);
    fpq_free(longer);
    return status;
}

/* As fpq_ivf_search, once the probes are known. */
static int search_probes(search *s, const fpq_answers *answers, int threads) {
    const fpq_adc *adc = s->scan.adc;
    threads = fpq_worth_threads(threads, work_of(s), FPQ_THREAD_BYTES);
    s->batch = s->nq < threads ? 1 : batch_size(s, threads);
    s->ranges = s->nq < threads ? threads : 1; /* few queries share their probes among the threads */
    /* The first list of a top-k search has exact tables, all others approximate or precomputed ones. */
    const int has_approx = s->scan.prunes && s->per_list && adc->metric == FPQ_L2 && (s->n_probe > 1 || !answers->k);
    float *norms = has_approx ? fpq_alloc(fpq_codeword_norms_size(adc) * sizeof *norms) : NULL;
    s->order = fpq_alloc((size_t)(s->nq == 1 ? 1 : s->nq + s->lists->n + 1) * sizeof *s->order);
    int status = s->order && (norms || !has_approx) ? 0 : -1;
    if (!status && has_approx) {
        s->norms = fpq_codeword_norms_of(s->scan.kern, adc, norms);
        if (s->n_probe >= MIN_PROBES_PRECOMPUTED && !s->residuals)
            status = fpq_precomputed_make(s->scan.kern, adc, &s->norms, s->lists, s->probes, s->nq * s->n_probe,
                                          &s->precomputed, threads);
    }
    if (!status) {
        order_queries(s, s->order + s->nq);
        status = fpq_search_ranges(answers, s->nq, s->ranges, &s->answers, fpq_batches(s->nq, s->batch) * s->ranges,
                                   batch_scratch(s), threads, search_batch, s);
    }
    fpq_precomputed_free(&s->precomputed);
    fpq_free(norms);
    fpq_free(s->order);
    return status;
}

int fpq_ivf_search(const fpq_adc *adc, const fpq_lists *lists, const float *queries, int64_t nq,
                   const fpq_probes *probes, const fpq_answers *answers, int threads) {
    const size_t n_probes = (size_t)nq * (size_t)probes->per_query;
    search s = {.scan = fpq_scan_of(adc, lists->blocks),
                .lists = lists,
                .d = lists->d,
                .code_d = adc->offsets[adc->m],
                .per_list = lists->residual && (adc->metric != FPQ_IP || probes->residuals),
                .queries = queries,
                .nq = nq,
                .probes = probes->lists,
                .residuals = probes->residuals,
                .n_probe = probes->per_query};
    if (probes->lists) return search_probes(&s, answers, threads);
    int64_t *found = fpq_alloc(n_probes * (sizeof(int64_t) + sizeof(float)));
    s.probes = found;
    int status = found ? find_probes(probes, lists, nq, (float *)(void *)(found + n_probes), found, threads) : -1;
    if (!status) status = search_probes(&s, answers, threads);
    fpq_free(found);
    return status;
}
