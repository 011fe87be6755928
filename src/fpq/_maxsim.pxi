# Documents of many token vectors: the part of _native.pyx for csrc/maxsim. Document i has the tokens first[i] to
# first[i + 1] - 1.

def postings(const int64_t[::1] first, const int32_t[::1] lists, int64_t[::1] list_first, int32_t[::1] list_rows):
    """The documents list_rows[list_first[l]:list_first[l + 1]] of each list; list_rows None: list_first alone."""
    cdef int32_t *rows = NULL
    if list_rows is not None: rows = &list_rows[0]
    with nogil:
        _done(fpq_postings(&first[0], &lists[0], first.shape[0] - 1, <int32_t>(list_first.shape[0] - 1),
                           &list_first[0], rows))


def maxsim_search(ADC adc, const float[:, ::1] centroids, bint residual, const int64_t[::1] list_first,
                  const int32_t[::1] list_rows, const int64_t[::1] first, const int32_t[::1] lists,
                  const uint8_t[:, ::1] codes, const int64_t[::1] ids, const uint64_t[::1] allowed,
                  const float[:, ::1] queries, const int64_t[::1] query_first, const int64_t[:, ::1] probes,
                  int64_t n_candidates, int64_t first_query, Answers answers, int64_t[::1] found, int threads):
    """Search for the documents of queries, which are those from first_query on of the answers."""
    cdef fpq_documents docs = fpq_documents(
        &centroids[0, 0], <int32_t>centroids.shape[0], residual, &list_first[0], &list_rows[0], &first[0], &lists[0],
        &codes[0, 0], _selector(ids, allowed, first.shape[0] - 1))
    cdef fpq_answers here = fpq_answers_from(&answers.c, first_query)
    with nogil:
        _done(fpq_maxsim_search(&adc.c, &docs, &queries[0, 0], &query_first[0], query_first.shape[0] - 1,
                                &probes[0, 0], <int>probes.shape[1], n_candidates, &here, &found[0], threads))
