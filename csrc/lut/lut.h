/* SPDX-License-Identifier: MIT
 * A query's look-up tables: for each subquantizer the distances of the query's sub-vector to all codewords. The
 * distance of a code (ADC) is the sum of one entry per table. A second form in bytes prunes: rows whose bytes add up to
 * more than a threshold's need no exact distance. After PQ Fast Scan (Andre, Kermarrec, Le Scouarnec, VLDB 2015). */
#ifndef FPQ_LUT_H
#define FPQ_LUT_H

#include "isa/kernels.h"

typedef enum {
    FPQ_LUT_EXACT,      /* entries by table_l2 or table_ip: their sums are the distances */
    FPQ_LUT_APPROX,     /* L2 entries by products, without |q|^2: cheaper to make, with a bound of the error */
    FPQ_LUT_PRECOMPUTED /* L2 entries as sums of a list's and a query's uint16 terms (lut/precomputed.h), as well */
} fpq_lut_kind;

/* Tables in bytes, quantized for a threshold t: floor((entry - minimum of its table) * scale), at most 255. The bytes
 * of a row with a distance of at most x <= t add up to at most scale * (x - zero). The more tables there are, the more
 * is lost by rounding down; partial sums, which are added in 16 bits, leave room for a larger scale. */
typedef struct {
    int partial_sums;       /* per row; number i adds the bytes of planes i, i + partial_sums, ..., saturating at 255 */
    int max_sum;            /* the largest sum of a row with a distance of at most the threshold */
    uint8_t *group;         /* (m, code_groups): the minimum of each code group */
    uint8_t *pair;          /* (m, code_groups / 2): the lesser byte of each pair of code groups, or NULL */
    uint8_t *full;          /* (m, ld_table): every code's own; `group` itself where a group is one code */
    int has_pair, has_full; /* whether they have been made for the threshold */
    int factor;             /* precomputed: scale per step, times 65536 */
    float threshold;        /* -INFINITY: not quantized yet */
    float zero, scale;
} fpq_lut8;

typedef struct {
    const fpq_kernels *kern;
    const fpq_adc *adc;
    fpq_lut_kind kind;
    const float *query; /* approximate and precomputed: the vector that the tables are of */
    float *table;       /* (m, ld_table); precomputed: not made */
    union {
        float *group;      /* (m, code_groups): the minimum of each code group; `table` where a group is one code */
        uint16_t *group16; /* precomputed: the same in steps */
    };
    float *min;      /* (m): the minimum of each table */
    int32_t *min16;  /* (m): precomputed: the same in steps */
    float offset;    /* a distance less the sum of its entries */
    float base;      /* the sum of the minima */
    float magnitude; /* a bound of the absolute value of partial sums, beside the threshold itself */
    const uint16_t *list_term, *query_term; /* precomputed: (m, ld_table) */
    float step;                             /* precomputed: the distance that one step stands for */
    fpq_lut8 lut8;
} fpq_lut;

/* Half the squared lengths of the codewords. */
typedef struct {
    float *half;   /* (m, ld_table) */
    float longest; /* no code stands for a vector of a larger squared length */
} fpq_codeword_norms;

int fpq_ld_table(const fpq_adc *adc);
int fpq_code_groups(const fpq_kernels *kern, const fpq_adc *adc); /* entries per table in lut8.group */

size_t fpq_codeword_norms_size(const fpq_adc *adc); /* floats of memory */
fpq_codeword_norms fpq_codeword_norms_of(const fpq_kernels *kern, const fpq_adc *adc, float *memory);

/* ---- making (tables.c) ---- */
void fpq_lut8_clear(fpq_lut8 *lut8, int partial_sums, int max_sum);
size_t fpq_lut_size(const fpq_kernels *kern, const fpq_adc *adc); /* bytes of memory */
void fpq_lut_place(const fpq_kernels *kern, const fpq_adc *adc, char *memory, fpq_lut *lut);
/* Exact tables of n <= FPQ_LUT_QUERIES queries q (n, d). */
void fpq_lut_make(const float *q, int n, fpq_lut *const *luts);
/* Approximate tables for squared L2; q must stay. Tables whose error has no useful bound are made exact. */
void fpq_lut_make_approx(const fpq_codeword_norms *norms, const float *q, int n, fpq_lut *luts);
void fpq_lut_make_exact(fpq_lut *lut);      /* from any kind; lut8 stays */
int fpq_lut_is_bounded(const fpq_lut *lut); /* whether the error bound is far from float32's largest number */

/* ---- quantizing (quantize.c) ---- */
/* Make lut8 for a threshold; 0 if no row can have a distance of at most the threshold. */
int fpq_lut_quantize(fpq_lut *lut, float threshold);
void fpq_lut_quantize_full(fpq_lut *lut);  /* make lut8.full */
void fpq_lut_quantize_pairs(fpq_lut *lut); /* make lut8.pair */
/* What the bytes of a row with a distance of at most x <= lut8.threshold add up to at most. */
int fpq_lut_byte_threshold(const fpq_lut *lut, float x);
/* What fpq_lut_sums gives at most for a row with a distance of at most the threshold. */
float fpq_lut_approx_threshold(const fpq_lut *lut, float threshold);

/* ---- looking up (lookup.c), rows of 4- or 8-bit codes ---- */
/* Sums of entries: distances if the tables are exact. */
void fpq_lut_sums(const fpq_lut *lut, const uint8_t *blocks, const int64_t *rows, int n, float *out);
/* Exact distances without exact tables: from lut->query, with the bits that exact tables give. */
void fpq_lut_distances(const fpq_lut *lut, const uint8_t *blocks, const int64_t *rows, int n, float *out);

#endif
