/* SPDX-License-Identifier: MIT */
#include "parallel.h"

#include <math.h>
#include <time.h>

#include "fork.h"
#include "fpq.h"
#include "portable.h"

#define CPU_SECONDS() ((double)clock() / CLOCKS_PER_SEC)
#ifdef _OPENMP
#include <omp.h>
#define THREAD_NUMBER() omp_get_thread_num()
#define SECONDS() omp_get_wtime()
#else
#define THREAD_NUMBER() 0
#define SECONDS() CPU_SECONDS()
#endif

#if defined(_OPENMP) && !defined(_WIN32)
#include <pthread.h>

/* GNU's and LLVM's OpenMP print a message and exit when a thread cannot be started, which a limit on processes, on
 * address space or of a control group may bring about. So the first parallel region of a thread that is larger than
 * those before is preceded by a trial: threads of the same stack size are started and ended again. The region that
 * follows, which does nothing, makes OpenMP start and keep its own threads, before a call takes its memory. All other
 * regions cost two comparisons. */

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

static int threads_given(int wanted) {
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

void fpq_after_fork(void) {
    fpq_mark_forked();
    pthread_mutex_init(&turn, NULL); /* a thread that the child does not have may have held them */
    pthread_mutex_init(&gate, NULL);
}
#else
static int threads_given(int wanted) { return wanted; }
void fpq_after_fork(void) {}
#endif

int fpq_has_openmp(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

int fpq_max_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

/* The log of fpq_trace. `inside`: a logged region runs. Times are of the CPU, which other processes do not change. */
static struct {
    float *log;
    int64_t room, used;
    int inside;
} trace;

int64_t fpq_trace(float *log, int64_t room) {
    const int64_t used = trace.used;
    trace.log = log;
    trace.room = room;
    trace.used = trace.inside = 0;
    return used;
}

static void put_in_log(double number) {
    if (trace.used < trace.room) trace.log[trace.used] = (float)number;
    trace.used++;
}

int fpq_threads(int wanted, int64_t n) {
    if (!fpq_has_openmp() || n <= 1) return 1;
    if (wanted > n) wanted = (int)n;
    return fpq_is_forked() || trace.log ? wanted : threads_given(wanted);
}

static int (*poll_hook)(void);

void fpq_on_poll(int (*poll)(void)) { poll_hook = poll; }

int fpq_stopped(fpq_poll *poll) {
    if (THREAD_NUMBER() == 0 && poll_hook && --poll->skip < 0 && !FPQ_READ_SHARED(&poll->stop)) {
        /* The clock takes as long as a small task: it is read about every millisecond. */
        const double now = SECONDS();
        poll->stride = now - poll->last < 0.001 ? (poll->stride < 31 ? 2 * poll->stride + 1 : 31) : 0;
        poll->skip = poll->stride;
        poll->last = now;
        const int due = poll->next > 0 && now >= poll->next;
        if (due || poll->next <= 0) poll->next = now + 0.05;
        if (due && poll_hook()) FPQ_WRITE_SHARED(&poll->stop, 1);
    }
    return FPQ_READ_SHARED(&poll->stop);
}

void fpq_fail(fpq_worker *worker) { FPQ_WRITE_SHARED(&worker->poll->stop, 1); }

typedef struct {
    int64_t n;
    size_t scratch;
    int threads;
    fpq_task task;
    void *context;
    fpq_poll poll;
} region;

static void run_logged(region *r, fpq_worker *worker) {
    trace.inside = 1;
    put_in_log((double)r->n);
    for (int64_t i = 0; i < r->n && !fpq_stopped(&r->poll); i++) {
        const double start = CPU_SECONDS();
        r->task(r->context, i, worker);
        put_in_log(CPU_SECONDS() - start);
    }
    trace.inside = 0;
}

static void run(void *argument) {
    region *r = argument;
    const size_t each = fpq_lines(r->scratch);
    const int threads = trace.log ? 1 : fpq_threads(r->threads, r->n);
    char *memory = each ? fpq_alloc((size_t)threads * each) : NULL;
    if (each && !memory) {
        r->poll.stop = 1;
        return;
    }
    if (threads == 1) {
        fpq_worker worker = {.scratch = memory, .poll = &r->poll};
        const int logged = trace.log && !trace.inside && r->n > 1 && r->threads > 1;
        if (logged) run_logged(r, &worker);
        for (int64_t i = 0; !logged && i < r->n && !fpq_stopped(&r->poll); i++) r->task(r->context, i, &worker);
    } else {
#pragma omp parallel num_threads(threads)
        {
            fpq_worker worker = {.scratch = each ? memory + (size_t)THREAD_NUMBER() * each : NULL, .poll = &r->poll};
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < r->n; i++)
                if (!fpq_stopped(&r->poll)) r->task(r->context, i, &worker);
        }
    }
    fpq_free(memory);
}

int fpq_parallel(int64_t n, size_t scratch, int threads, fpq_task task, void *context) {
    region r = {.n = n, .scratch = scratch, .threads = threads, .task = task, .context = context};
    if (fpq_is_forked() && fpq_threads(threads, n) > 1) {
        r.poll.next = INFINITY; /* this thread asks */
        if (!fpq_call_elsewhere(run, &r, poll_hook, &r.poll.stop)) return r.poll.stop ? -1 : 0;
        r = (region){.n = n, .scratch = scratch, .threads = 1, .task = task, .context = context};
    }
    run(&r);
    return r.poll.stop ? -1 : 0;
}

int fpq_parallel_or_loop(int64_t n, int threads, fpq_task task, void *context) {
    if (threads > 1) return fpq_parallel(n, 0, threads, task, context);
    for (int64_t i = 0; i < n; i++) task(context, i, NULL);
    return 0;
}
