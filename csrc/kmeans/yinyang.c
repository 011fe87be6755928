/* SPDX-License-Identifier: MIT */
#include "kmeans/yinyang.h"

#include <math.h>
#include <string.h>

#include "kmeans/quantized_distance.h"
#include "portable.h"
#include "parallel.h"

/* In units of an eighth of the codebook's radius: the longest distances still fit, and so does a long way of the
 * centroids. */
#define UNITS (65535.f / 8)

enum { MOST_GROUPS = 64 };
/* Bytes pay where a row meets many centroids again; a word has a bit for each of a group. */
enum { LEAST_BYTE_K = 512, MOST_BYTE_BLOCKS = 4 };

typedef fpq_grouped_codebook grouped;

static int group_of(const grouped *g, int32_t id) {
    return id / FPQ_COLUMN_BLOCK / g->span * FPQ_COLUMN_BLOCK + id % FPQ_COLUMN_BLOCK;
}

static int32_t member(const grouped *g, int group, int32_t i) {
    return (group / FPQ_COLUMN_BLOCK * g->span + i) * FPQ_COLUMN_BLOCK + group % FPQ_COLUMN_BLOCK;
}

static void group_one(grouped *g, float *unit, float *scratch) {
    const fpq_packed_codebook *packed = g->packed;
    const int d = packed->d;
    float largest = 0;
    for (int c = 0; c < packed->k; c++) /* those of -inf repeat others */
        if (packed->bias[c] > -INFINITY && -2.1f * packed->bias[c] > largest) largest = -2.1f * packed->bias[c];
    if (packed->overflows) largest = INFINITY;
    for (int group = 0; group < g->groups; group++)
        for (int i = 0; i < g->blocks * FPQ_COLUMN_BLOCK; i++) {
            const int block = group * g->blocks + i / FPQ_COLUMN_BLOCK;
            const int32_t c = i < g->span ? member(g, group, i) : packed->k;
            float *to = g->packed_groups + (ptrdiff_t)block * d * FPQ_COLUMN_BLOCK + i % FPQ_COLUMN_BLOCK;
            g->bias[block * FPQ_COLUMN_BLOCK + i % FPQ_COLUMN_BLOCK] = c < packed->k ? packed->bias[c] : -INFINITY;
            for (int t = 0; t < d; t++)
                to[t * FPQ_COLUMN_BLOCK] = c < packed->k ? packed->rows[(ptrdiff_t)c * d + t] : 0;
            if (g->has_int8 && c < packed->k)
                fpq_int8_codebook_put(fpq_active(), &g->bytes, block * FPQ_COLUMN_BLOCK + i % FPQ_COLUMN_BLOCK,
                                      packed->rows + (ptrdiff_t)c * d, d, scratch);
        }
    g->bound_scale.radius = largest;
    if (!(*unit > 0)) *unit = largest > 0 && largest < INFINITY ? UNITS / sqrtf(largest) : 0;
    g->bound_scale.per_unit = *unit;
}

grouped *fpq_group_codebooks(const fpq_codebooks *cb, const fpq_packed_codebook *packed, fpq_bounds *bounds,
                             int threads) {
    const int groups = bounds->groups, panels = groups / FPQ_COLUMN_BLOCK,
              span = (FPQ_COLUMN_BLOCKS(cb->k) + panels - 1) / panels;
    const int blocks = FPQ_COLUMN_BLOCKS(span);
    const size_t columns = (size_t)groups * (size_t)blocks * FPQ_COLUMN_BLOCK, dsub = (size_t)cb->dsub;
    const size_t head = fpq_float_lines((size_t)cb->m * sizeof(grouped) / sizeof(float) + 1);
    const int has_int8 = packed->has_int8 && cb->k >= LEAST_BYTE_K && blocks <= MOST_BYTE_BLOCKS;
    const size_t bytes = has_int8 ? fpq_int8_codebook_size(groups * blocks, cb->dsub) / sizeof(float) + 2 * dsub : 0;
    const size_t each = columns * (dsub + 1) + fpq_float_lines(bytes);
    float *memory = fpq_alloc((head + (size_t)cb->m * each) * sizeof(float));
    if (!memory) return NULL;
    grouped *out = (grouped *)(void *)memory;
    threads = fpq_threads(threads, cb->m);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int j = 0; j < cb->m; j++) {
        float *piece = memory + head + (size_t)j * each, *behind = piece + columns * (dsub + 1);
        out[j] = (grouped){.packed = packed + j,
                           .groups = groups,
                           .span = span,
                           .blocks = blocks,
                           .bias = piece,
                           .packed_groups = piece + columns,
                           .has_int8 = has_int8};
        if (has_int8)
            fpq_int8_codebook_place((char *)(behind + 2 * dsub), groups * blocks, packed[j].d, piece, &out[j].bytes);
        group_one(out + j, bounds->units + j, behind);
    }
    return out;
}

/* n rows and what is known about them. */
typedef struct {
    const fpq_kernels *kern;
    const fpq_assignment *assignment;
    const grouped *codebook;
    const float *x;
    ptrdiff_t ldx;
    int n;
    int32_t *ids; /* their own centroids */
    float *errors, *square;
    uint16_t *bounds; /* (n, groups) */
    const uint16_t *drift;
    float *found, *products;    /* scratch: (n, d), (FPQ_BYTE_TILE, fpq_products_ld(k)) */
    const fpq_int8_rows *bytes; /* NULL: not in use */
} chunk;

static void take(const chunk *c, int row, int32_t id) {
    const grouped *g = c->codebook;
    const int d = g->packed->d;
    c->bounds[row * g->groups + group_of(g, id)] = 0; /* not known without the own centroid */
    if (id == c->ids[row]) return;
    c->ids[row] = id;
    c->errors[row] = c->kern->l2_f32(c->x + row * c->ldx, g->packed->rows + (ptrdiff_t)id * d, d);
}

/* All centroids for `count` listed rows. */
static void search_all(const chunk *c, const uint8_t *rows, int count) {
    const grouped *g = c->codebook;
    const fpq_packed_codebook *packed = g->packed;
    const int d = packed->d, all = FPQ_COLUMN_BLOCKS(packed->k),
              fit = (256 << 10) / (FPQ_COLUMN_BLOCK * (int)sizeof(float) * d) / 4 * 4;
    const int step = fit > 4 ? fit : 4; /* blocks that stay in the L2 cache */
    float lanes[FPQ_ROW_BATCH * FPQ_COLUMN_BLOCK], best[FPQ_ROW_BATCH], second[FPQ_ROW_BATCH],
        most[FPQ_ROW_BATCH] = {0};
    int32_t ids[FPQ_ROW_BATCH];
    uint16_t every[FPQ_ROW_BATCH];
    for (int i = 0; i < c->n; i++) every[i] = 0xffff;
    for (int i = 0; i < count; i++) {
        memcpy(c->found + (ptrdiff_t)i * d, c->x + rows[i] * c->ldx, (size_t)d * sizeof(float));
        best[i] = second[i] = -INFINITY;
        ids[i] = 0;
    }
    for (int first = 0, group = 0; group < g->groups; first += g->span, group += FPQ_COLUMN_BLOCK) {
        const int end = first + g->span < all ? first + g->span : all;
        for (int i = 0; i < count * FPQ_COLUMN_BLOCK; i++) lanes[i] = -INFINITY;
        for (int b = first; b < end; b += step)
            c->kern->nearest(c->found, d, count, d, packed->packed + (ptrdiff_t)b * d * FPQ_COLUMN_BLOCK,
                             packed->bias + b * FPQ_COLUMN_BLOCK, end - b < step ? end - b : step, b * FPQ_COLUMN_BLOCK,
                             best, second, ids, lanes);
        for (int i = count - 1; i >= 0 && rows[i] > i; i--) /* each to the place of its row */
            memcpy(lanes + rows[i] * FPQ_COLUMN_BLOCK, lanes + i * FPQ_COLUMN_BLOCK, FPQ_COLUMN_BLOCK * sizeof *lanes);
        c->kern->yinyang_update(lanes, rows, count, d, &g->bound_scale, c->square, every, c->drift + group,
                                c->bounds + group, g->groups, most);
    }
    for (int i = 0; i < count; i++) {
        take(c, rows[i], fpq_decide(c->assignment, rows[i], c->square[rows[i]], best[i], second[i], ids[i]));
    }
}

/* The same by bytes. Bounds are lower by the margin of the row. */
static void search_all_bytes(const chunk *c, const uint8_t *rows, int count) {
    const grouped *g = c->codebook;
    const fpq_packed_codebook *packed = g->packed;
    const int d = packed->d, all = FPQ_COLUMN_BLOCKS(packed->k), ld = fpq_products_ld(packed->k);
    float lanes[FPQ_ROW_BATCH * FPQ_COLUMN_BLOCK], most[FPQ_ROW_BATCH] = {0};
    uint16_t every[FPQ_ROW_BATCH];
    for (int i = 0; i < c->n; i++) every[i] = 0xffff;
    for (; count > 0; count -= FPQ_BYTE_TILE, rows += FPQ_BYTE_TILE) {
        const int some = count < FPQ_BYTE_TILE ? count : FPQ_BYTE_TILE;
        for (int first = 0, group = 0; group < g->groups; first += g->span, group += FPQ_COLUMN_BLOCK) {
            const int end = first + g->span < all ? first + g->span : all;
            for (int i = 0; i < some; i++)
                for (int t = 0; t < FPQ_COLUMN_BLOCK; t++) lanes[rows[i] * FPQ_COLUMN_BLOCK + t] = -INFINITY;
            c->kern->project_int8(c->bytes->bytes, c->bytes->step, rows, some, &packed->bytes.columns, first,
                                  end - first, c->products + first * FPQ_COLUMN_BLOCK, ld, lanes);
            for (int i = 0; i < some; i++)
                for (int t = 0; t < FPQ_COLUMN_BLOCK; t++)
                    lanes[rows[i] * FPQ_COLUMN_BLOCK + t] += c->bytes->margin[rows[i]];
            c->kern->yinyang_update(lanes, rows, some, d, &g->bound_scale, c->square, every, c->drift + group,
                                    c->bounds + group, g->groups, most);
        }
        for (int i = 0; i < some; i++)
            take(c, rows[i], fpq_nearest_by_int8(c->assignment, c->bytes, rows[i], c->products + i * ld));
    }
}

/* The largest products of listed rows with the centroids of a group, to lanes[row * 16], or more; as large as they are
 * where they are at least least[row]. */
static void largest_of_bytes(const chunk *c, int group, const uint8_t *rows, int n, const int32_t *own, int32_t first,
                             const float *least, float *lanes) {
    const grouped *g = c->codebook;
    const int d = g->packed->d;
    uint64_t near[FPQ_ROW_BATCH];
    c->kern->max_other_int8(c->bytes->bytes, c->bytes->step, rows, n, &g->bytes.columns, group * g->blocks, g->blocks,
                            own, first, least, lanes, near);
    for (int i = 0; i < n; i++) {
        const int row = rows[i];
        float *most = lanes + row * FPQ_COLUMN_BLOCK;
        *most += c->bytes->margin[row];
        for (uint64_t left = near[i]; left; left &= left - 1) {
            const int32_t id = member(g, group, fpq_lowest_bit(left));
            if (id >= g->packed->k) continue; /* everything is near a row whose margin is infinite */
            const float product = c->kern->ip_f32(c->x + row * c->ldx, g->packed->rows + (ptrdiff_t)id * d, d);
            *most = fmaxf(*most, product + g->packed->bias[id] + c->bytes->rounding[row]);
        }
    }
}

/* The groups in doubt of each row; lists the rows that may have found a nearer centroid. */
static int search_groups(const chunk *c, const uint64_t *doubts, uint8_t *nearer) {
    const grouped *g = c->codebook;
    const int d = g->packed->d, size = g->blocks * FPQ_COLUMN_BLOCK;
    uint8_t rows[FPQ_COLUMN_BLOCK][FPQ_ROW_BATCH], some[FPQ_ROW_BATCH];
    uint16_t searched[FPQ_ROW_BATCH];
    float lanes[FPQ_ROW_BATCH * FPQ_COLUMN_BLOCK], most[FPQ_ROW_BATCH], least[FPQ_ROW_BATCH];
    int32_t own[FPQ_ROW_BATCH];
    int n_some = 0, found = 0;
    for (int i = 0; i < c->n; i++) {
        some[n_some] = (uint8_t)i;
        n_some += doubts[i] != 0;
    }
    for (int s = 0; s < n_some; s++) {
        const int row = some[s];
        const int32_t id = c->ids[row];
        int panel = 0, member = id / FPQ_COLUMN_BLOCK;
        for (; member >= g->span; member -= g->span) panel++;
        own[row] = (panel * FPQ_COLUMN_BLOCK + id % FPQ_COLUMN_BLOCK) * size + member;
        most[row] = -INFINITY;
        least[row] = (c->square[row] - fpq_slack(c->square[row], d, &g->bound_scale) - c->errors[row]) / 2;
        if (c->bytes) least[row] -= c->bytes->margin[row];
    }
    for (int panel = 0; panel < g->groups; panel += FPQ_COLUMN_BLOCK) {
        int count[FPQ_COLUMN_BLOCK] = {0};
        for (int s = 0; s < n_some; s++) {
            const uint8_t row = some[s];
            searched[row] = (uint16_t)(doubts[row] >> panel);
            for (int t = 0; t < FPQ_COLUMN_BLOCK; t++) lanes[row * FPQ_COLUMN_BLOCK + t] = -INFINITY;
            for (unsigned left = searched[row]; left; left &= left - 1) {
                const int group = fpq_lowest_bit(left);
                rows[group][count[group]++] = row;
            }
        }
        for (int group = 0; group < FPQ_COLUMN_BLOCK; group++) {
            const int first = (panel + group) * size;
            if (c->bytes)
                largest_of_bytes(c, panel + group, rows[group], count[group], own, first, least, lanes + group);
            else
                c->kern->max_other(c->x, c->ldx, rows[group], count[group], d, g->packed_groups + (ptrdiff_t)first * d,
                                   g->bias + first, g->blocks, own, first, lanes + group);
        }
        c->kern->yinyang_update(lanes, some, n_some, d, &g->bound_scale, c->square, searched, c->drift + panel,
                                c->bounds + panel, g->groups, most);
    }
    for (int s = 0; s < n_some; s++) {
        const int row = some[s];
        const float least = c->square[row] - fpq_slack(c->square[row], d, &g->bound_scale);
        nearer[found] = (uint8_t)row;
        found += !(2 * most[row] < least - c->errors[row]);
    }
    return found;
}

/* Whether the bytes of the listed rows can tell centroids at the rows' distances apart. */
static int tell_apart(const float *margins, const float *errors, const uint8_t *rows, int n) {
    float margin = 0, error = 0;
    for (int i = 0; i < n; i++) {
        margin += margins[rows[i]];
        error += errors[rows[i]];
    }
    return 8 * margin < error;
}

static size_t found_size(int d) { return fpq_lines((size_t)FPQ_ROW_BATCH * (size_t)d * sizeof(float)); }

size_t fpq_yinyang_scratch(const fpq_codebooks *cb) { return fpq_nearest_scratch(cb) + found_size(cb->dsub); }

void fpq_yinyang_nearest(const fpq_assignment *a, const grouped *g, int32_t *ids, float *errors, uint16_t *bounds,
                         const uint16_t *drift) {
    const fpq_kernels *kern = a->kern;
    const int d = g->packed->d, n = a->n;
    char *scratch = a->scratch + fpq_decide_scratch(g->packed->k, d); /* the front is fpq_decide's */
    float square[FPQ_ROW_BATCH], *products = (float *)(void *)(scratch + found_size(d));
    uint64_t doubts[FPQ_ROW_BATCH];
    uint8_t rows[FPQ_ROW_BATCH];
    int known = 1, pairs = 0, count = 0;
    chunk c = {.kern = kern,
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
               .found = (float *)(void *)scratch,
               .products = products};
    for (int i = 0; i < n; i++) known &= ids[i] >= 0;
    if (known) {
        kern->yinyang_filter(a->x, a->ldx, n, d, &g->bound_scale, g->packed->rows, ids, bounds, drift, g->groups,
                             square, errors, doubts);
        for (int i = 0; i < n; i++) pairs += fpq_popcount(doubts[i]);
    } else {
        kern->squares(a->x, a->ldx, n, d, square);
    }
    const int by_group = known && pairs <= n * g->groups * 5 / 8;
    for (int i = 0; i < n; i++) {
        rows[count] = (uint8_t)i;
        count += !by_group || doubts[i];
    }
    fpq_int8_rows bytes;
    if (g->has_int8) {
        fpq_int8_rows_place((char *)(products + FPQ_BYTE_TILE * fpq_products_ld(g->packed->k)), FPQ_ROW_BATCH,
                            &g->packed->bytes, &bytes);
        fpq_products_start(products, g->packed->k);
        for (int i = 0; i < count; i++) fpq_int8_rows_put(kern, &bytes, rows[i], a->x + rows[i] * a->ldx, d);
        if (!known || tell_apart(bytes.margin, errors, rows, count)) c.bytes = &bytes;
    }
    if (by_group) count = search_groups(&c, doubts, rows);
    (c.bytes ? search_all_bytes : search_all)(&c, rows, count);
    for (int i = 0; i < n; i++) errors[i] = fpq_sure_error(a, i, ids[i], square[i], errors[i]);
}

void fpq_add_drift(const grouped *g, const float *before, const float *centroids, int dsub, uint16_t *drift) {
    const int d = g->packed->d;
    uint16_t ways[MOST_GROUPS] = {0};
    for (int32_t c = 0; c < g->packed->k; c++) {
        const float *from = before + (ptrdiff_t)c * dsub, *to = centroids + (ptrdiff_t)c * dsub;
        double square = 0;
        for (int t = 0; t < d; t++) square += ((double)to[t] - from[t]) * ((double)to[t] - from[t]);
        const uint16_t way =
            square > 0 ? fpq_quantized_distance((float)sqrt(square) * (1 + 1e-6f) * g->bound_scale.per_unit + 1) : 0;
        if (way > ways[group_of(g, c)]) ways[group_of(g, c)] = way;
    }
    for (int group = 0; group < g->groups; group++)
        drift[group] = fpq_quantized_distance((float)drift[group] + (float)ways[group]);
}
