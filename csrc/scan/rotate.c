/* SPDX-License-Identifier: MIT
 * Rotations of residuals, one per list: Kalantidis, Avrithis, Locally Optimized Product Quantization, CVPR 2014. The
 * residuals to one list are rotated together, so that its matrix is read once per call. */
#include <string.h>

#include "isa/kernels.h"
#include "parallel.h"
#include "portable.h"

typedef struct {
    const fpq_matrix *x;
    const fpq_rotations *rotations;
    int64_t *rows;          /* (n pairs): the row of each pair of a row and a list; pairs of the same list together */
    const int64_t *pairs;   /* their numbers */
    const int64_t *starts;  /* (n_lists + 1): where the pairs of a list begin */
    const int64_t *batches; /* (n_lists + 1): the first batch of a list */
    int64_t n_lists;
    float *out;
} rotation;

static int64_t list_of_batch(const rotation *r, int64_t batch) {
    int64_t low = 0, high = r->n_lists;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (r->batches[middle] <= batch)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void rotate_batch(void *context, int64_t batch, fpq_worker *worker) {
    const rotation *r = context;
    const fpq_kernels *kern = fpq_active();
    const int d = (int)r->x->d, to = r->rotations->to, blocks = FPQ_COLUMN_BLOCKS(to),
              width = blocks * FPQ_COLUMN_BLOCK;
    const int64_t list = list_of_batch(r, batch), first = r->starts[list] + (batch - r->batches[list]) * FPQ_ROW_BATCH;
    const int64_t left = r->starts[list + 1] - first;
    const int n = left < FPQ_ROW_BATCH ? (int)left : FPQ_ROW_BATCH;
    const float *centroids = r->rotations->centroids;
    float *rows = (float *)(void *)worker->scratch, *rotated = rows + (ptrdiff_t)FPQ_ROW_BATCH * d;
    kern->read_rows(r->x, r->rows, first, n, 0, d, centroids ? centroids + list * d : NULL, rows);
    kern->project(rows, n, d, r->rotations->packed + list * fpq_packed_size(to, d), NULL, blocks, rotated, width);
    for (int i = 0; i < n; i++)
        memcpy(r->out + r->pairs[first + i] * to, rotated + (ptrdiff_t)i * width, (size_t)to * sizeof(float));
}

int fpq_rotate(const fpq_matrix *x, const int64_t *lists, int per_row, const fpq_rotations *rotations, float *out,
               int threads) {
    const int64_t n = x->n * per_row, n_lists = rotations->n;
    const size_t d = (size_t)x->d;
    int64_t *memory = fpq_alloc((size_t)(2 * n + 3 * (n_lists + 1)) * sizeof *memory);
    if (!memory) return -1;
    int64_t *rows = memory, *pairs = rows + n, *starts = pairs + n, *batches = starts + n_lists + 1,
            *next = batches + n_lists + 1;
    memset(starts, 0, (size_t)(n_lists + 1) * sizeof *starts);
    for (int64_t i = 0; i < n; i++) starts[lists[i] + 1]++;
    batches[0] = 0;
    for (int64_t list = 0; list < n_lists; list++) {
        batches[list + 1] = batches[list] + fpq_batches(starts[list + 1], FPQ_ROW_BATCH);
        starts[list + 1] += starts[list];
        next[list] = starts[list];
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = next[lists[i]]++;
        rows[at] = i / per_row;
        pairs[at] = i;
    }
    rotation r = {x, rotations, rows, pairs, starts, batches, n_lists, out};
    const size_t width = (size_t)(FPQ_COLUMN_BLOCKS(rotations->to) * FPQ_COLUMN_BLOCK);
    const int status = fpq_parallel(batches[n_lists], FPQ_ROW_BATCH * (d + width) * sizeof(float), threads,
                                    rotate_batch, &r);
    fpq_free(memory);
    return status;
}
