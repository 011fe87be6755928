/* SPDX-License-Identifier: MIT
 * Which instruction set runs: detected once, forced by FPQ_ISA or fpq_use_isa, always a whole table. */
#include <string.h>

#include "isa/kernels.h"
#include "isa/list.h"
#include "portable.h"

#if defined(FPQ_X86)
#if !defined(_MSC_VER) || defined(__clang__)
#include <cpuid.h>
#endif

static void cpuid(unsigned leaf, unsigned subleaf, unsigned out[4]) {
#if defined(_MSC_VER) && !defined(__clang__)
    int regs[4];
    __cpuidex(regs, (int)leaf, (int)subleaf);
    for (int i = 0; i < 4; i++) out[i] = (unsigned)regs[i];
#else
    __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
#endif
}

/* The register state the operating system saves: an instruction set's bit in CPUID counts only with it. */
static unsigned saved_state(void) {
#if defined(_MSC_VER) && !defined(__clang__)
    return (unsigned)_xgetbv(0);
#else
    unsigned low, high;
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0)); /* xgetbv */
    return low;
#endif
}

static fpq_features detect(void) {
    fpq_features f = {0};
    unsigned leaf0[4], leaf1[4], leaf7[4], leaf7_1[4] = {0};
    cpuid(0, 0, leaf0);
    if (leaf0[0] < 7) return f;
    cpuid(1, 0, leaf1);
    cpuid(7, 0, leaf7);
    if (leaf7[0] >= 1) cpuid(7, 1, leaf7_1);
    const unsigned osxsave = leaf1[2] >> 27 & 1, avx = leaf1[2] >> 28 & 1, fma = leaf1[2] >> 12 & 1,
                   f16c = leaf1[2] >> 29 & 1, popcnt = leaf1[2] >> 23 & 1, bmi2 = leaf7[1] >> 8 & 1;
    const unsigned state = osxsave ? saved_state() : 0;
    f.avx2 = (state & 0x06) == 0x06 && avx && fma && f16c && popcnt && bmi2 && (leaf7[1] >> 5 & 1);
    f.avxvnni = f.avx2 && (leaf7_1[0] >> 4 & 1);
    const unsigned f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    f.avx512 = f.avx2 && (state & 0xe6) == 0xe6 && (leaf7[1] & f_dq_bw_vl) == f_dq_bw_vl;
    f.vbmi = f.avx512 && (leaf7[2] >> 1 & 1);
    f.vnni = f.avx512 && (leaf7[2] >> 11 & 1);
    return f;
}
#else
static fpq_features detect(void) {
    fpq_features f = {0};
#if defined(FPQ_ARM64)
    f.neon = 1;
#endif
    return f;
}
#endif

static fpq_features features;
static const fpq_kernels *runnable[8], *active; /* the first n_runnable */
static int n_runnable;

#define FPQ_RUNS(name, condition) \
    if (condition) runnable[n++] = &fpq_kernels_##name;
static void initialise(void) {
    const fpq_features *f = &features;
    int n = 0;
    features = detect();
    FPQ_ISAS(FPQ_RUNS)
    n_runnable = n;
    active = runnable[n - 1];
}

/* One thread comes here before others may: the Python module does so at import. */
const fpq_kernels *fpq_active(void) {
    if (!active) initialise();
    return active;
}

const char *fpq_feature_at(int i, int *has) {
#define FPQ_FEATURE_NAME(name) #name,
#define FPQ_FEATURE_VALUE(name) features.name,
    static const char *const names[] = {FPQ_FEATURES(FPQ_FEATURE_NAME) NULL};
    fpq_active();
    const int values[] = {FPQ_FEATURES(FPQ_FEATURE_VALUE) 0};
    *has = values[i];
    return names[i];
}

const char *fpq_isa(void) { return fpq_active()->isa; }

const char *fpq_isa_at(int i) {
    fpq_active();
    return i >= 0 && i < n_runnable ? runnable[i]->isa : NULL;
}

/* "avx512" is the fastest there is of AVX-512: with VBMI and VNNI where the CPU has them. */
int fpq_use_isa(const char *name) {
    if (!strcmp(name, "avx512") && fpq_active() && features.avx512 && !(features.vbmi && features.vnni))
        name = "avx512bw";
    for (int i = 0; fpq_isa_at(i); i++)
        if (!strcmp(name, fpq_isa_at(i))) {
            active = runnable[i];
            return 0;
        }
    return -1;
}
