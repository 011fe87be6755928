/* SPDX-License-Identifier: MIT
 * All rows become columns once, of bytes where those are faster. Their products with a query bound its distances to them; rows
 * that may be among the k nearest get theirs worked out by the kernel that fpq_flat_search uses. */
#include "distance/few.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "assign/bytes.h"
#include "distance/stored.h"
#include "portable.h"
#include "threads.h"

/* TILE: queries that share the reading of columns. WORD: numbers that at_least compares, and columns of a panel. */
enum { TILE = 48, BYTES_TILE = 12, WORD = 64, PANEL = WORD / FPQ_BLOCK, MOST_ROWS = 16384, MOST_FLOAT_ROWS = 4096, LEAST_QUERIES = 64, LEAST_K = 8 };

typedef struct {
    const fpq_kernels *kern;
    const fpq_matrix *x;
    const fpq_population *pop;
    const float *centre;                   /* NULL for inner products */
    fpq_byte_codebook bytes;
    float *floats;                         /* packed columns; NULL: there are bytes */
    float longest, slack;                  /* most length of a column; relative rounding error of sums of floats */
    float *bias;
    int n, d, ld, blocks, panels, tile;
} few;

int fpq_are_few(const fpq_matrix *x, int64_t nq, const fpq_population *pop, int k) {
    if (nq < LEAST_QUERIES || x->n > MOST_ROWS || k > x->n / 8 || pop->allowed) return 0;
    return (x->n <= MOST_FLOAT_ROWS && k >= LEAST_K) || fpq_bytes_pay(fpq_active(), (int)x->n, (int)x->d);
}

static void find_centre(const fpq_matrix *x, const fpq_kernels *kern, float *row, float *centre) {
    const int d = (int)x->d;
    for (int t = 0; t < d; t++) centre[t] = 0;
    for (int64_t i = 0; i < x->n; i++) {
        kern->read_rows(x, NULL, i, 1, 0, d, NULL, row);
        for (int t = 0; t < d; t++) centre[t] += row[t] / (float)x->n;
    }
}

/* scratch: 3 d floats. */
static void put_columns(few *f, float *scratch) {
    float *row = scratch + 2 * (ptrdiff_t)f->d;
    for (int c = 0; c < f->blocks * FPQ_BLOCK; c++) {
        f->bias[c] = -INFINITY;
        if (c >= f->n) continue;
        f->kern->read_rows(f->x, NULL, c, 1, 0, f->d, f->centre, row);
        const float square = f->kern->ip_f32(row, row, f->d);
        f->bias[c] = f->centre ? -square / 2 : 0;
        f->longest = fmaxf(f->longest, sqrtf(square));
        if (!f->floats)
            fpq_byte_codebook_put(f->kern, &f->bytes, c, row, f->d, scratch);
        else
            for (int t = 0; t < f->d; t++)
                f->floats[((ptrdiff_t)(c / FPQ_BLOCK) * f->d + t) * FPQ_BLOCK + c % FPQ_BLOCK] = row[t];
    }
}

static int count_at_least(const few *f, const float *x, int words, float least) {
    static const float zeros[WORD];
    int count = 0;
    for (int w = 0; w < words; w++) count += fpq_popcount(f->kern->at_least(x + w * WORD, -least, zeros));
    return count;
}

/* A number that at least k of x (WORD * words, -inf at the end) reach, and not many more. */
static float reached_by(const few *f, const float *x, int words, int k, float width) {
    float survey[3], low, high;
    f->kern->survey(x, words * WORD, survey);
    low = high = survey[1];
    for (int count = 1; count < k && low > -1e30f; width *= 2) {
        high = low;
        low -= width;
        count = count_at_least(f, x, words, low);
    }
    for (int step = 0; step < 6 && low < high; step++) {
        const float middle = low + (high - low) / 2;
        const int count = count_at_least(f, x, words, middle);
        if (count < k)
            high = middle;
        else
            low = middle;
        if (count >= k && count <= k + k / 8) break;
    }
    return low;
}

typedef struct {
    float *products;                       /* (tile, ld) */
    float *lanes;                          /* (panels, tile, FPQ_BLOCK): the largest of each lane of a panel */
    float *maxima;                         /* (words of FPQ_BLOCK * panels), those of one row */
    float *x;                              /* (tile, d), centred */
    float *row;                            /* d */
    float *margin;                         /* (tile): products and true ones are never farther apart */
    fpq_byte_rows rows;
} workspace;

static int maxima_words(const few *f) { return (f->panels + PANEL - 1) / PANEL; }

/* Bytes of scratch a thread needs. */
static size_t scratch_size(const few *f, int has_bytes) {
    const size_t tile = (size_t)f->tile, panels = (size_t)f->panels;
    const size_t floats = tile * (size_t)f->ld + panels * tile * FPQ_BLOCK + (size_t)maxima_words(f) * WORD + (tile + 1) * (size_t)f->d + tile;
    return fpq_lines(floats * sizeof(float)) + (has_bytes ? fpq_byte_rows_size(f->tile, f->d) : 0);
}

static void place(const few *f, char *scratch, workspace *w) {
    w->products = (float *)(void *)scratch;
    w->lanes = w->products + (ptrdiff_t)f->tile * f->ld;
    w->maxima = w->lanes + (ptrdiff_t)f->panels * f->tile * FPQ_BLOCK;
    w->x = w->maxima + (ptrdiff_t)maxima_words(f) * WORD;
    w->row = w->x + (ptrdiff_t)f->tile * f->d;
    w->margin = w->row + f->d;
    if (!f->floats) fpq_byte_rows_place(scratch + scratch_size(f, 0), f->tile, &f->bytes, &w->rows);
}

static void raise_lanes(float *FPQ_RESTRICT lanes, const float *products) {
    for (int l = 0; l < FPQ_BLOCK; l++) lanes[l] = products[l] > lanes[l] ? products[l] : lanes[l];
}

/* Products of n queries with all columns. */
static void multiply(const few *f, const float *queries, int n, workspace *w) {
    const int d = f->d;
    uint8_t list[TILE];
    for (int i = 0; i < n; i++) {
        float *x = w->x + (ptrdiff_t)i * d;
        list[i] = (uint8_t)i;
        for (int t = 0; t < d; t++) x[t] = queries[i * d + t] - (f->centre ? f->centre[t] : 0);
        if (!f->floats) fpq_byte_rows_put(f->kern, &w->rows, i, x, d);
        const float length = sqrtf(f->kern->ip_f32(x, x, d)) + f->longest, rounding = f->slack * length * length;
        w->margin[i] = (f->floats ? rounding : w->rows.margin[i]) + rounding; /* the distances have an error of their own */
        for (int c = f->blocks * FPQ_BLOCK; c < f->ld; c++) w->products[i * f->ld + c] = -INFINITY;
    }
    for (int p = 0; p < f->panels; p++) {
        const int left = f->blocks - p * PANEL, blocks = left < PANEL ? left : PANEL;
        float *lanes = w->lanes + (ptrdiff_t)p * f->tile * FPQ_BLOCK, *products = w->products + p * WORD;
        for (int i = 0; i < n * FPQ_BLOCK; i++) lanes[i] = -INFINITY;
        if (!f->floats) {
            f->kern->project_bytes(w->rows.bytes, w->rows.step, list, n, &f->bytes.columns, p * PANEL, blocks, products, f->ld, lanes);
            continue;
        }
        f->kern->project(w->x, n, d, f->floats + (ptrdiff_t)p * WORD * d, f->bias + p * WORD, blocks, products, f->ld);
        for (int i = 0; i < n; i++)
            for (int b = 0; b < blocks; b++) raise_lanes(lanes + i * FPQ_BLOCK, products + i * f->ld + b * FPQ_BLOCK);
    }
}

static void search_tile(const few *f, const float *queries, int n, fpq_topk *top, char *scratch) {
    static const float zeros[WORD];
    const fpq_kernels *kern = f->kern;
    workspace w;
    place(f, scratch, &w);
    multiply(f, queries, n, &w);
    for (int i = 0; i < n; i++) {
        const int k = top[i].k, by_maxima = 2 * k <= f->panels * FPQ_BLOCK;
        const float *products = w.products + (ptrdiff_t)i * f->ld, *query = queries + (ptrdiff_t)i * f->d, margin = w.margin[i];
        if (!(margin < INFINITY)) {
            for (int c = 0; c < f->n; c++)
                fpq_push_row(f->pop, top + i, fpq_distance_to(kern, f->x, c, query, !f->centre, w.row), c);
            continue;
        }
        for (int p = 0; p < f->panels; p++)
            memcpy(w.maxima + p * FPQ_BLOCK, w.lanes + (p * f->tile + i) * FPQ_BLOCK, FPQ_BLOCK * sizeof(float));
        for (int t = f->panels * FPQ_BLOCK; t < maxima_words(f) * WORD; t++) w.maxima[t] = -INFINITY;
        const float least = reached_by(f, by_maxima ? w.maxima : products, by_maxima ? maxima_words(f) : f->panels, k, 4 * margin) - 2 * margin;
        for (int p = 0; p < f->panels; p++)
            for (uint64_t near = kern->at_least(products + p * WORD, -least, zeros); near; near &= near - 1) {
                const int c = p * WORD + fpq_lowest_bit(near);
                fpq_push_row(f->pop, top + i, fpq_distance_to(kern, f->x, c, query, !f->centre, w.row), c);
            }
    }
}

int fpq_few_search(const fpq_matrix *x, const float *queries, int64_t nq, const fpq_population *pop, int inner_product, int k,
                   float *distances, int64_t *ids, int threads) {
    const fpq_kernels *kern = fpq_active();
    const int d = (int)x->d, blocks = FPQ_BLOCKS((int)x->n), panels = (blocks + PANEL - 1) / PANEL;
    const int has_bytes = fpq_bytes_pay(kern, (int)x->n, d), tile = has_bytes ? BYTES_TILE : TILE, tasks = (int)((nq + tile - 1) / tile);
    few f = {.kern = kern, .x = x, .pop = pop, .slack = (float)(d + 16) * FLT_EPSILON, .n = (int)x->n, .d = d, .ld = panels * WORD,
             .blocks = blocks, .panels = panels, .tile = tile};
    const size_t columns = fpq_lines(has_bytes ? fpq_byte_codebook_size(blocks, d) : (size_t)f.ld * (size_t)d * sizeof(float));
    const size_t head = fpq_lines(((size_t)f.ld + 4 * (size_t)d) * sizeof(float));
    threads = fpq_threads(threads, tasks);
    const size_t each = scratch_size(&f, has_bytes);
    char *memory = fpq_alloc(columns + head + (size_t)threads * each);
    fpq_poll poll = {0};
    if (!memory) return -1;
    f.floats = has_bytes ? NULL : (float *)(void *)memory;
    f.bias = (float *)(void *)(memory + columns);
    float *centre = f.bias + f.ld;
    if (!inner_product) {
        find_centre(x, kern, centre + d, centre);
        f.centre = centre;
    }
    if (has_bytes)
        fpq_byte_codebook_place(memory, blocks, d, f.bias, &f.bytes);
    else
        memset(memory, 0, columns);
    put_columns(&f, centre + d);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int task = 0; task < tasks; task++) {
        if (fpq_stopped(&poll)) continue;
        const int64_t first = (int64_t)task * tile;
        const int n = nq - first < tile ? (int)(nq - first) : tile;
        fpq_topk top[TILE];
        for (int i = 0; i < n; i++) {
            top[i] = (fpq_topk){.distance = distances + (first + i) * k, .id = ids + (first + i) * k, .k = k};
            fpq_topk_init(top + i);
        }
        search_tile(&f, queries + first * d, n, top, memory + columns + head + (size_t)FPQ_THREAD_NUMBER() * each);
        for (int i = 0; i < n; i++) fpq_topk_sort(top + i);
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}
