/* SPDX-License-Identifier: MIT
 * Tasks over threads: all that csrc/ asks of OpenMP. Without OpenMP there is one thread. */
#ifndef FPQ_PARALLEL_H
#define FPQ_PARALLEL_H

#include <stddef.h>
#include <stdint.h>

/* Whether a call is to leave the rest of its work undone. */
typedef struct {
    int stop;
    double next; /* when to ask the hook, in seconds */
    double last; /* when the clock was read */
    int skip;    /* questions to answer before the clock is read again */
    int stride;  /* the last value of skip */
} fpq_poll;

/* What a task gets from the thread that it runs on. */
typedef struct {
    char *scratch;  /* memory of the thread, on a 64-byte boundary */
    fpq_poll *poll; /* for fpq_stopped, which a task of more than some milliseconds has to ask */
} fpq_worker;

typedef void (*fpq_task)(void *context, int64_t i, fpq_worker *worker);

/* Calls task(context, i, worker) for each i < n, in any order, on at most `threads` threads with `scratch` bytes of
 * memory each. One thread alone runs without OpenMP. Before each task the hook of fpq_on_poll has its turn. Returns 0,
 * or -1 when memory ran out or the hook said stop; tasks may then be missing. */
int fpq_parallel(int64_t n, size_t scratch, int threads, fpq_task task, void *context);

/* fpq_parallel for short tasks that ask nothing of a worker. One thread loops over them, which cannot fail. */
int fpq_parallel_or_loop(int64_t n, int threads, fpq_task task, void *context);

/* Whether to stop. Thread 0, the caller's, asks the hook of fpq_on_poll every 50 ms, for the first time 50 ms after the
 * first question, as the hook waits for Python's lock. Not to be asked within an inner fpq_parallel. */
int fpq_stopped(fpq_poll *poll);

/* For a task: memory ran out, so the call fails. */
void fpq_fail(fpq_worker *worker);

/* How many of `wanted` threads n tasks get. */
int fpq_threads(int wanted, int64_t n);

/* Into how many parts, at most `max`, each of n things is to be cut so that every thread has 8 tasks: with fewer,
 * threads wait for the last one. As the number depends on the number of threads, no result may depend on it. */
static inline int fpq_parts(int64_t n, int64_t max, int threads) {
    const int64_t wanted = threads > 1 ? (8 * (int64_t)threads + n - 1) / n : 1;
    return (int)(wanted < max ? wanted : max);
}

/* How many of `wanted` threads have at least `share` of the work each; at least 1. */
static inline int fpq_worth_threads(int wanted, int64_t work, int64_t share) {
    return work / share >= wanted ? wanted : work < 2 * share ? 1 : (int)(work / share);
}

/* Batches of `size` that n things make, and the size of batch i. */
static inline int64_t fpq_batches(int64_t n, int64_t size) { return (n + size - 1) / size; }
static inline int fpq_batch_size(int64_t n, int64_t size, int64_t i) {
    return (int)(n - i * size < size ? n - i * size : size);
}

#endif
