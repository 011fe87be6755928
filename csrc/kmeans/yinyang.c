/* SPDX-License-Identifier: MIT */
#include "kmeans/yinyang.h"

#include <math.h>
#include <string.h>

#include "kmeans/quantized_distance.h"
#include "parallel.h"
#include "portable.h"

/* The radius of the codebook has 8191 steps: the longest distances, of two radii, still fit 16 bits, and so does a
 * drift of several radii. */
#define RADIUS_STEPS (65535.f / 8)

enum {
    MAX_GROUPS = 64,
    MIN_INT8_K = 512,         /* With fewer centroids, rows meet too few of them again to pay for their quantization. */
    MAX_INT8_GROUP_BLOCKS = 4 /* Column blocks of a group: max_other_int8 returns its candidates in 64 bits. */
};

typedef fpq_grouped_codebook grouped;

static int group_of(const grouped *g, int32_t id) {
    return id / FPQ_COLUMN_BLOCK / g->span * FPQ_COLUMN_BLOCK + id % FPQ_COLUMN_BLOCK;
}

/* Centroid i of a group, one of `span`; k or more stands for none. */
static int32_t centroid_of(const grouped *g, int group, int32_t i) {
    return (group / FPQ_COLUMN_BLOCK * g->span + i) * FPQ_COLUMN_BLOCK + group % FPQ_COLUMN_BLOCK;
}

typedef struct {
    const fpq_codebooks *cb;
    const fpq_packed_codebook *packed;
    const float *drifted; /* NULL: no drift to add */
    fpq_bounds *bounds;
    grouped *out;
    float *memory; /* for each subspace: bias, columns, int8 columns */
    size_t columns, subspace;
    int span, blocks, has_int8, parts;
} grouping;

static void start_groups(void *context, int64_t j, fpq_worker *worker) {
    const grouping *p = context;
    const fpq_packed_codebook *packed = p->packed + j;
    float radius = 0, *steps_per_distance = p->bounds->steps_per_distance + j;
    float *bias = p->memory + (size_t)j * p->subspace, *packed_groups = bias + p->columns;
    (void)worker;
    for (int c = 0; c < packed->k; c++) /* A bias of -inf marks a repeated centroid. */
        if (packed->bias[c] > -INFINITY && -2.1f * packed->bias[c] > radius) radius = -2.1f * packed->bias[c];
    if (packed->overflows) radius = INFINITY;
    if (!(*steps_per_distance > 0))
        *steps_per_distance = radius > 0 && radius < INFINITY ? RADIUS_STEPS / sqrtf(radius) : 0;
    p->out[j] = (grouped){.packed = packed,
                          .groups = p->bounds->groups,
                          .span = p->span,
                          .blocks = p->blocks,
                          .bias = bias,
                          .packed_groups = packed_groups,
                          .has_int8 = p->has_int8,
                          .bound_scale = {radius, *steps_per_distance}};
    if (p->has_int8)
        fpq_int8_codebook_place((char *)(packed_groups + p->columns * (size_t)p->cb->dsub),
                                p->bounds->groups * p->blocks, packed->d, bias, &p->out[j].int8);
}

/* Adds to the drift of a group the largest movement of its centroids. */
static void add_drift(const grouping *p, int j, int group) {
    const grouped *g = p->out + j;
    const ptrdiff_t dsub = p->cb->dsub, subspace = (ptrdiff_t)j * p->cb->k * dsub;
    uint16_t max_moved = 0, *drift = p->bounds->drift + (ptrdiff_t)j * g->groups + group;
    for (int i = 0; i < g->span; i++) {
        const int32_t c = centroid_of(g, group, i);
        if (c >= g->packed->k) break;
        const float *from = p->drifted + subspace + c * dsub, *to = p->cb->centroids + subspace + c * dsub;
        double square = 0;
        for (int t = 0; t < g->packed->d; t++) square += ((double)to[t] - from[t]) * ((double)to[t] - from[t]);
        const float steps = (float)sqrt(square) * (1 + 1e-6f) * g->bound_scale.steps_per_distance + 1;
        const uint16_t moved = square > 0 ? fpq_quantized_distance(steps) : 0;
        if (moved > max_moved) max_moved = moved;
    }
    *drift = fpq_quantized_distance((float)*drift + (float)max_moved);
}

/* Packs a part of the groups of a subspace. */
static void group_part(void *context, int64_t task, fpq_worker *worker) {
    const grouping *p = context;
    const int j = (int)(task / p->parts), part = (int)(task % p->parts), groups = p->bounds->groups;
    const grouped *g = p->out + j;
    const int d = g->packed->d, size = g->blocks * FPQ_COLUMN_BLOCK;
    fpq_int8_codebook int8 = g->int8;
    for (int group = groups * part / p->parts; group < groups * (part + 1) / p->parts; group++) {
        for (int i = 0; i < size && !fpq_stopped(worker->poll); i++) {
            const int column = group * size + i;
            const int32_t c = i < g->span ? centroid_of(g, group, i) : g->packed->k;
            const float *row = g->packed->rows + (ptrdiff_t)c * d;
            float *to = g->packed_groups + (ptrdiff_t)(column / FPQ_COLUMN_BLOCK) * d * FPQ_COLUMN_BLOCK +
                        column % FPQ_COLUMN_BLOCK;
            g->bias[column] = c < g->packed->k ? g->packed->bias[c] : -INFINITY;
            for (int t = 0; t < d; t++) to[t * FPQ_COLUMN_BLOCK] = c < g->packed->k ? row[t] : 0;
            if (g->has_int8 && c < g->packed->k)
                fpq_int8_codebook_put(fpq_active(), &int8, column, row, d, (float *)(void *)worker->scratch);
        }
        if (p->drifted) add_drift(p, j, group);
    }
}

static void group_codebook(void *context, int64_t j, fpq_worker *worker) {
    start_groups(context, j, worker);
    group_part(context, j, worker);
}

grouped *fpq_group_codebooks(const fpq_codebooks *cb, const fpq_packed_codebook *packed, fpq_bounds *bounds,
                             const float *drifted, int threads) {
    const int panels = bounds->groups / FPQ_COLUMN_BLOCK, span = (FPQ_COLUMN_BLOCKS(cb->k) + panels - 1) / panels;
    const size_t dsub = (size_t)cb->dsub, m = (size_t)cb->m;
    const size_t structs = fpq_float_lines(m * sizeof(grouped) / sizeof(float) + 1);
    grouping p = {.cb = cb,
                  .packed = packed,
                  .drifted = drifted,
                  .bounds = bounds,
                  .span = span,
                  .blocks = FPQ_COLUMN_BLOCKS(span),
                  .parts = fpq_codebook_parts(cb, bounds->groups, threads)};
    p.has_int8 = packed->has_int8 && cb->k >= MIN_INT8_K && p.blocks <= MAX_INT8_GROUP_BLOCKS;
    p.columns = (size_t)bounds->groups * (size_t)p.blocks * FPQ_COLUMN_BLOCK;
    p.subspace = p.columns * (dsub + 1);
    if (p.has_int8)
        p.subspace += fpq_float_lines(fpq_int8_codebook_size(bounds->groups * p.blocks, cb->dsub) / sizeof(float));
    float *memory = fpq_alloc((structs + m * p.subspace) * sizeof(float));
    if (!memory) return NULL;
    p.out = (grouped *)(void *)memory;
    p.memory = memory + structs;
    const size_t scratch = p.has_int8 ? 2 * dsub * sizeof(float) : 0;
    if (p.parts > 1 ? !fpq_parallel(cb->m, 0, threads, start_groups, &p) &&
                          !fpq_parallel((int64_t)cb->m * p.parts, scratch, threads, group_part, &p)
                    : !fpq_parallel(cb->m, scratch, threads, group_codebook, &p))
        return p.out;
    fpq_free(memory);
    return NULL;
}

/* A row batch in one subspace, and the bounds of its rows. */
typedef struct {
    const fpq_kernels *kern;
    const fpq_assignment *assignment;
    const grouped *codebook;
    const float *x;
    ptrdiff_t ldx;
    int n;
    int32_t *ids; /* the assigned centroids */
    float *errors, *square;
    uint16_t *bounds; /* (n, groups) */
    const uint16_t *drift;
    float *gathered, *products; /* scratch: (n, d), (FPQ_INT8_TILE, fpq_products_ld(k)) */
    const fpq_int8_rows *int8;  /* NULL where float32 scores are used */
} row_batch;

static void assign_row(const row_batch *b, int row, int32_t id) {
    const grouped *g = b->codebook;
    const int d = g->packed->d;
    b->bounds[row * g->groups + group_of(g, id)] = 0; /* The largest score was that of the assigned centroid itself. */
    if (id == b->ids[row]) return;
    b->ids[row] = id;
    b->errors[row] = b->kern->l2_f32(b->x + row * b->ldx, g->packed->rows + (ptrdiff_t)id * d, d);
}

/* Searches all centroids for `count` listed rows, and renews the bounds of all groups. */
static void search_all(const row_batch *b, const uint8_t *rows, int count) {
    const grouped *g = b->codebook;
    const fpq_packed_codebook *packed = g->packed;
    const int d = packed->d, n_blocks = FPQ_COLUMN_BLOCKS(packed->k), step = fpq_cached_blocks(d);
    float lane_max[FPQ_ROW_BATCH * FPQ_COLUMN_BLOCK], best[FPQ_ROW_BATCH], second[FPQ_ROW_BATCH],
        max_other[FPQ_ROW_BATCH] = {0};
    int32_t ids[FPQ_ROW_BATCH];
    uint16_t all_groups[FPQ_ROW_BATCH];
    for (int i = 0; i < b->n; i++) all_groups[i] = 0xffff;
    for (int i = 0; i < count; i++) {
        memcpy(b->gathered + (ptrdiff_t)i * d, b->x + rows[i] * b->ldx, (size_t)d * sizeof(float));
        best[i] = second[i] = -INFINITY;
        ids[i] = 0;
    }
    for (int first = 0, group = 0; group < g->groups; first += g->span, group += FPQ_COLUMN_BLOCK) {
        const int end = first + g->span < n_blocks ? first + g->span : n_blocks;
        for (int i = 0; i < count * FPQ_COLUMN_BLOCK; i++) lane_max[i] = -INFINITY;
        for (int block = first; block < end; block += step)
            b->kern->nearest(b->gathered, d, count, d, packed->packed + (ptrdiff_t)block * d * FPQ_COLUMN_BLOCK,
                             packed->bias + block * FPQ_COLUMN_BLOCK, end - block < step ? end - block : step,
                             block * FPQ_COLUMN_BLOCK, best, second, ids, lane_max);
        for (int i = count - 1; i >= 0 && rows[i] > i; i--) /* from the place in the list to that of the row */
            memcpy(lane_max + rows[i] * FPQ_COLUMN_BLOCK, lane_max + i * FPQ_COLUMN_BLOCK,
                   FPQ_COLUMN_BLOCK * sizeof *lane_max);
        b->kern->yinyang_update(lane_max, rows, count, d, &g->bound_scale, b->square, all_groups, b->drift + group,
                                b->bounds + group, g->groups, max_other);
    }
    for (int i = 0; i < count; i++)
        assign_row(b, rows[i], fpq_decide(b->assignment, rows[i], b->square[rows[i]], best[i], second[i], ids[i]));
}

/* search_all by int8 scores, which may be too low by the margin of the row. */
static void search_all_by_int8(const row_batch *b, const uint8_t *rows, int count) {
    const grouped *g = b->codebook;
    const fpq_packed_codebook *packed = g->packed;
    const int d = packed->d, n_blocks = FPQ_COLUMN_BLOCKS(packed->k), ld = fpq_products_ld(packed->k);
    float lane_max[FPQ_ROW_BATCH * FPQ_COLUMN_BLOCK], max_other[FPQ_ROW_BATCH] = {0};
    uint16_t all_groups[FPQ_ROW_BATCH];
    for (int i = 0; i < b->n; i++) all_groups[i] = 0xffff;
    for (; count > 0; count -= FPQ_INT8_TILE, rows += FPQ_INT8_TILE) {
        const int n = count < FPQ_INT8_TILE ? count : FPQ_INT8_TILE;
        for (int first = 0, group = 0; group < g->groups; first += g->span, group += FPQ_COLUMN_BLOCK) {
            const int end = first + g->span < n_blocks ? first + g->span : n_blocks;
            for (int i = 0; i < n; i++)
                for (int t = 0; t < FPQ_COLUMN_BLOCK; t++) lane_max[rows[i] * FPQ_COLUMN_BLOCK + t] = -INFINITY;
            b->kern->project_int8(b->int8->quantized, b->int8->scale, rows, n, &packed->int8.columns, first,
                                  end - first, b->products + first * FPQ_COLUMN_BLOCK, ld, lane_max);
            for (int i = 0; i < n; i++)
                for (int t = 0; t < FPQ_COLUMN_BLOCK; t++)
                    lane_max[rows[i] * FPQ_COLUMN_BLOCK + t] += b->int8->margin[rows[i]];
            b->kern->yinyang_update(lane_max, rows, n, d, &g->bound_scale, b->square, all_groups, b->drift + group,
                                    b->bounds + group, g->groups, max_other);
        }
        for (int i = 0; i < n; i++)
            assign_row(b, rows[i], fpq_nearest_by_int8(b->assignment, b->int8, rows[i], b->products + i * ld));
    }
}

/* The largest scores of listed rows with the other centroids of a group, or upper bounds of them, to lane_max[row *
 * 16]. They are float32 scores where they are at least threshold[row]. */
static void max_other_by_int8(const row_batch *b, int group, const uint8_t *rows, int n, const int32_t *assigned,
                              int32_t first_id, const float *threshold, float *lane_max) {
    const grouped *g = b->codebook;
    const int d = g->packed->d;
    uint64_t candidates[FPQ_ROW_BATCH];
    b->kern->max_other_int8(b->int8->quantized, b->int8->scale, rows, n, &g->int8.columns, group * g->blocks, g->blocks,
                            assigned, first_id, threshold, lane_max, candidates);
    for (int i = 0; i < n; i++) {
        const int row = rows[i];
        float *max = lane_max + row * FPQ_COLUMN_BLOCK;
        *max += b->int8->margin[row];
        for (uint64_t bits = candidates[i]; bits; bits &= bits - 1) {
            const int32_t id = centroid_of(g, group, fpq_lowest_bit(bits));
            if (id >= g->packed->k) continue; /* Padding is a candidate of a row whose margin is infinite. */
            const float product = b->kern->ip_f32(b->x + row * b->ldx, g->packed->rows + (ptrdiff_t)id * d, d);
            *max = fmaxf(*max, product + g->packed->bias[id] + b->int8->rounding[row]);
        }
    }
}

/* Searches the groups that the filter left for each row. Lists and counts the rows that may have a nearer centroid. */
static int search_groups(const row_batch *b, const uint64_t *groups_to_search, uint8_t *rows_to_search) {
    const grouped *g = b->codebook;
    const int d = g->packed->d, size = g->blocks * FPQ_COLUMN_BLOCK;
    uint8_t rows[FPQ_COLUMN_BLOCK][FPQ_ROW_BATCH], listed[FPQ_ROW_BATCH];
    uint16_t searched[FPQ_ROW_BATCH];
    float lane_max[FPQ_ROW_BATCH * FPQ_COLUMN_BLOCK], max_other[FPQ_ROW_BATCH], threshold[FPQ_ROW_BATCH];
    int32_t assigned[FPQ_ROW_BATCH]; /* as a column of packed_groups */
    int n_listed = 0, n_found = 0;
    for (int i = 0; i < b->n; i++) {
        listed[n_listed] = (uint8_t)i;
        n_listed += groups_to_search[i] != 0;
    }
    for (int s = 0; s < n_listed; s++) {
        const int row = listed[s];
        const int32_t id = b->ids[row];
        int panel = 0, i = id / FPQ_COLUMN_BLOCK;
        for (; i >= g->span; i -= g->span) panel++;
        assigned[row] = (panel * FPQ_COLUMN_BLOCK + id % FPQ_COLUMN_BLOCK) * size + i;
        max_other[row] = -INFINITY;
        threshold[row] = (b->square[row] - fpq_rounding_error(b->square[row], d, &g->bound_scale) - b->errors[row]) / 2;
        if (b->int8) threshold[row] -= b->int8->margin[row];
    }
    for (int panel = 0; panel < g->groups; panel += FPQ_COLUMN_BLOCK) {
        int count[FPQ_COLUMN_BLOCK] = {0};
        for (int s = 0; s < n_listed; s++) {
            const uint8_t row = listed[s];
            searched[row] = (uint16_t)(groups_to_search[row] >> panel);
            for (int t = 0; t < FPQ_COLUMN_BLOCK; t++) lane_max[row * FPQ_COLUMN_BLOCK + t] = -INFINITY;
            for (unsigned bits = searched[row]; bits; bits &= bits - 1) {
                const int group = fpq_lowest_bit(bits);
                rows[group][count[group]++] = row;
            }
        }
        for (int group = 0; group < FPQ_COLUMN_BLOCK; group++) {
            const int first = (panel + group) * size;
            if (b->int8)
                max_other_by_int8(b, panel + group, rows[group], count[group], assigned, first, threshold,
                                  lane_max + group);
            else
                b->kern->max_other(b->x, b->ldx, rows[group], count[group], d, g->packed_groups + (ptrdiff_t)first * d,
                                   g->bias + first, g->blocks, assigned, first, lane_max + group);
        }
        b->kern->yinyang_update(lane_max, listed, n_listed, d, &g->bound_scale, b->square, searched, b->drift + panel,
                                b->bounds + panel, g->groups, max_other);
    }
    for (int s = 0; s < n_listed; s++) {
        const int row = listed[s];
        const float square_below = b->square[row] - fpq_rounding_error(b->square[row], d, &g->bound_scale);
        rows_to_search[n_found] = (uint8_t)row;
        n_found += !(2 * max_other[row] < square_below - b->errors[row]);
    }
    return n_found;
}

/* Whether int8 scores of the listed rows can tell centroids at the distances of the rows apart. */
static int int8_is_precise(const float *margins, const float *errors, const uint8_t *rows, int n) {
    float margin = 0, error = 0;
    for (int i = 0; i < n; i++) {
        margin += margins[rows[i]];
        error += errors[rows[i]];
    }
    return 8 * margin < error;
}

static size_t gathered_size(int d) { return fpq_lines((size_t)FPQ_ROW_BATCH * (size_t)d * sizeof(float)); }

size_t fpq_yinyang_scratch(const fpq_codebooks *cb) { return fpq_nearest_scratch(cb) + gathered_size(cb->dsub); }

void fpq_yinyang_nearest(const fpq_assignment *a, const grouped *g, int32_t *ids, float *errors, uint16_t *bounds,
                         const uint16_t *drift) {
    const fpq_kernels *kern = a->kern;
    const int d = g->packed->d, n = a->n;
    char *scratch = a->scratch + fpq_decide_scratch(g->packed->k, d); /* after the scratch of fpq_decide */
    float square[FPQ_ROW_BATCH], *products = (float *)(void *)(scratch + gathered_size(d));
    uint64_t groups_to_search[FPQ_ROW_BATCH];
    uint8_t rows[FPQ_ROW_BATCH];
    int all_assigned = 1, n_groups = 0, count = 0;
    row_batch b = {.kern = kern,
                   .assignment = a,
                   .codebook = g,
                   .x = a->x,
                   .ldx = a->ldx,
                   .n = n,
                   .ids = ids,
                   .errors = errors,
                   .square = square,
                   .bounds = bounds,
                   .drift = drift,
                   .gathered = (float *)(void *)scratch,
                   .products = products};
    for (int i = 0; i < n; i++) all_assigned &= ids[i] >= 0;
    if (all_assigned) {
        kern->yinyang_filter(a->x, a->ldx, n, d, &g->bound_scale, g->packed->rows, ids, bounds, drift, g->groups,
                             square, errors, groups_to_search);
        for (int i = 0; i < n; i++) n_groups += fpq_popcount(groups_to_search[i]);
    } else {
        kern->squares(a->x, a->ldx, n, d, square);
    }
    /* Where most groups are left, a search of all centroids is faster: more rows share each load of a centroid. */
    const int by_group = all_assigned && n_groups <= n * g->groups * 5 / 8;
    for (int i = 0; i < n; i++) {
        rows[count] = (uint8_t)i;
        count += !by_group || groups_to_search[i];
    }
    fpq_int8_rows int8;
    if (g->has_int8) {
        fpq_int8_rows_place((char *)(products + FPQ_INT8_TILE * fpq_products_ld(g->packed->k)), FPQ_ROW_BATCH,
                            &g->packed->int8, &int8);
        fpq_products_start(products, g->packed->k);
        for (int i = 0; i < count; i++) fpq_int8_rows_put(kern, &int8, rows[i], a->x + rows[i] * a->ldx, d);
        if (!all_assigned || int8_is_precise(int8.margin, errors, rows, count)) b.int8 = &int8;
    }
    if (by_group) count = search_groups(&b, groups_to_search, rows);
    (b.int8 ? search_all_by_int8 : search_all)(&b, rows, count);
    for (int i = 0; i < n; i++) errors[i] = fpq_refined_error(a, i, ids[i], square[i], errors[i]);
}
