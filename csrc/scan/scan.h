/* SPDX-License-Identifier: MIT
 * What the searches over codes share: a few blocks of 64 codes at a time, wherever they lie, against one query. */
#ifndef FPQ_RUN_H
#define FPQ_RUN_H

#include "lut/lut.h"
#include "results.h"

enum { FPQ_BLOCK_RUN = 32 };

typedef struct {
    const fpq_kernels *kern;
    const fpq_adc *adc;
    const uint8_t *blocks;
    int code_size;
    int prunes; /* whether the sieve pays */
} fpq_scan;

fpq_scan fpq_scan_of(const fpq_adc *adc, const uint8_t *blocks);

/* Offers the wanted rows of n <= FPQ_BLOCK_RUN blocks to top: bit r of rows[i] is row r of block which[i], 64 which[i]
 * + r to top. Overwrites both. */
void fpq_scan_blocks(const fpq_scan *scan, fpq_lut *query, int32_t *which, uint64_t *rows, int n, fpq_topk *top);

#endif
