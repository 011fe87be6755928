/* SPDX-License-Identifier: MIT */
#include "lut/precomputed.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "parallel.h"
#include "portable.h"

enum {
    MIN_PROBES_PER_LIST = 4, /* fewer probes of a list do not pay for its term */
    SAMPLE = 32,             /* lists from which the step is chosen */
    LIST_BATCH = 16,         /* lists per task */
    MAX_STEPS = 32767
};
static const size_t MAX_BYTES = (size_t)64 << 20; /* of all terms */

static size_t n_entries(const fpq_adc *adc) { return (size_t)adc->m * (size_t)fpq_ld_table(adc); }

size_t fpq_lut16_size(const fpq_adc *adc) { return fpq_lines(n_entries(adc) * sizeof(uint16_t)); }

/* Entries |p|^2 - 2 x.p (without half: -2 x.p) of all codewords p of subquantizer j, for n <= FPQ_LUT_QUERIES vectors x
 * (n, d), and the minimum of each. */
static void make_entries(const fpq_precomputed *p, int j, const float *half, const float *x, int n,
                         float (*entries)[FPQ_MAX_ENTRIES], float *min) {
    const fpq_adc *adc = p->adc;
    const int from = adc->offsets[j], k = 1 << adc->nbits, ld = fpq_ld_table(adc);
    float *out[FPQ_LUT_QUERIES];
    for (int i = 0; i < n; i++) out[i] = entries[i];
    p->kern->approx_l2(x + from, adc->offsets[adc->m], n, adc->offsets[j + 1] - from,
                       adc->packed + j * fpq_packed_size(k, adc->dsub), half ? half + (ptrdiff_t)j * ld : NULL,
                       FPQ_COLUMN_BLOCKS(k), out, min);
}

static void make_terms(const fpq_precomputed *p, const float *half, const float *x, int n, fpq_lut16 *const *out) {
    FPQ_ALIGN(64) float entries[FPQ_LUT_QUERIES][FPQ_MAX_ENTRIES];
    const int ld = fpq_ld_table(p->adc), d = p->adc->offsets[p->adc->m];
    double base[FPQ_LUT_QUERIES] = {0};
    for (int j = 0; j < p->adc->m; j++) {
        float min[FPQ_LUT_QUERIES];
        make_entries(p, j, half, x, n, entries, min);
        for (int i = 0; i < n; i++) {
            p->kern->quantize_u16(entries[i], ld, min[i], 1 / p->step, out[i]->entries + (ptrdiff_t)j * ld);
            base[i] += (double)min[i];
        }
    }
    for (int i = 0; i < n; i++) {
        out[i]->base = (float)base[i];
        out[i]->squared = p->kern->ip_f32(x + (ptrdiff_t)i * d, x + (ptrdiff_t)i * d, d);
    }
}

void fpq_precomputed_query_terms(const fpq_precomputed *p, const float *q, int n, fpq_lut16 *const *out) {
    make_terms(p, NULL, q, n, out);
}

/* minus (d) = -centroid. */
static void negate(const float *centroid, int d, float *minus) {
    for (int t = 0; t < d; t++) minus[t] = -centroid[t];
}

/* Chooses the step: most entries fit into MAX_STEPS, and one that is cut is still a lower bound. minus: d floats. */
static void choose_step(fpq_precomputed *p, const fpq_lists *lists, float *minus) {
    FPQ_ALIGN(64) float entries[FPQ_LUT_QUERIES][FPQ_MAX_ENTRIES];
    const fpq_adc *adc = p->adc;
    const int d = adc->offsets[adc->m];
    float range = 0, stats[3];
    for (int64_t i = 0; i < SAMPLE; i++) {
        negate(lists->centroids + i * lists->n / SAMPLE * d, d, minus);
        for (int j = 0; j < adc->m; j++) {
            make_entries(p, j, p->half, minus, 1, entries, stats);
            p->kern->min_max_sum(entries[0], 1 << adc->nbits, stats);
            range = fmaxf(range, stats[1] - stats[0]);
        }
    }
    p->step = range > FLT_MIN * MAX_STEPS ? range * 1.5f / MAX_STEPS : 1;
}

typedef struct {
    const fpq_precomputed *p;
    const fpq_lists *lists;
} terms_of_lists;

static void make_batch(void *context, int64_t task, fpq_worker *worker) {
    const terms_of_lists *of = context;
    const int d = of->p->adc->offsets[of->p->adc->m];
    const int64_t first = task * LIST_BATCH, end = first + fpq_batch_size(of->lists->n, LIST_BATCH, task);
    float *minus = (float *)(void *)worker->scratch; /* (FPQ_LUT_QUERIES, d) */
    fpq_lut16 *out[FPQ_LUT_QUERIES];
    int n = 0;
    for (int64_t list = first; list < end; list++) {
        if (of->p->lists[list].entries) {
            negate(of->lists->centroids + list * d, d, minus + n * d);
            out[n++] = of->p->lists + list;
        }
        if (n == FPQ_LUT_QUERIES || (list + 1 == end && n)) {
            make_terms(of->p, of->p->half, minus, n, out);
            n = 0;
        }
    }
}

int fpq_precomputed_make(const fpq_kernels *kern, const fpq_adc *adc, const fpq_codeword_norms *norms,
                         const fpq_lists *lists, const int64_t *probes, int64_t n_probes, fpq_precomputed *out,
                         int threads) {
    const size_t each = fpq_lut16_size(adc), heads = fpq_lines((size_t)lists->n * sizeof(fpq_lut16)),
                 d = (size_t)adc->offsets[adc->m];
    *out = (fpq_precomputed){.kern = kern, .adc = adc, .half = norms->half, .longest = norms->longest};
    if (n_probes / MIN_PROBES_PER_LIST < lists->n || (size_t)lists->n > MAX_BYTES / each) return 0;
    float *minus = fpq_alloc(d * sizeof *minus);
    char *memory = fpq_alloc(heads + (size_t)lists->n * each);
    out->lists = (fpq_lut16 *)(void *)memory;
    int status = minus && memory ? 0 : -1;
    if (!status) {
        memset(memory, 0, heads);
        for (int64_t p = 0; p < n_probes; p++)
            out->lists[probes[p]].entries = (uint16_t *)(void *)(memory + heads + (size_t)probes[p] * each);
        choose_step(out, lists, minus);
        terms_of_lists of = {out, lists};
        status = fpq_parallel(fpq_batches(lists->n, LIST_BATCH), FPQ_LUT_QUERIES * d * sizeof *minus, threads,
                              make_batch, &of);
    }
    fpq_free(minus);
    return status;
}

void fpq_precomputed_free(fpq_precomputed *p) {
    fpq_free(p->lists);
    p->lists = NULL;
}

void fpq_precomputed_prefetch(const fpq_precomputed *p, int64_t list) {
    const int entries = (int)n_entries(p->adc);
    for (int e = 0; e < entries; e += 32) FPQ_PREFETCH_L2(p->lists[list].entries + e);
}

void fpq_lut_make_precomputed(const fpq_precomputed *p, const fpq_lut16 *query, int64_t list, const float *residual,
                              fpq_lut *lut) {
    const fpq_adc *adc = p->adc;
    const int ld = fpq_ld_table(adc), groups = fpq_code_groups(p->kern, adc), d = adc->offsets[adc->m];
    const fpq_lut16 *term = p->lists + list;
    int64_t minima = 0;
    for (int j = 0; j < adc->m; j++) {
        const ptrdiff_t at = (ptrdiff_t)j * ld;
        lut->min16[j] = p->kern->group_min_of_sums(term->entries + at, query->entries + at, groups, ld / groups,
                                                   lut->group16 + (ptrdiff_t)j * groups);
        minima += lut->min16[j];
    }
    lut->kind = FPQ_LUT_PRECOMPUTED;
    lut->query = residual;
    lut->offset = p->kern->ip_f32(residual, residual, d) + term->base + query->base;
    lut->base = p->step * (float)minima;
    /* The parts of an entry add up to at most (|q| + |c| + |p|)^2 <= 3 (|q|^2 + |c|^2 + |p|^2) in absolute value. */
    lut->magnitude = 3 * (query->squared + term->squared + p->longest);
    fpq_lut8_clear(&lut->lut8, 1, FPQ_MAX_BYTE_SUM);
    lut->list_term = term->entries;
    lut->query_term = query->entries;
    lut->step = p->step;
    if (!fpq_lut_is_bounded(lut)) fpq_lut_make_exact(lut);
}
