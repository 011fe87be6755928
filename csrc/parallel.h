/* SPDX-License-Identifier: MIT
 * All that the drivers ask of OpenMP. Without OpenMP there is one thread. */
#ifndef FPQ_THREADS_H
#define FPQ_THREADS_H

#ifdef _OPENMP
#include <omp.h>
#define FPQ_THREAD_NUMBER() omp_get_thread_num()
#define FPQ_SECONDS() omp_get_wtime()
#else
#include <time.h>
#define FPQ_THREAD_NUMBER() 0
#define FPQ_SECONDS() ((double)clock() / CLOCKS_PER_SEC)
#endif

/* Threads to use for `tasks` independent pieces of work when the caller asks for `wanted`. */
int fpq_threads(int wanted, int64_t tasks);

/* As many of `wanted` threads as the system gives the calling thread for its next parallel region, which then has them:
 * OpenMP ends the process when it cannot start one. */
int fpq_threads_given(int wanted);

/* Whether a call is to leave the rest of its work undone: {0} at its beginning, asked by every thread before each piece
 * of work outside of inner parallel regions. Thread 0, the caller's, asks the hook of fpq_on_poll every 50 ms. */
typedef struct {
    int stop;
    double next; /* when to ask, in seconds */
} fpq_poll;

int fpq_stopped(fpq_poll *poll);

#endif
