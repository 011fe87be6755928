/* SPDX-License-Identifier: MIT
 * The kernels: one line each. Every instruction set fills one complete table of them. Kernels run on one thread,
 * allocate nothing and check nothing; isa/scalar.c is their specification.
 *
 * Words used below
 *   block    16 columns (centroids, queries, ...), the unit of packing, the same for every instruction set
 *   packed   columns laid out [block][d][16], padded with zeros; on a 64-byte boundary (fpq_pack)
 *   bias     one number a column, padded with -inf
 */
#ifndef FPQ_KERNELS_H
#define FPQ_KERNELS_H

#include "fpq.h"
#include "portable.h"

#define FPQ_BLOCK 16
#define FPQ_BLOCKS(k) (((k) + FPQ_BLOCK - 1) / FPQ_BLOCK)

enum {
    FPQ_ASSIGN_ROWS = 96,
    FPQ_ROWS_TILE = 48
}; /* rows that are assigned at a time; that nearest_of_rows takes together */

/* A query's tables in bytes, for the sieve: floor((entry - least of its table) * scale), at most 255. */
typedef struct {
    const uint8_t *entries; /* (m, groups) */
    int groups;             /* 8-bit codes: 256, or 64: FPQ_GROUP; 4-bit codes: 16 */
    const int32_t *order;   /* the subquantizers to add up */
    int n;                  /* how many */
} fpq_sieve;

/* How bounds of distances are counted. */
typedef struct {
    float radius;   /* squared: no centroid is farther from the origin */
    float per_unit; /* times a distance: units */
} fpq_ruler;

/* Columns in bytes: scale times whole numbers up to 127 in size. */
typedef struct {
    const int8_t *packed; /* (blocks, d / 4, 16, 4) */
    const int32_t *start; /* -128 times the sum of a column's numbers */
    const float *scale, *bias;
    int d; /* a multiple of 4 */
} fpq_byte_columns;

/* Sub-code j of a row of 8- or 4-bit codes, 64 bytes apart. */
FPQ_INLINE int fpq_sub_code(int nbits, const uint8_t *codes, int j) {
    return nbits == 8 ? codes[j * 64] : codes[j / 2 * 64] >> j % 2 * 4 & 15;
}

/* The group of an 8-bit code: the four that are alike but for bits 4 and 5 may share an entry. */
#define FPQ_GROUP(code, groups) ((groups) == 64 ? ((code) & 15) | ((code) >> 2 & 48) : (code))

enum {
    FPQ_TABLES = 4,
    FPQ_MOST_ENTRIES = 256
}; /* tables that are made in one pass; entries of a table that the sieve knows */

/* Sums of bytes up to this pass the sieve. */
enum { FPQ_SIEVE_LIMIT = 254 };

#define FPQ_KERNELS(X)                                                                                                 \
    /* out[i] = float32(x[row i][from:to]) - offset, n rows; row i is rows[first + i], or first + i if rows is NULL;   \
     * offset (to - from numbers) may be NULL. */                                                                      \
    X(void, read_rows,                                                                                                 \
      (const fpq_matrix *x, const int64_t *rows, int64_t first, int n, int from, int to, const float *offset,          \
       float *out))                                                                                                    \
    /* 1 if any of the n numbers is NaN or infinite. */                                                                \
    X(int, has_nonfinite, (const float *x, ptrdiff_t n))                                                               \
    /* out (d, ldo) = x (n, d), rows ldx apart, as columns; columns n .. ldo - 1 are zero. ldo is a multiple of 16. */ \
    X(void, transpose, (const float *x, ptrdiff_t ldx, int n, int d, float *out, int ldo))                             \
    /* The column with the largest x.c + bias of each of n rows of d numbers, ldx apart, and the second largest x.c +  \
     * bias. best, second (start at -inf) and id are updated, so panels of columns can follow one another. Ties go to  \
     * any of the columns. lanes (n, 16) unless NULL: raised to x.c + bias of every column = lane modulo 16; may be    \
     * higher. */                                                                                                      \
    X(void, nearest,                                                                                                   \
      (const float *x, ptrdiff_t ldx, int n, int d, const float *packed, const float *bias, int n_blocks,              \
       int32_t first_id, float *best, float *second, int32_t *id, float *lanes))                                       \
    /* The same of n rows that stand in columns, x (d, n): n is a multiple of FPQ_ROWS_TILE,                           \
     * n is at most FPQ_ASSIGN_ROWS. square[i] is the squared length of row i. */                                      \
    X(void, nearest_of_rows,                                                                                           \
      (const float *x, int n, int d, const float *packed, const float *bias, int n_blocks, int32_t first_id,           \
       float *best, float *second, int32_t *id, float *square))                                                        \
    /* out[i] = the squared length of row i, added in any order. */                                                    \
    X(void, squares, (const float *x, ptrdiff_t ldx, int n, int d, float *out))                                        \
    /* out[r * 16] = the largest x.c + bias of row r of x, ldx apart, for the n listed r; column own[r] - first is     \
     * left out. */                                                                                                    \
    X(void, largest,                                                                                                   \
      (const float *x, ptrdiff_t ldx, const uint8_t *rows, int n, int d, const float *packed, const float *bias,       \
       int n_blocks, const int32_t *own, int32_t first, float *out))                                                   \
    /* Bounds of k-means (kmeans/bounds.h). Of each row: squared norm, squared distance to its own centroid, and a bit \
     * for each group whose bound does not tell that all its other centroids are farther. */                           \
    X(void, doubt,                                                                                                     \
      (const float *x, ptrdiff_t ldx, int n, int d, const fpq_ruler *ruler, const float *centroids, const int32_t *id, \
       const uint16_t *bounds, const uint16_t *drift, int groups, float *square, float *error, uint64_t *doubts))      \
    /* The new bounds of 16 groups of the n listed rows r, of which lanes[r * 16 .. + 15] are the largest products:    \
     * those with a bit in searched[r]; most[r] is raised to the largest of them. bounds[r * ld .. + 15]. */           \
    X(void, bound,                                                                                                     \
      (const float *lanes, const uint8_t *rows, int n, int d, const fpq_ruler *ruler, const float *square,             \
       const uint16_t *searched, const uint16_t *drift, uint16_t *bounds, ptrdiff_t ld, float *most))                  \
    /* out[i][c] = x.c + bias[c]: the same sums, bit for bit, that nearest compares. */                                \
    X(void, project,                                                                                                   \
      (const float *x, int n, int d, const float *packed, const float *bias, int n_blocks, float *out,                 \
       ptrdiff_t ld_out))                                                                                              \
    /* x[t] = step * (bytes[t] - 128) + rest[t] but for rounding, bytes from 1 to 255; returns step. */                \
    X(float, to_bytes, (const float *x, int d, uint8_t *bytes, float *rest))                                           \
    /* Products of the n listed rows r of bytes, x[r * d], with the columns of n_blocks blocks: out[i * ld_out + c] =  \
     * the sum over t of (x[r][t] - 128) * c[t], times scale, times step[r], plus bias. lanes[r * 16 + l] is raised to \
     * those of columns c = l modulo 16. */                                                                            \
    X(void, project_bytes,                                                                                             \
      (const uint8_t *x, const float *step, const uint8_t *rows, int n, const fpq_byte_columns *columns, int block,    \
       int n_blocks, float *out, ptrdiff_t ld_out, float *lanes))                                                      \
    /* Of the same products of n_blocks <= 4 blocks, but for column own[r] - first: bit c of near[i] is set where the  \
     * one of column c is at least least[r]; out[r * 16] = the largest of the others. */                               \
    X(void, largest_bytes,                                                                                             \
      (const uint8_t *x, const float *step, const uint8_t *rows, int n, const fpq_byte_columns *columns, int block,    \
       int n_blocks, const int32_t *own, int32_t first, const float *least, float *out, uint64_t *near))               \
    /* sum[id[i]][:] += x[i][:] - centroids[id[i]][:], count[id[i]] += 1; centroids and sums are d numbers apart. */   \
    X(void, accumulate,                                                                                                \
      (const float *x, ptrdiff_t ldx, int n, int d, const float *centroids, const int32_t *id, float *sum,             \
       int32_t *count))                                                                                                \
    /* left[i] = min(left[i], distance[i][keep]) unless keep < 0, then sum[t] = sum over i < n of min(left[i],         \
     * distance[i][t]); distance (n, 16). */                                                                           \
    X(void, lower, (const float *distance, int n, int keep, float *left, float *sum))                                  \
    /* Tables of n <= FPQ_TABLES queries, ldq apart: out[i][c] = sum over t of (q[i][t] - c[t])^2, added in the order  \
     * of t, each product rounded (no fused multiply-add), so that every instruction set gives the same bits. */       \
    X(void, table_l2,                                                                                                  \
      (const float *q, ptrdiff_t ldq, int n, int d, const float *packed, int n_blocks, float *const *out))             \
    /* out[i][c] = -(sum over t of q[i][t] * c[t]), in the same way. */                                                \
    X(void, table_ip,                                                                                                  \
      (const float *q, ptrdiff_t ldq, int n, int d, const float *packed, int n_blocks, float *const *out))             \
    /* out[i][c] = 2 (half[c] - the sum over t of q[i][t] * c[t]), in any order and with fused multiply-adds; and the  \
     * least of each: where half[c] = |c|^2 / 2, table_l2 less |q[i]|^2 but for rounding. A half that is NULL is 0. */ \
    X(void, rough_l2,                                                                                                  \
      (const float *q, ptrdiff_t ldq, int n, int d, const float *packed, const float *half, int n_blocks,              \
       float *const *out, float *least))                                                                               \
    /* The sums of table entries, added in the order 0..m-1, of the 64 codes of one block (layout: scan/codes.c). */   \
    X(void, adc, (const float *table, int ld_table, int m, int nbits, const uint8_t *codes, float *out))               \
    /* The sum of entries of table_l2 of one row of 4- or 8-bit codes, 64 bytes apart, added in the order 0..m-1: the  \
     * same bits. */                                                                                                   \
    X(float, code_l2, (const fpq_adc *adc, const float *q, const uint8_t *codes))                                      \
    /* The least and the largest of n >= 1 numbers, and their sum, added in any order. */                              \
    X(void, survey, (const float *x, int n, float *least_largest_sum))                                                 \
    /* out[i] = floor((x[i] - least) * scale), at most 255; x[i] >= least. */                                          \
    X(void, quantize, (const float *x, int n, float least, float scale, uint8_t *out))                                 \
    /* out[i] = floor((x[i] - least) * scale), at most 32767; x[i] >= least. */                                        \
    X(void, steps, (const float *x, int n, float least, float scale, uint16_t *out))                                   \
    /* out[FPQ_GROUP(c)] = the least x[c] of the group; 4 members a group, or 1. */                                    \
    X(void, group_least, (const float *x, int groups, int members, float *out))                                        \
    /* The same of x[c] + y[c], sums below 65536; the least of all is returned. */                                     \
    X(int, group_sums, (const uint16_t *x, const uint16_t *y, int groups, int members, uint16_t *out))                 \
    /* out[i] = (x[i] - least) * factor / 65536 rounded down, at most 255; x[i] >= least, factor < 65536. */           \
    X(void, quantize_steps, (const uint16_t *x, int n, int least, int factor, uint8_t *out))                           \
    /* For each of n blocks of 64 codes, blocks[which[i]]: sums[i] (64 bytes) += the entries of its codes, saturating  \
     * at 255; bit r of near[i] is set where the sum of row r is at most FPQ_SIEVE_LIMIT. */                           \
    X(void, sieve8,                                                                                                    \
      (const fpq_sieve *sieve, const uint8_t *blocks, int code_size, const int32_t *which, int n, uint8_t *sums,       \
       uint64_t *near))                                                                                                \
    X(void, sieve4,                                                                                                    \
      (const fpq_sieve *sieve, const uint8_t *blocks, int code_size, const int32_t *which, int n, uint8_t *sums,       \
       uint64_t *near))                                                                                                \
    /* Bit i is set where x[i] <= limit, 64 numbers. */                                                                \
    X(uint64_t, at_most, (const float *x, float limit))                                                                \
    /* The k-th smallest of 64 n bytes without those whose bit in rows (n) is not set. */                              \
    X(int, kth_byte, (const uint8_t *x, const uint64_t *rows, int n, int k))                                           \
    /* Bit i is set where x[i] <= limit < 255, 64 bytes. */                                                            \
    X(uint64_t, bytes_at_most, (const uint8_t *x, int limit))                                                          \
    /* Bit i is set where x[i] + shift >= least[i], 64 numbers. */                                                     \
    X(uint64_t, at_least, (const float *x, float shift, const float *least))                                           \
    /* Bit i of n <= 64 is set where the sum over t of (q[t] - 4 codes[i * size + t])^2 is at most limit. */           \
    X(uint64_t, near_sketches, (const int16_t *q, const uint8_t *codes, int size, int n, int32_t limit))               \
    /* counts[r] = how many of the m < 256 codes of row r are low[j], low[j] + 1, ... or high[j] modulo 256, one block \
     * (m, 64); bit r is set where it is at least `least`. */                                                          \
    X(uint64_t, collisions,                                                                                            \
      (const uint8_t *codes, int m, const uint8_t *low, const uint8_t *high, int least, uint8_t *counts))              \
    /* Squared L2 distance and inner product of a float32 query with one stored row. */                                \
    X(float, l2_f32, (const float *q, const float *x, int d))                                                          \
    X(float, l2_u8, (const float *q, const uint8_t *x, int d))                                                         \
    X(float, ip_f32, (const float *q, const float *x, int d))                                                          \
    X(float, ip_u8, (const float *q, const uint8_t *x, int d))

#define FPQ_MEMBER(type, name, args) type(*name) args;
typedef struct {
    const char *isa;
    int fast_sieve; /* whether sieve4 and sieve8 are faster than adc */
    int groups;     /* entries of sieve8's tables */
    int fast_bytes; /* whether products of bytes are faster than those of floats */
    FPQ_KERNELS(FPQ_MEMBER)
} fpq_kernels;

extern const fpq_kernels fpq_kernels_scalar, fpq_kernels_avx2, fpq_kernels_avx512bw, fpq_kernels_avx512,
    fpq_kernels_neon;

/* The table in use. Take it once before a loop. */
const fpq_kernels *fpq_active(void);

#endif
