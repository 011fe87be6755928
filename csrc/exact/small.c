/* SPDX-License-Identifier: MIT
 * Few rows as columns, of bytes where those are faster. Their products with a query bound its distances to them; rows
 * that may be among the k nearest get theirs worked out by the kernel that fpq_flat_search uses. As in assign/assign.h,
 * the bias of a column holds the column's share of what rounding may do, so that the margin depends on the query and
 * the near columns only. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "assign/assign.h"
#include "assign/int8.h"
#include "exact/stored.h"
#include "portable.h"
#include "parallel.h"

/* TILE: queries that share the reading of columns. WORD: numbers that at_least compares, and columns of a panel. */
enum {
    TILE = 48,
    BYTES_TILE = 12,
    WORD = 64,
    PANEL = WORD / FPQ_COLUMN_BLOCK,
    MOST_ROWS = 16384,
    MOST_FLOAT_ROWS = 4096,
    SAMPLE = 33
};

struct fpq_small_flat {
    fpq_matrix x;
    fpq_int8_codebook bytes;
    float *floats; /* packed columns; NULL: there are bytes */
    float *bias;   /* ld */
    float *centre; /* d; NULL for inner products */
    size_t bytes_taken;
    float longest; /* the largest squared length of a column */
    int n, d, ld, blocks, panels, tile;
};

int fpq_small_flat_applies(const fpq_matrix *x, int64_t k) {
    if (k > x->n / 8 || x->exponent) return 0;
    return x->n <= MOST_FLOAT_ROWS || (x->n <= MOST_ROWS && fpq_int8_is_faster(fpq_active(), (int)x->n, (int)x->d));
}

/* A point near most of the rows: that of some of them, in scratch (33 d floats). */
static void find_centre(const fpq_kernels *kern, const fpq_matrix *x, float *scratch, float *centre) {
    const int n = x->n < SAMPLE ? (int)x->n : SAMPLE;
    for (int i = 0; i < n; i++) kern->read_rows(x, NULL, i * x->n / n, 1, 0, (int)x->d, NULL, scratch + i * x->d);
    fpq_find_centre(scratch, n, (int)x->d, x->d, centre);
}

/* scratch: 3 d floats. */
static void put_columns(const fpq_kernels *kern, fpq_small_flat *f, float *scratch) {
    float *row = scratch + 2 * (ptrdiff_t)f->d;
    for (int c = 0; c < f->ld; c++) {
        f->bias[c] = -INFINITY;
        if (c >= f->n) continue;
        kern->read_rows(&f->x, NULL, c, 1, 0, f->d, f->centre, row);
        const float square = kern->ip_f32(row, row, f->d);
        f->bias[c] = f->centre ? (FPQ_CENTROID_ERROR(f->d) - 0.5f) * square : 0;
        f->longest = fmaxf(f->longest, square);
        if (!f->floats)
            fpq_int8_codebook_put(kern, &f->bytes, c, row, f->d, scratch);
        else
            for (int t = 0; t < f->d; t++)
                f->floats[((ptrdiff_t)(c / FPQ_COLUMN_BLOCK) * f->d + t) * FPQ_COLUMN_BLOCK + c % FPQ_COLUMN_BLOCK] =
                    row[t];
    }
}

fpq_small_flat *fpq_small_flat_make(const fpq_matrix *x, int inner_product) {
    const fpq_kernels *kern = fpq_active();
    const int n = (int)x->n, d = (int)x->d, blocks = FPQ_COLUMN_BLOCKS(n), panels = (blocks + PANEL - 1) / PANEL,
              ld = panels * WORD;
    const int has_int8 = fpq_int8_is_faster(kern, n, d);
    const size_t head = fpq_lines(sizeof(fpq_small_flat)), bias = fpq_lines((size_t)ld * sizeof(float));
    const size_t columns = fpq_lines(has_int8 ? fpq_int8_codebook_size(blocks, d)
                                              : (size_t)ld * (size_t)d * sizeof(float));
    const size_t all = head + bias + columns + (SAMPLE + 1) * (size_t)d * sizeof(float);
    char *memory = fpq_alloc(all);
    if (!memory) return NULL;
    fpq_small_flat *f = (fpq_small_flat *)(void *)memory;
    *f = (fpq_small_flat){.x = *x,
                          .bias = (float *)(void *)(memory + head),
                          .bytes_taken = all,
                          .n = n,
                          .d = d,
                          .ld = ld,
                          .blocks = blocks,
                          .panels = panels,
                          .tile = has_int8 ? BYTES_TILE : TILE};
    memory += head + bias;
    float *centre = (float *)(void *)(memory + columns);
    if (!inner_product) {
        find_centre(kern, x, centre + d, centre);
        f->centre = centre;
    }
    if (has_int8)
        fpq_int8_codebook_place(memory, blocks, d, f->bias, &f->bytes);
    else
        f->floats = memset(memory, 0, columns);
    put_columns(kern, f, centre + d);
    return f;
}

void fpq_small_flat_free(fpq_small_flat *columns) { fpq_free(columns); }

int64_t fpq_small_flat_bytes(const fpq_small_flat *columns) { return (int64_t)columns->bytes_taken; }

static int count_at_least(const fpq_kernels *kern, const float *x, int words, float least) {
    static const float zeros[WORD];
    int count = 0;
    for (int w = 0; w < words; w++) count += fpq_popcount(kern->at_least(x + w * WORD, -least, zeros));
    return count;
}

/* A number that at least k of x (WORD * words, -inf at the end) reach, and not many more. */
static float reached_by(const fpq_kernels *kern, const float *x, int words, int k, float width) {
    float min_max_sum[3], low, high;
    kern->min_max_sum(x, words * WORD, min_max_sum);
    low = high = min_max_sum[1];
    width = fmaxf(width, FLT_MIN); /* that of tiny vectors is 0 */
    for (int count = 1; count < k && low > -FLT_MAX; width *= 2) {
        high = low;
        low -= width;
        count = count_at_least(kern, x, words, low);
    }
    for (int step = 0; step < 6 && low < high; step++) {
        const float middle = low + (high - low) / 2;
        const int count = count_at_least(kern, x, words, middle);
        if (count < k)
            high = middle;
        else
            low = middle;
        if (count >= k && count <= k + k / 8) break;
    }
    return low;
}

typedef struct {
    float *products; /* (tile, ld) */
    float *lanes;    /* (panels, tile, FPQ_COLUMN_BLOCK): the largest of each lane of a panel */
    float *maxima;   /* (words of FPQ_COLUMN_BLOCK * panels), those of one row */
    float *x;        /* (tile, d), centred */
    float *row;      /* d */
    float *margin;   /* (tile): products and those of the bytes are never farther apart; 0 for floats */
    float *square;   /* (tile): squared lengths of the queries, centred */
    fpq_int8_rows rows;
} workspace;

static int maxima_words(const fpq_small_flat *f) { return (f->panels + PANEL - 1) / PANEL; }

/* Bytes of scratch a thread needs for so many queries at a time. */
static size_t float_scratch(const fpq_small_flat *f, int tile) {
    const size_t n = (size_t)tile,
                 floats = n * (size_t)f->ld + (size_t)f->panels * n * FPQ_COLUMN_BLOCK + (size_t)maxima_words(f) * WORD;
    return fpq_lines((floats + (n + 1) * (size_t)f->d + 2 * n) * sizeof(float));
}

static size_t scratch_size(const fpq_small_flat *f, int tile) {
    return float_scratch(f, tile) + (f->floats ? 0 : fpq_int8_rows_size(tile, f->d));
}

static void place(const fpq_small_flat *f, int tile, char *scratch, workspace *w) {
    w->products = (float *)(void *)scratch;
    w->lanes = w->products + (ptrdiff_t)tile * f->ld;
    w->maxima = w->lanes + (ptrdiff_t)f->panels * tile * FPQ_COLUMN_BLOCK;
    w->x = w->maxima + (ptrdiff_t)maxima_words(f) * WORD;
    w->row = w->x + (ptrdiff_t)tile * f->d;
    w->margin = w->row + f->d;
    w->square = w->margin + tile;
    if (!f->floats) fpq_int8_rows_place(scratch + float_scratch(f, tile), tile, &f->bytes, &w->rows);
}

static void raise_lanes(float *FPQ_RESTRICT lanes, const float *products) {
    for (int l = 0; l < FPQ_COLUMN_BLOCK; l++) lanes[l] = products[l] > lanes[l] ? products[l] : lanes[l];
}

/* Products of n queries with all columns. */
static void multiply(const fpq_kernels *kern, const fpq_small_flat *f, const float *queries, int n, workspace *w) {
    const int d = f->d;
    uint8_t list[TILE];
    for (int i = 0; i < n; i++) {
        float *x = w->x + (ptrdiff_t)i * d;
        list[i] = (uint8_t)i;
        for (int t = 0; t < d; t++) x[t] = queries[i * d + t] - (f->centre ? f->centre[t] : 0);
        if (!f->floats) fpq_int8_rows_put(kern, &w->rows, i, x, d);
        w->square[i] = kern->ip_f32(x, x, d);
        w->margin[i] = f->floats ? 0 : w->rows.margin[i];
        for (int c = f->blocks * FPQ_COLUMN_BLOCK; c < f->ld; c++) w->products[i * f->ld + c] = -INFINITY;
    }
    for (int p = 0; p < f->panels; p++) {
        const int left = f->blocks - p * PANEL, blocks = left < PANEL ? left : PANEL;
        float *lanes = w->lanes + (ptrdiff_t)p * n * FPQ_COLUMN_BLOCK, *products = w->products + p * WORD;
        for (int i = 0; i < n * FPQ_COLUMN_BLOCK; i++) lanes[i] = -INFINITY;
        if (!f->floats) {
            kern->project_int8(w->rows.quantized, w->rows.scale, list, n, &f->bytes.columns, p * PANEL, blocks,
                               products, f->ld, lanes);
            continue;
        }
        kern->project(w->x, n, d, f->floats + (ptrdiff_t)p * WORD * d, f->bias + p * WORD, blocks, products, f->ld);
        for (int i = 0; i < n; i++)
            for (int b = 0; b < blocks; b++)
                raise_lanes(lanes + i * FPQ_COLUMN_BLOCK, products + i * f->ld + b * FPQ_COLUMN_BLOCK);
    }
}

/* How far the product of one of the k nearest may lie below `reached`, which the products of k columns reach. Such a
 * column c is near the query x, of squared length `square`: |x - c|^2 <= square - 2 reached, and so |c| <= |x| + |x -
 * c|. For inner products the longest column has to do. The distances have an error of their own, relative to
 * themselves. */
static float margin_of(const fpq_small_flat *f, float square, float reached, float margin) {
    const float length = sqrtf(square) + sqrtf(fmaxf(square - 2 * reached, 0)),
                column = f->centre ? length * length : f->longest;
    const float rounding = FPQ_ROW_ERROR(f->d) * (2 * square + column) + FPQ_CENTROID_ERROR(f->d) * column;
    return 2 * margin + 2.1f * (rounding + FPQ_UNDERFLOW(f->d));
}

/* Neighbours of one query by its products. */
static void search_products(const fpq_kernels *kern, const fpq_small_flat *f, const fpq_selector *selector,
                            const float *query, const float *products, float square, float margin, workspace *w,
                            fpq_topk *top) {
    static const float zeros[WORD];
    const int by_maxima = 2 * top->k <= f->panels * FPQ_COLUMN_BLOCK;
    const float reached = reached_by(kern, by_maxima ? w->maxima : products, by_maxima ? maxima_words(f) : f->panels,
                                     top->k, 2 * margin + 8 * FPQ_ROW_ERROR(f->d) * square);
    const float least = reached - margin_of(f, square, reached, margin);
    for (int p = 0; p < f->panels; p++)
        for (uint64_t near = kern->at_least(products + p * WORD, -least, zeros); near; near &= near - 1) {
            const int c = p * WORD + fpq_lowest_bit(near);
            fpq_push_row(selector, top, fpq_distance_to(kern, &f->x, c, query, !f->centre, w->row), c);
        }
}

static void search_tile(const fpq_small_flat *f, const fpq_selector *selector, const float *queries, int n, int k,
                        float *distances, int64_t *ids, char *scratch) {
    const fpq_kernels *kern = fpq_active();
    workspace w;
    place(f, n, scratch, &w);
    multiply(kern, f, queries, n, &w);
    for (int i = 0; i < n; i++) {
        const float *query = queries + (ptrdiff_t)i * f->d;
        fpq_topk top = {.distance = distances + (ptrdiff_t)i * k, .id = ids + (ptrdiff_t)i * k, .k = k};
        fpq_topk_init(&top);
        for (int p = 0; p < f->panels; p++)
            memcpy(w.maxima + p * FPQ_COLUMN_BLOCK, w.lanes + (p * n + i) * FPQ_COLUMN_BLOCK,
                   FPQ_COLUMN_BLOCK * sizeof(float));
        for (int t = f->panels * FPQ_COLUMN_BLOCK; t < maxima_words(f) * WORD; t++) w.maxima[t] = -INFINITY;
        if (w.margin[i] + w.square[i] < FLT_MAX / 64 && f->longest < INFINITY)
            search_products(kern, f, selector, query, w.products + (ptrdiff_t)i * f->ld, w.square[i], w.margin[i], &w,
                            &top);
        else
            for (int c = 0; c < f->n; c++)
                fpq_push_row(selector, &top, fpq_distance_to(kern, &f->x, c, query, !f->centre, w.row), c);
        fpq_topk_sort(&top);
    }
}

int fpq_small_flat_search(const fpq_small_flat *f, const float *queries, int64_t nq, const fpq_selector *selector,
                          int k, float *distances, int64_t *ids, int threads) {
    const int tile = nq < f->tile ? (int)nq : f->tile, tasks = (int)((nq + tile - 1) / tile);
    const size_t each = scratch_size(f, tile);
    threads = fpq_threads(threads, tasks);
    char *memory = fpq_alloc((size_t)threads * each);
    fpq_poll poll = {0};
    if (!memory) return -1;
    if (tasks == 1) { /* a query alone is answered before OpenMP would have begun */
        search_tile(f, selector, queries, tile, k, distances, ids, memory);
    } else {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int task = 0; task < tasks; task++) {
            if (fpq_stopped(&poll)) continue;
            const int64_t first = (int64_t)task * tile;
            const int n = nq - first < tile ? (int)(nq - first) : tile;
            search_tile(f, selector, queries + first * f->d, n, k, distances + first * k, ids + first * k,
                        memory + (size_t)FPQ_THREAD_NUMBER() * each);
        }
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}
