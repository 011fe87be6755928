/* SPDX-License-Identifier: MIT  The vector words on AVX-512 F, BW, DQ, VL: 16 lanes. */
#include <immintrin.h>

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;
#define LANES 16
#define TILE_ROWS 6
#define TILE_BLOCKS 4
#define ROW_VECTORS 3
#define ROW_COLUMNS 8
#define FAST_INT8 1
#ifdef FPQ_VNNI
#define INT8_OFFSET 128
#define INT8_ROWS 6
#else
#define INT8_OFFSET 64 /* Four products are added in int16. */
#define INT8_ROWS 4    /* Two rows fewer leave registers for the columns. */
#endif

FPQ_INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
FPQ_INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
FPQ_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
FPQ_INLINE vf vf_load_part(const float *p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
FPQ_INLINE vf vf_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
FPQ_INLINE vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
FPQ_INLINE vf vf_load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
FPQ_INLINE void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
FPQ_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
FPQ_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
FPQ_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
FPQ_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
FPQ_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
FPQ_INLINE float vf_sum(vf x) { return _mm512_reduce_add_ps(x); }
FPQ_INLINE vf vf_sqrt(vf x) { return _mm512_sqrt_ps(x); }
FPQ_INLINE vf vf_lesser(vf a, vf b) { return _mm512_min_ps(a, b); }
FPQ_INLINE vf vf_larger(vf a, vf b) { return _mm512_max_ps(a, b); }
FPQ_INLINE vf vf_larger_where(vf a, vf b, unsigned bits) { return _mm512_mask_max_ps(a, (vm)bits, a, b); }
FPQ_INLINE vf vf_from(vi x) { return _mm512_cvtepi32_ps(x); }
FPQ_INLINE float vf_max(vf x) { return _mm512_reduce_max_ps(x); }
FPQ_INLINE vm vf_greater(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
FPQ_INLINE vf vf_choose(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
FPQ_INLINE unsigned vf_bits_at_least(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
/* Pairs, fours, then quarters of vectors change places. */
FPQ_INLINE void vf_transpose(vf *x) {
    vf pairs[16], fours[16];
    FPQ_UNROLL for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    FPQ_UNROLL for (int i = 0; i < 16; i += 4) FPQ_UNROLL for (int h = 0; h < 2; h++) {
        const __m512d a = _mm512_castps_pd(pairs[i + h]), b = _mm512_castps_pd(pairs[i + h + 2]);
        fours[i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        fours[i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
    FPQ_UNROLL for (int i = 0; i < 4; i++) {
        const vf a = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0x88),
                 b = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0x88);
        const vf c = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0xdd),
                 d = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0xdd);
        x[i] = _mm512_shuffle_f32x4(a, b, 0x88);
        x[i + 4] = _mm512_shuffle_f32x4(c, d, 0x88);
        x[i + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
        x[i + 12] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
}
FPQ_INLINE vi vi_load(const int32_t *p) { return _mm512_loadu_si512(p); }
FPQ_INLINE void vi_store(int32_t *p, vi x) { _mm512_storeu_si512(p, x); }
FPQ_INLINE vi vi_set(int x) { return _mm512_set1_epi32(x); }
FPQ_INLINE vi vi_choose(vm m, vi yes, vi no) { return _mm512_mask_blend_epi32(m, no, yes); }
FPQ_INLINE vi vi_lane_numbers(void) { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
FPQ_INLINE vi vi_mul(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
FPQ_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
FPQ_INLINE vi vi_lesser_unsigned(vi a, vi b) { return _mm512_min_epu32(a, b); }
FPQ_INLINE vm vi_equal(vi a, vi b) { return _mm512_cmpeq_epi32_mask(a, b); }

typedef __m512i vb;
#define BYTES 64

FPQ_INLINE vb vb_set(uint8_t x) { return _mm512_set1_epi8((char)x); }
FPQ_INLINE vb vb_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
FPQ_INLINE void vb_store(uint8_t *p, vb x) { _mm512_storeu_si512(p, x); }
FPQ_INLINE vb vb_table(const uint8_t *p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p)); }
FPQ_INLINE vb vb_look_up(vb table, vb at) { return _mm512_shuffle_epi8(table, at); }
FPQ_INLINE vb vb_low_nibbles(vb x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
FPQ_INLINE vb vb_high_nibbles(vb x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }
FPQ_INLINE vb vb_next_nibbles(vb x) { return _mm512_srli_epi64(x, 4); }

#include "isa/vec_x86.h"

FPQ_INLINE vb vb_double(vb x) { return _mm512_add_epi8(x, x); }
FPQ_INLINE vb vb_choose(vb by, vb yes, vb no) { return _mm512_mask_blend_epi8(_mm512_movepi8_mask(by), no, yes); }

/* The two top bits choose among the look-ups. */
FPQ_INLINE vb vt_look_up(vt table, vb code, const int n) {
    const vb low = vb_low_nibbles(code);
    const __mmask64 top = _mm512_movepi8_mask(code);
    const vb a = _mm512_mask_shuffle_epi8(vb_look_up(table.part[0], low), top, table.part[n / 2], low);
    if (n == 2) return a;
    const vb b = _mm512_mask_shuffle_epi8(vb_look_up(table.part[1], low), top, table.part[3], low);
    return vb_choose(vb_double(code), b, a);
}
#ifdef FPQ_VBMI
/* Four registers of 64 entries: two look-ups of 128, and the code's top bit chooses. */
FPQ_INLINE vt vt_load_256(const uint8_t *p) {
    return (vt){{vb_load(p), vb_load(p + 64), vb_load(p + 128), vb_load(p + 192)}};
}
FPQ_INLINE vb vt_look_up_256(vt table, vb code) {
    FPQ_IN_REGISTER(code); /* three instructions use the code, and loads limit the loop of prune_lut8 */
    const vb low = _mm512_permutex2var_epi8(table.part[0], code, table.part[1]),
             high = _mm512_permutex2var_epi8(table.part[2], code, table.part[3]);
    return vb_choose(code, high, low);
}
#endif
FPQ_INLINE vb vb_add_saturating(vb a, vb b) { return _mm512_adds_epu8(a, b); }
FPQ_INLINE uint64_t vb_bits_full(vb x) { return _mm512_cmpeq_epu8_mask(x, _mm512_set1_epi8(-1)); }

/* Even bytes, and odd ones. */
typedef struct {
    __m512i even, odd;
} vw;
FPQ_INLINE vw vw_zero(void) { return (vw){_mm512_setzero_si512(), _mm512_setzero_si512()}; }
FPQ_INLINE vw vw_add(vw sum, vb x) {
    return (vw){_mm512_add_epi16(sum.even, _mm512_and_si512(x, _mm512_set1_epi16(255))),
                _mm512_add_epi16(sum.odd, _mm512_srli_epi16(x, 8))};
}
FPQ_INLINE uint64_t vw_bits_above(vw x, uint16_t limit) {
    const __m512i most = _mm512_set1_epi16((int16_t)limit);
    const uint64_t even = _mm512_cmpgt_epu16_mask(x.even, most), odd = _mm512_cmpgt_epu16_mask(x.odd, most);
    return _pdep_u64(even, 0x5555555555555555u) | _pdep_u64(odd, 0xaaaaaaaaaaaaaaaau);
}
FPQ_INLINE vb vw_to_bytes(vw x, int shift) {
    const __m128i by = _mm_cvtsi32_si128(shift);
    return _mm512_or_si512(_mm512_srl_epi16(x.even, by), _mm512_slli_epi16(_mm512_srl_epi16(x.odd, by), 8));
}

FPQ_INLINE vi vi_add_fours(vi sum, vb a, vb x) {
#ifdef FPQ_VNNI
    return _mm512_dpbusd_epi32(sum, a, x);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(a, x), _mm512_set1_epi16(1)));
#endif
}
FPQ_INLINE vi vi_add_eights(vi sum, vb a, vb x, vb b, vb y) {
#ifdef FPQ_VNNI
    return vi_add_fours(vi_add_fours(sum, a, x), b, y);
#else
    const __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16(a, x), _mm512_maddubs_epi16(b, y));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}
FPQ_INLINE vb vb_load_32(const uint8_t *p) { return _mm512_maskz_loadu_epi64(15, p); }
FPQ_INLINE vb vb_low_bit_pairs(vb x) { return _mm512_and_si512(x, _mm512_set1_epi8(3)); }
FPQ_INLINE vb vb_high_bit_pairs(vb x) { return _mm512_and_si512(_mm512_srli_epi16(x, 2), _mm512_set1_epi8(3)); }
FPQ_INLINE vi vi_add_products(vi sum, vb a, vb x, vb b, vb y) { return vi_add_eights(sum, a, x, b, y); }
/* Lanes of two, then of four vectors alternate; then quarters are added. */
FPQ_INLINE void vi_store_sums(int32_t *to, const vi *x) {
    vi twos[4], fours[2];
    FPQ_UNROLL for (int i = 0; i < 4; i++) twos[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]),
                                                                      _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]));
    FPQ_UNROLL for (int i = 0; i < 2; i++) fours[i] = _mm512_add_epi32(
        _mm512_unpacklo_epi64(twos[2 * i], twos[2 * i + 1]), _mm512_unpackhi_epi64(twos[2 * i], twos[2 * i + 1]));
    const vi halves = _mm512_add_epi32(_mm512_shuffle_i64x2(fours[0], fours[1], 0x88),
                                       _mm512_shuffle_i64x2(fours[0], fours[1], 0xdd));
    const vi sums = _mm512_add_epi32(_mm512_shuffle_i64x2(halves, halves, 0x88),
                                     _mm512_shuffle_i64x2(halves, halves, 0xdd));
    _mm256_storeu_si256((__m256i *)to, _mm512_castsi512_si256(sums));
}

FPQ_INLINE unsigned bits_within(const uint16_t *bounds, const uint16_t *drift, uint16_t reach) {
    const __m256i limit = _mm256_adds_epu16(_mm256_loadu_si256((const __m256i *)drift),
                                            _mm256_set1_epi16((int16_t)reach));
    return _mm256_cmple_epu16_mask(_mm256_loadu_si256((const __m256i *)bounds), limit);
}

FPQ_INLINE void store_u16(uint16_t *to, const vf *x, unsigned bits) {
    const __m512i whole = _mm512_cvttps_epi32(_mm512_min_ps(*x, _mm512_set1_ps(65535)));
    _mm256_mask_storeu_epi16(to, (__mmask16)bits, _mm512_cvtepi32_epi16(whole));
}

FPQ_INLINE void store_u8(uint8_t *to, const vf *x) {
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(*x)));
}
