/* What one core of an x86 CPU does at most a second, for bench/roofline.py: each function repeats one instruction on registers
 * that do not depend on each other, or reads memory. WIDE chooses AVX-512 over AVX2. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { CHAINS = 12 };
#define REPEAT(statement) for (long i = 0; i < n; i++) for (int c = 0; c < CHAINS; c++) { statement; __asm__("" : "+x"(a[c])); }

#ifdef WIDE
typedef __m512 vf;
typedef __m512i vi;
#define F(name) _mm512_##name
#define I(name) _mm512_##name
#else
typedef __m256 vf;
typedef __m256i vi;
#define F(name) _mm256_##name
#define I(name) _mm256_##name
#endif

void fma(long n, void *out) {
    vf a[CHAINS], x = F(set1_ps)(0.5f);
    for (int c = 0; c < CHAINS; c++) a[c] = F(set1_ps)((float)c);
    REPEAT(a[c] = F(fmadd_ps)(x, x, a[c]))
    for (int c = 1; c < CHAINS; c++) a[0] = F(add_ps)(a[0], a[c]);
    F(storeu_ps)(out, a[0]);
}

#define BYTES(name, call)                                                                                                 \
    void name(long n, void *out) {                                                                                        \
        vi a[CHAINS], x = I(set1_epi8)(3);                                                                                \
        for (int c = 0; c < CHAINS; c++) a[c] = I(set1_epi8)((char)c);                                                    \
        REPEAT(a[c] = call)                                                                                               \
        for (int c = 1; c < CHAINS; c++) a[0] = I(add_epi8)(a[0], a[c]);                                                  \
        __builtin_memcpy(out, &a[0], sizeof a[0]);                                                                        \
    }

BYTES(shuffle, I(shuffle_epi8)(x, a[c]))
#ifdef WIDE
BYTES(permute, _mm512_permutex2var_epi8(x, a[c], x))
BYTES(dot, _mm512_dpbusd_epi32(a[c], x, x))
#endif

void read_memory(const char *memory, size_t bytes, long n, void *out) {
    vi a[4] = {0};
    for (long i = 0; i < n; i++)
        for (size_t at = 0; at < bytes; at += 4 * sizeof(vi))
            for (int c = 0; c < 4; c++) {
                vi x;
                __builtin_memcpy(&x, memory + at + (size_t)c * sizeof x, sizeof x);
                a[c] ^= x;
            }
    a[0] ^= a[1] ^ a[2] ^ a[3];
    __builtin_memcpy(out, &a[0], sizeof a[0]);
}
