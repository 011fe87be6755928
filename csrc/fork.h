/* SPDX-License-Identifier: MIT
 * Parallel regions in a forked child. */
#ifndef FPQ_FORK_H
#define FPQ_FORK_H

/* To be called in the child, on the thread that forked. */
void fpq_mark_forked(void);

/* Whether the calling thread is the one that forked. GNU's OpenMP keeps a pool of threads per thread that starts
 * regions. Fork copies the record of the pool but not its threads, and the next region would wait for them for ever. */
int fpq_is_forked(void);

/* Calls work(argument) on another thread, which OpenMP gives a pool of its own, and waits for the end. Meanwhile
 * `poll`, unless NULL, is asked every 50 ms; *stop becomes 1 when `poll` returns nonzero. Returns 0. Returns -1,
 * and does nothing, if there is no such thread or `poll` makes the call. */
int fpq_call_elsewhere(void (*work)(void *), void *argument, int (*poll)(void), int *stop);

#endif
