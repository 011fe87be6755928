/* SPDX-License-Identifier: MIT
 * OpenIndexing (FPQ paper, Algorithm 1): a centroid takes rows up to a limit, later rows go to their next nearest.
 * The rows' order decides, so each counter runs through the rows in turn; subspaces with counters of their own run in
 * parallel. The other candidates of a row are worked out only when its nearest centroid is full. */
#include <math.h>

#include "assign/assign.h"
#include "portable.h"
#include "threads.h"

/* The centroid that comes after `last` in the order of falling score, ties by id. */
static int32_t next_nearest(const float *score, int k, int32_t last) {
    int32_t next = -1;
    for (int32_t c = 0; c < k; c++) {
        const int after = score[c] < score[last] || (score[c] == score[last] && c > last);
        if (after && (next < 0 || score[c] > score[next])) next = c;
    }
    return next;
}

static int32_t choose(const fpq_packed_codebook *codebook, const fpq_rows *data, int64_t i, int32_t nearest, double limit,
                      int candidates, const int64_t *count, float *x, float *score, fpq_poll *poll) {
    const fpq_kernels *kern = fpq_active();
    if ((double)count[nearest] < limit || candidates < 2 || fpq_stopped(poll)) return nearest;
    kern->read_rows(&data->x, data->rows, i, 1, codebook->from, codebook->from + codebook->d, codebook->offset, x);
    kern->project(x, 1, codebook->d, codebook->packed, codebook->bias, FPQ_BLOCKS(codebook->k), score, 0);
    int32_t id = nearest;
    for (int tried = 1; tried < candidates; tried++) {
        const int32_t next = next_nearest(score, codebook->k, id);
        if (next < 0) break;
        id = next;
        if ((double)count[id] < limit) break;
    }
    return id;
}

int fpq_open_index(const fpq_codebooks *cb, const fpq_rows *data, double limit, int candidates, int shared, int32_t *ids,
                   int64_t *counts, int threads) {
    const size_t scratch = (size_t)(FPQ_BLOCKS(cb->k) * FPQ_BLOCK + (cb->dsub + 15) / 16 * 16);
    threads = shared ? 1 : fpq_threads(threads, cb->m);
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    float *memory = fpq_alloc((size_t)threads * scratch * sizeof(float));
    fpq_poll poll = {0};
    int status = packed && memory ? 0 : -1;
    if (!status && shared) {
        for (int64_t i = 0; i < data->n; i++)
            for (int j = 0; j < cb->m; j++) {
                int32_t *id = ids + j * data->n + i;
                *id = choose(packed + j, data, i, *id, limit, candidates, counts, memory + FPQ_BLOCKS(cb->k) * FPQ_BLOCK, memory,
                             &poll);
                counts[*id]++;
            }
    } else if (!status) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int j = 0; j < cb->m; j++) {
            float *score = memory + (size_t)FPQ_THREAD_NUMBER() * scratch, *x = score + FPQ_BLOCKS(cb->k) * FPQ_BLOCK;
            int64_t *count = counts + (ptrdiff_t)j * cb->k;
            for (int64_t i = 0; i < data->n; i++) {
                int32_t *id = ids + j * data->n + i;
                *id = choose(packed + j, data, i, *id, limit, candidates, count, x, score, &poll);
                count[*id]++;
            }
        }
    }
    if (poll.stop) status = -1;
    fpq_free(packed);
    fpq_free(memory);
    return status;
}
