/* SPDX-License-Identifier: MIT
 * Codes for inner products: Guo et al., Accelerating Large-Scale Inference with Anisotropic Vector Quantization, ICML
 * 2020.
 *
 * Loss. The vectors that matter to a query point in its direction, so the part of an error e = x - code that is
 * parallel to the vector changes their inner products most. With the direction u of the vector:
 *   loss = |e|^2 + w <e, u>^2.
 *
 * Descent. The subquantizers take turns: one chooses the codeword of least loss while the others stay, until none
 * changes or MAX_PASSES passes are over. With p = the sum of <e, u> over the other subspaces, a codeword c costs
 *   |r - c|^2 + w (p + <r - c, u>)^2 = constant - 2 score,
 *   score = <r, c> - |c|^2 / 2 + (a - w / 2 <c, u>) <c, u>,  a = w (p + <r, u>).
 * Rows and codewords are centred as in assign.h: errors stay.
 *
 * Exactness. As in assign.h: where the two largest scores of a row are closer than a bound on their error, losses in
 * double precision decide, ties to the lower number. */
#include <math.h>

#include "assign/assign.h"
#include "dot.h"
#include "parallel.h"

enum {
    MAX_PASSES = 4 /* more raise no recall */,
    MAX_BATCH = 12,
    SCRATCH_FLOATS = 1 << 17 /* of the products: they stay in the L2 cache */
};

typedef struct {
    const fpq_codebooks *cb;
    const fpq_packed_codebook *packed;
    const fpq_rows *data;
    const float *directions;
    float *max_square; /* (m): of the centred codewords of a codebook */
    float weight;
    int batch; /* rows that are projected at a time */
    int32_t *ids;
    double *parallel;
} descent;

/* A row and what is known of it. */
typedef struct {
    const float *row, *direction;
    const float *products, *along; /* (m, fpq_products_ld(k)): <r, c> - |c|^2 / 2, and <c, u> */
    const float *square;           /* (m): |r|^2 of the centred row */
    double *parallel;              /* (m): <e, u> of each subspace */
    double sum;                    /* of parallel */
} described_row;

/* The product of the error of a codeword and the direction, in double precision. */
static double parallel_error(const float *row, const float *codeword, const float *direction, int d) {
    double sum = 0;
    for (int t = 0; t < d; t++) sum += ((double)row[t] - (double)codeword[t]) * (double)direction[t];
    return sum;
}

static int32_t by_losses(const descent *c, const described_row *r, int j, float a, float threshold, int all) {
    const fpq_packed_codebook *codebook = c->packed + j;
    const ptrdiff_t at = (ptrdiff_t)j * fpq_products_ld(codebook->k);
    const float *row = r->row + codebook->from, *direction = r->direction + codebook->from;
    const double others = r->sum - r->parallel[j];
    double least = INFINITY;
    int32_t id = 0;
    for (int32_t i = 0; i < codebook->k; i++) {
        const float y = r->along[at + i], score = r->products[at + i] + (a - c->weight / 2 * y) * y;
        if (!all && score < threshold) continue;
        const float *codeword = codebook->centroids + i * codebook->ld;
        const double parallel = others + parallel_error(row, codeword, direction, codebook->d);
        const double loss = fpq_squared_distance(row, codeword, codebook->d) + (double)c->weight * parallel * parallel;
        if (loss < least) {
            least = loss;
            id = i;
        }
    }
    return id;
}

static int32_t choose(const descent *c, const described_row *r, int j, int32_t id) {
    const fpq_packed_codebook *codebook = c->packed + j;
    const int d = codebook->d, ld = fpq_products_ld(codebook->k);
    const float *along = r->along + (ptrdiff_t)j * ld, largest = c->max_square[j];
    const float a = c->weight * ((float)r->sum + along[id]);
    float best, second;
    fpq_active()->nearest_anisotropic(r->products + (ptrdiff_t)j * ld, along, a, c->weight / 2,
                                      FPQ_COLUMN_BLOCKS(codebook->k), &best, &second, &id);
    /* |u| <= 1 and |<c, u>| <= |c|. Sums of d products are off by (d + 3) u of their norms, a by w (d + 8) u |c|. */
    const float share = (float)(d + 16) * 0x1p-24f, norm = sqrtf(largest);
    const float margin = fpq_score_margin(d, r->square[j], codebook->bias[id]) +
                         4 * share * (fabsf(a) * norm + 2 * c->weight * largest + r->square[j] + largest) +
                         4 * FPQ_UNDERFLOW(d) * (1 + fabsf(a) + c->weight);
    const float threshold = best - margin;
    const int all = codebook->overflows || !(threshold > -INFINITY && threshold < INFINITY);
    return second < threshold && !all ? id : by_losses(c, r, j, a, threshold, all);
}

static void descend(const descent *c, described_row *r, int64_t row) {
    const int m = c->cb->m;
    const int64_t n = c->data->n;
    r->sum = 0;
    for (int j = 0; j < m; j++) {
        const fpq_packed_codebook *codebook = c->packed + j;
        const float *codeword = codebook->centroids + c->ids[j * n + row] * codebook->ld;
        r->parallel[j] = parallel_error(r->row + codebook->from, codeword, r->direction + codebook->from, codebook->d);
        r->sum += r->parallel[j];
    }
    /* When every subquantizer has kept its codeword since the last change, all have the least loss. */
    for (int step = 0, kept = 0; kept < m && step < MAX_PASSES * m; step++, kept++) {
        const int j = step % m;
        const fpq_packed_codebook *codebook = c->packed + j;
        const int32_t id = choose(c, r, j, c->ids[j * n + row]);
        if (id == c->ids[j * n + row]) continue;
        const double old = r->parallel[j];
        c->ids[j * n + row] = id;
        r->parallel[j] = parallel_error(r->row + codebook->from, codebook->centroids + id * codebook->ld,
                                        r->direction + codebook->from, codebook->d);
        r->sum += r->parallel[j] - old;
        kept = 0;
    }
    c->parallel[row] = r->sum;
}

/* The scratch memory of a batch. */
typedef struct {
    double *parallel;        /* (m) */
    float *products, *along; /* (batch, m, fpq_products_ld(k)) */
    float *rows;             /* (batch, d) */
    float *square;           /* (batch, m) */
    float *x, *u;            /* (batch, dsub): centred rows and directions in one subspace */
} batch_memory;

static ptrdiff_t products_of_row(const descent *c) { return (ptrdiff_t)c->cb->m * fpq_products_ld(c->cb->k); }

static size_t batch_memory_size(const descent *c) {
    const size_t m = (size_t)c->cb->m, dsub = (size_t)c->cb->dsub, d = (size_t)c->data->x.d;
    return fpq_lines(m * sizeof(double)) +
           (size_t)c->batch * (2 * (size_t)products_of_row(c) + d + m + 2 * dsub) * sizeof(float);
}

static batch_memory place_batch(const descent *c, char *scratch) {
    batch_memory b = {.parallel = (double *)(void *)scratch};
    b.products = (float *)(void *)(scratch + fpq_lines((size_t)c->cb->m * sizeof(double)));
    b.along = b.products + c->batch * products_of_row(c);
    b.rows = b.along + c->batch * products_of_row(c);
    b.square = b.rows + c->batch * (ptrdiff_t)c->data->x.d;
    b.x = b.square + c->batch * (ptrdiff_t)c->cb->m;
    b.u = b.x + c->batch * (ptrdiff_t)c->cb->dsub;
    return b;
}

/* Multiplies n rows from `first` on, and their directions, with all codewords. */
static void project_batch(const descent *c, int64_t first, int n, const batch_memory *b) {
    const fpq_kernels *kern = fpq_active();
    const int m = c->cb->m, d = (int)c->data->x.d, blocks = FPQ_COLUMN_BLOCKS(c->cb->k);
    const ptrdiff_t ld = products_of_row(c);
    const fpq_matrix directions = {
        (const char *)c->directions, c->data->n, d, d * (ptrdiff_t)sizeof(float), sizeof(float), FPQ_F32, 0};
    kern->read_rows(&c->data->x, c->data->rows, first, n, 0, d, NULL, b->rows);
    for (int j = 0; j < m; j++) {
        const fpq_packed_codebook *codebook = c->packed + j;
        const int from = codebook->from, width = codebook->d;
        const ptrdiff_t at = (ptrdiff_t)j * fpq_products_ld(codebook->k);
        kern->read_rows(&c->data->x, c->data->rows, first, n, from, from + width, codebook->offset, b->x);
        kern->read_rows(&directions, NULL, first, n, from, from + width, NULL, b->u);
        kern->project(b->x, n, width, codebook->packed, codebook->bias, blocks, b->products + at, ld);
        kern->project(b->u, n, width, codebook->packed, NULL, blocks, b->along + at, ld);
        for (int i = 0; i < n; i++)
            kern->squares(b->x + (ptrdiff_t)i * width, width, 1, width, b->square + (ptrdiff_t)i * m + j);
    }
}

static void descend_batch(void *context, int64_t task, fpq_worker *worker) {
    const descent *c = context;
    const int n = fpq_batch_size(c->data->n, c->batch, task);
    const int64_t first = task * c->batch, d = c->data->x.d;
    const batch_memory b = place_batch(c, worker->scratch);
    project_batch(c, first, n, &b);
    for (int64_t i = 0; i < n && !fpq_stopped(worker->poll); i++) {
        described_row r = {.row = b.rows + i * d,
                           .direction = c->directions + (first + i) * d,
                           .products = b.products + i * products_of_row(c),
                           .along = b.along + i * products_of_row(c),
                           .square = b.square + i * c->cb->m,
                           .parallel = b.parallel};
        descend(c, &r, first + i);
    }
}

int fpq_assign_anisotropic(const fpq_codebooks *cb, const fpq_rows *data, const float *directions, float weight,
                           int32_t *ids, double *parallel, int threads) {
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    float *max_square = packed ? fpq_alloc((size_t)cb->m * sizeof(float)) : NULL;
    int status = -1;
    if (max_square) {
        descent c = {cb, packed, data, directions, max_square, weight, 1, ids, parallel};
        for (int j = 0; j < cb->m; j++) {
            max_square[j] = 0; /* a bias is about -|c|^2 / 2, or -inf of a repeated codeword */
            for (int i = 0; i < cb->k; i++)
                if (packed[j].bias[i] > -INFINITY) max_square[j] = fmaxf(max_square[j], -2.1f * packed[j].bias[i]);
        }
        const int64_t rows = SCRATCH_FLOATS / products_of_row(&c);
        c.batch = rows < 1 ? 1 : rows > MAX_BATCH ? MAX_BATCH : (int)rows;
        status = fpq_parallel(fpq_batches(data->n, c.batch), batch_memory_size(&c), threads, descend_batch, &c);
    }
    fpq_free(max_square);
    fpq_free(packed);
    return status;
}
