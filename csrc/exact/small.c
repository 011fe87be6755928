/* SPDX-License-Identifier: MIT
 * Exact search over a small matrix, whose rows are packed as columns: of int8 where their products are faster, else of
 * float32. The product of a query with a column bounds their distance; only columns that may be among the k nearest get
 * their distance, from the kernel that fpq_flat_search uses. As in assign/assign.h, the bias of a column holds the
 * column's share of the rounding errors, so that the margin depends on the query and the near columns only.
 *
 * Columns are relative to a centre: bounds of errors grow with their lengths. For squared distances queries are, too;
 * an inner product then lacks that of the query and the centre, which is the same for all columns. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "assign/assign.h"
#include "assign/int8.h"
#include "exact/stored.h"
#include "parallel.h"
#include "portable.h"

enum {
    PANEL_COLUMNS = 64, /* the numbers that at_least compares */
    PANEL = PANEL_COLUMNS / FPQ_COLUMN_BLOCK,
    QUERY_BATCH = 48,        /* queries that share the reading of float32 columns, */
    INT8_QUERY_BATCH = 12,   /* and of int8 columns */
    MAX_ROWS = 16384,        /* of an index that fpq_small_flat_applies to: int8, */
    MAX_FLOAT32_ROWS = 4096, /* and float32 columns */
    CENTRE_ROWS = 33         /* rows that the centre is taken from */
};

struct fpq_small_flat {
    const fpq_kernels *kern; /* which search too: their int8 numbers are those of the columns */
    fpq_matrix x;
    fpq_int8_codebook int8;
    float *packed; /* float32 columns; NULL: the columns are int8 */
    float *bias;   /* ld */
    float *centre; /* d */
    size_t nbytes;
    float longest; /* the largest squared length of a column, and, for inner products, of a row of x */
    fpq_metric metric;
    int n, d, ld, blocks, panels, batch;
};

int fpq_small_flat_applies(const fpq_matrix *x, fpq_metric metric, int64_t k) {
    if (!fpq_has_products(metric) || k < 1 || k > x->n / 8 || x->exponent) return 0;
    return x->n <= MAX_FLOAT32_ROWS || (x->n <= MAX_ROWS && fpq_int8_is_faster(fpq_active(), (int)x->n, (int)x->d));
}

/* A point near most of the rows, from CENTRE_ROWS of them, which scratch (CENTRE_ROWS d floats) holds. */
static void find_centre(const fpq_kernels *kern, const fpq_matrix *x, float *scratch, float *centre) {
    const int n = x->n < CENTRE_ROWS ? (int)x->n : CENTRE_ROWS;
    for (int i = 0; i < n; i++) kern->read_rows(x, NULL, i * x->n / n, 1, 0, (int)x->d, NULL, scratch + i * x->d);
    fpq_find_centre(scratch, n, (int)x->d, x->d, centre);
}

/* scratch: 3 d floats. */
static void put_columns(const fpq_kernels *kern, fpq_small_flat *f, float *scratch) {
    float *row = scratch + 2 * (ptrdiff_t)f->d;
    for (int c = 0; c < f->ld; c++) {
        f->bias[c] = -INFINITY;
        if (c >= f->n) continue;
        kern->read_rows(&f->x, NULL, c, 1, 0, f->d, NULL, row);
        if (f->metric != FPQ_L2) f->longest = fmaxf(f->longest, kern->ip_f32(row, row, f->d));
        kern->read_rows(&f->x, NULL, c, 1, 0, f->d, f->centre, row);
        const float square = kern->ip_f32(row, row, f->d);
        f->bias[c] = f->metric == FPQ_L2 ? (FPQ_CENTROID_ERROR(f->d) - 0.5f) * square : 0;
        f->longest = fmaxf(f->longest, square);
        if (!(square < INFINITY)) continue;
        if (!f->packed)
            fpq_int8_codebook_put(kern, &f->int8, c, row, f->d, scratch);
        else
            for (int t = 0; t < f->d; t++)
                f->packed[((ptrdiff_t)(c / FPQ_COLUMN_BLOCK) * f->d + t) * FPQ_COLUMN_BLOCK + c % FPQ_COLUMN_BLOCK] =
                    row[t];
    }
}

fpq_small_flat *fpq_small_flat_make(const fpq_matrix *x, fpq_metric metric) {
    const fpq_kernels *kern = fpq_active();
    const int n = (int)x->n, d = (int)x->d, blocks = FPQ_COLUMN_BLOCKS(n), panels = (blocks + PANEL - 1) / PANEL,
              ld = panels * PANEL_COLUMNS;
    const int has_int8 = fpq_int8_is_faster(kern, n, d);
    const size_t head = fpq_lines(sizeof(fpq_small_flat)), bias = fpq_lines((size_t)ld * sizeof(float));
    const size_t columns = fpq_lines(has_int8 ? fpq_int8_codebook_size(blocks, d)
                                              : (size_t)ld * (size_t)d * sizeof(float));
    const size_t all = head + bias + columns + (CENTRE_ROWS + 1) * (size_t)d * sizeof(float);
    char *memory = fpq_alloc(all);
    if (!memory) return NULL;
    fpq_small_flat *f = (fpq_small_flat *)(void *)memory;
    *f = (fpq_small_flat){.kern = kern,
                          .x = *x,
                          .bias = (float *)(void *)(memory + head),
                          .nbytes = all,
                          .metric = metric,
                          .n = n,
                          .d = d,
                          .ld = ld,
                          .blocks = blocks,
                          .panels = panels,
                          .batch = has_int8 ? INT8_QUERY_BATCH : QUERY_BATCH};
    memory += head + bias;
    f->centre = (float *)(void *)(memory + columns);
    find_centre(kern, x, f->centre + d, f->centre);
    if (has_int8)
        fpq_int8_codebook_place(memory, blocks, d, f->bias, &f->int8);
    else
        f->packed = memset(memory, 0, columns);
    put_columns(kern, f, f->centre + d);
    return f;
}

void fpq_small_flat_free(fpq_small_flat *small) { fpq_free(small); }

int64_t fpq_small_flat_bytes(const fpq_small_flat *small) { return (int64_t)small->nbytes; }

static int count_at_least(const fpq_kernels *kern, const float *x, int panels, float least) {
    static const float zeros[PANEL_COLUMNS];
    int count = 0;
    for (int p = 0; p < panels; p++) count += fpq_popcount(kern->at_least(x + p * PANEL_COLUMNS, -least, zeros));
    return count;
}

/* A number that at least k of x reach, and few more than k: x holds whole panels of numbers, padded with -inf. */
static float reached_by(const fpq_kernels *kern, const float *x, int panels, int64_t k, float width) {
    float min_max_sum[3], low, high;
    kern->min_max_sum(x, panels * PANEL_COLUMNS, min_max_sum);
    low = high = min_max_sum[1];
    width = fmaxf(width, FLT_MIN); /* the width is 0 for tiny vectors, and low would not move */
    for (int count = 1; count < k && low > -FLT_MAX; width *= 2) {
        high = low;
        low -= width;
        count = count_at_least(kern, x, panels, low);
    }
    for (int step = 0; step < 6 && low < high; step++) {
        const float middle = low + (high - low) / 2;
        const int count = count_at_least(kern, x, panels, middle);
        if (count < k)
            high = middle;
        else
            low = middle;
        if (count >= k && count <= k + k / 8) break;
    }
    return low;
}

typedef struct {
    float *products; /* (batch, ld) */
    float *lanes;    /* (panels, batch, FPQ_COLUMN_BLOCK): the largest product of each lane of a panel */
    float *maxima;   /* (maxima_panels, PANEL_COLUMNS): the lanes of one query, padded with -inf */
    float *x;        /* (batch, d), centred */
    float *row;      /* d */
    float *margin;   /* (batch): a bound of the error of int8 products; 0 for float32 */
    float *square;   /* (batch): squared lengths of the queries, centred */
    fpq_int8_rows rows;
} workspace;

static int maxima_panels(const fpq_small_flat *f) { return (f->panels + PANEL - 1) / PANEL; }

/* Bytes of scratch memory of a batch of queries. */
static size_t float_scratch(const fpq_small_flat *f, int batch) {
    const size_t n = (size_t)batch, floats = n * (size_t)f->ld + (size_t)f->panels * n * FPQ_COLUMN_BLOCK +
                                             (size_t)maxima_panels(f) * PANEL_COLUMNS;
    return fpq_lines((floats + (n + 1) * (size_t)f->d + 2 * n) * sizeof(float));
}

static size_t scratch_size(const fpq_small_flat *f, int batch) {
    return float_scratch(f, batch) + (f->packed ? 0 : fpq_int8_rows_size(batch, f->d));
}

static void place(const fpq_small_flat *f, int batch, char *scratch, workspace *w) {
    w->products = (float *)(void *)scratch;
    w->lanes = w->products + (ptrdiff_t)batch * f->ld;
    w->maxima = w->lanes + (ptrdiff_t)f->panels * batch * FPQ_COLUMN_BLOCK;
    w->x = w->maxima + (ptrdiff_t)maxima_panels(f) * PANEL_COLUMNS;
    w->row = w->x + (ptrdiff_t)batch * f->d;
    w->margin = w->row + f->d;
    w->square = w->margin + batch;
    if (!f->packed) fpq_int8_rows_place(scratch + float_scratch(f, batch), batch, &f->int8, &w->rows);
}

static void raise_lanes(float *FPQ_RESTRICT lanes, const float *products) {
    for (int l = 0; l < FPQ_COLUMN_BLOCK; l++) lanes[l] = products[l] > lanes[l] ? products[l] : lanes[l];
}

/* Products of n queries with all columns. */
static void multiply(const fpq_kernels *kern, const fpq_small_flat *f, const float *queries, int n, workspace *w) {
    const int d = f->d;
    uint8_t list[QUERY_BATCH];
    for (int i = 0; i < n; i++) {
        float *x = w->x + (ptrdiff_t)i * d;
        list[i] = (uint8_t)i;
        for (int t = 0; t < d; t++) x[t] = queries[i * d + t] - (f->metric == FPQ_L2 ? f->centre[t] : 0);
        if (!f->packed) fpq_int8_rows_put(kern, &w->rows, i, x, d);
        w->square[i] = kern->ip_f32(x, x, d);
        w->margin[i] = f->packed ? 0 : w->rows.margin[i];
        for (int c = f->blocks * FPQ_COLUMN_BLOCK; c < f->ld; c++) w->products[i * f->ld + c] = -INFINITY;
    }
    for (int p = 0; p < f->panels; p++) {
        const int left = f->blocks - p * PANEL, blocks = left < PANEL ? left : PANEL;
        float *lanes = w->lanes + (ptrdiff_t)p * n * FPQ_COLUMN_BLOCK, *products = w->products + p * PANEL_COLUMNS;
        for (int i = 0; i < n * FPQ_COLUMN_BLOCK; i++) lanes[i] = -INFINITY;
        if (!f->packed) {
            kern->project_int8(w->rows.quantized, w->rows.scale, list, n, &f->int8.columns, p * PANEL, blocks, products,
                               f->ld, lanes);
            continue;
        }
        kern->project(w->x, n, d, f->packed + (ptrdiff_t)p * PANEL_COLUMNS * d, f->bias + p * PANEL_COLUMNS, blocks,
                      products, f->ld);
        for (int i = 0; i < n; i++)
            for (int b = 0; b < blocks; b++)
                raise_lanes(lanes + i * FPQ_COLUMN_BLOCK, products + i * f->ld + b * FPQ_COLUMN_BLOCK);
    }
}

/* How far the product of one of the k nearest columns may lie below `reached`, which the products of k columns reach.
 * Such a column c is near the query x, of squared length `square`: |x - c|^2 <= square - 2 reached, and so |c| <= |x| +
 * |x - c|. For inner products the longest column bounds |c|. The distances have an error
 * of their own, relative to themselves. */
static float margin_of(const fpq_small_flat *f, float square, float reached, float margin) {
    const float length = sqrtf(square) + sqrtf(fmaxf(square - 2 * reached, 0)),
                column = f->metric == FPQ_L2 ? length * length : f->longest;
    const float rounding = FPQ_ROW_ERROR(f->d) * (2 * square + column) + FPQ_CENTROID_ERROR(f->d) * column;
    return 2 * margin + 2.1f * (rounding + FPQ_UNDERFLOW(f->d));
}

/* The nearest columns of query i of the batch, by its products. */
static void search_products(const fpq_kernels *kern, const fpq_small_flat *f, const float *query, int i, workspace *w,
                            fpq_results *results) {
    static const float zeros[PANEL_COLUMNS];
    const float *products = w->products + (ptrdiff_t)i * f->ld, square = w->square[i], margin = w->margin[i];
    const int by_maxima = 2 * results->k <= f->panels * FPQ_COLUMN_BLOCK;
    const float reached = reached_by(kern, by_maxima ? w->maxima : products, by_maxima ? maxima_panels(f) : f->panels,
                                     results->k, 2 * margin + 8 * FPQ_ROW_ERROR(f->d) * square);
    const float least = reached - margin_of(f, square, reached, margin);
    for (int p = 0; p < f->panels; p++)
        for (uint64_t near = kern->at_least(products + p * PANEL_COLUMNS, -least, zeros); near; near &= near - 1) {
            const int c = p * PANEL_COLUMNS + fpq_lowest_bit(near);
            fpq_offer_row(results, fpq_distance_to(kern, &f->x, c, query, f->metric, w->row), c);
        }
}

typedef struct {
    const fpq_kernels *kern;
    const fpq_small_flat *f;
    const float *queries;
    int64_t nq;
    int batch;
    const fpq_selector *selector;
    const fpq_answers *answers;
} search;

static void search_batch(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    const fpq_small_flat *f = s->f;
    const int n = fpq_batch_size(s->nq, s->batch, task);
    const int64_t first = task * s->batch;
    const float *query = s->queries + first * f->d;
    workspace w;
    place(f, n, worker->scratch, &w);
    multiply(s->kern, f, query, n, &w);
    for (int i = 0; i < n && !fpq_stopped(worker->poll); i++, query += f->d) {
        fpq_results results = fpq_results_of(s->answers, first + i, s->selector->ids);
        for (int p = 0; p < f->panels; p++)
            memcpy(w.maxima + p * FPQ_COLUMN_BLOCK, w.lanes + (p * n + i) * FPQ_COLUMN_BLOCK,
                   FPQ_COLUMN_BLOCK * sizeof(float));
        for (int t = f->panels * FPQ_COLUMN_BLOCK; t < maxima_panels(f) * PANEL_COLUMNS; t++) w.maxima[t] = -INFINITY;
        if (w.margin[i] + w.square[i] < FLT_MAX / 64 && f->longest < INFINITY)
            search_products(s->kern, f, query, i, &w, &results);
        else
            for (int c = 0; c < f->n; c++)
                fpq_offer_row(&results, fpq_distance_to(s->kern, &f->x, c, query, f->metric, w.row), c);
        fpq_results_finish(&results, s->answers, first + i);
    }
}

int fpq_small_flat_search(const fpq_small_flat *f, const float *queries, int64_t nq, const fpq_selector *selector,
                          const fpq_answers *answers, int threads) {
    const int batch = nq < f->batch ? (int)nq : f->batch;
    search s = {f->kern, f, queries, nq, batch, selector, answers};
    return nq ? fpq_parallel(fpq_batches(nq, batch), scratch_size(f, batch), threads, search_batch, &s) : 0;
}
