/* SPDX-License-Identifier: MIT */
#include "assign/assign.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "dot.h"
#include "parallel.h"
#include "portable.h"

enum { MIN_PART_FLOATS = 1 << 14 /* A smaller part of a codebook is packed before another thread has begun. */ };

void fpq_find_centre(const float *x, int64_t n_rows, int d, ptrdiff_t ld, float *centre) {
    enum { MAX_ROWS = 33 }; /* An interquartile mean of 17 numbers lies amid the data, and sorting 33 is cheap. */
    const int n = n_rows < MAX_ROWS ? (int)n_rows : MAX_ROWS;
    for (int t = 0; t < d; t++) {
        float sorted[MAX_ROWS] = {0};
        for (int i = 0; i < n; i++) {
            const float here = x[(ptrdiff_t)(i * n_rows / n) * ld + t];
            int at = i;
            for (; at > 0 && sorted[at - 1] > here; at--) sorted[at] = sorted[at - 1];
            sorted[at] = here;
        }
        double sum = 0;
        for (int i = n / 4; i < n - n / 4; i++) sum += (double)sorted[i];
        /* The mean is rounded to a sixteenth of the interquartile range, so differences to it are seldom rounded. */
        const double mean = sum / (n - n / 4 * 2), range = (double)sorted[n - n / 4 - 1] - (double)sorted[n / 4];
        const double unit = range > 0 ? ldexp(1, ilogb(range) - 4) : 0;
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

/* A centroid that repeats an earlier one gets a bias of -inf, so its score never ties: otherwise every row candidates
 * the two would need exact distances. table: the places of an open-addressing hash table, a power of two of at least 2
 * k. */
static void leave_out_repeated(fpq_packed_codebook *codebook, const uint64_t *hashes, int32_t *table, int size) {
    const int d = codebook->d;
    for (int i = 0; i < size; i++) table[i] = -1;
    for (int32_t c = 0; c < codebook->k; c++) {
        const float *row = codebook->centroids + c * codebook->ld;
        int at = (int)(hashes[c] >> 32 & (uint64_t)(size - 1));
        while (table[at] >= 0 && memcmp(codebook->centroids + table[at] * codebook->ld, row, (size_t)d * sizeof(float)))
            at = (at + 1) & (size - 1);
        if (table[at] < 0)
            table[at] = c;
        else
            codebook->bias[c] = -INFINITY;
    }
}

/* The memory of the packed codebooks, in floats: m structs, `parts` structs per subspace if there are several parts,
 * the offsets of all subspaces, and for each subspace bias, packed columns, rows, int8 columns, hashes, a hash table.
 */
typedef struct {
    const fpq_codebooks *cb;
    fpq_packed_codebook *out, *of_parts;
    float *offsets, *memory;
    size_t columns, rows, int8, hashes, subspace;
    int table_size, has_int8, parts;
} packing;

static uint64_t *hashes_of(const packing *p, int j) {
    return (uint64_t *)(void *)(p->memory + (size_t)j * p->subspace + p->columns * ((size_t)p->cb->dsub + 1) + p->rows +
                                p->int8);
}

static void start_codebook(void *context, int64_t j, fpq_worker *worker) {
    const packing *p = context;
    const fpq_codebooks *cb = p->cb;
    const size_t dsub = (size_t)cb->dsub;
    const int d = cb->offsets[j + 1] - cb->offsets[j];
    float *bias = p->memory + (size_t)j * p->subspace, *rows = bias + p->columns * (dsub + 1);
    (void)worker;
    p->out[j] = (fpq_packed_codebook){.from = cb->offsets[j],
                                      .d = d,
                                      .k = cb->k,
                                      .offset = p->offsets + cb->offsets[j],
                                      .bias = bias,
                                      .packed = bias + p->columns,
                                      .rows = rows,
                                      .centroids = cb->centroids + (size_t)j * (size_t)cb->k * dsub,
                                      .ld = cb->dsub,
                                      .has_int8 = p->has_int8};
    if (p->has_int8)
        fpq_int8_codebook_place((char *)(rows + p->rows), FPQ_COLUMN_BLOCKS(cb->k), d, bias, &p->out[j].int8);
    fpq_find_centre(p->out[j].centroids, cb->k, d, cb->dsub, p->out[j].offset);
}

/* Packs a part of the column blocks of a subspace. Its struct gets what depends on all centroids of the part. */
static void pack_part(void *context, int64_t task, fpq_worker *worker) {
    const packing *p = context;
    const int j = (int)(task / p->parts), part = (int)(task % p->parts), k = p->cb->k, blocks = FPQ_COLUMN_BLOCKS(k);
    const int first = (int)((int64_t)blocks * part / p->parts) * FPQ_COLUMN_BLOCK,
              end = (int)((int64_t)blocks * (part + 1) / p->parts) * FPQ_COLUMN_BLOCK;
    fpq_packed_codebook *out = p->of_parts + task;
    uint64_t *hashes = hashes_of(p, j);
    if (p->parts > 1) *out = p->out[j];
    const int d = out->d;
    fpq_pack(out->centroids + first * out->ld, (end < k ? end : k) - first, d, out->ld, out->offset,
             out->packed + (ptrdiff_t)first * d);
    for (int i = first; i < end && !fpq_stopped(worker->poll); i++) {
        const float *c = out->centroids + i * out->ld;
        float norm = 0, *row = out->rows + (ptrdiff_t)i * d;
        for (int t = 0; t < d && i < k; t++) {
            row[t] = c[t] - out->offset[t];
            norm += row[t] * row[t];
        }
        out->bias[i] = i < k ? (FPQ_CENTROID_ERROR(d) - 0.5f) * norm : -INFINITY;
        out->overflows |= !(norm < INFINITY);
        if (i < k && out->has_int8)
            fpq_int8_codebook_put(fpq_active(), &out->int8, i, row, d, (float *)(void *)worker->scratch);
        if (i < k) hashes[i] = hash_of(c, d);
    }
}

static void finish_codebook(void *context, int64_t j, fpq_worker *worker) {
    const packing *p = context;
    fpq_packed_codebook *out = p->out + j;
    (void)worker;
    for (int part = 0; part < p->parts; part++) {
        const fpq_packed_codebook *of_part = p->of_parts + j * p->parts + part;
        out->overflows |= of_part->overflows;
        out->int8.max_norm = fmaxf(out->int8.max_norm, of_part->int8.max_norm);
        out->int8.max_error = fmaxf(out->int8.max_error, of_part->int8.max_error);
    }
    uint64_t *hashes = hashes_of(p, (int)j);
    leave_out_repeated(out, hashes, (int32_t *)(void *)((float *)(void *)hashes + p->hashes), p->table_size);
}

static void pack_codebook(void *context, int64_t j, fpq_worker *worker) {
    start_codebook(context, j, worker);
    pack_part(context, j, worker);
    finish_codebook(context, j, worker);
}

int fpq_codebook_parts(const fpq_codebooks *cb, int64_t max, int threads) {
    const int64_t by_size = (int64_t)cb->k * cb->dsub / MIN_PART_FLOATS;
    return fpq_parts(cb->m, by_size < 1 ? 1 : by_size < max ? by_size : max, threads);
}

fpq_packed_codebook *fpq_pack_codebooks(const fpq_codebooks *cb, int threads) {
    const size_t dsub = (size_t)cb->dsub, m = (size_t)cb->m, k = (size_t)cb->k;
    packing p = {.cb = cb, .table_size = 2, .has_int8 = fpq_int8_is_faster(fpq_active(), cb->k, cb->dsub)};
    while (p.table_size < 2 * cb->k) p.table_size *= 2;
    p.parts = fpq_codebook_parts(cb, FPQ_COLUMN_BLOCKS(cb->k), threads);
    const size_t n_structs = p.parts > 1 ? m * ((size_t)p.parts + 1) : m;
    const size_t structs = fpq_float_lines(n_structs * sizeof(fpq_packed_codebook) / sizeof(float) + 1),
                 offsets = fpq_float_lines((size_t)cb->offsets[cb->m]);
    p.columns = (size_t)FPQ_COLUMN_BLOCKS(cb->k) * FPQ_COLUMN_BLOCK;
    p.rows = fpq_float_lines(k * dsub);
    if (p.has_int8)
        p.int8 = fpq_float_lines(fpq_int8_codebook_size(FPQ_COLUMN_BLOCKS(cb->k), cb->dsub) / sizeof(float));
    p.hashes = fpq_float_lines(k * sizeof(uint64_t) / sizeof(float));
    p.subspace = p.columns * (dsub + 1) + p.rows + p.int8 + p.hashes + fpq_float_lines((size_t)p.table_size);
    float *memory = fpq_alloc((structs + offsets + m * p.subspace) * sizeof(float));
    if (!memory) return NULL;
    p.out = (fpq_packed_codebook *)(void *)memory;
    p.of_parts = p.parts > 1 ? p.out + m : p.out;
    p.offsets = memory + structs;
    p.memory = p.offsets + offsets;
    const size_t scratch = p.has_int8 ? 2 * dsub * sizeof(float) : 0;
    if (p.parts > 1 ? !fpq_parallel(cb->m, 0, threads, start_codebook, &p) &&
                          !fpq_parallel((int64_t)cb->m * p.parts, scratch, threads, pack_part, &p) &&
                          !fpq_parallel(cb->m, 0, threads, finish_codebook, &p)
                    : !fpq_parallel(cb->m, scratch, threads, pack_codebook, &p))
        return p.out;
    fpq_free(memory);
    return NULL;
}

void fpq_read_centred(const fpq_kernels *kern, const fpq_packed_codebook *packed, const fpq_rows *data, int64_t first,
                      int n, float *x) {
    kern->read_rows(&data->x, data->rows, first, n, 0, (int)data->x.d, packed->offset, x);
}

/* The largest squared difference, in float32, of a centred row and a centroid that may be as near as another
 * centroid, whose squared difference is `squared`. Centring has moved a distance by at most 2 u (|x| + |c|) <= 2 u (2
 * |x| + distance), and a sum of squares is off by less than (d + 3) u of itself. */
static float squared_threshold(int d, float square, float squared) {
    const double far = sqrt((double)squared) * (1 + (d + 16) * 0x1p-23) + 5 * 0x1p-23 * sqrt((double)square) + 0x1p-60;
    return (float)(far * far);
}

/* The nearest of the candidates so far. */
typedef struct {
    float threshold; /* candidates with a larger squared difference of centred vectors are not the nearest */
    double distance;
    int32_t id;
} nearest_candidate;

static void offer(const fpq_assignment *a, nearest_candidate *nearest, float square, float squared, const float *row,
                  int32_t c) {
    const fpq_packed_codebook *codebook = a->codebook;
    nearest->threshold = fminf(nearest->threshold, squared_threshold(codebook->d, square, squared));
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

int32_t fpq_nearest_by_differences(const fpq_assignment *a, int i, float square, float threshold) {
    static const float zeros[64];
    const fpq_kernels *kern = a->kern;
    const fpq_packed_codebook *codebook = a->codebook;
    const int d = codebook->d, k = codebook->k,
              all = codebook->overflows || !(square < INFINITY) || !(threshold > -INFINITY);
    const float *x = a->x + i * a->ldx;
    float *scores = (float *)(void *)a->scratch, *row = scores + fpq_products_ld(k);
    nearest_candidate nearest = {INFINITY, INFINITY, 0};
    for (int c = FPQ_COLUMN_BLOCKS(k) * FPQ_COLUMN_BLOCK; c < fpq_products_ld(k); c++) scores[c] = -INFINITY;
    kern->project(x, 1, d, codebook->packed, codebook->bias, FPQ_COLUMN_BLOCKS(k), scores, 0);
    fpq_read_row(a, i, row);
    for (int from = 0; from < k; from += 64)
        for (uint64_t candidates = all ? ~(uint64_t)0 : kern->at_least(scores + from, -threshold, zeros); candidates;
             candidates &= candidates - 1) {
            const int32_t c = from + fpq_lowest_bit(candidates);
            if (c >= k) break;
            const float squared = kern->l2_f32(x, codebook->rows + (ptrdiff_t)c * d, d);
            if (all || !(squared > nearest.threshold)) offer(a, &nearest, square, squared, row, c);
        }
    return nearest.id;
}

int32_t fpq_nearest_of_squared(const fpq_assignment *a, float square, const float *squared, const float *row) {
    float min_max_sum[3];
    nearest_candidate nearest = {INFINITY, INFINITY, -1};
    a->kern->min_max_sum(squared, a->codebook->k, min_max_sum);
    const float threshold = a->codebook->overflows || !(square < INFINITY)
                                ? FLT_MAX
                                : squared_threshold(a->codebook->d, square, min_max_sum[0]);
    for (int from = 0; from < a->codebook->k; from += 64)
        for (uint64_t candidates = a->kern->at_most(squared + from, fminf(threshold, FLT_MAX)); candidates;
             candidates &= candidates - 1) {
            const int32_t c = from + fpq_lowest_bit(candidates);
            offer(a, &nearest, square, squared[c], row, c);
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
    return fpq_refined_error(a, i, id, square,
                             a->kern->l2_f32(a->x + i * a->ldx, a->codebook->rows + (ptrdiff_t)id * d, d));
}

int fpq_cached_blocks(int d) {
    const int fit = (256 << 10) / (FPQ_COLUMN_BLOCK * (int)sizeof(float) * d) / 4 * 4;
    return fit > 4 ? fit : 4;
}

/* Up to MAX_COLUMN_LANE_ROWS rows, the columns stand in the lanes. For more, the rows do, followed by zeros. */
static void nearest_rows_by_floats(const fpq_assignment *a, int32_t *ids, float *errors) {
    enum { MAX_COLUMN_LANE_ROWS = 6 }; /* One tile of 6 rows; the rows in the lanes come by 48. */
    const fpq_packed_codebook *codebook = a->codebook;
    const int d = codebook->d, n_blocks = FPQ_COLUMN_BLOCKS(codebook->k), step = fpq_cached_blocks(d);
    const int in_lanes = a->n > MAX_COLUMN_LANE_ROWS,
              n = in_lanes ? (a->n + FPQ_ROWS_TILE - 1) / FPQ_ROWS_TILE * FPQ_ROWS_TILE : a->n;
    float best[FPQ_ROW_BATCH], second[FPQ_ROW_BATCH], square[FPQ_ROW_BATCH];
    float *transposed = (float *)(void *)(a->scratch + fpq_decide_scratch(codebook->k, d));
    int32_t id[FPQ_ROW_BATCH];
    for (int i = 0; i < n; i++) {
        best[i] = second[i] = -INFINITY;
        id[i] = 0;
    }
    if (in_lanes)
        a->kern->transpose(a->x, a->ldx, a->n, d, transposed, n);
    else
        a->kern->squares(a->x, a->ldx, n, d, square);
    for (int b = 0; b < n_blocks; b += step) {
        const float *packed = codebook->packed + (ptrdiff_t)b * d * FPQ_COLUMN_BLOCK,
                    *bias = codebook->bias + b * FPQ_COLUMN_BLOCK;
        const int blocks = n_blocks - b < step ? n_blocks - b : step, first_id = b * FPQ_COLUMN_BLOCK;
        if (in_lanes)
            a->kern->nearest_of_rows(transposed, n, d, packed, bias, blocks, first_id, best, second, id, square);
        else
            a->kern->nearest(a->x, a->ldx, n, d, packed, bias, blocks, first_id, best, second, id, NULL);
    }
    for (int i = 0; i < a->n; i++) {
        ids[i] = fpq_decide(a, i, square[i], best[i], second[i], id[i]);
        if (errors) errors[i] = error_of(a, i, ids[i], square[i]);
    }
}

void fpq_products_start(float *products, int k) {
    for (int i = 0; i < FPQ_INT8_TILE; i++)
        for (int c = k; c < fpq_products_ld(k); c++) products[i * fpq_products_ld(k) + c] = -INFINITY;
}

/* fpq_nearest_by_int8, or -1 if float scores of all centroids are cheaper. */
static int32_t nearest_of_few(const fpq_assignment *a, const fpq_int8_rows *rows, int i, const float *products) {
    static const float zeros[64];
    const fpq_kernels *kern = a->kern;
    const fpq_packed_codebook *codebook = a->codebook;
    const int k = codebook->k, d = codebook->d;
    const float margin = rows->margin[i], *x = a->x + i * a->ldx;
    float min_max_sum[3], best = -INFINITY, second = -INFINITY;
    int32_t id = 0;
    int left = k / 8; /* candidates */
    if (!(margin < INFINITY)) return -1;
    kern->min_max_sum(products, k, min_max_sum);
    for (int from = 0; from < k; from += 64)
        for (uint64_t candidates = kern->at_least(products + from, 2 * margin - min_max_sum[1], zeros); candidates;
             candidates &= candidates - 1) {
            const int32_t c = from + fpq_lowest_bit(candidates);
            const float score = kern->ip_f32(x, codebook->rows + (ptrdiff_t)c * d, d) + codebook->bias[c];
            if (left-- == 0) return -1;
            if (score > best) {
                second = best;
                best = score;
                id = c;
            } else if (score > second) {
                second = score;
            }
        }
    return fpq_decide(a, i, rows->square[i], best, second, id);
}

static int32_t nearest_by_floats(const fpq_assignment *a, int i) {
    fpq_assignment row = *a;
    int32_t id;
    row.first += i;
    row.x += i * a->ldx;
    row.n = 1;
    nearest_rows_by_floats(&row, &id, NULL);
    return id;
}

int32_t fpq_nearest_by_int8(const fpq_assignment *a, const fpq_int8_rows *rows, int i, const float *products) {
    const int32_t id = nearest_of_few(a, rows, i, products);
    return id < 0 ? nearest_by_floats(a, i) : id;
}

static size_t int8_scratch(int k) { return (size_t)FPQ_INT8_TILE * (size_t)fpq_products_ld(k) * sizeof(float); }

size_t fpq_decide_scratch(int k, int d) { return fpq_lines(((size_t)fpq_products_ld(k) + (size_t)d) * sizeof(float)); }

enum { MAX_UNCLEAR_ROWS = 16 }; /* of a row batch: more cost as much by themselves as the whole batch by floats */

static void nearest_rows_by_int8(const fpq_assignment *a, int32_t *ids, float *errors) {
    const fpq_packed_codebook *codebook = a->codebook;
    const int ld = fpq_products_ld(codebook->k);
    char *scratch = a->scratch + fpq_decide_scratch(codebook->k, codebook->d); /* after the scratch of fpq_decide */
    float *products = (float *)(void *)scratch, lane_max[FPQ_ROW_BATCH * FPQ_COLUMN_BLOCK] = {0};
    uint8_t list[FPQ_ROW_BATCH];
    int unclear = 0;
    fpq_int8_rows rows;
    fpq_int8_rows_place(scratch + int8_scratch(codebook->k), FPQ_ROW_BATCH, &codebook->int8, &rows);
    fpq_products_start(products, codebook->k);
    for (int i = 0; i < a->n; i++) {
        list[i] = (uint8_t)i;
        fpq_int8_rows_put(a->kern, &rows, i, a->x + i * a->ldx, codebook->d);
    }
    for (int i = 0; i < a->n; i += FPQ_INT8_TILE) {
        const int n = a->n - i < FPQ_INT8_TILE ? a->n - i : FPQ_INT8_TILE;
        a->kern->project_int8(rows.quantized, rows.scale, list + i, n, &codebook->int8.columns, 0,
                              FPQ_COLUMN_BLOCKS(codebook->k), products, ld, lane_max);
        for (int r = i; r < i + n; r++) unclear += (ids[r] = nearest_of_few(a, &rows, r, products + (r - i) * ld)) < 0;
        if (unclear > MAX_UNCLEAR_ROWS) { /* rows without clusters, in many dimensions */
            nearest_rows_by_floats(a, ids, errors);
            return;
        }
    }
    for (int r = 0; r < a->n; r++) {
        if (ids[r] < 0) ids[r] = nearest_by_floats(a, r);
        if (errors) errors[r] = error_of(a, r, ids[r], rows.square[r]);
    }
}

size_t fpq_nearest_scratch(const fpq_codebooks *cb) {
    const size_t transposed = fpq_lines((size_t)FPQ_ROW_BATCH * (size_t)cb->dsub * sizeof(float));
    const size_t int8 = int8_scratch(cb->k) + fpq_int8_rows_size(FPQ_ROW_BATCH, cb->dsub);
    return fpq_decide_scratch(cb->k, cb->dsub) +
           (fpq_int8_is_faster(fpq_active(), cb->k, cb->dsub) && int8 > transposed ? int8 : transposed);
}

void fpq_nearest_rows(const fpq_assignment *a, int32_t *ids, float *errors) {
    (a->codebook->has_int8 ? nearest_rows_by_int8 : nearest_rows_by_floats)(a, ids, errors);
}

typedef struct {
    const fpq_codebooks *cb;
    const fpq_packed_codebook *packed;
    const fpq_rows *data;
    int32_t *ids;
    float *errors;
} assign_call;

static size_t row_batch_size(ptrdiff_t d) { return fpq_lines((size_t)FPQ_ROW_BATCH * (size_t)d * sizeof(float)); }

static void assign_batch(void *context, int64_t i, fpq_worker *worker) {
    const assign_call *c = context;
    const ptrdiff_t d = c->data->x.d;
    const int64_t first = i * FPQ_ROW_BATCH;
    const int n = fpq_batch_size(c->data->n, FPQ_ROW_BATCH, i);
    float *x = (float *)(void *)worker->scratch;
    fpq_read_centred(fpq_active(), c->packed, c->data, first, n, x);
    for (int j = 0; j < c->cb->m && !fpq_stopped(worker->poll); j++) {
        const fpq_assignment a = {fpq_active(),
                                  c->packed + j,
                                  c->data,
                                  first,
                                  x + c->packed[j].from,
                                  d,
                                  n,
                                  worker->scratch + row_batch_size(d)};
        fpq_nearest_rows(&a, c->ids + j * c->data->n + first, c->errors ? c->errors + j * c->data->n + first : NULL);
    }
}

int fpq_assign(const fpq_codebooks *cb, const fpq_rows *data, int32_t *ids, float *errors, int threads) {
    if (!errors && fpq_are_few(cb, data->n)) return fpq_assign_few_rows(cb, data, ids, threads);
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    assign_call c = {cb, packed, data, ids, errors};
    const size_t scratch = row_batch_size(data->x.d) + fpq_nearest_scratch(cb);
    const int status = packed ? fpq_parallel(fpq_batches(data->n, FPQ_ROW_BATCH), scratch, threads, assign_batch, &c)
                              : -1;
    fpq_free(packed);
    return status;
}
