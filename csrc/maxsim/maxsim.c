/* SPDX-License-Identifier: MIT
 * Search for documents of many token vectors by MaxSim, in the manner of PLAID (Santhanam, Khattab, Potts, Zaharia,
 * PLAID: An Efficient Engine for Late Interaction Retrieval, 2022). The documents of the probed lists are candidates.
 * The distances of the centroids of their tokens rank them (centroid interaction), and the codes of the best ones give
 * the answer. Distances are negated inner products, so that the smallest are the nearest. */
#include <math.h>
#include <string.h>

#include "isa/kernels.h"
#include "parallel.h"
#include "portable.h"
#include "results.h"

/* Query tokens whose tables are in memory together, centroids per task, and documents per task. */
enum { GROUP_TOKENS = 64, PART_CENTROIDS = 256, PART_DOCUMENTS = 32, CODEWORDS = 256 };

typedef struct {
    const fpq_kernels *kern;
    const fpq_adc *adc;
    const fpq_documents *docs;
    const float *queries;
    const int64_t *first; /* nq + 1: the tokens of each query */
    const int64_t *probes;
    int n_probe;
    int64_t n_candidates;
    const fpq_answers *answers;
    int64_t *found;
    int threads; /* of one query */
} search;

/* One query, and the tables of one group of its tokens. */
typedef struct {
    const search *s;
    const float *tokens;
    int64_t n_tokens;
    int n, width;        /* tokens of the group; the same in whole column blocks */
    int by_codes;        /* whether sums are those of the codes, or of the centroids alone */
    int64_t parts;       /* of the centroids whose tables are to be made */
    int has_base;        /* whether `base` holds the tables of all tokens */
    float *columns;      /* the tokens of the group, packed: whole, then each subspace */
    float *base;         /* (n_lists, width): distances of the centroids */
    float *tables;       /* (m, 256, width): distances of the codewords */
    const int64_t *rows; /* of the documents */
    int64_t n_rows;
    double *sums; /* n_rows */
} query;

static int dim(const search *s) { return s->adc->offsets[s->adc->m]; }

/* The distances of `n` rows, ld apart and of d numbers, to the tokens of the group. */
static void distances_of(const query *q, const float *rows, int n, int ld, int d, const float *columns, float *out) {
    for (int i = 0; i < n; i += FPQ_LUT_QUERIES) {
        const int together = n - i < FPQ_LUT_QUERIES ? n - i : FPQ_LUT_QUERIES;
        float *to[FPQ_LUT_QUERIES];
        for (int r = 0; r < together; r++) to[r] = out + (ptrdiff_t)(i + r) * q->width;
        q->s->kern->metric[FPQ_IP].table(rows + (ptrdiff_t)i * ld, ld, together, d, columns,
                                         q->width / FPQ_COLUMN_BLOCK, to);
    }
}

static void make_part(void *context, int64_t task, fpq_worker *worker) {
    const query *q = context;
    const fpq_adc *adc = q->s->adc;
    const int d = dim(q->s);
    (void)worker;
    if (task < q->parts) {
        const int64_t at = task * PART_CENTROIDS;
        distances_of(q, q->s->docs->centroids + at * d, fpq_batch_size(q->s->docs->n_lists, PART_CENTROIDS, task), d, d,
                     q->columns, q->base + at * q->width);
        return;
    }
    const ptrdiff_t j = (ptrdiff_t)(task - q->parts);
    const int from = adc->offsets[j];
    distances_of(q, adc->codebooks + j * CODEWORDS * adc->dsub, CODEWORDS, adc->dsub, adc->offsets[j + 1] - from,
                 q->columns + (ptrdiff_t)(d + from) * q->width, q->tables + j * CODEWORDS * q->width);
}

/* The tables of the group that begins with `token`: of the centroids if `with_base`, of the codewords if by_codes. */
static int make_tables(query *q, const float *token, int with_base) {
    const fpq_adc *adc = q->s->adc;
    const int d = dim(q->s);
    fpq_pack(token, q->n, d, d, NULL, q->columns);
    for (int j = 0; j < adc->m; j++)
        fpq_pack(token + adc->offsets[j], q->n, adc->offsets[j + 1] - adc->offsets[j], d, NULL,
                 q->columns + (ptrdiff_t)(d + adc->offsets[j]) * q->width);
    q->parts = with_base ? fpq_batches(q->s->docs->n_lists, PART_CENTROIDS) : 0;
    return fpq_parallel(q->parts + (q->by_codes ? adc->m : 0), 0, q->s->threads, make_part, q);
}

static void add_part(void *context, int64_t task, fpq_worker *worker) {
    const query *q = context;
    const fpq_documents *docs = q->s->docs;
    const int code_size = q->s->adc->m, m = q->by_codes ? code_size : 0;
    const float *base = q->by_codes && !docs->residual ? NULL : q->base;
    const int64_t at = task * PART_DOCUMENTS, end = at + fpq_batch_size(q->n_rows, PART_DOCUMENTS, task);
    FPQ_ALIGN(64) float least[GROUP_TOKENS];
    for (int64_t i = at; i < end && !fpq_stopped(worker->poll); i++) {
        const int64_t from = docs->first[q->rows[i]], n = docs->first[q->rows[i] + 1] - from;
        double sum = q->sums[i];
        q->s->kern->token_minima(base, q->tables, docs->lists + from, docs->codes + from * code_size, m, n, q->width,
                                 least);
        for (int t = 0; t < q->n; t++) sum += (double)least[t];
        q->sums[i] = sum;
    }
}

/* The distance of each of the rows, group by group of the query tokens. The tables of the centroids of a single group
 * are made once. */
static int sum_up(query *q, int by_codes) {
    memset(q->sums, 0, (size_t)q->n_rows * sizeof *q->sums);
    q->by_codes = by_codes;
    for (int64_t at = 0; at < q->n_tokens; at += GROUP_TOKENS) {
        q->n = fpq_batch_size(q->n_tokens, GROUP_TOKENS, at / GROUP_TOKENS);
        q->width = FPQ_COLUMN_BLOCKS(q->n) * FPQ_COLUMN_BLOCK;
        if (make_tables(q, q->tokens + at * dim(q->s), (!by_codes || q->s->docs->residual) && !q->has_base)) return -1;
        q->has_base = q->n_tokens <= GROUP_TOKENS;
        if (fpq_parallel(fpq_batches(q->n_rows, PART_DOCUMENTS), 0, q->s->threads, add_part, q)) return -1;
    }
    return 0;
}

/* The `k` rows of the smallest sums, in any order; equal sums go by id. */
static int keep_best(query *q, int64_t k, float *distances, int64_t *rows) {
    const fpq_ids ids = q->s->docs->selector.ids;
    const fpq_answers best = {.k = k, .distances = distances, .ids = rows, .unsorted = 1, .rows_of = ids};
    fpq_results results = fpq_results_of(&best, 0, ids);
    for (int64_t i = 0; i < q->n_rows; i++)
        if ((float)q->sums[i] <= results.threshold) fpq_results_offer(&results, (float)q->sums[i], q->rows[i]);
    const int status = fpq_results_finish(&results, &best, 0);
    q->rows = rows;
    q->n_rows = results.n;
    return status;
}

/* The bits of the documents that are allowed and have a token in a probed list; returns their number. */
static int64_t mark(const search *s, const int64_t *probes, int64_t n_probes, uint64_t *bits) {
    const fpq_documents *docs = s->docs;
    int64_t n = 0;
    for (int64_t p = 0; p < n_probes; p++)
        for (int64_t i = docs->list_first[probes[p]]; i < docs->list_first[probes[p] + 1]; i++)
            bits[docs->list_rows[i] / 64] |= (uint64_t)1 << docs->list_rows[i] % 64;
    for (int64_t w = 0; w < fpq_batches(docs->selector.n, 64); w++) {
        if (docs->selector.allowed) bits[w] &= docs->selector.allowed[w];
        n += fpq_popcount(bits[w]);
    }
    return n;
}

/* The next `bytes` of memory, in whole cache lines. */
static void *cut(char **memory, size_t bytes) {
    void *piece = *memory;
    *memory += fpq_lines(bytes);
    return piece;
}

/* Ranks the documents of these bits, `q->n_rows` in number, for query `number`. */
static int rank(query *q, const uint64_t *bits, int64_t number) {
    const search *s = q->s;
    const fpq_documents *docs = s->docs;
    const size_t width = FPQ_COLUMN_BLOCK *
                         (size_t)FPQ_COLUMN_BLOCKS(q->n_tokens < GROUP_TOKENS ? q->n_tokens : GROUP_TOKENS),
                 n = (size_t)q->n_rows, k = n < (size_t)s->n_candidates ? n : (size_t)s->n_candidates;
    const size_t sizes[] = {2 * (size_t)dim(s) * width * sizeof(float),
                            (size_t)docs->n_lists * width * sizeof(float),
                            (size_t)s->adc->m * CODEWORDS * width * sizeof(float),
                            n * sizeof(double),
                            n * sizeof(int64_t),
                            k * sizeof(float),
                            k * sizeof(int64_t)};
    size_t all = 0;
    for (int i = 0; i < 7; i++) all += fpq_lines(sizes[i]);
    char *memory = fpq_alloc(all), *at = memory;
    if (!memory) return -1;
    q->columns = cut(&at, sizes[0]);
    q->base = cut(&at, sizes[1]);
    q->tables = cut(&at, sizes[2]);
    q->sums = cut(&at, sizes[3]);
    int64_t *rows = cut(&at, sizes[4]);
    float *distances = cut(&at, sizes[5]);
    int64_t *best = cut(&at, sizes[6]);
    q->rows = rows;
    for (int64_t w = 0; w < fpq_batches(docs->selector.n, 64); w++)
        for (uint64_t left = bits[w]; left; left &= left - 1) *rows++ = w * 64 + fpq_lowest_bit(left);
    int status = q->n_rows > s->n_candidates && (sum_up(q, 0) || keep_best(q, s->n_candidates, distances, best));
    status = status || sum_up(q, 1);
    fpq_results results = fpq_results_of(s->answers, number, docs->selector.ids);
    for (int64_t i = 0; i < q->n_rows && !status; i++)
        if ((float)q->sums[i] <= results.threshold) fpq_results_offer(&results, (float)q->sums[i], q->rows[i]);
    status = fpq_results_finish(&results, s->answers, number) || status;
    fpq_free(memory);
    return status ? -1 : 0;
}

static void search_query(void *context, int64_t number, fpq_worker *worker) {
    const search *s = context;
    const size_t words = (size_t)fpq_batches(s->docs->selector.n, 64);
    const int64_t first = s->first[number], n = s->first[number + 1] - first;
    query q = {.s = s, .tokens = s->queries + first * dim(s), .n_tokens = n};
    uint64_t *bits = calloc(words + !words, sizeof *bits);
    if (bits) q.n_rows = mark(s, s->probes + first * s->n_probe, n * s->n_probe, bits);
    if (bits) s->found[number] = q.n_rows;
    if (!bits || rank(&q, bits, number)) fpq_fail(worker);
    free(bits);
}

int fpq_maxsim_search(const fpq_adc *adc, const fpq_documents *docs, const float *queries, const int64_t *first,
                      int64_t nq, const int64_t *probes, int n_probe, int64_t n_candidates, const fpq_answers *answers,
                      int64_t *found, int threads) {
    /* Queries share nothing, so that each has a thread of its own, unless there are too few of them. */
    const int by_query = nq >= threads;
    search s = {.kern = fpq_active(),
                .adc = adc,
                .docs = docs,
                .queries = queries,
                .first = first,
                .probes = probes,
                .n_probe = n_probe,
                .n_candidates = n_candidates,
                .answers = answers,
                .found = found,
                .threads = by_query ? 1 : threads};
    return fpq_parallel(nq, 0, by_query ? threads : 1, search_query, &s);
}

/* Documents are taken in order: the last one of a list tells whether the list has the present one. */
int fpq_postings(const int64_t *first, const int32_t *lists, int64_t n, int32_t n_lists, int64_t *list_first,
                 int32_t *list_rows) {
    int32_t *last = malloc((size_t)n_lists * sizeof *last);
    int64_t *end = malloc((size_t)n_lists * sizeof *end); /* of what each list has so far */
    const int status = last && end ? 0 : -1;
    if (!status) {
        for (int32_t l = 0; l < n_lists; l++) {
            last[l] = -1;
            end[l] = list_rows ? list_first[l] : 0;
        }
        for (int32_t row = 0; row < n; row++)
            for (int64_t t = first[row]; t < first[row + 1]; t++) {
                const int32_t l = lists[t];
                if (last[l] == row) continue;
                last[l] = row;
                if (list_rows) list_rows[end[l]] = row;
                end[l]++;
            }
        list_first[0] = 0;
        for (int32_t l = 0; l < n_lists && !list_rows; l++) list_first[l + 1] = list_first[l] + end[l];
    }
    free(last);
    free(end);
    return status;
}
