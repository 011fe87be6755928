/* SPDX-License-Identifier: MIT */
#include "kmeans/bounds.h"

#include <math.h>
#include <string.h>

#include "kmeans/units.h"
#include "portable.h"
#include "threads.h"

/* In units of an eighth of the codebook's radius: the longest distances still fit, and so does a long way of the centroids. */
#define UNITS (65535.f / 8)

enum { MOST_GROUPS = 64 };

typedef fpq_grouped_codebook grouped;

static int group_of(const grouped *g, int32_t id) { return id / FPQ_BLOCK / g->span * FPQ_BLOCK + id % FPQ_BLOCK; }

static int32_t member(const grouped *g, int group, int32_t i) {
    return (group / FPQ_BLOCK * g->span + i) * FPQ_BLOCK + group % FPQ_BLOCK;
}

static void group_one(grouped *g, float *unit) {
    const fpq_packed_codebook *packed = g->packed;
    const int d = packed->d;
    float largest = 0;
    for (int c = 0; c < packed->k; c++) {
        const float *from = packed->packed + (ptrdiff_t)(c / FPQ_BLOCK) * d * FPQ_BLOCK + c % FPQ_BLOCK;
        for (int t = 0; t < d; t++) g->rows[(ptrdiff_t)c * d + t] = from[t * FPQ_BLOCK];
        if (-2 * packed->bias[c] > largest) largest = -2 * packed->bias[c];
    }
    for (int group = 0; group < g->groups; group++)
        for (int i = 0; i < g->blocks * FPQ_BLOCK; i++) {
            const int block = group * g->blocks + i / FPQ_BLOCK;
            const int32_t c = i < g->span ? member(g, group, i) : packed->k;
            float *to = g->packed_groups + (ptrdiff_t)block * d * FPQ_BLOCK + i % FPQ_BLOCK;
            g->bias[block * FPQ_BLOCK + i % FPQ_BLOCK] = c < packed->k ? packed->bias[c] : -INFINITY;
            for (int t = 0; t < d; t++) to[t * FPQ_BLOCK] = c < packed->k ? g->rows[(ptrdiff_t)c * d + t] : 0;
        }
    g->ruler.radius = largest;
    if (!(*unit > 0)) *unit = largest > 0 && largest < INFINITY ? UNITS / sqrtf(largest) : 0;
    g->ruler.per_unit = *unit;
}

static size_t round_up(size_t floats) { return (floats + 15) / 16 * 16; }

grouped *fpq_group_codebooks(const fpq_codebooks *cb, const fpq_packed_codebook *packed, fpq_bounds *bounds, int threads) {
    const int groups = bounds->groups, panels = groups / FPQ_BLOCK, span = (FPQ_BLOCKS(cb->k) + panels - 1) / panels;
    const int blocks = FPQ_BLOCKS(span);
    const size_t columns = (size_t)groups * (size_t)blocks * FPQ_BLOCK, dsub = (size_t)cb->dsub;
    const size_t head = round_up((size_t)cb->m * sizeof(grouped) / sizeof(float) + 1);
    const size_t each = columns * (dsub + 1) + round_up((size_t)cb->k * dsub);
    float *memory = fpq_alloc((head + (size_t)cb->m * each) * sizeof(float));
    if (!memory) return NULL;
    grouped *out = (grouped *)(void *)memory;
    threads = fpq_threads(threads, cb->m);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int j = 0; j < cb->m; j++) {
        float *piece = memory + head + (size_t)j * each;
        out[j] = (grouped){.packed = packed + j, .groups = groups, .span = span, .blocks = blocks, .bias = piece,
                           .packed_groups = piece + columns, .rows = piece + columns * (dsub + 1)};
        group_one(out + j, bounds->units + j);
    }
    return out;
}

/* n rows and what is known about them. */
typedef struct {
    const fpq_kernels *kern;
    const grouped *codebook;
    const float *x;
    ptrdiff_t ldx;
    int n;
    int32_t *ids;                          /* their own centroids */
    float *errors, *square;
    uint16_t *bounds;                      /* (n, groups) */
    const uint16_t *drift;
} chunk;

/* All centroids for `count` listed rows, that stand in x, ldx apart. */
static void search_all(const chunk *c, const float *x, ptrdiff_t ldx, const uint8_t *rows, int count) {
    const grouped *g = c->codebook;
    const fpq_packed_codebook *packed = g->packed;
    const int d = packed->d, all = FPQ_BLOCKS(packed->k), fit = (256 << 10) / (FPQ_BLOCK * (int)sizeof(float) * d) / 4 * 4;
    const int step = fit > 4 ? fit : 4;    /* blocks that stay in the L2 cache */
    float lanes[FPQ_ASSIGN_ROWS * FPQ_BLOCK], best[FPQ_ASSIGN_ROWS], most[FPQ_ASSIGN_ROWS] = {0};
    int32_t ids[FPQ_ASSIGN_ROWS];
    uint16_t every[FPQ_ASSIGN_ROWS];
    for (int i = 0; i < c->n; i++) every[i] = 0xffff;
    for (int i = 0; i < count; i++) {
        best[i] = -INFINITY;
        ids[i] = 0;
    }
    for (int first = 0, group = 0; group < g->groups; first += g->span, group += FPQ_BLOCK) {
        const int end = first + g->span < all ? first + g->span : all;
        for (int i = 0; i < count * FPQ_BLOCK; i++) lanes[i] = -INFINITY;
        for (int b = first; b < end; b += step)
            c->kern->nearest(x, ldx, count, d, packed->packed + (ptrdiff_t)b * d * FPQ_BLOCK, packed->bias + b * FPQ_BLOCK,
                             end - b < step ? end - b : step, b * FPQ_BLOCK, best, ids, lanes);
        for (int i = count - 1; i >= 0 && rows[i] > i; i--) /* each to the place of its row */
            memcpy(lanes + rows[i] * FPQ_BLOCK, lanes + i * FPQ_BLOCK, FPQ_BLOCK * sizeof *lanes);
        c->kern->bound(lanes, rows, count, d, &g->ruler, c->square, every, c->drift + group, c->bounds + group, g->groups, most);
    }
    for (int i = 0; i < count; i++) {
        const int row = rows[i];
        c->bounds[row * g->groups + group_of(g, ids[i])] = 0; /* not known without the own centroid */
        if (ids[i] == c->ids[row]) continue;
        c->ids[row] = ids[i];
        c->errors[row] = c->kern->l2_f32(x + i * ldx, g->rows + (ptrdiff_t)ids[i] * d, d);
    }
}

/* The groups in doubt of each row; lists the rows that may have found a nearer centroid. */
static int search_groups(const chunk *c, const uint64_t *doubts, uint8_t *nearer) {
    const grouped *g = c->codebook;
    const int d = g->packed->d, size = g->blocks * FPQ_BLOCK;
    uint8_t rows[FPQ_BLOCK][FPQ_ASSIGN_ROWS], some[FPQ_ASSIGN_ROWS];
    uint16_t searched[FPQ_ASSIGN_ROWS];
    float lanes[FPQ_ASSIGN_ROWS * FPQ_BLOCK], most[FPQ_ASSIGN_ROWS];
    int32_t own[FPQ_ASSIGN_ROWS];
    int n_some = 0, found = 0;
    for (int i = 0; i < c->n; i++) {
        some[n_some] = (uint8_t)i;
        n_some += doubts[i] != 0;
    }
    for (int s = 0; s < n_some; s++) {
        const int32_t id = c->ids[some[s]];
        int panel = 0, member = id / FPQ_BLOCK;
        for (; member >= g->span; member -= g->span) panel++;
        own[some[s]] = (panel * FPQ_BLOCK + id % FPQ_BLOCK) * size + member;
        most[some[s]] = -INFINITY;
    }
    for (int panel = 0; panel < g->groups; panel += FPQ_BLOCK) {
        int count[FPQ_BLOCK] = {0};
        for (int s = 0; s < n_some; s++) {
            const uint8_t row = some[s];
            searched[row] = (uint16_t)(doubts[row] >> panel);
            for (int t = 0; t < FPQ_BLOCK; t++) lanes[row * FPQ_BLOCK + t] = -INFINITY;
            for (unsigned left = searched[row]; left; left &= left - 1) {
                const int group = fpq_lowest_bit(left);
                rows[group][count[group]++] = row;
            }
        }
        for (int group = 0; group < FPQ_BLOCK; group++) {
            const int first = (panel + group) * size;
            c->kern->largest(c->x, c->ldx, rows[group], count[group], d, g->packed_groups + (ptrdiff_t)first * d, g->bias + first,
                             g->blocks, own, first, lanes + group);
        }
        c->kern->bound(lanes, some, n_some, d, &g->ruler, c->square, searched, c->drift + panel, c->bounds + panel, g->groups,
                       most);
    }
    for (int s = 0; s < n_some; s++) {
        const int row = some[s];
        const float least = c->square[row] - fpq_slack(c->square[row], d, &g->ruler);
        nearer[found] = (uint8_t)row;
        found += !(2 * most[row] < least - c->errors[row]);
    }
    return found;
}

void fpq_nearest_in_doubt(const fpq_kernels *kern, const grouped *g, const float *x, ptrdiff_t ldx, int n, int32_t *ids,
                          float *errors, uint16_t *bounds, const uint16_t *drift, float *scratch) {
    const int d = g->packed->d;
    float square[FPQ_ASSIGN_ROWS];
    uint64_t doubts[FPQ_ASSIGN_ROWS];
    uint8_t rows[FPQ_ASSIGN_ROWS];
    int known = 1, pairs = 0;
    x += g->packed->from;
    const chunk c = {kern, g, x, ldx, n, ids, errors, square, bounds, drift};
    for (int i = 0; i < n; i++) known &= ids[i] >= 0;
    if (known) {
        kern->doubt(x, ldx, n, d, &g->ruler, g->rows, ids, bounds, drift, g->groups, square, errors, doubts);
        for (int i = 0; i < n; i++) pairs += fpq_popcount(doubts[i]);
    } else {
        for (int i = 0; i < n; i++) square[i] = kern->ip_f32(x + i * ldx, x + i * ldx, d);
    }
    if (known && pairs <= n * g->groups * 5 / 8) {
        const int found = search_groups(&c, doubts, rows);
        for (int i = 0; i < found; i++) memcpy(scratch + (ptrdiff_t)i * d, x + rows[i] * ldx, (size_t)d * sizeof(float));
        search_all(&c, scratch, d, rows, found);
    } else {
        for (int i = 0; i < n; i++) rows[i] = (uint8_t)i;
        search_all(&c, x, ldx, rows, n);
    }
}

void fpq_add_drift(const grouped *g, const float *before, const float *centroids, int dsub, uint16_t *drift) {
    const int d = g->packed->d;
    uint16_t ways[MOST_GROUPS] = {0};
    for (int32_t c = 0; c < g->packed->k; c++) {
        const float *from = before + (ptrdiff_t)c * dsub, *to = centroids + (ptrdiff_t)c * dsub;
        double square = 0;
        for (int t = 0; t < d; t++) square += ((double)to[t] - from[t]) * ((double)to[t] - from[t]);
        const uint16_t way = square > 0 ? fpq_units((float)sqrt(square) * (1 + 1e-6f) * g->ruler.per_unit + 1) : 0;
        if (way > ways[group_of(g, c)]) ways[group_of(g, c)] = way;
    }
    for (int group = 0; group < g->groups; group++) drift[group] = fpq_units((float)drift[group] + (float)ways[group]);
}
