/* SPDX-License-Identifier: MIT
 * Least hashes, signatures and equal numbers. A contract per kernel; minhash/scalar.inc is its specification. */
#ifndef FPQ_MINHASH_KERNELS_H
#define FPQ_MINHASH_KERNELS(X)                                                                                      \
    /* least[j], j < k, becomes the least of itself and all factors[j] * x[i] + shifts[j] modulo 2^32, i < n.  k: a \
     * multiple of 16. */                                                                                           \
    X(void, least_hashes,                                                                                           \
      (const uint32_t *x, int n, const uint32_t *factors, const uint32_t *shifts, int k, uint32_t *least))          \
    /* signature[j], j < k, numbers of `bits` = 8, 16 or 32 bits: the upper bits of least[j] * 0x9e3779b1. */       \
    X(void, put_signature, (const uint32_t *least, int k, int bits, void *signature))                               \
    /* How many of k numbers of `bits` = 8, 16 or 32 bits are equal. */                                             \
    X(int, equal_numbers, (const void *a, const void *b, int k, int bits))

#endif
