"""Codes of so many subquantizers that pruning adds their bytes in partial sums (from 40 on), beside NumPy."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from test_pq_index import nearest, same, sums

import fpq
from fpq import _native


def rows_of(d: int, scales: str) -> np.ndarray:
    rows = np.random.default_rng(d).normal(size=(1500, d)).astype(np.float32)
    if scales == "falling":
        rows *= (0.95 ** np.arange(d)).astype(np.float32)
    elif scales == "outliers":
        rows[:, 5] *= 1e4
        rows[7] *= 1e3
    elif scales == "few":
        rows[:, 3:] = 0
    return rows


@functools.cache
def built(metric: str, m: int, nbits: int, scales: str) -> fpq.PQIndex:
    rows = rows_of(m + 3, scales)
    index = fpq.PQIndex(m, nbits=nbits, metric=metric, anisotropy=1)  # the quickest to train
    index.quantizer.n_iter = 2
    return index.fit(rows).add(rows)


@pytest.mark.filterwarnings("ignore:search")
@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("nbits", [4, 8])
@pytest.mark.parametrize("m", [39, 40, 83])
@pytest.mark.parametrize("scales", ["equal", "falling", "outliers", "few"])
def test_search_and_range_search(isa: str, metric: str, nbits: int, m: int, scales: str) -> None:
    index = built(metric, m, nbits, scales)
    queries = index.reconstruct(np.arange(0, 1500, 300)) * np.float32(1.01)
    for k in (1, 10, 100):
        same(index.search(queries, k), nearest(index, queries, k))
    for query, distance in zip(queries, np.sort(sums(index, queries))[:, 60], strict=True):
        found = index.range_search(query[None], float(distance if metric == "l2" else -distance))
        assert len(found.ids) == (sums(index, query[None]) <= distance).sum()


@pytest.mark.filterwarnings("ignore:search")
def test_more_tables_than_partial_sums_of_eight(isa: str) -> None:
    """There are at most 128 partial sums: 1,100 tables have about nine each."""
    index = built("l2", 1100, 4, "equal")
    queries = index.reconstruct(np.arange(0, 1500, 500)) * np.float32(1.01)
    same(index.search(queries, 10), nearest(index, queries, 10))


@functools.cache
def in_lists(metric: str, residual: bool, scales: str) -> tuple[fpq.IVFPQIndex, np.ndarray, fpq.SearchResult]:
    """An index, queries, and their answers with the scalar kernels, which prune nothing."""
    rows, before = rows_of(50, scales), _native.isa()
    index = fpq.IVFPQIndex(9, 48, metric=metric, residual=residual, anisotropy=1).fit(rows).add(rows)
    queries = rows[::100] * np.float32(0.99)
    _native.use_isa("scalar")
    try:
        return index, queries, index.search(queries, 10, n_probe=7)
    finally:
        _native.use_isa(before)


@pytest.mark.filterwarnings("ignore:search")
@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("scales", ["equal", "falling", "outliers"])
def test_inverted_lists(isa: str, metric: str, residual: bool, scales: str) -> None:
    index, queries, expected = in_lists(metric, residual, scales)
    same(index.search(queries, 10, n_probe=7), expected)
    for query, distances, ids in zip(queries[:3], *expected, strict=False):
        same(index.search(query, 10, n_probe=7), (distances, ids))
