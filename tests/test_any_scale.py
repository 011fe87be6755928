"""Answers on vectors of any size, with offsets, outliers, constant and repeated columns, beside NumPy in float64.

FPQ_EXAMPLES is how many data sets each test draws.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fpq

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
many = settings(
    max_examples=int(os.environ.get("FPQ_EXAMPLES", "12")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def data(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows and queries, float32."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    d = draw(st.sampled_from([1, 2, 3, 5, 8, 16, 17, 31, 64, 100, 128, 300, 784, 2048]))
    n = draw(st.integers(1, 300 if d < 200 else 40))
    x = rng.normal(size=(n, d))
    for change in draw(
        st.lists(st.sampled_from(["outliers", "row", "groups", "columns", "constant", "equal", "binary"]))
    ):
        column = int(rng.integers(d))
        if change == "outliers":
            x[rng.integers(0, n, 2), column] = 10.0 ** draw(st.integers(1, 7))
        elif change == "row":
            x[rng.integers(n)] *= 10.0 ** draw(st.integers(1, 6))
        elif change == "groups":
            x[: n // 2] += 10.0 ** draw(st.integers(1, 5))
        elif change == "columns":
            x[:, column] *= 10.0 ** draw(st.integers(-6, 6))
        elif change == "constant":
            x[:, column] = 10.0 ** draw(st.integers(-3, 6))
        elif change == "equal":
            x[: n // 2] = x[0]
        else:
            x[:, column] = rng.integers(0, 2, n) * 1e6
    x += draw(st.sampled_from([0.0, 0.0, 1.0, 1e3, 1e6]))
    x *= 10.0 ** draw(st.sampled_from([0, 0, 0, -25, -20, -12, -3, 3, 9, 14, 18]))
    x = np.clip(x, -1e37, 1e37).astype(np.float32)
    q = (x[rng.integers(0, n, 12)] * rng.choice([1, 1 + 1e-4, 0.5], (12, 1))).astype(np.float32)
    return x, q


def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances of all rows, in float64."""
    return np.stack([((row.astype(np.float64) - b.astype(np.float64)) ** 2).sum(axis=1) for row in a])


def quiet(call: Any) -> Any:
    """Without the warning of few training rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*training rows")
        return call()


def check(search: Any, truth: np.ndarray, error: np.ndarray, sign: float = 1.0) -> None:
    """That a search gives the k least of `truth` (nq, n), each within its error, or refuses what is beyond float32."""
    k = min(10, truth.shape[1])
    order = np.argsort(truth, axis=1, kind="stable")[:, :k]
    kth = np.take_along_axis(truth, order, 1)
    beyond = np.abs(kth).max() > LARGEST * 0.999
    try:
        distances, ids = search(k)
    except ValueError as failure:
        assert beyond, failure
        assert "Q: expected distances within float32" in str(failure)
        return
    assert np.abs(kth).max() < LARGEST * 1.001
    distances = sign * distances.astype(np.float64)
    assert all(len(set(row)) == k and row.min() >= 0 for row in ids.tolist() for row in [np.array(row)])
    true, slack = np.take_along_axis(truth, ids, 1), np.take_along_axis(error, ids, 1)
    assert (np.abs(distances - true) <= slack).all()
    assert (
        np.sort(true, axis=1) <= kth + 2 * np.maximum(slack.max(1), np.take_along_axis(error, order, 1).max(1))[:, None]
    ).all()


def rounding(sizes: np.ndarray, d: int) -> np.ndarray:
    """What sums of d terms, sizes in all, may be off by in float32."""
    return (d + 16) * (2.0**-23 * sizes + SMALLEST)


@many
@given(xq=data())
def test_flat(isa: str, xq: tuple[np.ndarray, np.ndarray]) -> None:
    x, q = xq
    for queries in (q, q[:1]):
        truth = squared(queries, x)
        check(lambda k, queries=queries: fpq.FlatIndex().add(x).search(queries, k), truth, rounding(truth, x.shape[1]))
        products = queries.astype(np.float64) @ x.astype(np.float64).T
        sizes = np.abs(queries).astype(np.float64) @ np.abs(x).astype(np.float64).T
        index = fpq.FlatIndex("ip").add(x)
        check(lambda k, queries=queries, i=index: i.search(queries, k), -products, rounding(sizes, x.shape[1]), -1.0)


@many
@given(
    xq=data(),
    k=st.integers(1, 40),
    init=st.sampled_from(["random", "k-means++"]),
    capacity=st.sampled_from([None, 1.5]),
)
def test_kmeans(isa: str, xq: tuple[np.ndarray, np.ndarray], k: int, init: str, capacity: float | None) -> None:
    x, q = xq
    kmeans = quiet(lambda: fpq.KMeans(k, init=init, capacity=capacity, max_points_per_centroid=300).fit(x))
    assert np.isfinite(kmeans.centroids).all()
    for rows in (x, q):
        distances = squared(rows, kmeans.centroids)
        least = distances.min(axis=1)
        labels = kmeans.predict(rows)
        assert (distances[np.arange(len(rows)), labels] <= least * (1 + 1e-12)).all()
    if capacity is None and k < len(x):
        total = squared(x, kmeans.centroids).min(axis=1).sum()
        norms = (x.astype(np.float64) ** 2).sum()
        assert abs(kmeans.inertia - total) <= 1e-3 * total + 1e-10 * norms or not np.isfinite(np.float32(norms))


@many
@given(xq=data(), m=st.integers(1, 8), nbits=st.sampled_from([2, 4, 8]), init=st.sampled_from(["random", "k-means++"]))
def test_product_quantizer(isa: str, xq: tuple[np.ndarray, np.ndarray], m: int, nbits: int, init: str) -> None:
    x, q = xq
    m = min(m, x.shape[1])
    index = quiet(lambda: fpq.PQIndex(m, nbits=nbits).fit(x)).add(x)
    pq = index.quantizer
    ids = pq._sub_codes(index.codes)
    decoded = np.zeros(x.shape)
    for j, (start, end) in enumerate(zip(pq.offsets, pq.offsets[1:], strict=False)):
        book = pq.codebooks[j, :, : end - start]
        distances = squared(x[:, start:end], book)
        assert (distances[np.arange(len(x)), ids[j]] <= distances.min(axis=1) * (1 + 1e-12)).all()
        decoded[:, start:end] = book[ids[j]]
    truth = squared(q, decoded)
    check(lambda k: index.search(q, k), truth, rounding(truth, x.shape[1]))


@many
@given(xq=data(), n_lists=st.integers(1, 30), residual=st.booleans())
def test_inverted_lists(isa: str, xq: tuple[np.ndarray, np.ndarray], n_lists: int, residual: bool) -> None:
    x, q = xq
    n_lists = min(n_lists, len(x))
    index = quiet(lambda: fpq.IVFPQIndex(n_lists, min(4, x.shape[1]), nbits=4, residual=residual).fit(x)).add(x)
    distances = squared(x, index.centroids)
    lists = index.lists_of(np.arange(len(x)))
    assert (distances[np.arange(len(x)), lists] <= distances.min(axis=1) * (1 + 1e-12)).all()
    coded = index.quantizer.decode(index._codes(index._lists.find(np.arange(len(x))))).astype(np.float64)
    centroids = index.centroids[lists] if residual else np.zeros_like(x)
    truth = np.stack([(((row.astype(np.float64) - centroids) - coded) ** 2).sum(axis=1) for row in q])
    moved = squared(q, centroids)
    check(lambda k: index.search(q, k, n_probe=n_lists), truth, rounding(truth + moved, x.shape[1]))
    probes = index._coarse.probe(q, n_lists, 1)
    assert (np.sort(probes, axis=1) == np.arange(n_lists)).all()


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1e-20, 1.0, 1e17])
def test_scaled_data_give_scaled_answers(isa: str, scale: float) -> None:
    rng = np.random.default_rng(0)
    power = 2.0 ** np.round(np.log2(scale))
    x, q = rng.normal(size=(3000, 24)).astype(np.float32), rng.normal(size=(50, 24)).astype(np.float32)
    x, q = np.round(x * 64) / 64, np.round(q * 64) / 64  # digits that the smallest numbers have too
    for make in (
        fpq.FlatIndex,
        lambda: fpq.PQIndex(6, nbits=4),
        lambda: fpq.PQIndex(6, nbits=4, rotation="pca", keep_vectors=True),
        lambda: fpq.IVFPQIndex(20, 6, nbits=4, keep_vectors=True),
    ):
        plain = make().fit(x).add(x)
        scaled = make().fit((x * power).astype(np.float32)).add((x * power).astype(np.float32))
        options: dict[str, Any] = {"rerank": 5} if getattr(plain, "keep_vectors", False) else {}
        theirs = scaled.search((q * power).astype(np.float32), 5, **options)
        ours = plain.search(q, 5, **options)
        assert fpq.metrics.recall_at_k(theirs.ids, ours.ids) > (0.99 if scale >= 1e-25 else 0.9)
        np.testing.assert_allclose(theirs.distances, ours.distances * power**2, rtol=1e-3, atol=1e-44)
