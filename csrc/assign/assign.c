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

static void pack_one(const fpq_codebooks *cb, int j, fpq_packed_codebook *out, float *scratch) {
    const float *c = cb->centroids + (ptrdiff_t)j * cb->k * cb->dsub;
    fpq_centre(cb, j, out->offset);
    fpq_pack(c, cb->k, out->d, cb->dsub, out->offset, out->packed);
    for (int i = 0; i < FPQ_BLOCKS(cb->k) * FPQ_BLOCK; i++) {
        float norm = 0, *row = out->rows + (ptrdiff_t)i * out->d;
        for (int t = 0; t < out->d && i < cb->k; t++) {
            row[t] = c[(ptrdiff_t)i * cb->dsub + t] - out->offset[t];
            norm += row[t] * row[t];
        }
        out->bias[i] = i < cb->k ? -norm / 2 : -INFINITY;
        if (i < cb->k && out->has_bytes) fpq_byte_codebook_put(fpq_active(), &out->bytes, i, row, out->d, scratch);
    }
}

fpq_packed_codebook *fpq_pack_codebooks(const fpq_codebooks *cb, int threads) {
    const int has_bytes = fpq_bytes_pay(fpq_active(), cb->k, cb->dsub);
    const size_t columns = (size_t)FPQ_BLOCKS(cb->k) * FPQ_BLOCK, dsub = (size_t)cb->dsub;
    const size_t head = fpq_float_lines((size_t)cb->m * sizeof(fpq_packed_codebook) / sizeof(float) + 1);
    const size_t offsets = fpq_float_lines((size_t)cb->offsets[cb->m]), rows = fpq_float_lines((size_t)cb->k * dsub);
    const size_t bytes = has_bytes ? fpq_byte_codebook_size(FPQ_BLOCKS(cb->k), cb->dsub) / sizeof(float) + 2 * dsub : 0;
    const size_t each = columns + columns * dsub + rows + fpq_float_lines(bytes);
    float *memory = fpq_alloc((head + offsets + (size_t)cb->m * each) * sizeof(float));
    if (!memory) return NULL;
    fpq_packed_codebook *out = (fpq_packed_codebook *)(void *)memory;
    threads = fpq_threads(threads, cb->m);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int j = 0; j < cb->m; j++) {
        float *piece = memory + head + offsets + (size_t)j * each, *behind = piece + columns * (dsub + 1) + rows;
        const int d = cb->offsets[j + 1] - cb->offsets[j];
        out[j] = (fpq_packed_codebook){.from = cb->offsets[j], .d = d, .k = cb->k, .offset = memory + head + cb->offsets[j],
                                       .bias = piece, .packed = piece + columns, .rows = piece + columns * (dsub + 1),
                                       .has_bytes = has_bytes};
        if (has_bytes) fpq_byte_codebook_place((char *)(behind + 2 * dsub), FPQ_BLOCKS(cb->k), d, piece, &out[j].bytes);
        pack_one(cb, j, out + j, behind);
    }
    return out;
}

int fpq_assign_blocks(int64_t n) { return (int)((n + FPQ_ASSIGN_ROWS - 1) / FPQ_ASSIGN_ROWS); }

void fpq_read_centred(const fpq_kernels *kern, const fpq_packed_codebook *packed, const fpq_rows *data, int64_t first, int n,
                      float *x) {
    kern->read_rows(&data->x, data->rows, first, n, 0, (int)data->x.d, packed->offset, x);
}

static void nearest_of_floats(const fpq_kernels *kern, const fpq_packed_codebook *codebook, const float *x, ptrdiff_t d, int n,
                              int32_t *ids, float *best) {
    const int dsub = codebook->d, blocks = FPQ_BLOCKS(codebook->k);
    /* Panels of columns that stay in the L2 cache while all rows pass over them. */
    const int fit = (256 << 10) / (FPQ_BLOCK * (int)sizeof(float) * dsub) / 4 * 4, panel = fit > 4 ? fit : 4;
    for (int i = 0; i < n; i++) {
        best[i] = -INFINITY;
        ids[i] = 0;
    }
    for (int b = 0; b < blocks; b += panel)
        kern->nearest(x, d, n, dsub, codebook->packed + (ptrdiff_t)b * dsub * FPQ_BLOCK, codebook->bias + b * FPQ_BLOCK,
                      blocks - b < panel ? blocks - b : panel, b * FPQ_BLOCK, best, ids, NULL);
}

void fpq_products_start(float *products, int k) {
    for (int i = 0; i < FPQ_BYTE_TILE; i++)
        for (int c = k; c < fpq_products_ld(k); c++) products[i * fpq_products_ld(k) + c] = -INFINITY;
}

int32_t fpq_nearest_by_bytes(const fpq_kernels *kern, const fpq_packed_codebook *codebook, const fpq_byte_rows *rows, int at,
                             const float *x, const float *products) {
    static const float zeros[64];
    const int k = codebook->k, d = codebook->d;
    const float margin = rows->margin[at];
    float survey[3], best = -INFINITY, second = -INFINITY, unused;
    int32_t id = 0;
    int left = k / 8;                      /* more than that are cheaper to do again all at once */
    kern->survey(products, k, survey);
    for (int from = 0; from < k && left >= 0 && margin < INFINITY; from += 64)
        for (uint64_t near = kern->at_least(products + from, 2 * margin - survey[1], zeros); near && left-- > 0; near &= near - 1) {
            const int32_t c = from + fpq_lowest_bit(near);
            const float product = kern->ip_f32(x, codebook->rows + (ptrdiff_t)c * d, d) + codebook->bias[c];
            if (product > best) {
                second = best;
                best = product;
                id = c;
            } else if (product > second) {
                second = product;
            }
        }
    /* Sums of floats in the one order that decides between centroids equally far. */
    if (left < 0 || !(second < best - 2 * rows->rounding[at])) nearest_of_floats(kern, codebook, x, d, 1, &id, &unused);
    return id;
}

static void nearest_of_bytes(const fpq_kernels *kern, const fpq_packed_codebook *codebook, const float *x, ptrdiff_t d, int n,
                             int32_t *ids, char *scratch) {
    const int ld = fpq_products_ld(codebook->k);
    float *products = (float *)(void *)scratch, lanes[FPQ_ASSIGN_ROWS * FPQ_BLOCK] = {0};
    uint8_t list[FPQ_ASSIGN_ROWS];
    fpq_byte_rows rows;
    fpq_byte_rows_place((char *)(products + FPQ_BYTE_TILE * ld), FPQ_ASSIGN_ROWS, &codebook->bytes, &rows);
    fpq_products_start(products, codebook->k);
    for (int i = 0; i < n; i++) {
        list[i] = (uint8_t)i;
        fpq_byte_rows_put(kern, &rows, i, x + i * d, codebook->d);
    }
    for (int i = 0; i < n; i += FPQ_BYTE_TILE) {
        const int some = n - i < FPQ_BYTE_TILE ? n - i : FPQ_BYTE_TILE;
        kern->project_bytes(rows.bytes, rows.step, list + i, some, &codebook->bytes.columns, 0, FPQ_BLOCKS(codebook->k), products,
                            ld, lanes);
        for (int r = i; r < i + some; r++)
            ids[r] = fpq_nearest_by_bytes(kern, codebook, &rows, r, x + r * d, products + (r - i) * ld);
    }
}

size_t fpq_nearest_scratch(const fpq_codebooks *cb) {
    if (!fpq_bytes_pay(fpq_active(), cb->k, cb->dsub)) return 0;
    return (size_t)FPQ_BYTE_TILE * (size_t)fpq_products_ld(cb->k) * sizeof(float) + fpq_byte_rows_size(FPQ_ASSIGN_ROWS, cb->dsub);
}

void fpq_nearest_rows(const fpq_kernels *kern, const fpq_packed_codebook *codebook, const float *x, ptrdiff_t d, int n,
                      int32_t *ids, float *errors, char *scratch) {
    const int dsub = codebook->d;
    float best[FPQ_ASSIGN_ROWS];
    x += codebook->from;
    if (codebook->has_bytes) {
        nearest_of_bytes(kern, codebook, x, d, n, ids, scratch);
        for (int i = 0; i < n; i++) errors[i] = kern->l2_f32(x + i * d, codebook->rows + (ptrdiff_t)ids[i] * dsub, dsub);
        return;
    }
    nearest_of_floats(kern, codebook, x, d, n, ids, best);
    for (int i = 0; i < n; i++) {
        const float error = kern->ip_f32(x + i * d, x + i * d, dsub) - 2 * best[i];
        errors[i] = error > 0 ? error : 0;
    }
}

int fpq_assign(const fpq_codebooks *cb, const fpq_rows *data, int32_t *ids, float *errors, int threads) {
    const int blocks = fpq_assign_blocks(data->n);
    const ptrdiff_t d = data->x.d;
    const size_t rows = fpq_float_lines((size_t)FPQ_ASSIGN_ROWS * ((size_t)d + 1)), scratch = rows + fpq_nearest_scratch(cb) / sizeof(float);
    const fpq_kernels *kern = fpq_active();
    threads = fpq_threads(threads, blocks);
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    float *memory = fpq_alloc((size_t)threads * scratch * sizeof(float));
    fpq_poll poll = {0};
    if (packed && memory) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int b = 0; b < blocks; b++) {
            if (fpq_stopped(&poll)) continue;
            float *x = memory + (size_t)FPQ_THREAD_NUMBER() * scratch, *unused = x + FPQ_ASSIGN_ROWS * d;
            const int64_t first = (int64_t)b * FPQ_ASSIGN_ROWS;
            const int n = data->n - first < FPQ_ASSIGN_ROWS ? (int)(data->n - first) : FPQ_ASSIGN_ROWS;
            fpq_read_centred(kern, packed, data, first, n, x);
            for (int j = 0; j < cb->m; j++)
                fpq_nearest_rows(kern, packed + j, x, d, n, ids + j * data->n + first,
                                 errors ? errors + j * data->n + first : unused, (char *)(x + rows));
        }
    }
    const int status = packed && memory && !poll.stop ? 0 : -1;
    fpq_free(packed);
    fpq_free(memory);
    return status;
}
