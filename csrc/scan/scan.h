/* SPDX-License-Identifier: MIT
 * The scan of code blocks: up to 32 blocks of 64 codes, wherever they lie, with the look-up tables of one query. What
 * it finds goes to the query's results, which say by their threshold what they still want: top-k and radius alike. */
#ifndef FPQ_SCAN_H
#define FPQ_SCAN_H

#include "lut/lut.h"
#include "results.h"

enum { FPQ_BLOCK_RUN = 32 };

/* Bytes of codes and tables that pay for a thread, as a parallel region takes at least some microseconds, and far more
 * where threads sleep or wait for a CPU. */
#ifdef FPQ_SELFTEST
enum { FPQ_THREAD_BYTES = 256 };
#else
enum { FPQ_THREAD_BYTES = 256 << 10 };
#endif

typedef struct {
    const fpq_kernels *kern;
    const fpq_adc *adc;
    const uint8_t *blocks;
    int code_size;
    int prunes;   /* whether pruning by bytes is faster than exact sums of all rows */
    int by_pairs; /* whether pairs of code groups prune first: pays where few rows are near, not in inverted lists */
} fpq_scan;

fpq_scan fpq_scan_of(const fpq_adc *adc, const uint8_t *blocks);

/* Up to FPQ_BLOCK_RUN code blocks: bit r of rows[i] is row r of block block_ids[i]. */
typedef struct {
    int n;
    int has_offsets; /* lut->offset is 0, and distances in block i are offsets[i] more than the sums of entries */
    int32_t block_ids[FPQ_BLOCK_RUN];
    uint64_t rows[FPQ_BLOCK_RUN];
    float offsets[FPQ_BLOCK_RUN];
} fpq_run;

/* Offers the rows of a run to the results, row r of block b as 64 * b + r, and empties the run. */
void fpq_scan_run(const fpq_scan *scan, fpq_lut *lut, fpq_run *run, fpq_results *results);

#endif
