"""Long calls are cut into enough tasks for many threads, and give the same bits for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from fpq import _native
from fpq.learning.kmeans import even_offsets
from fpq.learning.lloyd import LocalRows

MANY = 64


def iterations(x: np.ndarray, m: int, k: int, n_threads: int, limit: float = 0.0) -> tuple[np.ndarray, ...]:
    """Two k-means iterations and the assignment after them: ids, errors, centroids, changed ids."""
    n, d = x.shape
    offsets = even_offsets(d, m)
    dsub = int(np.diff(offsets).max())
    centroids = np.zeros((m, k, dsub), np.float32)
    for j in range(m):
        part = x[j : j + k, offsets[j] : offsets[j + 1]]
        centroids[j, :, : part.shape[1]] = part
    steps = LocalRows(x, None, n_threads).steps(offsets, (m, k, dsub), limit > 0)
    counts, active = np.empty((m, k), np.int64), np.ones(m, np.uint8)
    chunk_rows = _native.kmeans_chunk_rows(m, k, dsub, n)
    moved = []
    for _ in range(2):
        sums, changed = steps.sums(centroids, active, n, chunk_rows, limit)
        _native.kmeans_means(centroids, offsets, active, sums, counts, n_threads)
        moved.append(changed)
    ids, errors = steps.assigned(centroids)
    return ids, errors, centroids, counts, *moved


def regions_of(log: np.ndarray, used: int) -> list[int]:
    """The number of tasks of each region in the log."""
    sizes, at = [], 0
    while at < used:
        sizes.append(int(log[at]))
        at += 1 + sizes[-1]
    assert at == used
    return sizes


@pytest.mark.parametrize(
    ("m", "k", "d", "n"), [(1, 2048, 768, 3000), (96, 256, 384, 2000), (3, 16, 20, 9000), (5, 17, 23, 700)]
)
def test_k_means_has_the_same_bits_for_any_number_of_threads(m: int, k: int, d: int, n: int) -> None:
    x = np.random.default_rng(k).normal(size=(n, d)).astype(np.float32)
    one = iterations(x, m, k, 1)
    for n_threads in (2, 3, 5, MANY):
        for expected, found in zip(one, iterations(x, m, k, n_threads), strict=True):
            np.testing.assert_array_equal(expected, found)


def test_k_means_with_a_limit_has_the_same_bits_for_any_number_of_threads() -> None:
    x = np.random.default_rng(0).normal(size=(3000, 24)).astype(np.float32)
    one = iterations(x, 1, 100, 1, limit=36)
    for n_threads in (2, 3, 5):
        for expected, found in zip(one, iterations(x, 1, 100, n_threads, limit=36), strict=True):
            np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize(("m", "k", "d", "n"), [(1, 2048, 768, 600), (96, 256, 384, 4000), (1, 64, 16, 60_000)])
def test_k_means_has_enough_tasks_for_many_threads(m: int, k: int, d: int, n: int) -> None:
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    offsets = even_offsets(d, m)
    dsub = d // m
    centroids = np.resize(x.ravel(), (m, k, dsub))
    chunk_rows = _native.kmeans_chunk_rows(m, k, dsub, n)
    steps = LocalRows(x, None, MANY).steps(offsets, (m, k, dsub), False)
    log = np.empty(1 << 16, np.float32)
    _native.trace(log)
    try:
        steps.sums(centroids, np.ones(m, np.uint8), n, chunk_rows, 0.0)
    finally:
        used = _native.trace(None)
    sizes = regions_of(log, used)
    most = -(-n // 96) * m  # a task has at least 96 rows of one subspace
    if -(-n // chunk_rows) * m >= 8 * MANY:
        assert max(sizes) >= 8 * MANY  # one region assigns rows and sums them
    else:
        assert sizes[-2] >= min(most, 8 * MANY)  # the assignment
        assert sizes[-1] >= min(-(-n // chunk_rows) * m * k, 8 * MANY)  # the sums
    assert (log[:used] >= 0).all()


def test_passes_over_codes_and_labels() -> None:
    rng = np.random.default_rng(0)
    n, m, k, d = 5000, 3, 8, 7
    offsets, codebooks = even_offsets(d, m), rng.normal(size=(m, k, 3)).astype(np.float32)
    ids, codes = rng.integers(k, size=(m, n), dtype=np.int32), np.empty((n, 2), np.uint8)
    _native.pack_codes(ids, 3, codes, 5)
    decoded = np.hstack([codebooks[j, ids[j], : offsets[j + 1] - offsets[j]] for j in range(m)])
    for n_threads in (1, 2, 5):
        out, sums, entries = np.empty((n, d), np.float32), np.empty(n), rng.normal(size=(m, k))
        _native.decode(codebooks, offsets, 3, codes, out, n_threads)
        np.testing.assert_array_equal(out, decoded)
        _native.sum_entries(entries, 3, codes, sums, n_threads)
        np.testing.assert_array_equal(sums, entries[0, ids[0]] + entries[1, ids[1]] + entries[2, ids[2]])
        _native.add_centroids(decoded.astype(np.float16), codebooks[0, :, :1].repeat(d, 1), ids[0], -1, out, n_threads)
        np.testing.assert_array_equal(out, np.float32(np.float16(decoded)) - codebooks[0, ids[0], :1])
        _native.add_centroids(decoded.astype(np.float32), decoded.astype(np.float32), None, 1, out, n_threads)
        np.testing.assert_array_equal(out, 2 * decoded)
        moved, counts, order = ids.copy(), np.empty((m, k), np.int64), rng.permutation(n)
        errors = rng.random((m, n), dtype=np.float32)
        numbers = np.array([rng.permutation(k) for _ in range(m)], np.int32)
        moved_errors = errors.copy()
        _native.reorder(order, moved, moved_errors, n_threads)
        np.testing.assert_array_equal(moved[:, order], ids)
        np.testing.assert_array_equal(moved_errors[:, order], errors)
        _native.renumber(numbers, moved, counts, n_threads)
        for j in range(m):
            np.testing.assert_array_equal(moved[j, order], numbers[j, ids[j]])
            np.testing.assert_array_equal(counts[j], np.bincount(moved[j], minlength=k))
