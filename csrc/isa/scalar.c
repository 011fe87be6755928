/* SPDX-License-Identifier: MIT
 * The specification of every kernel, in plain C. The other instruction sets are tested against it. */
#include <math.h>

#include "kernels.h"
#include "portable.h"

#define FPQ_ISA scalar
#define FPQ_FAST_SIEVE 0
#define FPQ_GROUPS 256
#define FPQ_FAST_BYTES 0
#include "isa/plain.inc"
#include "assign/bytes_plain.inc"

/* Products with one block of columns, with and without rounding the products first as table_l2 asks: plain C rounds. */
static void project(const float *x, int n, int d, const float *packed, const float *bias, int n_blocks, float *out,
                    ptrdiff_t ld_out) {
    for (int i = 0; i < n; i++)
        for (int b = 0; b < n_blocks; b++) {
            float sum[FPQ_BLOCK];
            for (int c = 0; c < FPQ_BLOCK; c++) sum[c] = bias ? bias[b * FPQ_BLOCK + c] : 0;
            for (int t = 0; t < d; t++)
                for (int c = 0; c < FPQ_BLOCK; c++)
                    sum[c] += x[(ptrdiff_t)i * d + t] * packed[((ptrdiff_t)b * d + t) * FPQ_BLOCK + c];
            for (int c = 0; c < FPQ_BLOCK; c++) out[i * ld_out + b * FPQ_BLOCK + c] = sum[c];
        }
}

static void nearest(const float *x, ptrdiff_t ldx, int n, int d, const float *packed, const float *bias, int n_blocks,
                    int32_t first_id, float *best, float *second, int32_t *id, float *lanes) {
    for (int i = 0; i < n; i++)
        for (int b = 0; b < n_blocks; b++) {
            float score[FPQ_BLOCK];
            project(x + i * ldx, 1, d, packed + (ptrdiff_t)b * d * FPQ_BLOCK, bias + b * FPQ_BLOCK, 1, score, 0);
            for (int c = 0; c < FPQ_BLOCK; c++)
                if (score[c] > best[i]) {
                    second[i] = best[i];
                    best[i] = score[c];
                    id[i] = first_id + b * FPQ_BLOCK + c;
                } else if (score[c] > second[i]) {
                    second[i] = score[c];
                }
            for (int c = 0; lanes && c < FPQ_BLOCK; c++)
                if (score[c] > lanes[i * FPQ_BLOCK + c]) lanes[i * FPQ_BLOCK + c] = score[c];
        }
}

static void largest(const float *x, ptrdiff_t ldx, const uint8_t *rows, int n, int d, const float *packed,
                    const float *bias, int n_blocks, const int32_t *own, int32_t first, float *out) {
    for (int i = 0; i < n; i++) {
        float *most = out + rows[i] * FPQ_BLOCK, score[FPQ_BLOCK];
        *most = -INFINITY;
        for (int b = 0; b < n_blocks; b++) {
            project(x + rows[i] * ldx, 1, d, packed + (ptrdiff_t)b * d * FPQ_BLOCK, bias + b * FPQ_BLOCK, 1, score, 0);
            for (int c = 0; c < FPQ_BLOCK; c++)
                if (score[c] > *most && first + b * FPQ_BLOCK + c != own[rows[i]]) *most = score[c];
        }
    }
}

static void lower(const float *distance, int n, int keep, float *FPQ_RESTRICT left, float *FPQ_RESTRICT sum) {
    float sums[16] = {0};
    for (int i = 0; i < n; i++) {
        const float *row = distance + i * 16;
        const float now = keep >= 0 && row[keep] < left[i] ? row[keep] : left[i];
        left[i] = now;
        for (int t = 0; t < 16; t++) sums[t] += row[t] < now ? row[t] : now;
    }
    for (int t = 0; t < 16; t++) sum[t] = sums[t];
}

static void table_l2(const float *q, ptrdiff_t ldq, int n, int d, const float *packed, int n_blocks,
                     float *const *out) {
    for (int i = 0; i < n; i++)
        for (int c = 0; c < n_blocks * FPQ_BLOCK; c++) {
            const float *column = packed + (ptrdiff_t)(c / FPQ_BLOCK) * d * FPQ_BLOCK + c % FPQ_BLOCK;
            float sum = 0;
            for (int t = 0; t < d; t++) {
                const float difference = q[i * ldq + t] - column[t * FPQ_BLOCK];
                sum += difference * difference;
            }
            out[i][c] = sum;
        }
}

static void table_ip(const float *q, ptrdiff_t ldq, int n, int d, const float *packed, int n_blocks,
                     float *const *out) {
    for (int i = 0; i < n; i++)
        for (int c = 0; c < n_blocks * FPQ_BLOCK; c++) {
            const float *column = packed + (ptrdiff_t)(c / FPQ_BLOCK) * d * FPQ_BLOCK + c % FPQ_BLOCK;
            float sum = 0;
            for (int t = 0; t < d; t++) sum += q[i * ldq + t] * column[t * FPQ_BLOCK];
            out[i][c] = 0 - sum;
        }
}

static void rough_l2(const float *q, ptrdiff_t ldq, int n, int d, const float *packed, const float *half, int n_blocks,
                     float *const *out, float *least) {
    table_ip(q, ldq, n, d, packed, n_blocks, out);
    for (int i = 0; i < n; i++) {
        least[i] = INFINITY;
        for (int c = 0; c < n_blocks * FPQ_BLOCK; c++) {
            out[i][c] = 2 * ((half ? half[c] : 0) + out[i][c]);
            least[i] = out[i][c] < least[i] ? out[i][c] : least[i];
        }
    }
}

static void survey(const float *x, int n, float *out) {
    out[0] = out[1] = x[0];
    out[2] = 0;
    for (int i = 0; i < n; i++) {
        out[0] = x[i] < out[0] ? x[i] : out[0];
        out[1] = x[i] > out[1] ? x[i] : out[1];
        out[2] += x[i];
    }
}

static void add_saturating(uint8_t *sum, uint8_t entry) { *sum = (uint8_t)(*sum + entry < 255 ? *sum + entry : 255); }

static uint64_t near_rows(const uint8_t *sums) {
    uint64_t near = 0;
    for (int r = 0; r < 64; r++) near |= (uint64_t)(sums[r] <= FPQ_SIEVE_LIMIT) << r;
    return near;
}

static void sieve8(const fpq_sieve *sieve, const uint8_t *blocks, int code_size, const int32_t *which, int n,
                   uint8_t *sums, uint64_t *near) {
    for (int i = 0; i < n; i++) {
        const uint8_t *codes = blocks + (ptrdiff_t)which[i] * 64 * code_size;
        for (int o = 0; o < sieve->n; o++)
            for (int r = 0, j = sieve->order[o]; r < 64; r++)
                add_saturating(sums + i * 64 + r,
                               sieve->entries[j * sieve->groups + FPQ_GROUP(codes[j * 64 + r], sieve->groups)]);
        near[i] = near_rows(sums + i * 64);
    }
}

static void sieve4(const fpq_sieve *sieve, const uint8_t *blocks, int code_size, const int32_t *which, int n,
                   uint8_t *sums, uint64_t *near) {
    for (int i = 0; i < n; i++) {
        const uint8_t *codes = blocks + (ptrdiff_t)which[i] * 64 * code_size;
        for (int o = 0; o < sieve->n; o++)
            for (int r = 0, j = sieve->order[o]; r < 64; r++)
                add_saturating(sums + i * 64 + r, sieve->entries[j * 16 + (codes[j / 2 * 64 + r] >> j % 2 * 4 & 15)]);
        near[i] = near_rows(sums + i * 64);
    }
}

static void quantize(const float *x, int n, float least, float scale, uint8_t *out) {
    quantize_from(x, 0, n, least, scale, out);
}

static void steps(const float *x, int n, float least, float scale, uint16_t *out) {
    steps_from(x, 0, n, least, scale, out);
}

static void quantize_steps(const uint16_t *x, int n, int least, int factor, uint8_t *out) {
    quantize_steps_from(x, 0, n, least, factor, out);
}

static void group_least(const float *x, int groups, int members, float *out) {
    for (int g = 0; g < groups; g++) out[g] = INFINITY;
    for (int c = 0; c < groups * members; c++) {
        float *least = out + FPQ_GROUP(c, groups);
        *least = x[c] < *least ? x[c] : *least;
    }
}

static int group_sums(const uint16_t *x, const uint16_t *y, int groups, int members, uint16_t *out) {
    int all = 65535;
    for (int g = 0; g < groups; g++) out[g] = 65535;
    for (int c = 0; c < groups * members; c++) {
        uint16_t *least = out + FPQ_GROUP(c, groups);
        const int sum = x[c] + y[c];
        *least = (uint16_t)(sum < *least ? sum : *least);
        all = sum < all ? sum : all;
    }
    return all;
}

static uint64_t bytes_at_most(const uint8_t *x, int limit) {
    uint64_t bits = 0;
    for (int i = 0; i < 64; i++) bits |= (uint64_t)(x[i] <= limit) << i;
    return bits;
}

static int kth_byte(const uint8_t *x, const uint64_t *rows, int n, int k) {
    int counts[256] = {0}, byte = 0;
    for (int i = 0; i < 64 * n; i++) counts[x[i]] += (int)(rows[i / 64] >> i % 64 & 1);
    for (int seen = counts[0]; seen < k; seen += counts[byte]) byte++;
    return byte;
}

static uint64_t at_most(const float *x, float limit) {
    uint64_t bits = 0;
    for (int i = 0; i < 64; i++) bits |= (uint64_t)(x[i] <= limit) << i;
    return bits;
}

static uint64_t at_least(const float *x, float shift, const float *least) {
    uint64_t bits = 0;
    for (int i = 0; i < 64; i++) bits |= (uint64_t)(x[i] + shift >= least[i]) << i;
    return bits;
}

static uint64_t near_sketches(const int16_t *q, const uint8_t *codes, int size, int n, int32_t limit) {
    uint64_t near = 0;
    for (int i = 0; i < n; i++) {
        int32_t sum = 0;
        for (int t = 0; t < size; t++) sum += (q[t] - 4 * codes[i * size + t]) * (q[t] - 4 * codes[i * size + t]);
        near |= (uint64_t)(sum <= limit) << i;
    }
    return near;
}

#define PAIR(name, type, term)                                \
    static float name(const float *q, const type *x, int d) { \
        float sum = 0;                                        \
        for (int t = 0; t < d; t++) sum += term;              \
        return sum;                                           \
    }
PAIR(l2_f32, float, (q[t] - x[t]) * (q[t] - x[t]))
PAIR(l2_u8, uint8_t, (q[t] - (float)x[t]) * (q[t] - (float)x[t]))
PAIR(ip_f32, float, q[t] * x[t])
PAIR(ip_u8, uint8_t, q[t] * (float)x[t])

static void transpose(const float *x, ptrdiff_t ldx, int n, int d, float *out, int ldo) {
    for (int t = 0; t < d; t++)
        for (int i = 0; i < ldo; i++) out[(ptrdiff_t)t * ldo + i] = i < n ? x[i * ldx + t] : 0;
}

static void nearest_of_rows(const float *x, int n, int d, const float *packed, const float *bias, int n_blocks,
                            int32_t first_id, float *best, float *second, int32_t *id, float *square) {
    for (int i = 0; i < n; i++) square[i] = 0;
    for (int t = 0; t < d; t++)
        for (int i = 0; i < n; i++) square[i] += x[(ptrdiff_t)t * n + i] * x[(ptrdiff_t)t * n + i];
    for (int c = 0; c < n_blocks * FPQ_BLOCK; c++) {
        const float *column = packed + (ptrdiff_t)(c / FPQ_BLOCK) * d * FPQ_BLOCK + c % FPQ_BLOCK;
        float sum[FPQ_ASSIGN_ROWS];
        for (int i = 0; i < n; i++) sum[i] = bias[c];
        for (int t = 0; t < d; t++)
            for (int i = 0; i < n; i++) sum[i] += x[(ptrdiff_t)t * n + i] * column[t * FPQ_BLOCK];
        for (int i = 0; i < n; i++) {
            const float less = sum[i] > best[i] ? best[i] : sum[i];
            second[i] = less > second[i] ? less : second[i];
            id[i] = sum[i] > best[i] ? first_id + c : id[i];
            best[i] = sum[i] > best[i] ? sum[i] : best[i];
        }
    }
}

static void squares(const float *x, ptrdiff_t ldx, int n, int d, float *out) {
    for (int i = 0; i < n; i++) out[i] = ip_f32(x + i * ldx, x + i * ldx, d);
}

static void square_and_error(const float *x, const float *own, int d, float *square, float *error) {
    *square = ip_f32(x, x, d);
    *error = l2_f32(x, own, d);
}
static unsigned near_groups(const uint16_t *bounds, const uint16_t *drift, uint16_t reach) {
    unsigned bits = 0;
    for (int g = 0; g < 16; g++) {
        const int limit = drift[g] + reach < 65535 ? drift[g] + reach : 65535;
        bits |= (unsigned)(bounds[g] <= limit) << g;
    }
    return bits;
}
#include "kmeans/bounds.inc"

static void bound(const float *lanes, const uint8_t *rows, int n, int d, const fpq_ruler *ruler, const float *square,
                  const uint16_t *searched, const uint16_t *drift, uint16_t *bounds, ptrdiff_t ld, float *most) {
    for (int i = 0; i < n; i++) {
        const int r = rows[i];
        const float least = square[r] - fpq_slack(square[r], d, ruler), *lane = lanes + r * 16;
        uint16_t *to = bounds + r * ld;
        float largest = most[r];
        for (int c = 0; c < 16; c++) {
            const int take = searched[r] >> c & 1;
            const uint16_t new = fpq_bound(least, lane[c], ruler->per_unit, drift[c]);
            to[c] = take ? new : to[c];
            largest = lane[c] > largest ? lane[c] : largest;
        }
        most[r] = largest;
    }
}

#include "isa/table.inc"
