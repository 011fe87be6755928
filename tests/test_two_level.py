"""Many centroids in two levels, against the exact answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fpq
from fpq.indexes.parts import coarse, two_level
from fpq.indexes.parts.coarse import CoarseQuantizer
from fpq.indexes.parts.two_level import TwoLevel, learn, refined, shares
from fpq.learning.lloyd import LocalRows

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(50, 12)) * 3
X = (CENTRES[RNG.integers(50, size=6000)] + RNG.normal(size=(6000, 12))).astype(np.float32)


def by_definition(x: Any, centroids: Any) -> Any:
    return ((x[:, None].astype(np.float64) - centroids[None]) ** 2).sum(2)


def test_shares() -> None:
    assert shares(np.array([3, 0, 5, 2]), 10).tolist() == [3, 0, 5, 2]
    assert shares(np.array([1, 1, 1]), 2).tolist() == [1, 1, 0]
    for _ in range(50):
        sizes = RNG.integers(0, 40, size=9) + (np.arange(9) == 0)
        k = int(RNG.integers(1, sizes.sum() + 1))
        parts = shares(sizes, k)
        assert parts.sum() == k
        assert (parts <= sizes).all()
        assert np.abs(parts - sizes * k / sizes.sum()).max() < 1


def test_exact_when_all_groups_are_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_level, "ASSIGN_CELLS", 1000)
    monkeypatch.setattr(two_level, "PROBE_CELLS", 14)
    centroids = X[:200]
    made = TwoLevel(centroids, 2)
    exact = by_definition(X, centroids)
    for x in (X, (X * 4).astype(np.int8)):
        found = made.nearest(x, 2)
        exact_of_x = exact if x is X else by_definition(x, centroids)
        np.testing.assert_allclose(exact_of_x[np.arange(len(x)), found], exact_of_x.min(1), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(made.probe(X[:40], 9, 2), np.argsort(exact[:40], axis=1, kind="stable")[:, :9])


def test_near_misses_are_few_and_answers_do_not_depend_on_threads_or_batches() -> None:
    centroids = learn(LocalRows(X, None, 2), 400, capacity=None, seed=3, n_threads=2)
    np.testing.assert_array_equal(centroids, learn(LocalRows(X, None, 1), 400, capacity=None, seed=3, n_threads=1))
    assert centroids.shape == (400, 12)
    made = TwoLevel(centroids, 2)
    exact = by_definition(X, centroids)
    labels = made.nearest(X, 2)
    assert (labels == exact.argmin(1)).mean() > 0.98
    np.testing.assert_array_equal(labels, np.concatenate([made.nearest(part, 1) for part in np.array_split(X, 7)]))
    better = refined(LocalRows(X, None, 2), made)
    assert by_definition(X, better).min(1).mean() < exact.min(1).mean()
    probes = made.probe(X[:100], 5, 2)
    np.testing.assert_array_equal(probes, np.concatenate([made.probe(x[None], 5, 1) for x in X[:100]]))
    wanted = np.argsort(exact[:100], axis=1)[:, :5]
    assert np.mean([np.isin(w, p).mean() for w, p in zip(wanted, probes, strict=True)]) > 0.95


def test_refined_centroids_are_means() -> None:
    made = TwoLevel(np.concatenate([X[:60], np.full((1, 12), 1e4, np.float32)]), 1)
    labels = made.nearest(X, 1)
    better = refined(LocalRows(X, None, 1), made)
    for i in np.unique(labels):
        np.testing.assert_allclose(better[i], X[labels == i].mean(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(better[60], np.full(12, 1e4))


@pytest.mark.parametrize("capacity", [None, 1.5])
def test_an_index_with_grouped_lists(capacity: float | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(coarse, "LEAST_LISTS", 300)
    monkeypatch.setattr(coarse, "TWO_LEVEL_PROBES", 300)
    monkeypatch.setattr(two_level, "PROBE_CELLS", 6)
    index = fpq.IVFPQIndex(300, 4, nbits=4, list_capacity=capacity, keep_vectors=True).fit(X).add(X)
    assert isinstance(index._coarse, CoarseQuantizer)
    assert index._coarse._two_level is not None
    if capacity is not None:
        assert index.list_sizes.max() <= 30
    truth = fpq.FlatIndex().add(X).search(X[:200] + 0.1, 5).ids
    found = index.search(X[:200] + 0.1, 5, n_probe=20, rerank=50)
    assert fpq.metrics.recall_at_k(found.ids, truth) > 0.9
    np.testing.assert_array_equal(index.search(X[:200] + 0.1, 5, n_probe=300, rerank=1200).ids, truth)
    index.save(tmp_path / "index.fpq")
    again = fpq.load(tmp_path / "index.fpq").search(X[:200] + 0.1, 5, n_probe=20, rerank=50)
    np.testing.assert_array_equal(again.ids, found.ids)


def test_equal_centroids() -> None:
    made = TwoLevel(np.zeros((100, 3), np.float32), 1)
    assert made.nearest(np.ones((5, 3), np.float32), 1).shape == (5,)
    assert np.unique(made.probe(np.ones((2, 3), np.float32), 20, 1)[0]).size == 20
