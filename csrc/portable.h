/* SPDX-License-Identifier: MIT
 * The only file that knows compilers apart. */
#ifndef FPQ_PORTABLE_H
#define FPQ_PORTABLE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define FPQ_INLINE static __forceinline
#define FPQ_RESTRICT __restrict
#define FPQ_ALIGN(bytes) __declspec(align(bytes))
#define FPQ_PREFETCH(p) ((void)(p))
#define FPQ_PREFETCH_L2(p) ((void)(p))
#define FPQ_UNROLL
#define FPQ_IN_REGISTER(x) ((void)0)
#else
#define FPQ_INLINE static inline __attribute__((always_inline, unused))
#define FPQ_RESTRICT restrict
#define FPQ_ALIGN(bytes) __attribute__((aligned(bytes)))
#define FPQ_PREFETCH(p) __builtin_prefetch(p)
#define FPQ_PREFETCH_L2(p) __builtin_prefetch(p, 0, 2)
/* The loop that follows has few rounds, known to the compiler: a copy of its body for each. */
#if defined(__clang__)
#define FPQ_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FPQ_UNROLL _Pragma("GCC unroll 16")
#endif
/* Loads x, a vector, once and not at every use. */
#if defined(__x86_64__)
#define FPQ_IN_REGISTER(x) __asm__("" : "+v"(x))
#else
#define FPQ_IN_REGISTER(x) ((void)0)
#endif
#endif

/* All cache lines of an array of `bytes` >= 1, wherever it begins. */
FPQ_INLINE void fpq_prefetch_lines(const void *p, ptrdiff_t bytes) {
    const char *at = p;
    for (ptrdiff_t o = 0; o < bytes; o += 64) FPQ_PREFETCH(at + o);
    FPQ_PREFETCH(at + bytes - 1);
}

/* An int that several threads read and one writes. */
#if defined(_MSC_VER) && !defined(__clang__)
#define FPQ_READ_SHARED(p) (*(volatile int *)(p))
#define FPQ_WRITE_SHARED(p, value) (*(volatile int *)(p) = (value))
#else
#define FPQ_READ_SHARED(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define FPQ_WRITE_SHARED(p, value) __atomic_store_n(p, value, __ATOMIC_RELAXED)
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define FPQ_X86 1
#elif defined(__aarch64__) || defined(_M_ARM64)
#define FPQ_ARM64 1
#endif

/* Index of the lowest set bit; x is not 0. */
FPQ_INLINE int fpq_lowest_bit(uint64_t x) {
#if defined(_MSC_VER) && !defined(__clang__)
    unsigned long at;
    _BitScanForward64(&at, x);
    return (int)at;
#else
    return __builtin_ctzll(x);
#endif
}

FPQ_INLINE int fpq_popcount(uint64_t x) {
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    return (int)(((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56);
}

/* Bytes, or floats, of whole cache lines. */
FPQ_INLINE size_t fpq_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }
FPQ_INLINE size_t fpq_float_lines(size_t floats) { return (floats + 15) / 16 * 16; }

/* Memory on a cache line's boundary, so that no vector load straddles two lines. NULL when there is none. */
FPQ_INLINE void *fpq_alloc(size_t bytes) {
    bytes = fpq_lines(bytes) + 64;
#if defined(_WIN32)
    return _aligned_malloc(bytes, 64);
#else
    return aligned_alloc(64, bytes);
#endif
}

FPQ_INLINE void fpq_free(void *memory) {
#if defined(_WIN32)
    _aligned_free(memory);
#else
    free(memory);
#endif
}

#endif
