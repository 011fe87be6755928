/* SPDX-License-Identifier: MIT
 * The vector words: what the bodies of kernels (vector.inc) are written in. isa/vec_NAME.h defines the types, the four
 * sizes and every word for one instruction set; the prototypes below are the contracts, which isa/selftest.inc checks.
 * Loads and stores take any alignment. Lane i of a vector is number i in memory.
 *
 *   vf  LANES float32        vi  LANES int32                 vm  a choice per lane of these
 *   vb  BYTES uint8          vt  a table of 64 uint8
 *   vw  BYTES uint16, in an order of their own
 *   vh  16 uint16            vs  16 int16                    vq  int32, 4 or more, that add up to one number
 *
 *   LANES 4, 8 or 16; BYTES 16, 32 or 64
 *   TILE_ROWS, TILE_BLOCKS      rows and column blocks of a matrix tile whose sums fit into registers
 *   ROW_VECTORS, ROW_COLUMNS    the same with rows in lanes: vectors of rows, and columns
 *   INT8_ROWS                   rows of a tile of int8 products; an even divisor of FPQ_INT8_TILE
 *   FAST_INT8, INT8_OFFSET      fast_int8 and int8_offset of isa/kernels.h
 *
 * isa/NAME.c defines FPQ_VNNI and FPQ_VBMI where the instruction set has VNNI and VBMI. */

/* Vectors of a column block and of a code block, and which bits a vb has. */
#define COLUMN_VECTORS (FPQ_COLUMN_BLOCK / LANES)
#define CODE_VECTORS (64 / BYTES)
#define BYTE_VECTOR_MASK (~(uint64_t)0 >> (64 - BYTES))

/* ---- float32 ---- */
FPQ_INLINE vf vf_zero(void);
FPQ_INLINE vf vf_set(float x);
FPQ_INLINE vf vf_load(const float *p);
FPQ_INLINE vf vf_load_part(const float *p, int n); /* n < LANES numbers, nothing behind them is read; the rest is 0 */
FPQ_INLINE vf vf_load_u8(const uint8_t *p);        /* LANES bytes */
FPQ_INLINE vf vf_load_f16(const uint16_t *p);      /* LANES finite halves of IEEE 754 */
FPQ_INLINE vf vf_load_bf16(const uint16_t *p);     /* LANES bfloat16 */
FPQ_INLINE void vf_store(float *p, vf x);
FPQ_INLINE vf vf_add(vf a, vf b);
FPQ_INLINE vf vf_sub(vf a, vf b);
FPQ_INLINE vf vf_mul(vf a, vf b);
FPQ_INLINE vf vf_fma(vf a, vf b, vf c);                   /* a b + c, rounded once */
FPQ_INLINE vf vf_fnma(vf a, vf b, vf c);                  /* c - a b, rounded once */
FPQ_INLINE vf vf_sqrt(vf x);                              /* correctly rounded */
FPQ_INLINE vf vf_lesser(vf a, vf b);                      /* b where a is NaN */
FPQ_INLINE vf vf_larger(vf a, vf b);                      /* of numbers */
FPQ_INLINE vf vf_larger_where(vf a, vf b, unsigned bits); /* vf_larger in lanes whose bit is set, or else a */
FPQ_INLINE vf vf_from(vi x);                              /* rounded to nearest */
FPQ_INLINE float vf_sum(vf x);                            /* added in any order */
FPQ_INLINE float vf_max(vf x);                            /* of numbers */
FPQ_INLINE vm vf_greater(vf a, vf b);                     /* a > b; not for NaN */
FPQ_INLINE vf vf_choose(vm m, vf yes, vf no);
FPQ_INLINE unsigned vf_bits_at_least(vf a, vf b); /* bit i: a >= b; 0 for NaN */
FPQ_INLINE void vf_transpose(vf *x);              /* LANES rows become columns */

/* ---- int32 ---- */
FPQ_INLINE vi vi_load(const int32_t *p);
FPQ_INLINE void vi_store(int32_t *p, vi x);
FPQ_INLINE vi vi_set(int x);
FPQ_INLINE vi vi_lane_numbers(void); /* 0, 1, ... LANES - 1 */
FPQ_INLINE vi vi_add(vi a, vi b);
FPQ_INLINE vi vi_mul(vi a, vi b);             /* modulo 2^32 */
FPQ_INLINE vi vi_lesser_unsigned(vi a, vi b); /* of uint32 */
FPQ_INLINE vm vi_equal(vi a, vi b);
FPQ_INLINE vi vi_choose(vm m, vi yes, vi no);

/* ---- uint8 ---- */
FPQ_INLINE vb vb_set(uint8_t x);
FPQ_INLINE vb vb_load(const uint8_t *p);
FPQ_INLINE void vb_store(uint8_t *p, vb x);
FPQ_INLINE vb vb_table(const uint8_t *p);       /* 16 entries */
FPQ_INLINE vb vb_look_up(vb table, vb numbers); /* numbers below 16 */
FPQ_INLINE vb vb_low_nibbles(vb x);
FPQ_INLINE vb vb_high_nibbles(vb x);
/* Byte i: the high nibble of x, and in the high nibble the low one of byte i + 1; 0 there for each eighth byte. */
FPQ_INLINE vb vb_next_nibbles(vb x);
FPQ_INLINE vb vb_double(vb x);                                   /* modulo 256 */
FPQ_INLINE vb vb_choose(vb by, vb yes, vb no);                   /* yes where the top bit is set */
FPQ_INLINE vb vb_add_saturating(vb a, vb b);                     /* at most 255 */
FPQ_INLINE uint64_t vb_bits_full(vb x);                          /* bit i: x is 255 */
FPQ_INLINE vt vt_load(const uint8_t *p, const int n, int apart); /* n times 16 entries; n: 1, 2 or 4 */
FPQ_INLINE vb vt_look_up(vt table, vb code, const int n);        /* entry FPQ_CODE_GROUP(code, 16 n); n: 2 or 4 */

#ifdef FPQ_VBMI
FPQ_INLINE vt vt_load_256(const uint8_t *p); /* 256 entries */
FPQ_INLINE vb vt_look_up_256(vt table, vb code);
#endif

/* ---- 16 and 32 bits ---- */
FPQ_INLINE vw vw_zero(void);
FPQ_INLINE vw vw_add(vw sum, vb x);                      /* modulo 65536 */
FPQ_INLINE uint64_t vw_bits_above(vw x, uint16_t limit); /* bit i: x is above the limit */
FPQ_INLINE vb vw_to_bytes(vw x, int shift);              /* x >> shift where that is at most 255 */
FPQ_INLINE vh vh_load(const uint16_t *p);
FPQ_INLINE void vh_store(uint16_t *p, vh x);
FPQ_INLINE void vh_store_u8(uint8_t *p, vh x); /* numbers up to 255 */
FPQ_INLINE vh vh_set(uint16_t x);
FPQ_INLINE vh vh_add(vh a, vh b);   /* modulo 65536 */
FPQ_INLINE vh vh_sub(vh a, vh b);   /* modulo 65536 */
FPQ_INLINE vh vh_times(vh a, vh b); /* the upper halves of the products */
FPQ_INLINE vh vh_lesser(vh a, vh b);
FPQ_INLINE int vh_min(vh x);
FPQ_INLINE vs vs_load(const int16_t *p);
FPQ_INLINE vs vs_load_codes(const uint8_t *p); /* 16 bytes times 4 */
FPQ_INLINE vs vs_sub(vs a, vs b);
FPQ_INLINE vq vq_zero(void);
FPQ_INLINE vq vq_add_squares(vs x, vq sum);                             /* the sum grows by the 16 squares of x */
FPQ_INLINE unsigned vq_bits_at_most(vq a, vq b, vq c, vq d, int32_t x); /* bits 0 to 3: the sum is at most x */

/* ---- products of bytes ---- */
FPQ_INLINE vb vb_set_4(const uint8_t *p); /* 4 bytes, repeated */
/* Lane i grows by the four products a[t] x[t], t from 4 i on; a below 2 INT8_OFFSET, x int8 from -127. */
FPQ_INLINE vi vi_add_fours(vi sum, vb a, vb x);
/* Lane i grows by a[t] x[t] + b[t] y[t] for these t; a and b below 2 INT8_OFFSET, x and y int8 of
 * absolute values below INT8_OFFSET. */
FPQ_INLINE vi vi_add_eights(vi sum, vb a, vb x, vb b, vb y);
FPQ_INLINE vb vb_load_32(const uint8_t *p); /* vb_load of the first 32 bytes; the rest is 0 */
FPQ_INLINE vb vb_low_bit_pairs(vb x);       /* bits 0 and 1 of each byte */
FPQ_INLINE vb vb_high_bit_pairs(vb x);      /* bits 2 and 3 */
/* The lanes of the result add up to those of sum plus all a[i] x[i] + b[i] y[i]; a and b below 16, x and y int8. */
FPQ_INLINE vi vi_add_products(vi sum, vb a, vb x, vb b, vb y);
FPQ_INLINE void vi_store_sums(int32_t *to, const vi *x); /* to[i] = the sum of the lanes of x[i], for i < 8 */

/* ---- arrays of 16 ---- */
/* Bit g: bounds[g] <= drift[g] + distance, which saturates at 65535. */
FPQ_INLINE unsigned bits_within(const uint16_t *bounds, const uint16_t *drift, uint16_t distance);
/* to[g] = floor(x[g]), at most 65535, for every g whose bit is set; x >= 0. */
FPQ_INLINE void store_u16(uint16_t *to, const vf *x, unsigned bits);
/* to[i] = floor(x[i]); x from 0 to 255. */
FPQ_INLINE void store_u8(uint8_t *to, const vf *x);
