"""FlatIndex is exact."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import fpq

RNG = np.random.default_rng(1)
X = RNG.integers(0, 50, (700, 37)).astype(
    np.float32
)  # sums of products are exact: distances can be compared for equality
Q = RNG.integers(0, 50, (70, 37)).astype(np.float32)


def scores(q: np.ndarray, x: np.ndarray, metric: str) -> np.ndarray:
    """What to sort by, ascending."""
    q, x = np.asarray(q, np.float64), np.asarray(x, np.float64)
    if metric == "l2":
        return ((q[:, None] - x) ** 2).sum(2)
    if metric == "cosine":
        q, x = q / np.linalg.norm(q, axis=1, keepdims=True), x / np.linalg.norm(x, axis=1, keepdims=True)
    return -q @ x.T


def nearest(q: np.ndarray, x: np.ndarray, k: int, metric: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    all_scores = scores(q, x, metric)
    order = np.array([np.lexsort((ids, row))[:k] for row in all_scores])
    sign = 1 if metric == "l2" else -1
    return sign * np.take_along_axis(all_scores, order, 1), ids[order]


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("k", [1, 10, 700])
@pytest.mark.parametrize("nq", [1, 3, 4, 5, 63, 64, 65, 70])
def test_search(isa: str, metric: str, k: int, nq: int) -> None:
    ids = np.arange(700)[::-1].copy() * 2  # equal rows: the lower id must win, not the earlier row
    x = np.vstack([X[:600], X[:100]])
    distances, found = fpq.FlatIndex(metric).add(x, ids).search(Q[:nq], k)
    expected_distances, expected = nearest(Q[:nq], x, k, metric, ids)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(distances, expected_distances)


def test_cosine(isa: str) -> None:
    distances, found = fpq.FlatIndex("cosine").add(X).search(Q, 10)
    expected_distances, expected = nearest(Q, X, 10, "cosine", np.arange(700))
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-5)
    assert (found == expected).mean() > 0.99  # near-ties may change places


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-30, 1e-22, 1e-12, 1e12, 1e18, 1e25, 1e36])
def test_cosine_of_any_scale(isa: str, scale: float) -> None:
    x = X if scale > 1e-45 else X.astype(bool)  # the least number there is, and zero
    index = fpq.FlatIndex("cosine").add(x * scale)
    expected = fpq.FlatIndex("cosine").add(x)
    tolerance = 1e-6 if scale > 1e-38 else 1e-5
    np.testing.assert_allclose(index.reconstruct(range(700)), expected.reconstruct(range(700)), rtol=tolerance)
    np.testing.assert_allclose(index.search(Q * scale, 5).distances, expected.search(Q, 5).distances, rtol=1e-5)


def test_cosine_of_zero() -> None:
    index = fpq.FlatIndex("cosine").add([[0.0, 0], [3, 4], [-3, -4]])
    assert index.reconstruct([0, 1]).tolist() == [[0, 0], [np.float32(0.6), np.float32(0.8)]]
    distances, ids = index.search([3.0, 4], 3)
    assert ids.tolist() == [1, 0, 2]
    np.testing.assert_allclose(distances, [1, 0, -1], rtol=1e-6)
    assert index.search([0.0, 0], 3).ids.tolist() == [0, 1, 2]


def test_exact_far_from_the_origin(isa: str) -> None:
    x = (RNG.normal(size=(500, 64)) + 1e4).astype(np.float32)
    q = x[:80] + RNG.normal(size=(80, 64)).astype(np.float32) / 4
    _, found = fpq.FlatIndex().add(x).search(q, 1)
    np.testing.assert_array_equal(found[:, 0], scores(q, x, "l2").argmin(1))


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_squares_that_overflow(isa: str, metric: str) -> None:
    x = (X * 1e30).astype(np.float32)
    x[::3] = X[::3]
    x[1] *= -1
    index = fpq.FlatIndex(metric).add(x)
    batch = index.search(Q[:40], 9)
    assert (batch.ids >= 0).all()
    for i in range(40):
        for ours, single in zip(batch, index.search(Q[i], 9), strict=True):
            np.testing.assert_array_equal(ours[i], single)
    if metric == "l2":
        np.testing.assert_array_equal(index.search(x[:40], 1).ids[:, 0], np.arange(40))
    for few in (x[:40], x[2]):  # distances of about 1e60
        with pytest.raises(ValueError, match=r"Q: .* within float32 .* got inf for query \d+ and id \d+"):
            index.search(few, 9)


def test_single_queries_and_batches_give_the_same_bits(isa: str) -> None:
    x = RNG.normal(size=(3000, 50)).astype(np.float32)
    index = fpq.FlatIndex().add(x)
    batch = index.search(x[:66] + 0.1, 7)
    for i in range(66):
        distances, ids = index.search(x[i] + 0.1, 7)
        np.testing.assert_array_equal(distances, batch.distances[i])
        np.testing.assert_array_equal(ids, batch.ids[i])


@pytest.mark.parametrize("nq", [1, 66])
def test_same_bits_for_any_number_of_threads(nq: int) -> None:
    x = RNG.normal(size=(5000, 20)).astype(np.float32)
    index = fpq.FlatIndex().add(x)
    first = index.search(x[:nq], 9, n_threads=1)
    for n_threads in (2, 3):
        again = index.search(x[:nq], 9, n_threads=n_threads)
        np.testing.assert_array_equal(again.ids, first.ids)
        np.testing.assert_array_equal(again.distances, first.distances)


def test_shapes_and_missing_results() -> None:
    index = fpq.FlatIndex().add(X[:3])
    distances, ids = index.search(Q[0], 5)
    assert distances.shape == ids.shape == (5,)
    assert ids[3:].tolist() == [-1, -1]
    assert np.isposinf(distances[3:]).all()
    assert np.isneginf(fpq.FlatIndex("ip").add(X[:3]).search(Q[0], 5).distances[3:]).all()
    assert index.search(np.empty((0, 37)), 4).ids.shape == (0, 4)
    empty = fpq.FlatIndex()
    assert len(empty) == 0
    assert empty.dim is None
    assert empty.search(Q[:2], 3).ids.tolist() == [[-1] * 3] * 2
    assert empty.range_search(Q[:2], 9.0).lims.tolist() == [0, 0, 0]
    assert index.add(np.empty((0, 37))).search(Q[0], 1).ids.tolist() == ids[:1].tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int8", "int64", "bool", ">f4"])
@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed", "read-only"])
def test_element_types_and_layouts(dtype: str, layout: str) -> None:
    values: Any = (X[:90] % 2 if dtype == "bool" else X[:90]).astype(dtype)
    plain = values.astype(np.float32)
    if layout == "F":
        values = np.asfortranarray(values)
    elif layout == "strided":
        values = np.repeat(np.repeat(values, 2, 0), 3, 1)[::2, ::3]
    elif layout == "reversed":
        values = values[::-1, ::-1].copy()[::-1, ::-1]
    elif layout == "read-only":
        values.flags.writeable = False
    index = fpq.FlatIndex().add(values)
    for nq in (2, 8):
        distances, ids = index.search(Q[:nq], 5)
        expected = nearest(Q[:nq], plain, 5, "l2", np.arange(90))
        np.testing.assert_array_equal(ids, expected[1])
        np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(index.reconstruct([4, 1]), plain[[4, 1]])


def test_vectors_keep_their_element_type() -> None:
    assert fpq.FlatIndex().add(X.astype(np.uint8)).nbytes == 700 * (37 + 4)
    assert fpq.FlatIndex().add(X.astype(np.float16)).nbytes == 700 * (2 * 37 + 4)
    mixed = fpq.FlatIndex().add(X[:300].astype(np.uint8)).add(X[300:] + 0.5)
    _, ids = mixed.search(Q, 3)
    rows = np.vstack([X[:300], X[300:] + 0.5])
    np.testing.assert_array_equal(ids, nearest(Q, rows, 3, "l2", np.arange(700))[1])


@pytest.mark.parametrize("nq", [2, 70])
def test_allowed(nq: int) -> None:
    index = fpq.FlatIndex().add(X)
    some = np.arange(0, 700, 7)
    expected = some[nearest(Q[:nq], X[some], 5, "l2", np.arange(100))[1]]
    np.testing.assert_array_equal(index.search(Q[:nq], 5, allowed=some).ids, expected)
    mask = np.zeros(700, bool)
    mask[some] = True
    np.testing.assert_array_equal(index.search(Q[:nq], 5, allowed=mask).ids, expected)
    assert (index.search(Q[:nq], 5, allowed=[]).ids == -1).all()
    assert index.search(Q[:nq], 2, allowed=[9999, 3]).ids.tolist() == [[3, -1]] * nq


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_range_search(metric: str) -> None:
    index = fpq.FlatIndex(metric).add(X)
    expected = scores(Q, X, metric)
    limit = float(np.float32(np.partition(expected.ravel(), 900)[900]))
    lims, distances, ids = index.range_search(Q, limit if metric == "l2" else -limit)
    assert lims[-1] == len(distances) == len(ids) == pytest.approx((expected <= limit + abs(limit) * 1e-6).sum(), abs=3)
    for i in range(len(Q)):
        mine = slice(lims[i], lims[i + 1])
        order = np.argsort(distances[mine] if metric == "l2" else -distances[mine], kind="stable")
        assert (order == np.arange(len(order))).all()
        np.testing.assert_allclose(distances[mine], abs(expected[i, ids[mine]]), rtol=1e-5)
    few = index.range_search(Q, limit if metric == "l2" else -limit, allowed=np.arange(100))
    assert set(few.ids) == {i for i in ids if i < 100}


def test_the_radius_itself_is_within() -> None:
    index = fpq.FlatIndex().add(np.array([[0.0], [3.0], [4.0]]))
    assert index.range_search([0.0], 9.0).ids.tolist() == [0, 1]
    assert index.range_search([0.0], 8.999).ids.tolist() == [0]


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_any_finite_radius(metric: str) -> None:
    everything, nothing = (1e300, -1e300) if metric == "l2" else (-1e300, 1e300)
    for index in (fpq.FlatIndex(metric), fpq.PQIndex(4, nbits=3, metric=metric).fit(X)):
        index.add(X)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert index.range_search(Q, everything).lims[-1] == len(Q) * 700
            assert index.range_search(Q, nothing).lims[-1] == 0
            assert index.range_search(Q[:0], everything).lims.tolist() == [0]


def test_remove() -> None:
    index = fpq.FlatIndex().add(X)
    assert index.remove([5, 699, 5, 12345]) == 2
    assert index.remove(np.arange(100, 650)) == 550
    left = np.setdiff1d(np.arange(700), [5, 699, *range(100, 650)])
    assert sorted(index.ids) == left.tolist()
    np.testing.assert_array_equal(index.search(Q, 4).ids, left[nearest(Q, X[left], 4, "l2", np.arange(len(left)))[1]])
    np.testing.assert_array_equal(index.reconstruct([60, 698]), X[[60, 698]])
    index.add(X[:1])
    assert 700 in index.ids
    assert index.remove(index.ids) == len(left) + 1
    assert len(index) == 0
    assert index.add(X[:2]).ids.tolist() == [701, 702]
