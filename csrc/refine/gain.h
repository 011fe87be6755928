/* SPDX-License-Identifier: MIT
 * The gains of a row: of FPQ_GAINS_ESTIMATED successive gains g, those whose 4-bit codes leave the least squared error
 * by an estimate, of which a search for codes finds the best.
 *
 * The estimate: the error of a dimension is (g step)^2 times that of x = e / (g step) as the nearest level of a state,
 * the mean over the states. Gains are apart by an eighth of an octave, so that in a table by the logarithm of |x| the
 * errors for successive gains are apart by the same number of entries: the table is stored so that they follow each
 * other. */
#ifndef FPQ_GAIN_H
#define FPQ_GAIN_H

#include "fpq_refinement.h"

enum {
    FPQ_GAINS_PER_OCTAVE = 8,
    FPQ_PARTS = 64, /* of an octave */
    FPQ_PARTS_PER_GAIN = FPQ_PARTS / FPQ_GAINS_PER_OCTAVE,
    FPQ_LARGEST_OCTAVE = 12, /* of |x|: 2^12; larger and smaller ones stand for the last entries */
    FPQ_OCTAVES = 16,
    FPQ_MANTISSAS = 256
};

/* Entry i, of part i % FPQ_PARTS_PER_GAIN, is for |x| from 2^(FPQ_LARGEST_OCTAVE - i / FPQ_PARTS) on. */
typedef struct {
    float of_sign[2][FPQ_PARTS_PER_GAIN]
                 [FPQ_OCTAVES * FPQ_GAINS_PER_OCTAVE + FPQ_GAINS_ESTIMATED]; /* positive x first */
    uint8_t parts[FPQ_MANTISSAS]; /* of an octave, below the number 1 + i / FPQ_MANTISSAS */
    double spread;                /* root mean square of levels, less that of 0 */
    int n;                        /* steps of the normal range */
} fpq_gain_errors;

void fpq_gain_errors_make(const fpq_refinement *r, fpq_gain_errors *errors);
/* The numbers of the FPQ_GAINS_TRIED best gains, the best one first, for errors in steps, 0 where a step is below the
 * normal range. */
void fpq_best_gains(const fpq_gain_errors *errors, const fpq_refinement *r, const float *quotients, uint8_t *gains);

#endif
