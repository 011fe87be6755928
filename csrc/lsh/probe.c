/* SPDX-License-Identifier: MIT */
#include "lsh/probe.h"
#include "portable.h"

/* Each probe taken from the heap puts in two. */
static size_t heap_size(const fpq_hashes *hashes, int64_t n_probe) {
    return ((size_t)hashes->n_tables + (size_t)n_probe) * sizeof(fpq_probe);
}

size_t fpq_prober_size(const fpq_hashes *hashes, int64_t n_probe) {
    const size_t tables = (size_t)hashes->n_tables, crossings = 2 * tables * (size_t)hashes->n_hashes;
    return (tables + crossings) * sizeof(uint64_t) + crossings * sizeof(float) + heap_size(hashes, n_probe);
}

fpq_prober fpq_prober_at(char *memory, const fpq_hashes *hashes, int64_t n_probe) {
    fpq_prober p = {.n_hashes = hashes->n_hashes, .sums = (uint64_t *)(void *)memory};
    p.step = p.sums + hashes->n_tables;
    p.heap = (fpq_probe *)(void *)(p.step + 2 * hashes->n_tables * hashes->n_hashes);
    p.crossing = (float *)(void *)((char *)p.heap + heap_size(hashes, n_probe));
    return p;
}

static int highest(uint64_t set) {
    int at = 0;
    for (int step = 32; step; step /= 2)
        if (set >> step) {
            set >>= step;
            at += step;
        }
    return at;
}

/* The crossings of one table. A hash's nearer boundary is at most half a width away, and its other boundary is as far
 * from the middle on the other side: so crossing 2 n_hashes - 1 - j is the opposite of crossing j. */
static void sort_crossings(const float *values, const uint64_t *mixers, int n, float *crossing, uint64_t *step) {
    for (int j = 0; j < n; j++) {
        const float fraction = values[j] - floorf(values[j]);
        const int below = fraction < 0.5f;
        const float near = below ? fraction : 1 - fraction;
        const uint64_t change = below ? 0 - mixers[j] : mixers[j];
        int at = j;
        for (; at && crossing[at - 1] > near; at--) {
            crossing[at] = crossing[at - 1];
            step[at] = step[at - 1];
        }
        crossing[at] = near;
        step[at] = change;
    }
    for (int j = 0; j < n; j++) {
        const float far = 1 - crossing[j];
        crossing[2 * n - 1 - j] = far * far;
        step[2 * n - 1 - j] = 0 - step[j];
    }
    for (int j = 0; j < n; j++) crossing[j] *= crossing[j];
}

static void push(fpq_prober *p, fpq_probe probe) {
    int at = p->n++;
    for (; at && p->heap[(at - 1) / 2].cost > probe.cost; at = (at - 1) / 2) p->heap[at] = p->heap[(at - 1) / 2];
    p->heap[at] = probe;
}

static fpq_probe pop(fpq_prober *p) {
    const fpq_probe top = p->heap[0], last = p->heap[--p->n];
    int at = 0;
    for (int child; (child = 2 * at + 1) < p->n; at = child) {
        if (child + 1 < p->n && p->heap[child + 1].cost < p->heap[child].cost) child++;
        if (p->heap[child].cost >= last.cost) break;
        p->heap[at] = p->heap[child];
    }
    p->heap[at] = last;
    return top;
}

/* Puts in the set that has `member` in addition, or the first valid one after it. A set with a crossing and its
 * opposite is no bucket; what grows from it by adding is none either, so only replacing goes on. */
static void push_valid(fpq_prober *p, uint64_t set, float cost, int32_t table, int member) {
    const int m = 2 * p->n_hashes;
    while (member < m && set >> (m - 1 - member) & 1) member++;
    if (member < m) push(p, (fpq_probe){set | (uint64_t)1 << member, cost + p->crossing[table * m + member], table});
}

void fpq_prober_start(fpq_prober *p, const fpq_hashes *hashes, const float *values) {
    const int n = hashes->n_hashes;
    p->n = 0;
    for (int32_t t = 0; t < hashes->n_tables; t++) {
        sort_crossings(values + t * n, hashes->mixers + t * n, n, p->crossing + t * 2 * n, p->step + t * 2 * n);
        p->sums[t] = fpq_lsh_sum(hashes, t, values);
        push_valid(p, 0, 0, t, 0);
    }
}

int fpq_prober_next(fpq_prober *p, int32_t *table, uint32_t *key) {
    if (!p->n) return 0;
    const fpq_probe probe = pop(p);
    const int m = 2 * p->n_hashes, last = highest(probe.set);
    const uint64_t others = probe.set ^ (uint64_t)1 << last;
    push_valid(p, others, probe.cost - p->crossing[probe.table * m + last], probe.table, last + 1);
    push_valid(p, probe.set, probe.cost, probe.table, last + 1);
    uint64_t sum = p->sums[probe.table];
    for (uint64_t left = probe.set; left; left &= left - 1) sum += p->step[probe.table * m + fpq_lowest_bit(left)];
    *table = probe.table;
    *key = (uint32_t)(sum >> 32);
    return 1;
}
