/* SPDX-License-Identifier: MIT
 * Refined distances of the candidates that a scan has found: the distance of the code (ADC), and one product of the
 * query with the refinement code. All candidates are ranked by the first plane; where there is a second one, only the
 * best of them read it. Sums of integers are exact, so the ranking does not depend on the instruction set beyond ADC.
 */
#include "isa/kernels.h"
#include "parallel.h"
#include "portable.h"
#include "results.h"

typedef struct {
    const fpq_kernels *kern;
    const fpq_refined *r;
    const float *queries;
    const int64_t *candidates;
    const float *distances;
    int64_t n, closest;
    const fpq_answers *answers;
} job;

typedef struct {
    float *query;     /* w */
    char *planes;     /* memory of the prepared query */
    int64_t *rows;    /* n, of the candidates that exist */
    float *distances; /* n */
    int32_t *sums;    /* (n, 2) of the first plane */
    /* those that read the second plane */
    int64_t *best;      /* closest: positions among the candidates */
    int64_t *best_rows; /* closest */
    float *best_distances;
    int32_t *best_sums; /* (closest, 2) */
} workspace;

static size_t place(const job *j, char *memory, workspace *w) {
    const size_t n = (size_t)j->n, closest = (size_t)j->closest;
    char *at = memory;
    w->query = (float *)(void *)at;
    at += fpq_lines((size_t)j->r->codes.w * sizeof(float));
    w->planes = at;
    at += fpq_refinement_query_size(&j->r->codes);
    w->rows = (int64_t *)(void *)at;
    w->best = w->rows + n;
    w->best_rows = w->best + closest;
    at += fpq_lines((n + 2 * closest) * sizeof(int64_t));
    w->distances = (float *)(void *)at;
    w->best_distances = w->distances + n;
    at += fpq_lines((n + closest) * sizeof(float));
    w->sums = (int32_t *)(void *)at;
    w->best_sums = w->sums + 2 * n;
    return (size_t)(at - memory) + fpq_lines(2 * (n + closest) * sizeof(int32_t));
}

/* <y, e^A> of a row from its product. */
static double times_gain(const fpq_refined *r, int64_t row, double product) {
    return r->gain_codes ? (double)r->codes.gains[r->gain_codes[row]] * product : product;
}

/* The distance of a candidate. Squared distances are at least 0, inner products are negated. */
static float refined_distance(const fpq_refined *r, float distance, float norm, double product) {
    if (r->metric == FPQ_IP) return (float)((double)distance - r->unit * product);
    const double squared = (double)distance + r->unit * ((double)norm - 2 * product);
    return squared > 0 ? (float)squared : 0;
}

/* The rows of a query's candidates, and their distances by codes. The ids of a mapped file are not checked: those that
 * no row has are left out. */
static int64_t find_rows(const job *j, int64_t query, workspace *w) {
    const int64_t *candidates = j->candidates + query * j->n;
    int64_t n = 0;
    if (j->r->rows) fpq_ids_find(j->r->rows, candidates, j->n, w->rows);
    for (int64_t i = 0; i < j->n; i++) {
        const int64_t row = j->r->rows ? w->rows[i] : candidates[i];
        w->rows[n] = row;
        w->distances[n] = j->distances[query * j->n + i];
        n += row >= 0 && row < j->r->n;
    }
    return n;
}

static void refine_query(void *context, int64_t task, fpq_worker *worker) {
    const job *j = context;
    const fpq_refined *r = j->r;
    const int w = r->codes.w, n_planes = r->b ? 2 : 1;
    fpq_refinement_query query;
    workspace ws;
    place(j, worker->scratch, &ws);
    const int64_t n = find_rows(j, task, &ws);
    for (int t = 0; t < w; t++)
        ws.query[t] = (float)(j->queries[task * w + t] * r->query_scale - (r->centre ? r->centre[t] : 0));
    fpq_refinement_query_make(&r->codes, ws.query, ws.planes, &query);
    for (int64_t i = 0; i < n; i++) {
        FPQ_PREFETCH(r->norms + ws.rows[i] * n_planes);
        if (r->gain_codes) FPQ_PREFETCH(r->gain_codes + ws.rows[i]);
    }
    j->kern->plane_sums(r->a, fpq_refinement_plane_bytes(w, r->codes.bits, 0), 4, r->codes.levels, ws.rows, (int)n,
                        query.a, ws.sums);
    fpq_results results = fpq_results_of(j->answers, task, r->ids);
    const fpq_answers closest = {
        .k = j->closest, .distances = ws.best_distances, .ids = ws.best, .unsorted = 1, .rows_of = {.wide = ws.rows}};
    fpq_results best = r->b ? fpq_results_of(&closest, 0, closest.rows_of) : results;
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = ws.rows[i];
        const double product = fpq_refinement_product_a(&r->codes, &query, ws.sums + 2 * i);
        const float here = refined_distance(r, ws.distances[i], r->norms[row * n_planes], times_gain(r, row, product));
        if (here <= best.threshold) fpq_results_offer(&best, here, r->b ? i : row);
    }
    if (!r->b) {
        if (fpq_results_finish(&best, j->answers, task)) fpq_fail(worker);
        return;
    }
    if (fpq_results_finish(&best, &closest, 0)) fpq_fail(worker);
    for (int64_t i = 0; i < best.n; i++) ws.best_rows[i] = ws.rows[ws.best[i]];
    j->kern->plane_sums(r->b, fpq_refinement_plane_bytes(w, r->codes.bits, 1), r->codes.bits - 4, NULL, ws.best_rows,
                        (int)best.n, query.b, ws.best_sums);
    for (int64_t i = 0; i < best.n; i++) {
        const int64_t at = ws.best[i], row = ws.best_rows[i];
        const double product = fpq_refinement_product(&r->codes, &query, ws.sums + 2 * at, ws.best_sums + 2 * i);
        const float here = refined_distance(r, ws.distances[at], r->norms[row * 2 + 1], product);
        if (here <= results.threshold) fpq_results_offer(&results, here, row);
    }
    if (fpq_results_finish(&results, j->answers, task)) fpq_fail(worker);
}

int fpq_refine(const fpq_refined *refined, const float *queries, int64_t nq, const int64_t *candidates,
               const float *distances, int64_t n, int64_t closest, const fpq_answers *answers, int threads) {
    job j = {fpq_active(), refined, queries, candidates, distances, n, closest < n ? closest : n, answers};
    workspace w;
    return fpq_parallel(nq, place(&j, NULL, &w), threads, refine_query, &j);
}
