/* SPDX-License-Identifier: MIT
 * How many threads the system gives. GNU's and LLVM's OpenMP print a message and exit when a thread cannot be started,
 * which a limit on processes, on address space or of a control group may bring about. So the first parallel region of a
 * thread that is larger than those before is preceded by a trial: threads of the same stack size are started and ended
 * again. The region that follows, which does nothing, makes OpenMP start and keep its own, before the working memory of
 * a call is taken. All other regions cost two comparisons. */
#include "portable.h"
#include "parallel.h"

#if defined(_OPENMP) && !defined(_WIN32)
#include <pthread.h>

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER, gate = PTHREAD_MUTEX_INITIALIZER;

/* Of the calling thread: the size of its last region, as OpenMP ends threads that a smaller region does not need, and
 * the largest there was. */
static _Thread_local int last = 1, largest = 1;

/* The stack size that the environment asks for: kilobytes, or with a letter. 0: none. */
static size_t stack_size(void) {
    const char *text = getenv("OMP_STACKSIZE");
    char *end;
    if (!text) return 0;
    const unsigned long long number = strtoull(text, &end, 10);
    while (*end == ' ') end++;
    const int shift = *end == 'B' || *end == 'b'   ? 0
                      : *end == 'M' || *end == 'm' ? 20
                      : *end == 'G' || *end == 'g' ? 30
                                                   : 10;
    return number < (unsigned long long)1 << 32 ? (size_t)number << shift : 0;
}

static void *wait_at_gate(void *unused) {
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return unused;
}

/* How many of `wanted` threads can be there at the same time. */
static int startable(int wanted) {
    pthread_t *started = malloc((size_t)wanted * sizeof *started);
    pthread_attr_t attributes;
    const size_t size = stack_size();
    int n = 0;
    if (!started) return 0;
    if (pthread_attr_init(&attributes)) {
        free(started);
        return 0;
    }
    if (size) pthread_attr_setstacksize(&attributes, size); /* which refuses too small ones, as OpenMP does */
    pthread_mutex_lock(&gate);
    while (n < wanted && !pthread_create(started + n, &attributes, wait_at_gate, NULL)) n++;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < n; i++) pthread_join(started[i], NULL);
    pthread_attr_destroy(&attributes);
    free(started);
    return n;
}

int fpq_threads_given(int wanted) {
    /* What once was given up to the number of CPUs is trusted, as it would be too dear to try it again and again. */
    const int cpus = omp_get_num_procs(), trusted = largest < cpus ? largest : cpus;
    if (wanted > last && wanted > trusted) {
        pthread_mutex_lock(&turn);
        /* Some are left for others, which may take memory at any moment. */
        const int more = wanted > cpus ? wanted - 1 : 1, given = startable(wanted - 1 + more);
        if (given < wanted - 1 + more) wanted = 1 + given / 2;
        int begun = 0;
#pragma omp parallel num_threads(wanted) reduction(+ : begun)
        begun++;
        wanted = begun;
        pthread_mutex_unlock(&turn);
    }
    if (wanted > 1) last = wanted;
    if (wanted > largest) largest = wanted;
    return wanted;
}
#else
int fpq_threads_given(int wanted) { return wanted; }
#endif
