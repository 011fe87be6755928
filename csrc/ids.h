/* SPDX-License-Identifier: MIT
 * Reading and writing ids of 8 or of 4 bytes. */
#ifndef FPQ_IDS_H
#define FPQ_IDS_H

#include "fpq.h"
#include "portable.h"

FPQ_INLINE int fpq_has_ids(fpq_ids ids) { return ids.wide || ids.narrow; }

FPQ_INLINE int64_t fpq_id_of(fpq_ids ids, int64_t row) {
    if (ids.narrow) return ids.narrow[row];
    return ids.wide ? ids.wide[row] : row;
}

FPQ_INLINE void fpq_put_id(fpq_ids ids, int64_t row, int64_t id) {
    if (ids.narrow)
        ids.narrow[row] = (int32_t)id;
    else
        ids.wide[row] = id;
}

FPQ_INLINE void fpq_prefetch_id(fpq_ids ids, int64_t row) {
    if (ids.narrow)
        FPQ_PREFETCH(ids.narrow + row);
    else
        FPQ_PREFETCH(ids.wide + row);
}

#endif
