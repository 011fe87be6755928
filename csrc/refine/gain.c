/* SPDX-License-Identifier: MIT */
#include "refine/gain.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "portable.h"
#include "refine/kernels.h"

enum {
    LAST_ENTRY = FPQ_OCTAVES * FPQ_PARTS - 1,
    GAIN_OF_1 = 128,
    GAINS_BELOW = 4 /* the gain that gives e / (g step) the spread of the levels: most rows need a larger one */
};

FPQ_INLINE int clamped(int x, int most) { return x < 0 ? 0 : x > most ? most : x; }

/* The mean over the states of a trellis. */
static double squared_error(const fpq_refinement *r, double x) {
    double sum = 0;
    for (int state = 0; state < FPQ_STATES; state++) {
        double best = INFINITY;
        for (int c = 0; c < 16; c++) {
            const double error = x - (r->levels[16 * state + c] - FPQ_LEVEL_OF_0);
            if (error * error < best) best = error * error;
        }
        sum += best;
    }
    return sum / FPQ_STATES;
}

void fpq_gain_errors_make(const fpq_refinement *r, fpq_gain_errors *errors) {
    double squares = 0;
    for (int c = 0; c < FPQ_LEVELS; c++) squares += pow(r->levels[c] - FPQ_LEVEL_OF_0, 2);
    errors->spread = sqrt(squares / FPQ_LEVELS);
    errors->n = 0;
    for (int j = 0; j < r->w; j++) errors->n += r->steps[j] >= FLT_MIN;
    for (int i = 0; i < FPQ_MANTISSAS; i++)
        errors->parts[i] = (uint8_t)(FPQ_PARTS * log2(1 + (i + 0.5) / FPQ_MANTISSAS));
    for (int i = 0; i <= LAST_ENTRY + FPQ_PARTS_PER_GAIN * FPQ_GAINS_ESTIMATED; i++) {
        const double x = pow(2, FPQ_LARGEST_OCTAVE - (i - 0.5) / FPQ_PARTS);
        const int part = i % FPQ_PARTS_PER_GAIN, at = i / FPQ_PARTS_PER_GAIN;
        errors->of_sign[0][part][at] = (float)squared_error(r, x);
        errors->of_sign[1][part][at] = (float)squared_error(r, -x);
    }
}

/* The parts of octaves up to |u|, a lower bound. */
FPQ_INLINE int parts_of(const fpq_gain_errors *errors, float u) {
    uint32_t bits;
    memcpy(&bits, &u, sizeof bits);
    return ((int)(bits >> 23 & 255) - 127) * FPQ_PARTS + errors->parts[bits >> 15 & 255];
}

/* The first of the gains whose errors are estimated. */
static int first_gain(const fpq_gain_errors *errors, double squares) {
    const double octaves = squares > 0 ? log2(sqrt(squares / errors->n) / errors->spread) : -GAIN_OF_1;
    const double nearest = fmin(fmax(octaves * FPQ_GAINS_PER_OCTAVE, -2 * GAIN_OF_1), 2 * GAIN_OF_1);
    return clamped((int)floor(nearest + 0.5) + GAIN_OF_1 - GAINS_BELOW, FPQ_GAINS - FPQ_GAINS_ESTIMATED);
}

void fpq_best_gains(const fpq_gain_errors *errors, const fpq_refinement *r, const float *quotients, uint8_t *gains) {
    const int w = r->w;
    float sums[FPQ_GAINS_ESTIMATED] = {0};
    double squares = 0;
    for (int j = 0; j < w; j++) squares += (double)quotients[j] * (double)quotients[j];
    const int first = first_gain(errors, squares),
              place_of_1 = FPQ_LARGEST_OCTAVE * FPQ_PARTS + (first - GAIN_OF_1) * FPQ_PARTS_PER_GAIN;
    for (int j = 0; j < w; j++) {
        const int i = clamped(place_of_1 - parts_of(errors, quotients[j]), LAST_ENTRY);
        const float *here = errors->of_sign[quotients[j] < 0][i % FPQ_PARTS_PER_GAIN] + i / FPQ_PARTS_PER_GAIN;
        for (int g = 0; g < FPQ_GAINS_ESTIMATED; g++) sums[g] += r->steps[j] * r->steps[j] * here[g];
    }
    for (int g = 0; g < FPQ_GAINS_ESTIMATED; g++) sums[g] *= r->gains[first + g] * r->gains[first + g];
    for (int t = 0; t < FPQ_GAINS_TRIED; t++) {
        int best = 0;
        for (int g = 1; g < FPQ_GAINS_ESTIMATED; g++)
            if (sums[g] < sums[best]) best = g;
        gains[t] = (uint8_t)(first + best);
        sums[best] = INFINITY;
    }
}
