/* What one core of an x86 CPU does at most a second, for bench/roofline.py: each function repeats one instruction on registers
 * that do not depend on each other, or reads memory. WIDE chooses AVX-512 over AVX2. */
#include <immintrin.h>
#include <stddef.h>

#ifdef WIDE
typedef __m512 vf;
typedef __m512i vi;
#define WORD(name) _mm512_##name
#else
typedef __m256 vf;
typedef __m256i vi;
#define WORD(name) _mm256_##name
#endif

/* In registers of their own, which an array would not be. */
#define EACH(X) X(a0) X(a1) X(a2) X(a3) X(a4) X(a5) X(a6) X(a7) X(a8) X(a9) X(a10) X(a11)
#define KEEP(a) __asm__("" : "+v"(a));
#define DECLARE(a) vector a = start;
#define ADD(a) total += a;

#define RATE(name, type, first, call)                                                                                      \
    void name(long n, void *out) {                                                                                         \
        typedef type vector;                                                                                               \
        const vector x = first;                                                                                            \
        vector start = first, total = first;                                                                               \
        EACH(DECLARE)                                                                                                      \
        for (long i = 0; i < n; i++) { EACH(call) }                                                                        \
        EACH(ADD)                                                                                                          \
        __builtin_memcpy(out, &total, sizeof total);                                                                       \
    }

#define FMA(a) a = WORD(fmadd_ps)(x, x, a); KEEP(a)
#define SHUFFLE(a) a = WORD(shuffle_epi8)(x, a); KEEP(a)
#define PERMUTE(a) a = _mm512_permutex2var_epi8(x, a, x); KEEP(a)
#define DOT(a) a = _mm512_dpbusd_epi32(a, x, x); KEEP(a)

RATE(multiply_add, vf, WORD(set1_ps)(0.5f), FMA)
RATE(shuffle, vi, WORD(set1_epi8)(3), SHUFFLE)
#ifdef WIDE
RATE(permute, vi, WORD(set1_epi8)(3), PERMUTE)
RATE(dot, vi, WORD(set1_epi8)(3), DOT)
#endif

void read_memory(const char *memory, size_t bytes, long n, void *out) {
    vi a = {0}, b = a, c = a, d = a;
    for (long i = 0; i < n; i++)
        for (size_t at = 0; at < bytes; at += 4 * sizeof a) {
            const vi *x = (const vi *)(const void *)(memory + at);
            a ^= x[0];
            b ^= x[1];
            c ^= x[2];
            d ^= x[3];
        }
    a ^= b ^ c ^ d;
    __builtin_memcpy(out, &a, sizeof a);
}
