/* SPDX-License-Identifier: MIT */
#include "scan/terms.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "dot.h"
#include "portable.h"
#include "threads.h"

enum { SHARED = 4, SAMPLE = 32, MOST_STEPS = 32767 }; /* SHARED: probes a list that pay for its term */
static const size_t MOST_BYTES = (size_t)64 << 20;

static size_t n_entries(const fpq_adc *adc) { return (size_t)adc->m * (size_t)fpq_ld_table(adc); }

size_t fpq_term_size(const fpq_adc *adc) { return fpq_lines(n_entries(adc) * sizeof(uint16_t)); }

static size_t scratch_size(const fpq_adc *adc) { return n_entries(adc) + (size_t)adc->offsets[adc->m]; }

/* -2 q.p, or |c + p|^2, for all codewords p. */
static void make_table(const fpq_adc *adc, const float *x, int of_query, float *scaled, float *table) {
    const fpq_kernels *kern = fpq_active();
    const int blocks = FPQ_BLOCKS(1 << adc->nbits), d = adc->offsets[adc->m];
    const int64_t each = fpq_packed_size(1 << adc->nbits, adc->dsub);
    for (int t = 0; t < d; t++) scaled[t] = (of_query ? 2 : -1) * x[t];
    for (int j = 0; j < adc->m; j++) {
        const int from = adc->offsets[j];
        float *out = table + (ptrdiff_t)j * fpq_ld_table(adc);
        (of_query ? kern->table_ip : kern->table_l2)(scaled + from, d, 1, adc->offsets[j + 1] - from, adc->packed + j * each,
                                                     blocks, &out);
    }
}

static void round_down(const fpq_terms *terms, const float *x, const float *table, fpq_term *term) {
    const fpq_kernels *kern = fpq_active();
    const fpq_adc *adc = terms->adc;
    const int ld = fpq_ld_table(adc), d = adc->offsets[adc->m];
    double base = 0;
    for (int j = 0; j < adc->m; j++) {
        float survey[3];
        kern->survey(table + (ptrdiff_t)j * ld, 1 << adc->nbits, survey);
        kern->steps(table + (ptrdiff_t)j * ld, ld, survey[0], 1 / terms->step, term->steps + (ptrdiff_t)j * ld);
        base += (double)survey[0];
    }
    term->base = (float)base;
    term->squared = (float)fpq_dot(x, x, d);
}

void fpq_term_of_query(const fpq_terms *terms, const float *q, float *scaled, float *table, fpq_term *term) {
    make_table(terms->adc, q, 1, scaled, table);
    round_down(terms, q, table, term);
}

static void make_list(const fpq_terms *terms, const fpq_lists *lists, int64_t list, float *scratch) {
    const float *centroid = lists->centroids + list * terms->adc->offsets[terms->adc->m];
    make_table(terms->adc, centroid, 0, scratch + n_entries(terms->adc), scratch);
    round_down(terms, centroid, scratch, terms->lists + list);
}

/* How far apart the entries of a table are at most. */
static float range_of(const fpq_adc *adc, const float *table) {
    float range = 0;
    for (int j = 0; j < adc->m; j++) {
        float survey[3];
        fpq_active()->survey(table + (ptrdiff_t)j * fpq_ld_table(adc), 1 << adc->nbits, survey);
        range = fmaxf(range, survey[1] - survey[0]);
    }
    return range;
}

/* Steps so long that most entries fit; one that is cut is still a lower bound. */
static void measure(fpq_terms *terms, const fpq_lists *lists, float *scratch) {
    const fpq_adc *adc = terms->adc;
    const int d = adc->offsets[adc->m];
    float range = 0;
    for (int64_t i = 0; i < SAMPLE; i++) {
        make_table(adc, lists->centroids + i * lists->n / SAMPLE * d, 0, scratch + n_entries(adc), scratch);
        range = fmaxf(range, range_of(adc, scratch));
    }
    terms->step = range > FLT_MIN * MOST_STEPS ? range * 1.5f / MOST_STEPS : 1;
}

int fpq_terms_make(const fpq_adc *adc, const fpq_squares *squares, const fpq_lists *lists, const int64_t *probes,
                   int64_t n_probes, fpq_terms *terms, int threads) {
    const size_t each = fpq_term_size(adc), heads = fpq_lines((size_t)lists->n * sizeof(fpq_term));
    *terms = (fpq_terms){.adc = adc, .longest = squares->longest};
    if (n_probes / SHARED < lists->n || (size_t)lists->n > MOST_BYTES / each) return 0;
    float *scratch = fpq_alloc((size_t)threads * scratch_size(adc) * sizeof(float));
    char *memory = fpq_alloc(heads + (size_t)lists->n * each);
    terms->lists = (fpq_term *)(void *)memory;
    if (!scratch || !memory) {
        fpq_free(scratch);
        fpq_terms_free(terms);
        return -1;
    }
    memset(memory, 0, heads);
    for (int64_t p = 0; p < n_probes; p++)
        terms->lists[probes[p]].steps = (uint16_t *)(void *)(memory + heads + (size_t)probes[p] * each);
    measure(terms, lists, scratch);
    const int n = (int)lists->n;
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads)
    for (int list = 0; list < n; list++)
        if (terms->lists[list].steps) make_list(terms, lists, list, scratch + (size_t)FPQ_THREAD_NUMBER() * scratch_size(adc));
    fpq_free(scratch);
    return 0;
}

void fpq_terms_free(fpq_terms *terms) {
    fpq_free(terms->lists);
    terms->lists = NULL;
}

void fpq_term_fetch(const fpq_terms *terms, int64_t list) {
    const int entries = (int)n_entries(terms->adc);
    for (int e = 0; e < entries; e += 32) FPQ_PREFETCH(terms->lists[list].steps + e);
}

void fpq_query_term_tables(const fpq_terms *terms, const fpq_term *own, int64_t list, const float *residual, fpq_query *query) {
    const fpq_kernels *kern = fpq_active();
    const fpq_adc *adc = terms->adc;
    const int ld = fpq_ld_table(adc), groups = fpq_groups(adc), d = adc->offsets[adc->m];
    const fpq_term *term = terms->lists + list;
    int64_t least = 0;
    for (int j = 0; j < adc->m; j++) {
        const ptrdiff_t at = (ptrdiff_t)j * ld;
        query->lowest[j] = kern->group_sums(term->steps + at, own->steps + at, groups, ld / groups, query->steps + (ptrdiff_t)j * groups);
        least += query->lowest[j];
    }
    query->offset = kern->ip_f32(residual, residual, d) - term->squared + term->base + own->base;
    query->base = terms->step * (float)least;
    /* Bounds what the parts of an entry add up to in size: (|q| + |c| + |p|)^2, thrice as the root is not taken. */
    query->magnitude = 3 * (own->squared + term->squared + terms->longest);
    query->limit = -INFINITY;
    query->rough_of = residual;
    query->terms[0] = term->steps;
    query->terms[1] = own->steps;
    query->step = terms->step;
}
