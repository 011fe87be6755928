/* SPDX-License-Identifier: MIT */
#include "fork.h"

#include "portable.h"

#if defined(_OPENMP) && !defined(_WIN32)
#include <pthread.h>
#include <time.h>

static _Thread_local int forked;

/* The other thread, kept from call to call as its pool is, and the call that it makes. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int started;
    void (*work)(void *); /* NULL: no call */
    void *argument;
} other;

void fpq_mark_forked(void) {
    forked = 1;
    other.started = 0; /* the thread of the parent does not exist here */
}

int fpq_is_forked(void) { return forked; }

static void *make_calls(void *unused) {
    pthread_mutex_lock(&other.lock);
    for (;;) {
        while (!other.work) pthread_cond_wait(&other.changed, &other.lock);
        pthread_mutex_unlock(&other.lock);
        other.work(other.argument);
        pthread_mutex_lock(&other.lock);
        other.work = NULL;
        pthread_cond_broadcast(&other.changed);
    }
    return unused;
}

static int start(void) {
    pthread_t thread;
    pthread_mutex_init(&other.lock, NULL);
    pthread_cond_init(&other.changed, NULL);
    other.work = NULL;
    if (pthread_create(&thread, NULL, make_calls, NULL)) return -1;
    pthread_detach(thread);
    other.started = 1;
    return 0;
}

int fpq_call_elsewhere(void (*work)(void *), void *argument, int (*poll)(void), int *stop) {
    if (!other.started && start()) return -1;
    pthread_mutex_lock(&other.lock);
    if (other.work) { /* `poll` has run a signal handler, which calls from within a call */
        pthread_mutex_unlock(&other.lock);
        return -1;
    }
    other.argument = argument;
    other.work = work;
    pthread_cond_broadcast(&other.changed);
    while (other.work) {
        struct timespec due;
        timespec_get(&due, TIME_UTC);
        due.tv_nsec += 50000000;
        due.tv_sec += due.tv_nsec / 1000000000;
        due.tv_nsec %= 1000000000;
        if (!pthread_cond_timedwait(&other.changed, &other.lock, &due) || !poll || !other.work) continue;
        pthread_mutex_unlock(&other.lock);
        if (poll()) FPQ_WRITE_SHARED(stop, 1);
        pthread_mutex_lock(&other.lock);
    }
    pthread_mutex_unlock(&other.lock);
    return 0;
}
#else
void fpq_mark_forked(void) {}
int fpq_is_forked(void) { return 0; }
int fpq_call_elsewhere(void (*work)(void *), void *argument, int (*poll)(void), int *stop) {
    return (void)work, (void)argument, (void)poll, (void)stop, -1;
}
#endif
