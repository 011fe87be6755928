/* SPDX-License-Identifier: MIT
 * A program without Python that tests every kernel under every instruction set that runs here, or under the one that
 * FPQ_ISA names, against the scalar kernels and sums in double precision, then the drivers against naive loops. */
#include "selftest/harness.h"

#include "assign/selftest.inc"
#include "exact/selftest.inc"
#include "kmeans/selftest.inc"
#include "lsh/selftest.inc"
#include "lut/selftest.inc"
#include "matrix/selftest.inc"
#include "maxsim/selftest.inc"
#include "metric/selftest.inc"
#include "minhash/selftest.inc"
#include "refine/selftest.inc"
#include "results.h"
#include "scan/selftest.inc"

/* A table of ids through changes, beside the array of ids by place. */
static void test_ids(void) {
    enum { MOST_IDS = 300, CHANGES = 40 };
    const int bits = 10, wide = below(2), stride = ANY_OF(0, 3, 20, 32, 50);
    const fpq_ids ids = stride < 20 ? random_ids(MOST_IDS) : (fpq_ids){.wide = INPUT(int64_t, MOST_IDS)};
    int64_t *places = OUTPUT(int64_t, MOST_IDS), *wanted = INPUT(int64_t, MOST_IDS);
    uint64_t *entries = OUTPUT(uint64_t, wide ? 1 << bits : 1 << bits >> 1);
    uint64_t *set = OUTPUT(uint64_t, (MOST_IDS + 63) / 64);
    const fpq_id_table t = {entries, bits, wide ? 40 : ANY_OF(10, 20, 32), wide, ids};
    int n = 0, right = 1;
    memset(entries, 0, ((size_t)1 << bits) * (wide ? sizeof(uint64_t) : sizeof(uint32_t)));
    for (int change = 0; change < CHANGES; change++) {
        int64_t gone[MOST_IDS], sources[MOST_IDS], targets[MOST_IDS];
        int n_gone = 0, n_moved = 0, left = n;
        if (below(2)) {
            for (; left < n + 40 && left < MOST_IDS; left++) {
                wanted[left - n] = (int64_t)(change * 64 + left - n) << stride;
                fpq_put_id(ids, left, wanted[left - n]);
                places[left - n] = left;
            }
            fpq_ids_find(&t, wanted, left - n, wanted);
            for (int i = n; i < left; i++) right &= wanted[i - n] < 0;
            fpq_ids_insert(&t, places, left - n);
        } else {
            for (int i = 0; i < n; i++) /* of the rows that go, those before the new end are holes */
                if (!below(4)) gone[n_gone++] = i;
            left = n - n_gone;
            for (int i = 0; i < n_gone && gone[i] < left; i++) targets[n_moved++] = gone[i];
            for (int i = left, g = 0, m = 0; i < n; i++) {
                while (g < n_gone && gone[g] < i) g++;
                if (g == n_gone || gone[g] != i) sources[m++] = i;
            }
            for (int i = 0; i < n_gone; i++) wanted[i] = fpq_id_of(ids, gone[i]);
            fpq_ids_remove(&t, ids, gone, n_gone, sources, targets, n_moved);
            fpq_ids_find(&t, wanted, n_gone, places);
            for (int i = 0; i < n_gone; i++) right &= places[i] < 0;
            for (int i = left; i < n; i++) right &= fpq_id_of(ids, i) == 0;
        }
        n = left;
        if (n > 0 && n < MOST_IDS) { /* an id gets a second place before the first is taken out */
            const int64_t first = below(n), second = n;
            const int64_t id = fpq_id_of(ids, first);
            fpq_put_id(ids, second, id);
            fpq_ids_insert(&t, &second, 1);
            fpq_ids_find(&t, &id, 1, places);
            right &= places[0] == second;
            fpq_ids_remove(&t, ids, &first, 1, &second, &first, 1);
        }
        for (int i = 0; i < n; i++) wanted[i] = fpq_id_of(ids, i);
        fpq_ids_find(&t, wanted, n, places);
        for (int i = 0; i < n; i++) right &= places[i] == i;
    }
    CHECK(right);
    memset(set, 0, (MOST_IDS + 63) / 64 * sizeof *set);
    for (int i = 0; i < n; i++) places[i] = i % 3 ? i : -1;
    fpq_set_bits(places, n, set);
    for (int i = 0; i < MOST_IDS; i++) right &= (int)(set[i / 64] >> i % 64 & 1) == (i < n && i % 3 != 0);
    CHECK(right);
}

/* Whether pair i comes before pair j: by distance, then id. */
static int is_before(const float *distances, const int64_t *ids, int i, int j) {
    return distances[i] < distances[j] || (distances[i] == distances[j] && ids[i] < ids[j]);
}

/* The k smallest of pairs with many ties, as a heap or a reservoir, beside their ranks. */
static void test_results(void) {
    const int n = ANY_OF(0, 1, 31, 63, 64, 65, 200, 1000), k = ANY_OF(1, 10, 31, 32, 33, 63, 64, 65, 150, 256, 257),
              values = ANY_OF(1, 3, 100000), as_rows = below(2);
    float *distances = INPUT(float, n), *found = OUTPUT(float, k);
    const fpq_ids of_rows = random_ids(n);
    int64_t *ids = INPUT(int64_t, n), *found_ids = OUTPUT(int64_t, k);
    const fpq_answers answers = {
        .k = k, .distances = found, .ids = found_ids, .unsorted = as_rows, .rows_of = as_rows ? of_rows : (fpq_ids){0}};
    for (int i = 0; i < n; i++) {
        ids[i] = (i * 7919 + 13) % 10007;
        fpq_put_id(of_rows, i, ids[i]);
        distances[i] = below(20) ? (float)(below(values) - values / 2) : (below(2) ? INFINITY : -0.0f);
    }
    fpq_results results = fpq_results_of(&answers, 0, of_rows);
    for (int i = 0; i < n; i++)
        if (distances[i] <= results.threshold) fpq_results_offer(&results, distances[i], i);
    CHECK(!fpq_results_finish(&results, &answers, 0));
    int right = 1, n_found = 0;
    for (int i = 0; i < n; i++) {
        int rank = 0;
        for (int j = 0; j < n; j++) rank += is_before(distances, ids, j, i);
        if (rank >= k) continue;
        int at = rank;
        if (as_rows)
            for (at = 0; at < k && found_ids[at] != i;) at++;
        right &= at < k && found_ids[at] == (as_rows ? i : ids[i]) && found[at] == distances[i];
        n_found++;
    }
    for (int p = n_found; p < k; p++) right &= found_ids[p] == -1 && found[p] == INFINITY;
    CHECK(right);
}

static void test_words(void) {
    const char *broken = kern->check_words ? kern->check_words(next()) : NULL;
    if (broken) printf("%s: %s breaks its contract in isa/vec.h\n", kern->isa, broken);
    CHECK(!broken);
}

static const test other_tests[] = {
    {"vector words", test_words, ROUNDS}, {"ids", test_ids, ROUNDS}, {"results", test_results, ROUNDS}};

#define FAMILY(tests) {tests, sizeof(tests) / sizeof *(tests)}
static const struct {
    const test *tests;
    int n;
} families[] = {FAMILY(matrix_tests), FAMILY(metric_tests), FAMILY(assign_tests),  FAMILY(kmeans_tests),
                FAMILY(lut_tests),    FAMILY(scan_tests),   FAMILY(exact_tests),   FAMILY(lsh_tests),
                FAMILY(refine_tests), FAMILY(maxsim_tests), FAMILY(minhash_tests), FAMILY(other_tests)};

static void run(const test *t) {
    for (int round = 0; round < 2 * t->rounds; round++) {
        testing = t->name;
        kind = round % 2 ? REALS : INTEGERS;
        state = (uint64_t)round;
        t->run();
        release();
    }
}

int main(void) {
    const char *only = getenv("FPQ_ISA");
    long all = 0, all_failed = 0;
    for (int i = 0; fpq_isa_at(i); i++) {
        if (only && *only && strcmp(only, fpq_isa_at(i))) continue;
        checks = failed = 0;
        const int status = fpq_use_isa(fpq_isa_at(i));
        kern = fpq_active();
        testing = "fpq_use_isa";
        CHECK(!status && !strcmp(fpq_isa(), fpq_isa_at(i)) && fpq_use_isa("none"));
        for (size_t f = 0; f < sizeof families / sizeof *families; f++)
            for (int t = 0; t < families[f].n; t++) run(families[f].tests + t);
        printf("%s: %ld checks, %ld failed\n", fpq_isa(), checks, failed);
        all += checks;
        all_failed += failed;
    }
    if (!all) printf("FPQ_ISA=%s does not run here\n", only);
    printf("%ld passed, %ld failed\n", all - all_failed, all_failed);
    return !all || all_failed;
}
