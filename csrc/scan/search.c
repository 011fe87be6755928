/* SPDX-License-Identifier: MIT
 * A search of codes in its stages: the nearest codes, of all or of the probed lists, and their refinement. */
#include "portable.h"
#include "results.h"

/* Probes and candidates of the queries that are searched at a time: 12 bytes each. */
#ifdef FPQ_SELFTEST
enum { BATCH_PAIRS = 40 };
#else
enum { BATCH_PAIRS = 1 << 22 };
#endif

static int scan(const fpq_codes *codes, const float *queries, int64_t nq, const fpq_probes *probes,
                const fpq_answers *answers, int threads) {
    if (codes->lists) return fpq_ivf_search(codes->adc, codes->lists, queries, nq, probes, answers, threads);
    return fpq_adc_search(codes->adc, queries, nq, codes->blocks, &codes->selector, answers, threads);
}

/* How many candidates read the second plane of refinement codes: the nearest by the first one. */
static int64_t closest(const fpq_answers *answers) {
    return 2 * (answers->ranking ? answers->ranking->candidates : answers->k) + 8;
}

static int search_batch(const fpq_codes *codes, const float *queries, int64_t nq, const fpq_probes *probes,
                        int64_t candidates, const fpq_answers *answers, int threads) {
    if (!candidates) return scan(codes, queries, nq, probes, answers, threads);
    const size_t n = (size_t)nq * (size_t)candidates;
    int64_t *found = fpq_alloc(n * (sizeof(int64_t) + sizeof(float)));
    if (!found) return -1;
    float *distances = (float *)(void *)(found + n);
    fpq_answers nearest = {.k = candidates, .distances = distances, .ids = found, .unsorted = 1};
    if (!codes->refined->rows) nearest.rows_of = codes->refined->ids;
    int status = scan(codes, queries, nq, probes, &nearest, threads);
    if (!status)
        status = fpq_refine(codes->refined, queries, nq, found, distances, candidates, closest(answers), answers,
                            threads);
    fpq_free(found);
    return status;
}

static fpq_probes probes_from(const fpq_codes *codes, const fpq_probes *probes, int64_t first) {
    fpq_probes from = *probes;
    if (from.lists) from.lists += first * from.per_query;
    if (from.queries) from.queries += first * from.d;
    if (from.residuals) from.residuals += first * from.per_query * codes->adc->offsets[codes->adc->m];
    return from;
}

int fpq_search_codes(const fpq_codes *codes, const float *queries, int64_t nq, const fpq_probes *probes,
                     int64_t candidates, const fpq_answers *answers, int threads) {
    const int64_t pairs = probes->per_query + candidates, batch = pairs ? BATCH_PAIRS / pairs + 1 : nq,
                  d = codes->lists ? codes->lists->d : codes->adc->offsets[codes->adc->m];
    int status = 0;
    for (int64_t first = 0; first < nq && !status; first += batch) {
        const int64_t n = nq - first < batch ? nq - first : batch;
        const fpq_probes here = probes_from(codes, probes, first);
        const fpq_answers found = fpq_answers_from(answers, first);
        status = search_batch(codes, queries + first * d, n, &here, candidates, &found, threads);
    }
    return status;
}
