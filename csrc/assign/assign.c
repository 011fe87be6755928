/* SPDX-License-Identifier: MIT */
#include "assign/assign.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "dot.h"
#include "portable.h"
#include "parallel.h"

void fpq_find_centre(const float *x, int64_t n_rows, int d, ptrdiff_t ld, float *centre) {
    enum { MOST = 33 };
    const int n = n_rows < MOST ? (int)n_rows : MOST;
    for (int t = 0; t < d; t++) {
        float sorted[MOST] = {0};
        for (int i = 0; i < n; i++) {
            const float here = x[(ptrdiff_t)(i * n_rows / n) * ld + t];
            int at = i;
            for (; at > 0 && sorted[at - 1] > here; at--) sorted[at] = sorted[at - 1];
            sorted[at] = here;
        }
        double sum = 0;
        for (int i = n / 4; i < n - n / 4; i++) sum += (double)sorted[i];
        /* Rounded to a sixteenth of the spread: then the differences to it are seldom rounded. */
        const double mean = sum / (n - n / 4 * 2), spread = (double)sorted[n - n / 4 - 1] - (double)sorted[n / 4];
        const double unit = spread > 0 ? ldexp(1, ilogb(spread) - 4) : 0;
        centre[t] = (float)(unit > 0 ? rint(mean / unit) * unit : mean);
    }
}

static uint64_t hash_of(const float *x, int d) {
    uint64_t hash = 0;
    for (int t = 0; t < d; t++) {
        uint32_t bits;
        memcpy(&bits, x + t, sizeof bits);
        hash = (hash ^ bits) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return hash;
}

/* Centroids that repeat an earlier one get a bias that keeps them from being chosen: else every row near them would be
 * in doubt. table: 2 k places and more, a power of two, of an open-addressing hash table. */
static void leave_out_repeated(fpq_packed_codebook *codebook, int32_t *table, int size) {
    const int d = codebook->d;
    for (int i = 0; i < size; i++) table[i] = -1;
    for (int32_t c = 0; c < codebook->k; c++) {
        const float *row = codebook->centroids + c * codebook->ld;
        int at = (int)(hash_of(row, d) >> 32 & (uint64_t)(size - 1));
        while (table[at] >= 0 && memcmp(codebook->centroids + table[at] * codebook->ld, row, (size_t)d * sizeof(float)))
            at = (at + 1) & (size - 1);
        if (table[at] < 0)
            table[at] = c;
        else
            codebook->bias[c] = -INFINITY;
    }
}

static void pack_one(fpq_packed_codebook *out, float *scratch) {
    const float *c = out->centroids;
    const int d = out->d;
    fpq_find_centre(c, out->k, d, out->ld, out->offset);
    fpq_pack(c, out->k, d, out->ld, out->offset, out->packed);
    for (int i = 0; i < FPQ_COLUMN_BLOCKS(out->k) * FPQ_COLUMN_BLOCK; i++) {
        float norm = 0, *row = out->rows + (ptrdiff_t)i * d;
        for (int t = 0; t < d && i < out->k; t++) {
            row[t] = c[i * out->ld + t] - out->offset[t];
            norm += row[t] * row[t];
        }
        out->bias[i] = i < out->k ? (FPQ_CENTROID_ERROR(d) - 0.5f) * norm : -INFINITY;
        out->overflows |= !(norm < INFINITY);
        if (i < out->k && out->has_int8) fpq_int8_codebook_put(fpq_active(), &out->bytes, i, row, d, scratch);
    }
}

fpq_packed_codebook *fpq_pack_codebooks(const fpq_codebooks *cb, int threads) {
    const int has_int8 = fpq_int8_pays(fpq_active(), cb->k, cb->dsub);
    const size_t columns = (size_t)FPQ_COLUMN_BLOCKS(cb->k) * FPQ_COLUMN_BLOCK, dsub = (size_t)cb->dsub;
    const size_t head = fpq_float_lines((size_t)cb->m * sizeof(fpq_packed_codebook) / sizeof(float) + 1);
    const size_t offsets = fpq_float_lines((size_t)cb->offsets[cb->m]), rows = fpq_float_lines((size_t)cb->k * dsub);
    const size_t bytes = has_int8
                             ? fpq_int8_codebook_size(FPQ_COLUMN_BLOCKS(cb->k), cb->dsub) / sizeof(float) + 2 * dsub
                             : 0;
    int table = 2;
    while (table < 2 * cb->k) table *= 2;
    const size_t each = columns + columns * dsub + rows + fpq_float_lines(bytes) + fpq_float_lines((size_t)table);
    float *memory = fpq_alloc((head + offsets + (size_t)cb->m * each) * sizeof(float));
    if (!memory) return NULL;
    fpq_packed_codebook *out = (fpq_packed_codebook *)(void *)memory;
    threads = fpq_threads(threads, cb->m);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int j = 0; j < cb->m; j++) {
        float *piece = memory + head + offsets + (size_t)j * each, *behind = piece + columns * (dsub + 1) + rows;
        const int d = cb->offsets[j + 1] - cb->offsets[j];
        out[j] = (fpq_packed_codebook){.from = cb->offsets[j],
                                       .d = d,
                                       .k = cb->k,
                                       .offset = memory + head + cb->offsets[j],
                                       .bias = piece,
                                       .packed = piece + columns,
                                       .rows = piece + columns * (dsub + 1),
                                       .centroids = cb->centroids + (size_t)j * (size_t)cb->k * dsub,
                                       .ld = cb->dsub,
                                       .has_int8 = has_int8};
        if (has_int8)
            fpq_int8_codebook_place((char *)(behind + 2 * dsub), FPQ_COLUMN_BLOCKS(cb->k), d, piece, &out[j].bytes);
        pack_one(out + j, behind);
        leave_out_repeated(out + j, (int32_t *)(void *)(piece + each) - table, table);
    }
    return out;
}

int fpq_assign_blocks(int64_t n) { return (int)((n + FPQ_ROW_BATCH - 1) / FPQ_ROW_BATCH); }

void fpq_read_centred(const fpq_kernels *kern, const fpq_packed_codebook *packed, const fpq_rows *data, int64_t first,
                      int n, float *x) {
    kern->read_rows(&data->x, data->rows, first, n, 0, (int)data->x.d, packed->offset, x);
}

/* How large the squared difference of two centred vectors may be if they are as near as two others, whose squared
 * difference is `squared`. With |x| and |c|, centring has moved a distance by at most 2 u (|x| + |c|) <= 2 u (2 |x| +
 * distance), and a sum of squares is off by less than (d + 3) u of itself. */
static float reach_of(int d, float square, float squared) {
    const double far = sqrt((double)squared) * (1 + (d + 16) * 0x1p-23) + 5 * 0x1p-23 * sqrt((double)square) + 0x1p-60;
    return (float)(far * far);
}

/* The nearest of the listed centroids so far. */
typedef struct {
    float reach; /* squared differences of centred vectors above this are not the nearest one's */
    double distance;
    int32_t id;
} contest;

static void enter(const fpq_assignment *a, contest *nearest, float square, float squared, const float *row, int32_t c) {
    const fpq_packed_codebook *codebook = a->codebook;
    nearest->reach = fminf(nearest->reach, reach_of(codebook->d, square, squared));
    const double distance = fpq_squared_distance(row, codebook->centroids + c * codebook->ld, codebook->d);
    if (distance < nearest->distance) {
        nearest->distance = distance;
        nearest->id = c;
    }
}

void fpq_read_row(const fpq_assignment *a, int i, float *row) {
    const int from = a->codebook->from;
    a->kern->read_rows(&a->data->x, a->data->rows, a->first + i, 1, from, from + a->codebook->d, NULL, row);
}

int32_t fpq_nearest_by_differences(const fpq_assignment *a, int i, float square, float least) {
    static const float zeros[64];
    const fpq_kernels *kern = a->kern;
    const fpq_packed_codebook *codebook = a->codebook;
    const int d = codebook->d, k = codebook->k,
              all = codebook->overflows || !(square < INFINITY) || !(least > -INFINITY);
    const float *x = a->x + i * a->ldx;
    float *scores = (float *)(void *)a->scratch, *row = scores + fpq_products_ld(k);
    contest nearest = {INFINITY, INFINITY, 0};
    for (int c = FPQ_COLUMN_BLOCKS(k) * FPQ_COLUMN_BLOCK; c < fpq_products_ld(k); c++) scores[c] = -INFINITY;
    kern->project(x, 1, d, codebook->packed, codebook->bias, FPQ_COLUMN_BLOCKS(k), scores, 0);
    fpq_read_row(a, i, row);
    for (int from = 0; from < k; from += 64)
        for (uint64_t near = all ? ~(uint64_t)0 : kern->at_least(scores + from, -least, zeros); near;
             near &= near - 1) {
            const int32_t c = from + fpq_lowest_bit(near);
            if (c >= k) break;
            const float squared = kern->l2_f32(x, codebook->rows + (ptrdiff_t)c * d, d);
            if (all || !(squared > nearest.reach)) enter(a, &nearest, square, squared, row, c);
        }
    return nearest.id;
}

int32_t fpq_nearest_of_squared(const fpq_assignment *a, float square, const float *squared, const float *row) {
    float min_max_sum[3];
    contest nearest = {INFINITY, INFINITY, -1};
    a->kern->min_max_sum(squared, a->codebook->k, min_max_sum);
    const float reach = a->codebook->overflows || !(square < INFINITY)
                            ? FLT_MAX
                            : reach_of(a->codebook->d, square, min_max_sum[0]);
    for (int from = 0; from < a->codebook->k; from += 64)
        for (uint64_t near = a->kern->at_most(squared + from, fminf(reach, FLT_MAX)); near; near &= near - 1) {
            const int32_t c = from + fpq_lowest_bit(near);
            enter(a, &nearest, square, squared[c], row, c);
        }
    return nearest.id;
}

float fpq_exact_error(const fpq_assignment *a, int i, int32_t id) {
    float *row = (float *)(void *)a->scratch;
    fpq_read_row(a, i, row);
    return (float)fpq_squared_distance(row, a->codebook->centroids + id * a->codebook->ld, a->codebook->d);
}

static float error_of(const fpq_assignment *a, int i, int32_t id, float square) {
    const int d = a->codebook->d;
    return fpq_sure_error(a, i, id, square,
                          a->kern->l2_f32(a->x + i * a->ldx, a->codebook->rows + (ptrdiff_t)id * d, d));
}

/* Panels of columns that stay in the L2 cache while all rows pass over them. */
static int panel_blocks(int d) {
    const int fit = (256 << 10) / (FPQ_COLUMN_BLOCK * (int)sizeof(float) * d) / 4 * 4;
    return fit > 4 ? fit : 4;
}

/* Few rows: columns in the lanes. Many: rows in the lanes, where the last ones are followed by zeros. */
static void nearest_of_floats(const fpq_assignment *a, int32_t *ids, float *errors) {
    enum { FEW = 6 };
    const fpq_packed_codebook *codebook = a->codebook;
    const int d = codebook->d, blocks = FPQ_COLUMN_BLOCKS(codebook->k), panel = panel_blocks(d);
    const int n = a->n <= FEW ? a->n : (a->n + FPQ_ROWS_TILE - 1) / FPQ_ROWS_TILE * FPQ_ROWS_TILE;
    float best[FPQ_ROW_BATCH], second[FPQ_ROW_BATCH], square[FPQ_ROW_BATCH];
    float *columns = (float *)(void *)(a->scratch + fpq_decide_scratch(codebook->k, d));
    int32_t id[FPQ_ROW_BATCH];
    for (int i = 0; i < n; i++) {
        best[i] = second[i] = -INFINITY;
        id[i] = 0;
    }
    if (a->n <= FEW)
        a->kern->squares(a->x, a->ldx, n, d, square);
    else
        a->kern->transpose(a->x, a->ldx, a->n, d, columns, n);
    for (int b = 0; b < blocks; b += panel) {
        const float *packed = codebook->packed + (ptrdiff_t)b * d * FPQ_COLUMN_BLOCK,
                    *bias = codebook->bias + b * FPQ_COLUMN_BLOCK;
        const int some = blocks - b < panel ? blocks - b : panel;
        if (a->n <= FEW)
            a->kern->nearest(a->x, a->ldx, n, d, packed, bias, some, b * FPQ_COLUMN_BLOCK, best, second, id, NULL);
        else
            a->kern->nearest_of_rows(columns, n, d, packed, bias, some, b * FPQ_COLUMN_BLOCK, best, second, id, square);
    }
    for (int i = 0; i < a->n; i++) {
        ids[i] = fpq_decide(a, i, square[i], best[i], second[i], id[i]);
        if (errors) errors[i] = error_of(a, i, ids[i], square[i]);
    }
}

void fpq_products_start(float *products, int k) {
    for (int i = 0; i < FPQ_BYTE_TILE; i++)
        for (int c = k; c < fpq_products_ld(k); c++) products[i * fpq_products_ld(k) + c] = -INFINITY;
}

int32_t fpq_nearest_by_int8(const fpq_assignment *a, const fpq_int8_rows *rows, int i, const float *products) {
    static const float zeros[64];
    const fpq_kernels *kern = a->kern;
    const fpq_packed_codebook *codebook = a->codebook;
    const int k = codebook->k, d = codebook->d;
    const float margin = rows->margin[i], *x = a->x + i * a->ldx;
    float min_max_sum[3], best = -INFINITY, second = -INFINITY;
    int32_t id = 0;
    int left = k / 8; /* more than that are cheaper to do again all at once */
    kern->min_max_sum(products, k, min_max_sum);
    for (int from = 0; from < k && left >= 0 && margin < INFINITY; from += 64)
        for (uint64_t near = kern->at_least(products + from, 2 * margin - min_max_sum[1], zeros); near && left-- > 0;
             near &= near - 1) {
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
    if (left < 0 || !(margin < INFINITY)) {
        fpq_assignment row = *a;
        row.first += i;
        row.x = x;
        row.n = 1;
        nearest_of_floats(&row, &id, NULL);
        return id;
    }
    return fpq_decide(a, i, rows->square[i], best, second, id);
}

static size_t int8_scratch(int k) { return (size_t)FPQ_BYTE_TILE * (size_t)fpq_products_ld(k) * sizeof(float); }

size_t fpq_decide_scratch(int k, int d) { return fpq_lines(((size_t)fpq_products_ld(k) + (size_t)d) * sizeof(float)); }

static void nearest_of_bytes(const fpq_assignment *a, int32_t *ids, float *errors) {
    const fpq_packed_codebook *codebook = a->codebook;
    const int ld = fpq_products_ld(codebook->k);
    char *scratch = a->scratch + fpq_decide_scratch(codebook->k, codebook->d); /* the front is fpq_decide's */
    float *products = (float *)(void *)scratch, lanes[FPQ_ROW_BATCH * FPQ_COLUMN_BLOCK] = {0};
    uint8_t list[FPQ_ROW_BATCH];
    fpq_int8_rows rows;
    fpq_int8_rows_place(scratch + int8_scratch(codebook->k), FPQ_ROW_BATCH, &codebook->bytes, &rows);
    fpq_products_start(products, codebook->k);
    for (int i = 0; i < a->n; i++) {
        list[i] = (uint8_t)i;
        fpq_int8_rows_put(a->kern, &rows, i, a->x + i * a->ldx, codebook->d);
    }
    for (int i = 0; i < a->n; i += FPQ_BYTE_TILE) {
        const int some = a->n - i < FPQ_BYTE_TILE ? a->n - i : FPQ_BYTE_TILE;
        a->kern->project_int8(rows.bytes, rows.step, list + i, some, &codebook->bytes.columns, 0,
                              FPQ_COLUMN_BLOCKS(codebook->k), products, ld, lanes);
        for (int r = i; r < i + some; r++) {
            ids[r] = fpq_nearest_by_int8(a, &rows, r, products + (r - i) * ld);
            if (errors) errors[r] = error_of(a, r, ids[r], rows.square[r]);
        }
    }
}

size_t fpq_nearest_scratch(const fpq_codebooks *cb) {
    const size_t columns = fpq_lines((size_t)FPQ_ROW_BATCH * (size_t)cb->dsub * sizeof(float));
    const size_t bytes = int8_scratch(cb->k) + fpq_int8_rows_size(FPQ_ROW_BATCH, cb->dsub);
    return fpq_decide_scratch(cb->k, cb->dsub) +
           (fpq_int8_pays(fpq_active(), cb->k, cb->dsub) && bytes > columns ? bytes : columns);
}

void fpq_nearest_rows(const fpq_assignment *a, int32_t *ids, float *errors) {
    (a->codebook->has_int8 ? nearest_of_bytes : nearest_of_floats)(a, ids, errors);
}

int fpq_assign(const fpq_codebooks *cb, const fpq_rows *data, int32_t *ids, float *errors, int threads) {
    const int blocks = fpq_assign_blocks(data->n);
    const ptrdiff_t d = data->x.d;
    const size_t rows = fpq_float_lines((size_t)FPQ_ROW_BATCH * (size_t)d),
                 scratch = rows + fpq_nearest_scratch(cb) / sizeof(float);
    const fpq_kernels *kern = fpq_active();
    threads = fpq_threads(threads, blocks);
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    float *memory = fpq_alloc((size_t)threads * scratch * sizeof(float));
    fpq_poll poll = {0};
    if (packed && memory) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int b = 0; b < blocks; b++) {
            if (fpq_stopped(&poll)) continue;
            float *x = memory + (size_t)FPQ_THREAD_NUMBER() * scratch;
            const int64_t first = (int64_t)b * FPQ_ROW_BATCH;
            const int n = data->n - first < FPQ_ROW_BATCH ? (int)(data->n - first) : FPQ_ROW_BATCH;
            fpq_read_centred(kern, packed, data, first, n, x);
            for (int j = 0; j < cb->m; j++) {
                const fpq_assignment a = {kern, packed + j, data, first, x + packed[j].from, d, n, (char *)(x + rows)};
                fpq_nearest_rows(&a, ids + j * data->n + first, errors ? errors + j * data->n + first : NULL);
            }
        }
    }
    const int status = packed && memory && !poll.stop ? 0 : -1;
    fpq_free(packed);
    fpq_free(memory);
    return status;
}
