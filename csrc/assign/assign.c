/* SPDX-License-Identifier: MIT */
#include "assign/assign.h"

#include <math.h>

#include "portable.h"
#include "threads.h"

void fpq_centre(const fpq_codebooks *cb, int j, float *centre) {
    const float *c = cb->centroids + (ptrdiff_t)j * cb->k * cb->dsub;
    for (int t = 0; t < cb->offsets[j + 1] - cb->offsets[j]; t++) {
        double sum = 0;
        for (int i = 0; i < cb->k; i++) sum += c[(ptrdiff_t)i * cb->dsub + t];
        centre[t] = (float)(sum / cb->k);
    }
}

static void pack_one(const fpq_codebooks *cb, int j, fpq_packed_codebook *out) {
    const float *c = cb->centroids + (ptrdiff_t)j * cb->k * cb->dsub;
    fpq_centre(cb, j, out->offset);
    fpq_pack(c, cb->k, out->d, cb->dsub, out->offset, out->packed);
    for (int i = 0; i < FPQ_BLOCKS(cb->k) * FPQ_BLOCK; i++) {
        float norm = 0;
        for (int t = 0; t < out->d && i < cb->k; t++) {
            const float centred = c[(ptrdiff_t)i * cb->dsub + t] - out->offset[t];
            norm += centred * centred;
        }
        out->bias[i] = i < cb->k ? -norm / 2 : -INFINITY;
    }
}

static size_t round_up(size_t floats) { return (floats + 15) / 16 * 16; }

fpq_packed_codebook *fpq_pack_codebooks(const fpq_codebooks *cb, int threads) {
    const size_t columns = (size_t)FPQ_BLOCKS(cb->k) * FPQ_BLOCK, dsub = (size_t)cb->dsub;
    const size_t head = round_up((size_t)cb->m * sizeof(fpq_packed_codebook) / sizeof(float));
    const size_t offsets = round_up((size_t)cb->offsets[cb->m]), each = columns + columns * dsub;
    float *memory = fpq_alloc((head + offsets + (size_t)cb->m * each) * sizeof(float));
    if (!memory) return NULL;
    fpq_packed_codebook *out = (fpq_packed_codebook *)(void *)memory;
    threads = fpq_threads(threads, cb->m);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int j = 0; j < cb->m; j++) {
        float *piece = memory + head + offsets + (size_t)j * each;
        out[j] = (fpq_packed_codebook){.from = cb->offsets[j], .d = cb->offsets[j + 1] - cb->offsets[j], .k = cb->k,
                                       .offset = memory + head + cb->offsets[j], .bias = piece, .packed = piece + columns};
        pack_one(cb, j, out + j);
    }
    return out;
}

int fpq_assign_blocks(int64_t n) { return (int)((n + FPQ_ASSIGN_ROWS - 1) / FPQ_ASSIGN_ROWS); }

void fpq_read_centred(const fpq_kernels *kern, const fpq_packed_codebook *packed, const fpq_rows *data, int64_t first, int n,
                      float *x) {
    kern->read_rows(&data->x, data->rows, first, n, 0, (int)data->x.d, packed->offset, x);
}

void fpq_nearest_rows(const fpq_kernels *kern, const fpq_packed_codebook *codebook, const float *x, ptrdiff_t d, int n,
                      int32_t *ids, float *errors) {
    const int dsub = codebook->d, blocks = FPQ_BLOCKS(codebook->k);
    /* Panels of columns that stay in the L2 cache while all rows pass over them. */
    const int fit = (256 << 10) / (FPQ_BLOCK * (int)sizeof(float) * dsub) / 4 * 4, panel = fit > 4 ? fit : 4;
    float best[FPQ_ASSIGN_ROWS];
    x += codebook->from;
    for (int i = 0; i < n; i++) {
        best[i] = -INFINITY;
        ids[i] = 0;
    }
    for (int b = 0; b < blocks; b += panel)
        kern->nearest(x, d, n, dsub, codebook->packed + (ptrdiff_t)b * dsub * FPQ_BLOCK, codebook->bias + b * FPQ_BLOCK,
                      blocks - b < panel ? blocks - b : panel, b * FPQ_BLOCK, best, ids, NULL);
    for (int i = 0; i < n; i++) {
        const float error = kern->ip_f32(x + i * d, x + i * d, dsub) - 2 * best[i];
        errors[i] = error > 0 ? error : 0;
    }
}

int fpq_assign(const fpq_codebooks *cb, const fpq_rows *data, int32_t *ids, float *errors, int threads) {
    const int blocks = fpq_assign_blocks(data->n);
    const ptrdiff_t d = data->x.d;
    const size_t scratch = (size_t)FPQ_ASSIGN_ROWS * ((size_t)d + 1);
    const fpq_kernels *kern = fpq_active();
    threads = fpq_threads(threads, blocks);
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    float *memory = fpq_alloc((size_t)threads * scratch * sizeof(float));
    fpq_poll poll = {0};
    if (packed && memory) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int b = 0; b < blocks; b++) {
            if (fpq_stopped(&poll)) continue;
            float *x = memory + (size_t)FPQ_THREAD_NUMBER() * scratch, *unused = x + (scratch - FPQ_ASSIGN_ROWS);
            const int64_t first = (int64_t)b * FPQ_ASSIGN_ROWS;
            const int n = data->n - first < FPQ_ASSIGN_ROWS ? (int)(data->n - first) : FPQ_ASSIGN_ROWS;
            fpq_read_centred(kern, packed, data, first, n, x);
            for (int j = 0; j < cb->m; j++)
                fpq_nearest_rows(kern, packed + j, x, d, n, ids + j * data->n + first,
                                 errors ? errors + j * data->n + first : unused);
        }
    }
    const int status = packed && memory && !poll.stop ? 0 : -1;
    fpq_free(packed);
    fpq_free(memory);
    return status;
}
