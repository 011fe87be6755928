/* SPDX-License-Identifier: MIT
 * All rows become columns of bytes once. Their products with a query bound its distances to them; rows that may be among
 * the k nearest get theirs worked out by the kernel that fpq_flat_search uses. */
#include "distance/few.h"

#include <math.h>

#include "assign/bytes.h"
#include "distance/stored.h"
#include "portable.h"
#include "threads.h"

enum { TILE = 12, WORD = 64, MOST_ROWS = 16384, LEAST_QUERIES = 64 }; /* WORD: numbers that at_least compares */

typedef struct {
    const fpq_kernels *kern;
    const fpq_matrix *x;
    const fpq_population *pop;
    const float *centre;                   /* NULL for inner products */
    fpq_byte_codebook columns;
    int n, d, ld, blocks, words;
} few;

int fpq_are_few(const fpq_matrix *x, int64_t nq, const fpq_population *pop, int k) {
    return nq >= LEAST_QUERIES && x->n <= MOST_ROWS && k <= x->n / 8 && !pop->allowed &&
           fpq_bytes_pay(fpq_active(), (int)x->n, (int)x->d);
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
static void put_columns(few *f, float *bias, float *scratch) {
    float *row = scratch + 2 * (ptrdiff_t)f->d;
    for (int c = 0; c < f->blocks * FPQ_BLOCK; c++) {
        bias[c] = -INFINITY;
        if (c >= f->n) continue;
        f->kern->read_rows(f->x, NULL, c, 1, 0, f->d, f->centre, row);
        bias[c] = f->centre ? -f->kern->ip_f32(row, row, f->d) / 2 : 0;
        fpq_byte_codebook_put(f->kern, &f->columns, c, row, f->d, scratch);
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

/* Bytes of scratch a thread needs. */
static size_t scratch_size(const few *f) {
    const size_t products = TILE * (size_t)f->ld, maxima = products / 4 + WORD * 4;
    return fpq_lines((products + 2 * maxima + (TILE + 1) * (size_t)f->d) * sizeof(float)) + fpq_byte_rows_size(TILE, f->d);
}

static void search_tile(const few *f, const float *queries, int n, fpq_topk *top, char *scratch) {
    static const float zeros[WORD];
    const fpq_kernels *kern = f->kern;
    const int d = f->d, parts = f->words, of_maxima = (parts + 3) / 4; /* words that hold the largest of each lane of a part */
    uint8_t list[TILE];
    float *products = (float *)(void *)scratch, *lanes = products + (ptrdiff_t)TILE * f->ld;
    float *maxima = lanes + (ptrdiff_t)parts * TILE * FPQ_BLOCK, *x = maxima + (ptrdiff_t)of_maxima * WORD, *row = x + (ptrdiff_t)TILE * d;
    fpq_byte_rows rows;
    fpq_byte_rows_place(scratch + scratch_size(f) - fpq_byte_rows_size(TILE, d), TILE, &f->columns, &rows);
    for (int i = 0; i < n; i++) {
        list[i] = (uint8_t)i;
        for (int t = 0; t < d; t++) x[i * d + t] = queries[i * d + t] - (f->centre ? f->centre[t] : 0);
        fpq_byte_rows_put(kern, &rows, i, x + i * d, d);
    }
    for (int i = 0; i < TILE; i++)
        for (int c = f->blocks * FPQ_BLOCK; c < f->ld; c++) products[i * f->ld + c] = -INFINITY;
    for (int p = 0; p < parts; p++) {
        float *lane = lanes + (ptrdiff_t)p * TILE * FPQ_BLOCK;
        const int left = f->blocks - p * 4;
        for (int i = 0; i < TILE * FPQ_BLOCK; i++) lane[i] = -INFINITY;
        kern->project_bytes(rows.bytes, rows.step, list, n, &f->columns.columns, p * 4, left < 4 ? left : 4, products + p * WORD,
                            f->ld, lane);
    }
    for (int i = 0; i < n; i++) {
        const int k = top[i].k, by_maxima = 2 * k <= parts * FPQ_BLOCK;
        const float *of_row = products + (ptrdiff_t)i * f->ld, *query = queries + i * d;
        const float length = sqrtf(kern->ip_f32(x + i * d, x + i * d, d)) + f->columns.length;
        /* The distances have a rounding error of their own. */
        const float margin = rows.margin[i] + f->columns.slack * length * length;
        if (!(margin < INFINITY)) {
            for (int c = 0; c < f->n; c++)
                fpq_push_row(f->pop, top + i, fpq_distance_to(kern, f->x, c, query, !f->centre, row), c);
            continue;
        }
        for (int p = 0; p < of_maxima * 4; p++)
            for (int t = 0; t < FPQ_BLOCK; t++)
                maxima[p * FPQ_BLOCK + t] = p < parts ? lanes[(p * TILE + i) * FPQ_BLOCK + t] : -INFINITY;
        const float least = reached_by(f, by_maxima ? maxima : of_row, by_maxima ? of_maxima : parts, k, 4 * margin) - 2 * margin;
        for (int w = 0; w < f->words; w++)
            for (uint64_t near = kern->at_least(of_row + w * WORD, -least, zeros); near; near &= near - 1) {
                const int c = w * WORD + fpq_lowest_bit(near);
                fpq_push_row(f->pop, top + i, fpq_distance_to(kern, f->x, c, query, !f->centre, row), c);
            }
    }
}

int fpq_few_search(const fpq_matrix *x, const float *queries, int64_t nq, const fpq_population *pop, int inner_product, int k,
                   float *distances, int64_t *ids, int threads) {
    const int d = (int)x->d, blocks = FPQ_BLOCKS((int)x->n), tasks = (int)((nq + TILE - 1) / TILE);
    few f = {.kern = fpq_active(), .x = x, .pop = pop, .n = (int)x->n, .d = d, .blocks = blocks, .words = (blocks + 3) / 4};
    f.ld = f.words * WORD;
    threads = fpq_threads(threads, tasks);
    const size_t columns = fpq_lines(fpq_byte_codebook_size(blocks, d)), each = scratch_size(&f);
    const size_t head = fpq_lines(((size_t)f.ld + 4 * (size_t)d) * sizeof(float));
    char *memory = fpq_alloc(columns + head + (size_t)threads * each);
    fpq_poll poll = {0};
    if (!memory) return -1;
    float *bias = (float *)(void *)(memory + columns), *centre = bias + f.ld;
    if (!inner_product) {
        find_centre(x, f.kern, centre + d, centre);
        f.centre = centre;
    }
    fpq_byte_codebook_place(memory, blocks, d, bias, &f.columns);
    put_columns(&f, bias, centre + d);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int task = 0; task < tasks; task++) {
        if (fpq_stopped(&poll)) continue;
        const int64_t first = (int64_t)task * TILE;
        const int n = nq - first < TILE ? (int)(nq - first) : TILE;
        fpq_topk top[TILE];
        for (int i = 0; i < n; i++) {
            top[i] = (fpq_topk){distances + (first + i) * k, ids + (first + i) * k, k};
            fpq_topk_init(top + i);
        }
        search_tile(&f, queries + first * d, n, top, memory + columns + head + (size_t)FPQ_THREAD_NUMBER() * each);
        for (int i = 0; i < n; i++) fpq_topk_sort(top + i);
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}
