/* SPDX-License-Identifier: MIT
 * Whole matrices by tasks of rows: checks, normalisation, packing, products. */
#include <math.h>
#include <string.h>

#include "dot.h"
#include "isa/kernels.h"
#include "parallel.h"
#include "portable.h"

enum {
    MAX_SHARES = 256,  /* Tasks of a check. Each has a slot for its result, and more would balance threads no better. */
    PART_FLOATS = 1024 /* Numbers of a row that a check reads at once: they stay in the L1 cache. */
};

/* A check reads each number once and makes no copy of the matrix. Each task checks a share of consecutive rows. */
typedef struct {
    const fpq_matrix *x;
    int find_max; /* 1: max_abs is wanted, 0: nonfinite */
    int64_t share_rows;
    int64_t nonfinite[MAX_SHARES]; /* the first row that holds NaN or infinity; x->n if no row does */
    float max_abs[MAX_SHARES];
} check;

static void check_share(void *context, int64_t i, fpq_worker *worker) {
    check *c = context;
    const fpq_kernels *kern = fpq_active();
    const fpq_matrix *x = c->x;
    const int64_t first = i * c->share_rows, end = first + fpq_batch_size(x->n, c->share_rows, i);
    FPQ_ALIGN(64) float part[PART_FLOATS], min_max_sum[3];
    c->nonfinite[i] = x->n;
    c->max_abs[i] = 0;
    for (int64_t row = first; row < end && !fpq_stopped(worker->poll); row++)
        for (int from = 0; from < x->d; from += PART_FLOATS) {
            const int n = fpq_batch_size(x->d, PART_FLOATS, from / PART_FLOATS);
            kern->read_rows(x, NULL, row, 1, from, from + n, NULL, part);
            if (c->find_max) {
                kern->min_max_sum(part, n, min_max_sum);
                c->max_abs[i] = fmaxf(c->max_abs[i], fmaxf(-min_max_sum[0], min_max_sum[1]));
            } else if (kern->has_nonfinite(part, n)) {
                c->nonfinite[i] = row;
                return;
            }
        }
}

/* Runs a check; `shares` receives the number of slots that are in use. */
static int run_check(check *c, int64_t *shares, int threads) {
    const int64_t equal = fpq_batches(c->x->n, MAX_SHARES);
    c->share_rows = equal > FPQ_ROW_BATCH ? equal : FPQ_ROW_BATCH;
    *shares = fpq_batches(c->x->n, c->share_rows);
    return fpq_parallel(*shares, 0, threads, check_share, c);
}

int64_t fpq_first_nonfinite_row(const fpq_matrix *x, int threads) {
    check c = {.x = x};
    int64_t shares;
    if (x->dtype == FPQ_U8 || x->dtype == FPQ_I8) return -1;
    if (run_check(&c, &shares, threads)) return -2;
    for (int64_t i = 0; i < shares; i++)
        if (c.nonfinite[i] < x->n) return c.nonfinite[i];
    return -1;
}

int fpq_largest(const fpq_matrix *x, float *out, int threads) {
    check c = {.x = x, .find_max = 1};
    int64_t shares;
    const int status = run_check(&c, &shares, threads);
    *out = 0;
    for (int64_t i = 0; i < shares && !status; i++) *out = fmaxf(*out, c.max_abs[i]);
    return status;
}

static const ptrdiff_t item_size[] = {4, 8, 2, 2, 1, 1}; /* by dtype */

typedef struct {
    const fpq_matrix *x;
    const int64_t *rows;
    int64_t n;
    ptrdiff_t item; /* bytes of a number; 0: numbers become float32 */
    char *out;
} copy;

static void copy_batch(void *context, int64_t i, fpq_worker *worker) {
    const copy *c = context;
    const fpq_matrix *x = c->x;
    const int64_t first = i * FPQ_ROW_BATCH;
    const int n = fpq_batch_size(c->n, FPQ_ROW_BATCH, i), d = (int)x->d;
    (void)worker;
    if (!c->item) {
        fpq_active()->read_rows(x, c->rows, first, n, 0, d, NULL, (float *)(void *)c->out + first * d);
        return;
    }
    char *to = c->out + first * d * c->item;
    for (int64_t r = first; r < first + n; r++, to += d * c->item) {
        const char *row = x->data + (c->rows ? c->rows[r] : r) * x->row_stride;
        if (x->col_stride == c->item)
            memcpy(to, row, (size_t)(d * c->item));
        else
            for (int t = 0; t < d; t++) memcpy(to + t * c->item, row + t * x->col_stride, (size_t)c->item);
    }
}

int fpq_copy_rows(const fpq_matrix *x, const int64_t *rows, int64_t n, int to_float32, char *out, int threads) {
    copy c = {x, rows, n, to_float32 ? 0 : item_size[x->dtype], out};
    return fpq_parallel(fpq_batches(n, FPQ_ROW_BATCH), 0, threads, copy_batch, &c);
}

typedef struct {
    const fpq_matrix *x;
    const float *packed; /* k columns */
    int k;
    float *out;
} product;

static void normalize_batch(void *context, int64_t i, fpq_worker *worker) {
    const product *p = context;
    const int64_t first = i * FPQ_ROW_BATCH;
    const int n = fpq_batch_size(p->x->n, FPQ_ROW_BATCH, i), d = (int)p->x->d;
    (void)worker;
    fpq_active()->read_rows(p->x, NULL, first, n, 0, d, NULL, p->out + first * d);
    for (float *row = p->out + first * d, *end = row + (ptrdiff_t)n * d; row < end; row += d) {
        const double length = sqrt(fpq_dot(row, row, d));
        for (int t = 0; t < d; t++) row[t] = length > 0 ? (float)(row[t] / length) : 0;
    }
}

int fpq_normalize(const fpq_matrix *x, float *out, int threads) {
    product p = {.x = x, .out = out};
    return fpq_parallel(fpq_batches(x->n, FPQ_ROW_BATCH), 0, threads, normalize_batch, &p);
}

typedef struct {
    const fpq_matrix *x;
    float factor, *out;
} extension;

static void extend_batch(void *context, int64_t i, fpq_worker *worker) {
    const extension *e = context;
    const int64_t first = i * FPQ_ROW_BATCH, end = first + fpq_batch_size(e->x->n, FPQ_ROW_BATCH, i);
    const int d = (int)e->x->d;
    (void)worker;
    for (int64_t r = first; r < end; r++) {
        float *row = e->out + r * (d + 1);
        fpq_active()->read_rows(e->x, NULL, r, 1, 0, d, NULL, row);
        row[d] = (float)(e->factor * sqrt(fpq_dot(row, row, d)));
    }
}

int fpq_append_lengths(const fpq_matrix *x, float factor, float *out, int threads) {
    extension e = {x, factor, out};
    return fpq_parallel(fpq_batches(x->n, FPQ_ROW_BATCH), 0, threads, extend_batch, &e);
}

typedef struct {
    const fpq_matrix *x;
    const float *centroids;
    const int32_t *labels;
    float sign, *out;
} shift;

static void shift_batch(void *context, int64_t i, fpq_worker *worker) {
    const shift *p = context;
    const int64_t first = i * FPQ_ROW_BATCH, d = p->x->d;
    const int n = fpq_batch_size(p->x->n, FPQ_ROW_BATCH, i);
    (void)worker;
    fpq_active()->read_rows(p->x, NULL, first, n, 0, (int)d, NULL, p->out + first * d);
    for (int64_t row = first; row < first + n; row++) {
        const float *FPQ_RESTRICT centroid = p->centroids + (p->labels ? p->labels[row] : row) * d;
        float *FPQ_RESTRICT out = p->out + row * d;
        for (int64_t t = 0; t < d; t++) out[t] += p->sign * centroid[t];
    }
}

int fpq_add_centroids(const fpq_matrix *x, const float *centroids, const int32_t *labels, float sign, float *out,
                      int threads) {
    shift p = {x, centroids, labels, sign, out};
    return fpq_parallel(fpq_batches(x->n, FPQ_ROW_BATCH), 0, threads, shift_batch, &p);
}

int64_t fpq_packed_size(int k, int d) { return (int64_t)FPQ_COLUMN_BLOCKS(k) * FPQ_COLUMN_BLOCK * d; }

void fpq_pack(const float *c, int k, int d, ptrdiff_t ld, const float *offset, float *out) {
    for (int column = 0; column < FPQ_COLUMN_BLOCKS(k) * FPQ_COLUMN_BLOCK; column++) {
        float *to = out + (ptrdiff_t)(column / FPQ_COLUMN_BLOCK) * d * FPQ_COLUMN_BLOCK + column % FPQ_COLUMN_BLOCK;
        for (int t = 0; t < d; t++)
            to[(ptrdiff_t)t * FPQ_COLUMN_BLOCK] = column < k ? c[column * ld + t] - (offset ? offset[t] : 0) : 0;
    }
}

static ptrdiff_t packed_width(int k) { return FPQ_COLUMN_BLOCKS(k) * FPQ_COLUMN_BLOCK; }

static void project_batch(void *context, int64_t i, fpq_worker *worker) {
    const product *p = context;
    const fpq_kernels *kern = fpq_active();
    const int64_t first = i * FPQ_ROW_BATCH;
    const int n = fpq_batch_size(p->x->n, FPQ_ROW_BATCH, i), d = (int)p->x->d, k = p->k;
    const ptrdiff_t width = packed_width(k);
    float *rows = (float *)(void *)worker->scratch, *padded = rows + (ptrdiff_t)FPQ_ROW_BATCH * d;
    kern->read_rows(p->x, NULL, first, n, 0, d, NULL, rows);
    kern->project(rows, n, d, p->packed, NULL, FPQ_COLUMN_BLOCKS(k), width == k ? p->out + first * k : padded, width);
    for (int r = 0; width > k && r < n; r++)
        for (int c = 0; c < k; c++) p->out[(first + r) * k + c] = padded[r * width + c];
}

int fpq_project(const fpq_matrix *x, const float *packed, int k, float *out, int threads) {
    product p = {x, packed, k, out};
    const size_t scratch = (size_t)FPQ_ROW_BATCH * (size_t)(x->d + packed_width(k)) * sizeof(float);
    return fpq_parallel(fpq_batches(x->n, FPQ_ROW_BATCH), scratch, threads, project_batch, &p);
}
