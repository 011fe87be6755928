/* SPDX-License-Identifier: MIT
 * Layouts of codes. Sub-code j of a row occupies bits j*nbits and up of the code, low bits first, as in faiss. In an
 * index 64 rows form a code block [code_size][64]: byte b of 64 rows lies side by side. */
#include <string.h>

#include "fpq.h"

int fpq_code_size(int m, int nbits) { return (m * nbits + 7) / 8; }

void fpq_pack_codes(const int32_t *ids, int64_t n, int m, int nbits, uint8_t *codes) {
    const int size = fpq_code_size(m, nbits);
    memset(codes, 0, (size_t)n * (size_t)size);
    for (int j = 0; j < m; j++) {
        const int at = j * nbits / 8, shift = j * nbits % 8, spills = shift + nbits > 8;
        for (int64_t i = 0; i < n; i++) {
            const unsigned code = (unsigned)ids[j * n + i] << shift;
            codes[i * size + at] |= (uint8_t)code;
            if (spills) codes[i * size + at + 1] |= (uint8_t)(code >> 8);
        }
    }
}

void fpq_unpack_codes(const uint8_t *codes, int64_t n, int m, int nbits, int32_t *ids) {
    const int size = fpq_code_size(m, nbits);
    for (int j = 0; j < m; j++) {
        const int at = j * nbits / 8, shift = j * nbits % 8, spills = shift + nbits > 8;
        for (int64_t i = 0; i < n; i++) {
            unsigned code = codes[i * size + at];
            if (spills) code |= (unsigned)codes[i * size + at + 1] << 8;
            ids[j * n + i] = (int32_t)(code >> shift & ((1u << nbits) - 1));
        }
    }
}

void fpq_put_codes(const uint8_t *codes, const int64_t *rows, int64_t n, int code_size, uint8_t *blocks) {
    for (int64_t i = 0; i < n; i++) {
        uint8_t *to = blocks + rows[i] / 64 * 64 * code_size + rows[i] % 64;
        for (int b = 0; b < code_size; b++) to[b * 64] = codes[i * code_size + b];
    }
}

void fpq_get_codes(const uint8_t *blocks, const int64_t *rows, int64_t n, int code_size, uint8_t *codes) {
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *from = blocks + rows[i] / 64 * 64 * code_size + rows[i] % 64;
        for (int b = 0; b < code_size; b++) codes[i * code_size + b] = from[b * 64];
    }
}
