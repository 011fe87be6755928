/* SPDX-License-Identifier: MIT
 * All that the drivers ask of OpenMP. Without OpenMP there is one thread. */
#ifndef FPQ_THREADS_H
#define FPQ_THREADS_H

#ifdef _OPENMP
#include <omp.h>
#define FPQ_THREAD_NUMBER() omp_get_thread_num()
#else
#define FPQ_THREAD_NUMBER() 0
#endif

/* Threads to use for `tasks` independent pieces of work when the caller asks for `wanted`. */
int fpq_threads(int wanted, int64_t tasks);

#endif
