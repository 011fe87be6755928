/* SPDX-License-Identifier: MIT  The vector words on AVX2 + FMA: 8 lanes. */
#include <immintrin.h>

typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;
#define LANES 8
#define TILE_ROWS 6
#define TILE_BLOCKS 1
#define ROW_VECTORS 2
#define ROW_COLUMNS 4
#define FAST_INT8 1
#ifdef FPQ_VNNI
#define INT8_OFFSET 128
#define INT8_ROWS 6
#else
#define INT8_OFFSET 64 /* Four products are added in int16. */
#define INT8_ROWS 4    /* Two rows fewer leave registers for the columns. */
#endif

FPQ_INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
FPQ_INLINE vf vf_set(float x) { return _mm256_set1_ps(x); }
FPQ_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
FPQ_INLINE vf vf_load_part(const float *p, int n) {
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
}
FPQ_INLINE vf vf_load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
FPQ_INLINE vf vf_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
FPQ_INLINE vf vf_load_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
FPQ_INLINE void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
FPQ_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
FPQ_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
FPQ_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
FPQ_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
FPQ_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
FPQ_INLINE float vf_sum(vf x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
FPQ_INLINE vf vf_sqrt(vf x) { return _mm256_sqrt_ps(x); }
FPQ_INLINE vf vf_lesser(vf a, vf b) { return _mm256_min_ps(a, b); }
FPQ_INLINE vf vf_larger(vf a, vf b) { return _mm256_max_ps(a, b); }
FPQ_INLINE vf vf_larger_where(vf a, vf b, unsigned bits) {
    const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128),
                  set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), each), each);
    return _mm256_blendv_ps(a, _mm256_max_ps(a, b), _mm256_castsi256_ps(set));
}
FPQ_INLINE vf vf_from(vi x) { return _mm256_cvtepi32_ps(x); }
FPQ_INLINE float vf_max(vf x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
FPQ_INLINE vm vf_greater(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
FPQ_INLINE vf vf_choose(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
FPQ_INLINE unsigned vf_bits_at_least(vf a, vf b) {
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ));
}
/* Pairs, fours, then halves of vectors change places. */
FPQ_INLINE void vf_transpose(vf *x) {
    vf pairs[8], fours[8];
    FPQ_UNROLL for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    FPQ_UNROLL for (int i = 0; i < 8; i += 4) FPQ_UNROLL for (int h = 0; h < 2; h++) {
        const __m256d a = _mm256_castps_pd(pairs[i + h]), b = _mm256_castps_pd(pairs[i + h + 2]);
        fours[i + 2 * h] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
        fours[i + 2 * h + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    }
    FPQ_UNROLL for (int i = 0; i < 4; i++) {
        x[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        x[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}
FPQ_INLINE vi vi_load(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
FPQ_INLINE void vi_store(int32_t *p, vi x) { _mm256_storeu_si256((__m256i *)p, x); }
FPQ_INLINE vi vi_set(int x) { return _mm256_set1_epi32(x); }
FPQ_INLINE vi vi_choose(vm m, vi yes, vi no) { return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(m)); }
FPQ_INLINE vi vi_lane_numbers(void) { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
FPQ_INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
FPQ_INLINE vi vi_mul(vi a, vi b) { return _mm256_mullo_epi32(a, b); }
FPQ_INLINE vi vi_lesser_unsigned(vi a, vi b) { return _mm256_min_epu32(a, b); }
FPQ_INLINE vm vi_equal(vi a, vi b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }

typedef __m256i vb;
#define BYTES 32

FPQ_INLINE vb vb_set(uint8_t x) { return _mm256_set1_epi8((char)x); }
FPQ_INLINE vb vb_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
FPQ_INLINE void vb_store(uint8_t *p, vb x) { _mm256_storeu_si256((__m256i *)p, x); }
FPQ_INLINE vb vb_table(const uint8_t *p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p)); }
FPQ_INLINE vb vb_look_up(vb table, vb at) { return _mm256_shuffle_epi8(table, at); }
FPQ_INLINE vb vb_low_nibbles(vb x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
FPQ_INLINE vb vb_high_nibbles(vb x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15)); }
FPQ_INLINE vb vb_next_nibbles(vb x) { return _mm256_srli_epi64(x, 4); }

#include "isa/vec_x86.h"

FPQ_INLINE vb vb_double(vb x) { return _mm256_add_epi8(x, x); }
FPQ_INLINE vb vb_choose(vb by, vb yes, vb no) { return _mm256_blendv_epi8(no, yes, by); }

/* A look-up sees the four lowest bits, and the top bit, where it gives 0; bit 6 chooses between two of both halves. */
FPQ_INLINE vb vt_look_up(vt table, vb code, const int n) {
    const vb other = _mm256_xor_si256(code, _mm256_set1_epi8(-128));
    const vb a = _mm256_or_si256(vb_look_up(table.part[0], code), vb_look_up(table.part[n / 2], other));
    if (n == 2) return a;
    const vb b = _mm256_or_si256(vb_look_up(table.part[1], code), vb_look_up(table.part[3], other));
    return vb_choose(vb_double(code), b, a);
}
FPQ_INLINE vb vb_add_saturating(vb a, vb b) { return _mm256_adds_epu8(a, b); }
FPQ_INLINE uint64_t vb_bits_full(vb x) {
    return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, _mm256_set1_epi8(-1)));
}

/* Even bytes, and odd ones. */
typedef struct {
    __m256i even, odd;
} vw;
FPQ_INLINE vw vw_zero(void) { return (vw){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
FPQ_INLINE vw vw_add(vw sum, vb x) {
    return (vw){_mm256_add_epi16(sum.even, _mm256_and_si256(x, _mm256_set1_epi16(255))),
                _mm256_add_epi16(sum.odd, _mm256_srli_epi16(x, 8))};
}
FPQ_INLINE uint64_t vw_bits_above(vw x, uint16_t limit) {
    const __m256i most = _mm256_set1_epi16((int16_t)limit), zero = _mm256_setzero_si256();
    const __m256i even = _mm256_cmpeq_epi16(_mm256_subs_epu16(x.even, most), zero),
                  odd = _mm256_cmpeq_epi16(_mm256_subs_epu16(x.odd, most), zero);
    return ~(uint32_t)_mm256_movemask_epi8(_mm256_blendv_epi8(odd, even, _mm256_set1_epi16(255)));
}
FPQ_INLINE vb vw_to_bytes(vw x, int shift) {
    const __m128i by = _mm_cvtsi32_si128(shift);
    return _mm256_or_si256(_mm256_srl_epi16(x.even, by), _mm256_slli_epi16(_mm256_srl_epi16(x.odd, by), 8));
}

FPQ_INLINE vi vi_add_fours(vi sum, vb a, vb x) {
#ifdef FPQ_VNNI
    return _mm256_dpbusd_avx_epi32(sum, a, x);
#else
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, x), _mm256_set1_epi16(1)));
#endif
}
FPQ_INLINE vi vi_add_eights(vi sum, vb a, vb x, vb b, vb y) {
#ifdef FPQ_VNNI
    return vi_add_fours(vi_add_fours(sum, a, x), b, y);
#else
    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(a, x), _mm256_maddubs_epi16(b, y));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}
FPQ_INLINE vb vb_load_32(const uint8_t *p) { return vb_load(p); }
FPQ_INLINE vb vb_low_bit_pairs(vb x) { return _mm256_and_si256(x, _mm256_set1_epi8(3)); }
FPQ_INLINE vb vb_high_bit_pairs(vb x) { return _mm256_and_si256(_mm256_srli_epi16(x, 2), _mm256_set1_epi8(3)); }
FPQ_INLINE vi vi_add_products(vi sum, vb a, vb x, vb b, vb y) { return vi_add_eights(sum, a, x, b, y); }
FPQ_INLINE void vi_store_sums(int32_t *to, const vi *x) {
    const vi low = _mm256_hadd_epi32(_mm256_hadd_epi32(x[0], x[1]), _mm256_hadd_epi32(x[2], x[3])),
             high = _mm256_hadd_epi32(_mm256_hadd_epi32(x[4], x[5]), _mm256_hadd_epi32(x[6], x[7]));
    vi_store(to,
             _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31)));
}

FPQ_INLINE unsigned bits_within(const uint16_t *bounds, const uint16_t *drift, uint16_t reach) {
    const __m256i limit = _mm256_adds_epu16(_mm256_loadu_si256((const __m256i *)drift),
                                            _mm256_set1_epi16((int16_t)reach));
    const __m256i x = _mm256_loadu_si256((const __m256i *)bounds),
                  near = _mm256_cmpeq_epi16(_mm256_min_epu16(x, limit), x);
    return (unsigned)_mm_movemask_epi8(
        _mm_packs_epi16(_mm256_castsi256_si128(near), _mm256_extracti128_si256(near, 1)));
}

FPQ_INLINE void store_u16(uint16_t *to, const vf *x, unsigned bits) {
    const __m256i each = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
                                           INT16_MIN);
    const __m256i low = _mm256_cvttps_epi32(_mm256_min_ps(x[0], _mm256_set1_ps(65535)));
    const __m256i high = _mm256_cvttps_epi32(_mm256_min_ps(x[1], _mm256_set1_ps(65535)));
    const __m256i whole = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    const __m256i set = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16((int16_t)bits), each), each);
    _mm256_storeu_si256((__m256i *)to, _mm256_blendv_epi8(_mm256_loadu_si256((const __m256i *)to), whole, set));
}

FPQ_INLINE void store_u8(uint8_t *to, const vf *x) {
    const __m256i words = _mm256_packus_epi32(_mm256_cvttps_epi32(x[0]), _mm256_cvttps_epi32(x[1]));
    vh_store_u8(to, _mm256_permute4x64_epi64(words, 0xd8));
}
