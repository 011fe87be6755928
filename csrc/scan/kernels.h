/* SPDX-License-Identifier: MIT
 * Scans of blocks of codes. A contract per kernel; scan/scalar.inc is its specification. */
#ifndef FPQ_SCAN_KERNELS_H
#define FPQ_SCAN_KERNELS_H

#include "fpq.h"
#include "portable.h"

enum {
    FPQ_MAX_ENTRIES = 256, /* per table that is quantized */
    FPQ_MAX_BYTE_SUM = 254 /* the largest sum in 8 bits that tells that nothing was cut */
};

/* Byte tables of a query (fpq_lut8). Plane p of a code block is byte p of its 64 codes: sub-code
 * p of 8 bits, or sub-codes 2p and 2p + 1 of 4 bits. */
typedef struct {
    const uint8_t *entries; /* (m, code_groups); an odd number of 4-bit codes has one more table, of zeros */
    int code_groups;        /* 8-bit codes: 256, 64 or 32: FPQ_CODE_GROUP; 4-bit codes: 16 */
    int planes;
    int partial_sums; /* see fpq_lut8 */
    int shift;        /* for the sums of prune_lut8 and prune_lut4 */
} fpq_prune_lut;

/* Sub-code j of a row of 8- or 4-bit codes, 64 bytes apart. */
FPQ_INLINE int fpq_sub_code(int nbits, const uint8_t *codes, int j) {
    return nbits == 8 ? codes[j * 64] : codes[j / 2 * 64] >> j % 2 * 4 & 15;
}

#define FPQ_SCAN_KERNELS(X)                                                                                           \
    /* The sums of table entries, added in the order 0..m-1, of the 64 codes of one block (layout: scan/codes.c). */  \
    X(void, adc, (const float *table, int ld_table, int m, int nbits, const uint8_t *codes, float *out))              \
    /* The sum of entries of table_l2 of one row of 4- or 8-bit codes, 64 bytes apart, added in the order 0..m-1: the \
     * same bits. */                                                                                                  \
    X(float, code_l2, (const fpq_adc *adc, const float *q, const uint8_t *codes))                                     \
    /* For each of n blocks of 64 codes, blocks[block_ids[i]]: adds the entries of each code in partial sums, and     \
     * clears bit r of rows[i] where the sum of row r is above limits[i] (at most FPQ_MAX_BYTE_SUM with one partial   \
     * sum). The sums >> shift of the rows that stay, which are to be bytes, go to sums (n, 64) unless that is NULL.  \
     */                                                                                                               \
    X(void, prune_lut8,                                                                                               \
      (const fpq_prune_lut *lut, const uint8_t *blocks, int code_size, const int32_t *block_ids, int n,               \
       const uint16_t *limits, uint8_t *sums, uint64_t *rows))                                                        \
    X(void, prune_lut4,                                                                                               \
      (const fpq_prune_lut *lut, const uint8_t *blocks, int code_size, const int32_t *block_ids, int n,               \
       const uint16_t *limits, uint8_t *sums, uint64_t *rows))                                                        \
    /* Bit i is set where x[i] <= threshold, 64 numbers. */                                                           \
    X(uint64_t, at_most, (const float *x, float threshold))                                                           \
    /* The k-th smallest of 64 n bytes without those whose bit in rows (n) is not set. */                             \
    X(int, kth_byte, (const uint8_t *x, const uint64_t *rows, int n, int k))                                          \
    /* Bit i is set where x[i] <= threshold < 255, 64 bytes. */                                                       \
    X(uint64_t, bytes_at_most, (const uint8_t *x, int threshold))

#endif
