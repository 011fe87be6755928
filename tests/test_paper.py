"""The paper's Algorithm 1 (OpenIndexing) against a model of ten lines, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from fpq.learning.kmeans import even_offsets
from fpq.learning.open_indexing import OpenIndexing

K, D, M = 8, 10, 3  # subspaces of 4, 3, 3 dimensions
OFFSETS = even_offsets(D, M)


def data(seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Small integers, so that distances are exact and there are many ties: rows, and centroids of mean zero."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (n, D)).astype(np.float32)
    x[: n // 3] = x[0]  # one spot is crowded
    half = rng.integers(-3, 4, (M, K // 2, 4)).astype(np.float32)
    half[1:, :, 3] = 0  # narrower subspaces end with zeros
    return x, np.concatenate([half, -half], 1)


def distances(centroids: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Squared distances (m, n, k) of sub-vectors and centroids."""
    pieces = np.split(x, OFFSETS[1:-1], axis=1)
    return np.array([((p[:, None] - c[:, : p.shape[1]]) ** 2).sum(2) for p, c in zip(pieces, centroids, strict=True)])


def algorithm_1(distance: np.ndarray, limit: float, candidates: int, counts: np.ndarray) -> np.ndarray:
    """In row order, the nearest centroid whose count is below the limit, or the last candidate; `counts` go on."""
    m, n, _ = distance.shape
    ids = np.empty((m, n), np.int32)
    for i in range(n):
        for j in range(m):
            count = counts[j % len(counts)]
            order = np.argsort(distance[j, i], kind="stable")[:candidates]
            ids[j, i] = next((c for c in order if count[c] < limit), order[-1])
            count[ids[j, i]] += 1
    return ids


def ours(policy: OpenIndexing, centroids: np.ndarray, x: np.ndarray, counts: np.ndarray, total: int) -> np.ndarray:
    ids = distances(centroids, x).argmin(2).astype(np.int32)
    policy.apply(centroids, OFFSETS, x, ids, counts, total, n_threads=2)
    return ids


@pytest.mark.parametrize("scope", ["subspace", "shared"])
@pytest.mark.parametrize("candidates", [1, 2, 3, K, 10**12])
@pytest.mark.parametrize("c", [1.0, 1.01, 1.5, 2.0, 100.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_algorithm_1(isa: str, scope: str, candidates: int, c: float, seed: int) -> None:
    x, centroids = data(seed)
    policy = OpenIndexing(c, candidates, scope)
    limit = c * len(x) * (M if scope == "shared" else 1) / K
    counts, model_counts = policy.new_counts(M, K), policy.new_counts(M, K)
    ids = ours(policy, centroids, x, counts, len(x))
    np.testing.assert_array_equal(ids, algorithm_1(distances(centroids, x), limit, candidates, model_counts))
    np.testing.assert_array_equal(counts, model_counts)
    if scope == "subspace":
        np.testing.assert_array_equal(counts, [np.bincount(row, minlength=K) for row in ids])
    else:
        np.testing.assert_array_equal(counts[0], np.bincount(ids.ravel(), minlength=K))
    if candidates >= K:
        assert counts.max() <= np.ceil(limit)
    if candidates == 1 or c == 100:
        np.testing.assert_array_equal(ids, distances(centroids, x).argmin(2))


@pytest.mark.parametrize("scope", ["subspace", "shared"])
@pytest.mark.parametrize("candidates", [2, K])
def test_counters_go_on_from_call_to_call(isa: str, scope: str, candidates: int) -> None:
    x, centroids = data(2)
    policy = OpenIndexing(1.2, candidates, scope)
    counts, model_counts, whole_counts = (policy.new_counts(M, K) for _ in range(3))
    pieces = []
    for start, end in ((0, 50), (50, 50), (50, 51), (51, 120)):
        pieces.append(ours(policy, centroids, x[start:end], counts, len(x)))
        limit = policy.limit(len(x), M, K)
        expected = algorithm_1(distances(centroids, x[start:end]), limit, candidates, model_counts)
        np.testing.assert_array_equal(pieces[-1], expected)
        np.testing.assert_array_equal(counts, model_counts)
    whole = ours(policy, centroids, x, whole_counts, len(x))
    np.testing.assert_array_equal(np.hstack(pieces), whole)


def test_the_rows_that_are_asked_for() -> None:
    x, centroids = data(3)
    rows = np.random.default_rng(0).permutation(len(x))[:70]
    policy = OpenIndexing(1.0, 3)
    counts, picked_counts = policy.new_counts(M, K), policy.new_counts(M, K)
    expected = ours(policy, centroids, x[rows], counts, len(rows))
    ids = distances(centroids, x[rows]).argmin(2).astype(np.int32)
    policy.apply(centroids, OFFSETS, x, ids, picked_counts, len(rows), 1, rows)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(picked_counts, counts)


@pytest.mark.parametrize("scope", ["subspace", "shared"])
def test_same_ids_for_any_number_of_threads(scope: str) -> None:
    x, centroids = data(4, 3000)
    nearest = distances(centroids, x).argmin(2).astype(np.int32)
    answers = []
    for n_threads in (1, 2, 3):
        policy = OpenIndexing(1.0, 2, scope)
        ids, counts = nearest.copy(), policy.new_counts(M, K)
        policy.apply(centroids, OFFSETS, x, ids, counts, len(x), n_threads)
        answers.append((ids, counts))
    for ids, counts in answers[1:]:
        np.testing.assert_array_equal(ids, answers[0][0])
        np.testing.assert_array_equal(counts, answers[0][1])


def test_the_limit() -> None:
    assert OpenIndexing(c=2.0).limit(1000, 8, 256) == 2.0 * 1000 / 256
    assert OpenIndexing(c=2.0, scope="shared").limit(1000, 8, 256) == 2.0 * 1000 * 8 / 256
    assert OpenIndexing.of(None) is None
    assert OpenIndexing.of(1.25) == OpenIndexing(c=1.25, candidates=2, scope="subspace")
    policy = OpenIndexing(3)
    assert OpenIndexing.of(policy) is policy
    with pytest.raises(AttributeError):
        policy.c = 1.0  # type: ignore[misc]
