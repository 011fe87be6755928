/* SPDX-License-Identifier: MIT  The words that AVX2 and AVX-512 have in common; 16-bit integers have 16 lanes on both.
 */
#include <string.h>

#define FPQ_OWN_CODE_L2 "scan/code_l2_x86.inc"

FPQ_INLINE vb vb_set_4(const uint8_t *p) {
    int32_t four; /* _mm_loadu_si32 is missing before GCC 11 */
    memcpy(&four, p, sizeof four);
    return vi_set(four);
}

typedef struct {
    vb part[4];
} vt;
FPQ_INLINE vt vt_load(const uint8_t *p, const int n, int apart) {
    vt x;
    for (int i = 0; i < 4; i++) x.part[i] = vb_table(p + (i < n ? i : 0) * apart);
    return x;
}

typedef __m256i vh;
FPQ_INLINE vh vh_load(const uint16_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
FPQ_INLINE void vh_store(uint16_t *p, vh x) { _mm256_storeu_si256((__m256i *)p, x); }
FPQ_INLINE vh vh_set(uint16_t x) { return _mm256_set1_epi16((int16_t)x); }
FPQ_INLINE void vh_store_u8(uint8_t *p, vh x) {
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
}
FPQ_INLINE vh vh_sub(vh a, vh b) { return _mm256_sub_epi16(a, b); }
FPQ_INLINE vh vh_times(vh a, vh b) { return _mm256_mulhi_epu16(a, b); }
FPQ_INLINE vh vh_add(vh a, vh b) { return _mm256_add_epi16(a, b); }
FPQ_INLINE vh vh_lesser(vh a, vh b) { return _mm256_min_epu16(a, b); }
FPQ_INLINE int vh_min(vh x) {
    return _mm_extract_epi16(_mm_minpos_epu16(_mm_min_epu16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1))),
                             0);
}

typedef __m256i vs;
typedef __m256i vq;
FPQ_INLINE vs vs_load(const int16_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
FPQ_INLINE vs vs_load_codes(const uint8_t *p) {
    return _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)), 2);
}
FPQ_INLINE vs vs_sub(vs a, vs b) { return _mm256_sub_epi16(a, b); }
FPQ_INLINE vq vq_zero(void) { return _mm256_setzero_si256(); }
FPQ_INLINE vq vq_add_squares(vs x, vq sum) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, x)); }
FPQ_INLINE unsigned vq_bits_at_most(vq a, vq b, vq c, vq d, int32_t limit) {
    const __m256i x = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    const __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    return 15u ^ (unsigned)_mm_movemask_ps(_mm_castsi128_ps(_mm_cmpgt_epi32(sums, _mm_set1_epi32(limit))));
}
