"""k-means against its definition in NumPy."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import _native
from fpq.learning.kmeans import even_offsets, sample_rows
from fpq.learning.lloyd import LocalRows, train_codebooks
from fpq.learning.open_indexing import OpenIndexing

RNG = np.random.default_rng(1)
X = (RNG.normal(size=(1500, 7)) * RNG.integers(1, 5, 7)).astype(np.float32)
BLOBS = (RNG.normal(size=(400, 3)) + 40 * RNG.integers(0, 2, (400, 3))).astype(np.float32)  # eight corners of a cube


def squared(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return ((np.asarray(x, np.float64)[:, None] - centroids) ** 2).sum(2)


def fields(kmeans: fpq.KMeans) -> tuple[Any, ...]:
    return kmeans.centroids, kmeans.inertia, kmeans.n_iter_run


def same(ours: fpq.KMeans, other: fpq.KMeans) -> None:
    for one, two in zip(fields(ours), fields(other), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("k", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_definition(isa: str, k: int, init: str) -> None:
    kmeans = fpq.KMeans(k, init=init, n_iter=60, max_points_per_centroid=1500).fit(X)
    assert kmeans.centroids.shape == (k, 7)
    assert kmeans.centroids.dtype == np.float32
    distances = squared(X, kmeans.centroids)
    labels = kmeans.predict(X)
    assert labels.dtype == np.int32
    np.testing.assert_allclose(distances[np.arange(1500), labels], distances.min(1), rtol=1e-5, atol=1e-4)
    assert kmeans.inertia == pytest.approx(distances.min(1).sum(), rel=1e-5)
    assert np.bincount(labels, minlength=k).min() > 0
    if kmeans.n_iter_run < 60:  # nothing changed in the last iteration: every centroid is the mean of its rows
        means = np.array([X[labels == c].mean(0, dtype=np.float64) for c in range(k)])
        np.testing.assert_allclose(kmeans.centroids, means, rtol=1e-4, atol=1e-5)


def test_ties_go_to_the_lower_number(isa: str) -> None:
    grid = np.array([[-2.0], [0], [0], [2]])
    with pytest.warns(RuntimeWarning):
        kmeans = fpq.KMeans(4, init=grid).fit(grid[:3])
    kmeans.centroids = grid.astype(np.float32)
    assert kmeans.predict([[-1.0], [0], [1], [2], [-9]]).tolist() == [0, 1, 1, 3, 0]


@pytest.mark.parametrize("capacity", [None, 1.2])
def test_the_objective_never_rises(capacity: float | None) -> None:
    inertia = [fpq.KMeans(20, n_iter=n, init=X[:20]).fit(X).inertia for n in range(1, 15)]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(inertia))
    assert inertia[-1] < inertia[0] * 0.95
    assert inertia[0] <= squared(X, X[:20]).min(1).sum()


def test_one_iteration_from_given_centroids() -> None:
    start = X[[5, 99, 700]].astype(np.float64)
    given = start.copy()
    kmeans = fpq.KMeans(3, init=start, n_iter=1, max_points_per_centroid=1500).fit(X)
    nearest = squared(X, start).argmin(1)
    np.testing.assert_allclose(kmeans.centroids, [X[nearest == c].mean(0) for c in range(3)], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(start, given)
    assert kmeans.n_iter_run == 1


def test_it_stops_when_nothing_changes() -> None:
    corners = np.array([[x, y, z] for x in (0, 40) for y in (0, 40) for z in (0, 40)])
    kmeans = fpq.KMeans(8, init=corners, n_iter=100).fit(BLOBS)
    assert kmeans.n_iter_run == 2
    assert kmeans.inertia == pytest.approx(squared(BLOBS, kmeans.centroids).min(1).sum(), rel=1e-4)


def test_k_means_plus_plus_finds_the_clusters() -> None:
    for seed in range(5):
        kmeans = fpq.KMeans(8, init="k-means++", seed=seed).fit(BLOBS)
        assert sorted(np.round(kmeans.centroids / 40).astype(int) @ [4, 2, 1]) == list(range(8))


def test_seeds() -> None:
    for init in ("random", "k-means++"):
        same(fpq.KMeans(9, init=init, seed=3).fit(X), fpq.KMeans(9, init=init, seed=3).fit(X))
        assert fpq.KMeans(9, init=init, seed=3).fit(X).inertia != fpq.KMeans(9, init=init, seed=4).fit(X).inertia


@pytest.mark.parametrize("init", ["random", "k-means++"])
@pytest.mark.parametrize("capacity", [None, 1.1])
def test_same_bits_for_any_number_of_threads(isa: str, init: str, capacity: float | None) -> None:
    x = np.random.default_rng(2).normal(size=(9000, 6)).astype(np.float32)
    one, two, three = (fpq.KMeans(21, init=init, capacity=capacity, n_threads=n).fit(x) for n in (1, 2, 3))
    same(one, two)
    same(one, three)
    np.testing.assert_array_equal(one.predict(x), two.predict(x))


def test_subspaces_are_trained_as_if_alone(isa: str) -> None:
    offsets = even_offsets(7, 3)
    assert offsets.tolist() == [0, 3, 5, 7]
    start = np.zeros((3, 12, 3), np.float32)
    for j in range(3):
        start[j, :, : offsets[j + 1] - offsets[j]] = X[:12, offsets[j] : offsets[j + 1]]
    trained = train_codebooks(LocalRows(X, None, 2), offsets, start, n_iter=30, rng=RNG, n_threads=2)
    for j in range(3):
        piece = X[:, offsets[j] : offsets[j + 1]]
        alone = fpq.KMeans(12, init=piece[:12], n_iter=30).fit(piece)
        np.testing.assert_array_equal(trained.centroids[j, :, : piece.shape[1]], alone.centroids)
        assert not trained.centroids[j, :, piece.shape[1] :].any()
        np.testing.assert_array_equal(trained.ids[j], alone.predict(piece))
        assert trained.errors[j].sum(dtype=np.float64) == alone.inertia


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int8", "int32"])
@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed", "read-only"])
def test_element_types_and_layouts(dtype: str, layout: str) -> None:
    whole = RNG.integers(0, 100, (300, 5))
    values: Any = whole.astype(dtype)
    if layout == "F":
        values = np.asfortranarray(values)
    elif layout == "strided":
        values = np.repeat(np.repeat(values, 2, 0), 3, 1)[::2, ::3]
    elif layout == "reversed":
        values = values[::-1, ::-1].copy()[::-1, ::-1]
    elif layout == "read-only":
        values.flags.writeable = False
    plain = whole.astype(np.float32)
    for parameters in ({}, {"init": "k-means++"}, {"max_points_per_centroid": 20}, {"capacity": 1.0}):
        ours, expected = fpq.KMeans(6, **parameters).fit(values), fpq.KMeans(6, **parameters).fit(plain)
        same(ours, expected)
        np.testing.assert_array_equal(ours.predict(values), expected.predict(plain))


def test_far_from_the_origin() -> None:
    moved = (BLOBS.astype(np.float64) + 1e5).astype(np.float32)
    kmeans = fpq.KMeans(8, init="k-means++").fit(moved)
    assert kmeans.inertia == pytest.approx(squared(moved, kmeans.centroids).min(1).sum(), rel=1e-2)
    np.testing.assert_array_equal(kmeans.predict(moved), squared(moved, kmeans.centroids).argmin(1))


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_fewer_rows_than_clusters(init: str) -> None:
    with pytest.warns(RuntimeWarning, match=r"^5 training rows for 9 centroids: every row becomes a centroid"):
        kmeans = fpq.KMeans(9, init=init).fit(X[:5])
    labels = kmeans.predict(X[:5])
    assert len(set(labels)) == 5
    np.testing.assert_allclose(kmeans.centroids[labels], X[:5], rtol=1e-6, atol=1e-6)
    assert kmeans.inertia == pytest.approx(0, abs=1e-4)
    with pytest.warns(RuntimeWarning):
        one = fpq.KMeans(3, init=init).fit(X[:1])
    np.testing.assert_array_equal(one.centroids, X[[0, 0, 0]])
    assert one.predict(X[:2]).tolist() == [0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fpq.KMeans(5, init=init).fit(X[:5])


@pytest.mark.parametrize("init", ["random", "k-means++"])
@pytest.mark.parametrize("capacity", [None, 1.0])
def test_duplicates_and_constant_columns(init: str, capacity: float | None) -> None:
    rows = np.repeat(X[:5], 60, 0)
    rows[:, 2] = 0.1
    kmeans = fpq.KMeans(8, init=init, n_iter=50).fit(rows)
    np.testing.assert_array_equal(kmeans.centroids[:, 2], np.float32(0.1))
    labels = kmeans.predict(rows)
    assert len(set(labels)) == 5
    np.testing.assert_allclose(kmeans.centroids[labels], rows, rtol=1e-5, atol=1e-5)
    assert kmeans.inertia == pytest.approx(0, abs=1e-3)
    same_rows = fpq.KMeans(4, init=init, capacity=capacity).fit(np.full((50, 3), 0.1))
    np.testing.assert_array_equal(same_rows.centroids, np.full((4, 3), 0.1, np.float32))
    assert same_rows.inertia == 0
    assert not same_rows.predict(np.full((50, 3), 0.1)).any()


def test_empty_clusters_are_split() -> None:
    start = np.full((8, 3), 1e4)
    start[0] = BLOBS[0]  # all rows are in one cluster at first
    kmeans = fpq.KMeans(8, init=start, n_iter=50).fit(BLOBS)
    counts = np.bincount(kmeans.predict(BLOBS), minlength=8)
    assert counts.min() > 0
    assert kmeans.inertia < 0.5 * fpq.KMeans(1).fit(BLOBS).inertia
    two = fpq.KMeans(2, init=[[0.0], [100.0]], n_iter=1).fit([[1.0], [2], [3], [9]])
    assert sorted(two.centroids.ravel()) == [3.75, 9]  # the empty one takes the farthest row


@pytest.mark.parametrize("limit", [50.0, 50.5, 75.0])
def test_capacity(isa: str, limit: float) -> None:
    k, n = 30, 1500
    offsets = even_offsets(7, 1)
    centroids = X[None, :k].copy()
    ids, counts = np.full((1, n), -1, np.int32), np.zeros((1, k), np.int64)
    steps = LocalRows(X, None, 2).steps(offsets, centroids.shape, True)
    expected = np.empty((1, n), np.int32)
    for _ in range(4):
        before, start = ids.copy(), centroids.copy()
        _native.assign(start, offsets, X, None, expected, None, 1)
        policy_counts = np.zeros((1, k), np.int64)
        OpenIndexing(c=limit * k / n, candidates=k).apply(start, offsets, X, expected, policy_counts, n, 1)
        active = np.ones(1, np.uint8)
        sums, changed = steps.sums(centroids, active, n, _native.kmeans_chunk_rows(*centroids.shape, n), limit)
        _native.kmeans_means(centroids, offsets, active, sums, counts, 2)
        ids, errors = (array[None].copy() for array in steps.assignment(0, n))
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_array_equal(counts, [np.bincount(ids[0], minlength=k)])
        assert counts.max() <= np.ceil(limit)
        assert changed[0] == (ids != before).sum()
        np.testing.assert_allclose(errors[0], squared(X, start[0])[np.arange(n), ids[0]], rtol=1e-4, atol=1e-4)
        filled = np.flatnonzero(counts[0])
        means = [X[ids[0] == c].mean(0) for c in filled]
        np.testing.assert_allclose(centroids[0, filled], means, rtol=1e-3, atol=1e-4)


def test_capacity_balances_the_clusters() -> None:
    crowd = np.vstack([np.zeros((900, 2)), np.full((100, 2), 9.0)]) + RNG.normal(size=(1000, 2)) / 10
    free, limited = fpq.KMeans(10).fit(crowd), fpq.KMeans(10, capacity=1.0, n_iter=50).fit(crowd)
    largest = [np.bincount(kmeans.predict(crowd)).max() for kmeans in (free, limited)]
    assert largest[1] < largest[0]
    assert limited.inertia == pytest.approx(squared(crowd, limited.centroids).min(1).sum(), rel=1e-3)


def test_the_sample() -> None:
    rows = sample_rows(1500, 30, np.random.default_rng(7))
    assert rows is not None
    assert len(np.unique(rows)) == 30
    assert (np.diff(rows) > 0).all()
    other = np.full_like(X, 1e6)
    other[rows] = X[rows]
    for init in ("random", "k-means++"):
        ours = fpq.KMeans(10, init=init, max_points_per_centroid=3, seed=7).fit(X)
        same(ours, fpq.KMeans(10, init=init, max_points_per_centroid=3, seed=7).fit(other))
        assert ours.inertia == pytest.approx(squared(X[rows], ours.centroids).min(1).sum(), rel=1e-4)
    same(fpq.KMeans(10, max_points_per_centroid=150).fit(X), fpq.KMeans(10, max_points_per_centroid=10**9).fit(X))
    assert sample_rows(10, 10, np.random.default_rng(0)) is None


def test_no_rows_to_predict() -> None:
    assert fpq.KMeans(2).fit(X).predict(X[:0]).shape == (0,)


@pytest.mark.parametrize(("k", "n"), [(128, 3000), (256, 9000), (300, 9000), (1100, 15_000)])
def test_bounds_change_nothing_but_the_time(isa: str, monkeypatch: pytest.MonkeyPatch, k: int, n: int) -> None:
    x = np.random.default_rng(k).gamma(1, size=(n, 21))
    bounded = fpq.KMeans(k, n_iter=16).fit(x)
    monkeypatch.setattr("fpq.learning.lloyd.BOUNDS_BYTES", 0)
    plain = fpq.KMeans(k, n_iter=16).fit(x)
    np.testing.assert_array_equal(bounded.centroids, plain.centroids)
    np.testing.assert_array_equal(bounded.predict(x), plain.predict(x))


@pytest.mark.parametrize("change", ["offset", "one offset", "tiny", "huge"])
def test_seeds_are_spread_whatever_the_scale(isa: str, change: str) -> None:
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(30, 8)) * 100)[rng.integers(0, 30, 3000)] + rng.normal(size=(3000, 8))  # 30 clear clusters
    scale = {"tiny": 2.0**-80, "huge": 2.0**55}.get(change, 1.0)
    moved = x + {"offset": 1e6, "one offset": np.arange(8) == 3}.get(change, 0) * (1e6 if change == "one offset" else 1)
    moved = (moved * scale).astype(np.float32)
    squared = []
    for rows in (x.astype(np.float32), moved):
        centroids = fpq.KMeans(40, init="k-means++", seed=3).fit(rows).centroids.astype(np.float64)
        squared.append(((rows[:, None].astype(np.float64) - centroids) ** 2).sum(-1).min(1).sum())
    assert squared[1] < 1.5 * squared[0] * scale**2


def test_warning_names_the_line_of_the_caller() -> None:
    for fit in (
        lambda x: fpq.KMeans(9).fit(x),
        lambda x: fpq.ProductQuantizer(2).fit(x),
        lambda x: fpq.PQIndex(2).fit(x),
        lambda x: fpq.IVFPQIndex(2, 2).fit([x]),
    ):
        with pytest.warns(RuntimeWarning, match="^5 training rows") as caught:
            fit(np.random.default_rng(0).normal(size=(5, 4)))
        assert {warning.filename for warning in caught} == {__file__}


def test_repr() -> None:
    kmeans = fpq.KMeans(3)
    assert repr(kmeans) == "KMeans(n_clusters=3, not trained)"
    assert repr(kmeans.fit(np.eye(5))) == "KMeans(n_clusters=3, dim=5)"
