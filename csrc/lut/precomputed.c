/* SPDX-License-Identifier: MIT */
#include "lut/precomputed.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "portable.h"
#include "parallel.h"

enum {
    SHARED = 4,
    SAMPLE = 32,
    TASK = 16,
    MOST_STEPS = 32767
}; /* SHARED: probes a list that pay for its term; TASK: lists */
static const size_t MOST_BYTES = (size_t)64 << 20;

static size_t n_entries(const fpq_adc *adc) { return (size_t)adc->m * (size_t)fpq_ld_table(adc); }

size_t fpq_term_size(const fpq_adc *adc) { return fpq_lines(n_entries(adc) * sizeof(uint16_t)); }

/* Entries |p|^2 - 2 x.p for all codewords p of subquantizer j, without half -2 x.p, of n <= FPQ_TABLES vectors x (n,
 * d). */
static void make_entries(const fpq_adc *adc, int j, const float *half, const float *x, int n,
                         float (*entries)[FPQ_MOST_ENTRIES], float *least) {
    const int from = adc->offsets[j], k = 1 << adc->nbits, ld = fpq_ld_table(adc);
    float *out[FPQ_TABLES];
    for (int i = 0; i < n; i++) out[i] = entries[i];
    fpq_active()->rough_l2(x + from, adc->offsets[adc->m], n, adc->offsets[j + 1] - from,
                           adc->packed + j * fpq_packed_size(k, adc->dsub), half ? half + (ptrdiff_t)j * ld : NULL,
                           FPQ_BLOCKS(k), out, least);
}

static void make_terms(const fpq_terms *terms, const float *half, const float *x, int n, fpq_term *const *out) {
    FPQ_ALIGN(64) float entries[FPQ_TABLES][FPQ_MOST_ENTRIES];
    const fpq_adc *adc = terms->adc;
    const int ld = fpq_ld_table(adc), d = adc->offsets[adc->m];
    double base[FPQ_TABLES] = {0};
    for (int j = 0; j < adc->m; j++) {
        float least[FPQ_TABLES];
        make_entries(adc, j, half, x, n, entries, least);
        for (int i = 0; i < n; i++) {
            fpq_active()->steps(entries[i], ld, least[i], 1 / terms->step, out[i]->steps + (ptrdiff_t)j * ld);
            base[i] += (double)least[i];
        }
    }
    for (int i = 0; i < n; i++) {
        out[i]->base = (float)base[i];
        out[i]->squared = fpq_active()->ip_f32(x + (ptrdiff_t)i * d, x + (ptrdiff_t)i * d, d);
    }
}

void fpq_terms_of_queries(const fpq_terms *terms, const float *q, int n, fpq_term *const *out) {
    make_terms(terms, NULL, q, n, out);
}

static void make_lists(const fpq_terms *terms, const fpq_lists *lists, int64_t first, int64_t end, float *minus) {
    const int d = terms->adc->offsets[terms->adc->m];
    fpq_term *of[FPQ_TABLES];
    int n = 0;
    for (int64_t list = first; list < end; list++) {
        if (terms->lists[list].steps) {
            for (int t = 0; t < d; t++) minus[n * d + t] = -lists->centroids[list * d + t];
            of[n++] = terms->lists + list;
        }
        if (n == FPQ_TABLES || (list + 1 == end && n)) {
            make_terms(terms, terms->half, minus, n, of);
            n = 0;
        }
    }
}

/* Steps so long that most entries fit; one that is cut is still a lower bound. */
static void measure(fpq_terms *terms, const fpq_lists *lists, float *minus) {
    FPQ_ALIGN(64) float entries[FPQ_TABLES][FPQ_MOST_ENTRIES];
    const fpq_adc *adc = terms->adc;
    const int d = adc->offsets[adc->m];
    float range = 0, survey[3];
    for (int64_t i = 0; i < SAMPLE; i++) {
        for (int t = 0; t < d; t++) minus[t] = -lists->centroids[i * lists->n / SAMPLE * d + t];
        for (int j = 0; j < adc->m; j++) {
            make_entries(adc, j, terms->half, minus, 1, entries, survey);
            fpq_active()->survey(entries[0], 1 << adc->nbits, survey);
            range = fmaxf(range, survey[1] - survey[0]);
        }
    }
    terms->step = range > FLT_MIN * MOST_STEPS ? range * 1.5f / MOST_STEPS : 1;
}

int fpq_terms_make(const fpq_adc *adc, const fpq_squares *squares, const fpq_lists *lists, const int64_t *probes,
                   int64_t n_probes, fpq_terms *terms, int threads) {
    const size_t each = fpq_term_size(adc), heads = fpq_lines((size_t)lists->n * sizeof(fpq_term));
    *terms = (fpq_terms){.adc = adc, .half = squares->half, .longest = squares->longest};
    if (n_probes / SHARED < lists->n || (size_t)lists->n > MOST_BYTES / each) return 0;
    const size_t rows = FPQ_TABLES * (size_t)adc->offsets[adc->m];
    float *scratch = fpq_alloc((size_t)threads * rows * sizeof(float));
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
    const int tasks = (int)((lists->n + TASK - 1) / TASK);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int task = 0; task < tasks; task++) {
        const int64_t first = (int64_t)task * TASK, left = lists->n - first;
        make_lists(terms, lists, first, first + (left < TASK ? left : TASK),
                   scratch + (size_t)FPQ_THREAD_NUMBER() * rows);
    }
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

void fpq_query_term_tables(const fpq_terms *terms, const fpq_term *own, int64_t list, const float *residual,
                           fpq_query *query) {
    const fpq_kernels *kern = fpq_active();
    const fpq_adc *adc = terms->adc;
    const int ld = fpq_ld_table(adc), groups = fpq_groups(adc), d = adc->offsets[adc->m];
    const fpq_term *term = terms->lists + list;
    int64_t least = 0;
    for (int j = 0; j < adc->m; j++) {
        const ptrdiff_t at = (ptrdiff_t)j * ld;
        query->lowest[j] = kern->group_sums(term->steps + at, own->steps + at, groups, ld / groups,
                                            query->steps + (ptrdiff_t)j * groups);
        least += query->lowest[j];
    }
    query->offset = kern->ip_f32(residual, residual, d) + term->base + own->base;
    query->base = terms->step * (float)least;
    /* Bounds what the parts of an entry add up to in size: (|q| + |c| + |p|)^2, thrice as the root is not taken. */
    query->magnitude = 3 * (own->squared + term->squared + terms->longest);
    query->limit = -INFINITY;
    query->rough_of = residual;
    query->terms[0] = term->steps;
    query->terms[1] = own->steps;
    query->step = terms->step;
    if (!fpq_query_is_bounded(query)) fpq_query_make_exact(adc, query);
}
