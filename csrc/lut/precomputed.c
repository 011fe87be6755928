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

size_t fpq_lut16_size(const fpq_adc *adc) { return fpq_lines(n_entries(adc) * sizeof(uint16_t)); }

/* Entries |p|^2 - 2 x.p for all codewords p of subquantizer j, without half -2 x.p, of n <= FPQ_LUT_QUERIES vectors x
 * (n, d). */
static void make_entries(const fpq_adc *adc, int j, const float *half, const float *x, int n,
                         float (*entries)[FPQ_MAX_ENTRIES], float *least) {
    const int from = adc->offsets[j], k = 1 << adc->nbits, ld = fpq_ld_table(adc);
    float *out[FPQ_LUT_QUERIES];
    for (int i = 0; i < n; i++) out[i] = entries[i];
    fpq_active()->approx_l2(x + from, adc->offsets[adc->m], n, adc->offsets[j + 1] - from,
                            adc->packed + j * fpq_packed_size(k, adc->dsub), half ? half + (ptrdiff_t)j * ld : NULL,
                            FPQ_COLUMN_BLOCKS(k), out, least);
}

static void make_terms(const fpq_precomputed *terms, const float *half, const float *x, int n, fpq_lut16 *const *out) {
    FPQ_ALIGN(64) float entries[FPQ_LUT_QUERIES][FPQ_MAX_ENTRIES];
    const fpq_adc *adc = terms->adc;
    const int ld = fpq_ld_table(adc), d = adc->offsets[adc->m];
    double base[FPQ_LUT_QUERIES] = {0};
    for (int j = 0; j < adc->m; j++) {
        float least[FPQ_LUT_QUERIES];
        make_entries(adc, j, half, x, n, entries, least);
        for (int i = 0; i < n; i++) {
            fpq_active()->quantize_u16(entries[i], ld, least[i], 1 / terms->step, out[i]->steps + (ptrdiff_t)j * ld);
            base[i] += (double)least[i];
        }
    }
    for (int i = 0; i < n; i++) {
        out[i]->base = (float)base[i];
        out[i]->squared = fpq_active()->ip_f32(x + (ptrdiff_t)i * d, x + (ptrdiff_t)i * d, d);
    }
}

void fpq_precomputed_query_terms(const fpq_precomputed *terms, const float *q, int n, fpq_lut16 *const *out) {
    make_terms(terms, NULL, q, n, out);
}

static void make_lists(const fpq_precomputed *terms, const fpq_lists *lists, int64_t first, int64_t end, float *minus) {
    const int d = terms->adc->offsets[terms->adc->m];
    fpq_lut16 *of[FPQ_LUT_QUERIES];
    int n = 0;
    for (int64_t list = first; list < end; list++) {
        if (terms->lists[list].steps) {
            for (int t = 0; t < d; t++) minus[n * d + t] = -lists->centroids[list * d + t];
            of[n++] = terms->lists + list;
        }
        if (n == FPQ_LUT_QUERIES || (list + 1 == end && n)) {
            make_terms(terms, terms->half, minus, n, of);
            n = 0;
        }
    }
}

/* Steps so long that most entries fit; one that is cut is still a lower bound. */
static void measure(fpq_precomputed *terms, const fpq_lists *lists, float *minus) {
    FPQ_ALIGN(64) float entries[FPQ_LUT_QUERIES][FPQ_MAX_ENTRIES];
    const fpq_adc *adc = terms->adc;
    const int d = adc->offsets[adc->m];
    float range = 0, min_max_sum[3];
    for (int64_t i = 0; i < SAMPLE; i++) {
        for (int t = 0; t < d; t++) minus[t] = -lists->centroids[i * lists->n / SAMPLE * d + t];
        for (int j = 0; j < adc->m; j++) {
            make_entries(adc, j, terms->half, minus, 1, entries, min_max_sum);
            fpq_active()->min_max_sum(entries[0], 1 << adc->nbits, min_max_sum);
            range = fmaxf(range, min_max_sum[1] - min_max_sum[0]);
        }
    }
    terms->step = range > FLT_MIN * MOST_STEPS ? range * 1.5f / MOST_STEPS : 1;
}

int fpq_precomputed_make(const fpq_adc *adc, const fpq_codeword_norms *squares, const fpq_lists *lists,
                         const int64_t *probes, int64_t n_probes, fpq_precomputed *terms, int threads) {
    const size_t each = fpq_lut16_size(adc), heads = fpq_lines((size_t)lists->n * sizeof(fpq_lut16));
    *terms = (fpq_precomputed){.adc = adc, .half = squares->half, .longest = squares->longest};
    if (n_probes / SHARED < lists->n || (size_t)lists->n > MOST_BYTES / each) return 0;
    const size_t rows = FPQ_LUT_QUERIES * (size_t)adc->offsets[adc->m];
    float *scratch = fpq_alloc((size_t)threads * rows * sizeof(float));
    char *memory = fpq_alloc(heads + (size_t)lists->n * each);
    terms->lists = (fpq_lut16 *)(void *)memory;
    if (!scratch || !memory) {
        fpq_free(scratch);
        fpq_precomputed_free(terms);
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

void fpq_precomputed_free(fpq_precomputed *terms) {
    fpq_free(terms->lists);
    terms->lists = NULL;
}

void fpq_precomputed_prefetch(const fpq_precomputed *terms, int64_t list) {
    const int entries = (int)n_entries(terms->adc);
    for (int e = 0; e < entries; e += 32) FPQ_PREFETCH(terms->lists[list].steps + e);
}

void fpq_lut_make_precomputed(const fpq_precomputed *terms, const fpq_lut16 *own, int64_t list, const float *residual,
                              fpq_lut *query) {
    const fpq_kernels *kern = fpq_active();
    const fpq_adc *adc = terms->adc;
    const int ld = fpq_ld_table(adc), groups = fpq_code_groups(adc), d = adc->offsets[adc->m];
    const fpq_lut16 *term = terms->lists + list;
    int64_t least = 0;
    for (int j = 0; j < adc->m; j++) {
        const ptrdiff_t at = (ptrdiff_t)j * ld;
        query->lowest[j] = kern->group_min_of_sums(term->steps + at, own->steps + at, groups, ld / groups,
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
    if (!fpq_lut_is_bounded(query)) fpq_lut_make_exact(adc, query);
}
