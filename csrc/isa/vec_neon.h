/* SPDX-License-Identifier: MIT  The vector words on NEON (AArch64): 4 lanes. */
#include <arm_neon.h>
#include <string.h>

typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32x4_t vm;
#define LANES 4
#define TILE_ROWS 6
#define TILE_BLOCKS 1
#define ROW_VECTORS 4
#define ROW_COLUMNS 4
#define FAST_INT8 0
#define INT8_OFFSET 64 /* Rows fit into int8. */
#define INT8_ROWS 6

FPQ_INLINE vf vf_zero(void) { return vdupq_n_f32(0); }
FPQ_INLINE vf vf_set(float x) { return vdupq_n_f32(x); }
FPQ_INLINE vf vf_load(const float *p) { return vld1q_f32(p); }
FPQ_INLINE vf vf_load_part(const float *p, int n) {
    float x[4] = {0};
    for (int t = 0; t < n; t++) x[t] = p[t];
    return vld1q_f32(x);
}
FPQ_INLINE vf vf_load_u8(const uint8_t *p) {
    const float x[4] = {p[0], p[1], p[2], p[3]};
    return vld1q_f32(x);
}
FPQ_INLINE vf vf_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
FPQ_INLINE vf vf_load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
FPQ_INLINE void vf_store(float *p, vf x) { vst1q_f32(p, x); }
FPQ_INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
FPQ_INLINE vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
FPQ_INLINE vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
FPQ_INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
FPQ_INLINE vf vf_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); }
FPQ_INLINE float vf_sum(vf x) { return vaddvq_f32(x); }
FPQ_INLINE vf vf_sqrt(vf x) { return vsqrtq_f32(x); }
FPQ_INLINE vf vf_lesser(vf a, vf b) { return vminnmq_f32(a, b); }
FPQ_INLINE vf vf_larger(vf a, vf b) { return vmaxq_f32(a, b); }
FPQ_INLINE vf vf_larger_where(vf a, vf b, unsigned bits) {
    const uint32_t weights[4] = {1, 2, 4, 8};
    return vbslq_f32(vtstq_u32(vdupq_n_u32(bits), vld1q_u32(weights)), vmaxq_f32(a, b), a);
}
FPQ_INLINE vf vf_from(vi x) { return vcvtq_f32_s32(x); }
FPQ_INLINE float vf_max(vf x) { return vmaxvq_f32(x); }
FPQ_INLINE vm vf_greater(vf a, vf b) { return vcgtq_f32(a, b); }
FPQ_INLINE vf vf_choose(vm m, vf yes, vf no) { return vbslq_f32(m, yes, no); }
FPQ_INLINE unsigned vf_bits_at_least(vf a, vf b) {
    const uint32_t weights[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgeq_f32(a, b), vld1q_u32(weights)));
}
/* Pairs, then halves of vectors change places. */
FPQ_INLINE void vf_transpose(vf *x) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(x[0], x[1])),
                      b = vreinterpretq_f64_f32(vtrn2q_f32(x[0], x[1]));
    const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(x[2], x[3])),
                      d = vreinterpretq_f64_f32(vtrn2q_f32(x[2], x[3]));
    x[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    x[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    x[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    x[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}
FPQ_INLINE vi vi_load(const int32_t *p) { return vld1q_s32(p); }
FPQ_INLINE void vi_store(int32_t *p, vi x) { vst1q_s32(p, x); }
FPQ_INLINE vi vi_set(int x) { return vdupq_n_s32(x); }
FPQ_INLINE vi vi_choose(vm m, vi yes, vi no) { return vbslq_s32(m, yes, no); }
FPQ_INLINE vi vi_lane_numbers(void) {
    const int32_t x[4] = {0, 1, 2, 3};
    return vld1q_s32(x);
}
FPQ_INLINE vi vi_mul(vi a, vi b) { return vmulq_s32(a, b); }
FPQ_INLINE vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
FPQ_INLINE vi vi_lesser_unsigned(vi a, vi b) {
    return vreinterpretq_s32_u32(vminq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}
FPQ_INLINE vm vi_equal(vi a, vi b) { return vceqq_s32(a, b); }

typedef uint8x16_t vb;
#define BYTES 16

FPQ_INLINE vb vb_set(uint8_t x) { return vdupq_n_u8(x); }
FPQ_INLINE vb vb_load(const uint8_t *p) { return vld1q_u8(p); }
FPQ_INLINE void vb_store(uint8_t *p, vb x) { vst1q_u8(p, x); }
FPQ_INLINE vb vb_table(const uint8_t *p) { return vld1q_u8(p); }
FPQ_INLINE vb vb_look_up(vb table, vb at) { return vqtbl1q_u8(table, at); }
FPQ_INLINE vb vb_low_nibbles(vb x) { return vandq_u8(x, vdupq_n_u8(15)); }
FPQ_INLINE vb vb_high_nibbles(vb x) { return vshrq_n_u8(x, 4); }
FPQ_INLINE vb vb_next_nibbles(vb x) { return vreinterpretq_u8_u64(vshrq_n_u64(vreinterpretq_u64_u8(x), 4)); }
typedef struct {
    vb part[4];
} vt;
FPQ_INLINE vt vt_load(const uint8_t *p, const int n, int apart) {
    vt x;
    for (int i = 0; i < 4; i++) x.part[i] = vld1q_u8(p + (i < n ? i : 0) * apart);
    return x;
}
FPQ_INLINE vb vb_double(vb x) { return vaddq_u8(x, x); }
FPQ_INLINE vb vb_choose(vb by, vb yes, vb no) { return vbslq_u8(vcgeq_u8(by, vdupq_n_u8(128)), yes, no); }
FPQ_INLINE vb vt_look_up(vt table, vb code, const int n) {
    const uint8x16x2_t two = {{table.part[0], table.part[1]}};
    const uint8x16x4_t four = {{table.part[0], table.part[1], table.part[2], table.part[3]}};
    return n == 2 ? vqtbl2q_u8(two, vbslq_u8(vdupq_n_u8(15), code, vshrq_n_u8(code, 3)))
                  : vqtbl4q_u8(four, vbslq_u8(vdupq_n_u8(15), code, vshrq_n_u8(code, 2)));
}
FPQ_INLINE vb vb_add_saturating(vb a, vb b) { return vqaddq_u8(a, b); }
FPQ_INLINE uint64_t vb_bits_full(vb x) {
    const uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t bits = vandq_u8(vceqq_u8(x, vdupq_n_u8(255)), vld1q_u8(weights));
    return vaddv_u8(vget_low_u8(bits)) | (uint64_t)vaddv_u8(vget_high_u8(bits)) << 8;
}

typedef uint16x8x2_t vw;
FPQ_INLINE vw vw_zero(void) {
    const vw x = {{vdupq_n_u16(0), vdupq_n_u16(0)}};
    return x;
}
FPQ_INLINE vw vw_add(vw sum, vb x) {
    const vw y = {{vaddw_u8(sum.val[0], vget_low_u8(x)), vaddw_high_u8(sum.val[1], x)}};
    return y;
}
FPQ_INLINE uint64_t vw_bits_above(vw x, uint16_t limit) {
    const uint16x8_t most = vdupq_n_u16(limit);
    return vb_bits_full(vcombine_u8(vmovn_u16(vcgtq_u16(x.val[0], most)), vmovn_u16(vcgtq_u16(x.val[1], most))));
}
FPQ_INLINE vb vw_to_bytes(vw x, int shift) {
    const int16x8_t by = vdupq_n_s16((int16_t)-shift);
    return vcombine_u8(vmovn_u16(vshlq_u16(x.val[0], by)), vmovn_u16(vshlq_u16(x.val[1], by)));
}

typedef uint16x8x2_t vh;
FPQ_INLINE vh vh_load(const uint16_t *p) {
    const vh x = {{vld1q_u16(p), vld1q_u16(p + 8)}};
    return x;
}
FPQ_INLINE void vh_store(uint16_t *p, vh x) {
    vst1q_u16(p, x.val[0]);
    vst1q_u16(p + 8, x.val[1]);
}
FPQ_INLINE vh vh_set(uint16_t x) {
    const vh y = {{vdupq_n_u16(x), vdupq_n_u16(x)}};
    return y;
}
FPQ_INLINE void vh_store_u8(uint8_t *p, vh x) { vst1q_u8(p, vcombine_u8(vmovn_u16(x.val[0]), vmovn_u16(x.val[1]))); }
FPQ_INLINE vh vh_sub(vh a, vh b) {
    const vh x = {{vsubq_u16(a.val[0], b.val[0]), vsubq_u16(a.val[1], b.val[1])}};
    return x;
}
FPQ_INLINE uint16x8_t upper_halves(uint16x8_t a, uint16x8_t b) {
    return vcombine_u16(vshrn_n_u32(vmull_u16(vget_low_u16(a), vget_low_u16(b)), 16),
                        vshrn_n_u32(vmull_u16(vget_high_u16(a), vget_high_u16(b)), 16));
}
FPQ_INLINE vh vh_times(vh a, vh b) {
    const vh x = {{upper_halves(a.val[0], b.val[0]), upper_halves(a.val[1], b.val[1])}};
    return x;
}
FPQ_INLINE vh vh_add(vh a, vh b) {
    const vh x = {{vaddq_u16(a.val[0], b.val[0]), vaddq_u16(a.val[1], b.val[1])}};
    return x;
}
FPQ_INLINE vh vh_lesser(vh a, vh b) {
    const vh x = {{vminq_u16(a.val[0], b.val[0]), vminq_u16(a.val[1], b.val[1])}};
    return x;
}
FPQ_INLINE int vh_min(vh x) { return vminvq_u16(vminq_u16(x.val[0], x.val[1])); }

typedef int16x8x2_t vs;
typedef int32x4_t vq;
FPQ_INLINE vs vs_load(const int16_t *p) {
    const vs x = {{vld1q_s16(p), vld1q_s16(p + 8)}};
    return x;
}
FPQ_INLINE vs vs_load_codes(const uint8_t *p) {
    const uint8x16_t x = vld1q_u8(p);
    const vs y = {
        {vreinterpretq_s16_u16(vshll_n_u8(vget_low_u8(x), 2)), vreinterpretq_s16_u16(vshll_n_u8(vget_high_u8(x), 2))}};
    return y;
}
FPQ_INLINE vs vs_sub(vs a, vs b) {
    const vs x = {{vsubq_s16(a.val[0], b.val[0]), vsubq_s16(a.val[1], b.val[1])}};
    return x;
}
FPQ_INLINE vq vq_zero(void) { return vdupq_n_s32(0); }
FPQ_INLINE vq vq_add_squares(vs x, vq sum) {
    sum = vmlal_s16(sum, vget_low_s16(x.val[0]), vget_low_s16(x.val[0]));
    sum = vmlal_s16(sum, vget_high_s16(x.val[0]), vget_high_s16(x.val[0]));
    sum = vmlal_s16(sum, vget_low_s16(x.val[1]), vget_low_s16(x.val[1]));
    return vmlal_s16(sum, vget_high_s16(x.val[1]), vget_high_s16(x.val[1]));
}
FPQ_INLINE unsigned vq_bits_at_most(vq a, vq b, vq c, vq d, int32_t limit) {
    const uint32_t weights[4] = {1, 2, 4, 8};
    const int32x4_t sums = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
    return vaddvq_u32(vandq_u32(vcleq_s32(sums, vdupq_n_s32(limit)), vld1q_u32(weights)));
}

FPQ_INLINE vb vb_set_4(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return vreinterpretq_u8_u32(vdupq_n_u32(x));
}
FPQ_INLINE vi vi_add_fours(vi sum, vb a, vb x) {
    const int8x16_t sa = vreinterpretq_s8_u8(a), sx = vreinterpretq_s8_u8(x);
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, sa, sx);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(sa), vget_low_s8(sx)), high = vmull_high_s8(sa, sx);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
}
FPQ_INLINE vi vi_add_eights(vi sum, vb a, vb x, vb b, vb y) { return vi_add_fours(vi_add_fours(sum, a, x), b, y); }
FPQ_INLINE vb vb_load_32(const uint8_t *p) { return vb_load(p); }
FPQ_INLINE vb vb_low_bit_pairs(vb x) { return vandq_u8(x, vdupq_n_u8(3)); }
FPQ_INLINE vb vb_high_bit_pairs(vb x) { return vandq_u8(vshrq_n_u8(x, 2), vdupq_n_u8(3)); }
FPQ_INLINE vi vi_add_products(vi sum, vb a, vb x, vb b, vb y) {
    const int8x16_t sa = vreinterpretq_s8_u8(a), sx = vreinterpretq_s8_u8(x), sb = vreinterpretq_s8_u8(b),
                    sy = vreinterpretq_s8_u8(y);
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(vdotq_s32(sum, sa, sx), sb, sy);
#else
    int16x8_t products = vmull_s8(vget_low_s8(sa), vget_low_s8(sx));
    products = vmlal_s8(products, vget_high_s8(sa), vget_high_s8(sx));
    products = vmlal_s8(products, vget_low_s8(sb), vget_low_s8(sy));
    products = vmlal_s8(products, vget_high_s8(sb), vget_high_s8(sy));
    return vpadalq_s16(sum, products);
#endif
}
FPQ_INLINE void vi_store_sums(int32_t *to, const vi *x) {
    for (int i = 0; i < 8; i += 4)
        vi_store(to + i, vpaddq_s32(vpaddq_s32(x[i], x[i + 1]), vpaddq_s32(x[i + 2], x[i + 3])));
}

FPQ_INLINE unsigned bits_within(const uint16_t *bounds, const uint16_t *drift, uint16_t reach) {
    const uint16_t weights[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    unsigned bits = 0;
    for (int g = 0; g < 16; g += 8) {
        const uint16x8_t limit = vqaddq_u16(vld1q_u16(drift + g), vdupq_n_u16(reach));
        bits |= (unsigned)vaddvq_u16(vandq_u16(vcleq_u16(vld1q_u16(bounds + g), limit), vld1q_u16(weights))) << g;
    }
    return bits;
}

FPQ_INLINE void store_u16(uint16_t *to, const vf *x, unsigned bits) {
    const uint16_t weights[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    for (int g = 0; g < 16; g += 8, x += 2) {
        const uint16x8_t whole = vcombine_u16(vqmovn_u32(vcvtq_u32_f32(x[0])), vqmovn_u32(vcvtq_u32_f32(x[1])));
        const uint16x8_t set = vtstq_u16(vdupq_n_u16((uint16_t)(bits >> g)), vld1q_u16(weights));
        vst1q_u16(to + g, vbslq_u16(set, whole, vld1q_u16(to + g)));
    }
}

FPQ_INLINE void store_u8(uint8_t *to, const vf *x) {
    const uint16x8_t low = vcombine_u16(vmovn_u32(vcvtq_u32_f32(x[0])), vmovn_u32(vcvtq_u32_f32(x[1])));
    const uint16x8_t high = vcombine_u16(vmovn_u32(vcvtq_u32_f32(x[2])), vmovn_u32(vcvtq_u32_f32(x[3])));
    vst1q_u8(to, vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
}
