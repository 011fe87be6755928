"""Rotations per list (LOPQ): the definition in NumPy, bits, files, changes, shards."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq

RNG = np.random.default_rng(0)
N, D, LISTS, M = 3000, 20, 12, 5
METRICS = ("l2", "ip", "cosine")


def made_up(n: int, seed: int) -> np.ndarray:
    """Rows of clusters with directions of variance of their own."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(9)
    cluster = rng.integers(0, LISTS, n)
    axes = np.linalg.qr(fixed.normal(size=(LISTS, D, D)))[0] * 0.5 ** np.arange(D)
    centres = fixed.normal(size=(LISTS, D)) * 2
    return (centres[cluster] + np.einsum("nk,nkd->nd", rng.normal(size=(n, D)), axes[cluster])).astype(np.float32)


X, Q = made_up(N, 1), made_up(70, 2)


def trained(metric: Any = "l2", anisotropy: float | None = 1, **options: Any) -> fpq.IVFPQIndex:
    index = fpq.IVFPQIndex(LISTS, M, nbits=6, metric=metric, anisotropy=anisotropy, local_rotations=True, **options)
    return index.fit(X)


def same(a: Any, b: Any) -> None:
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def unit(x: np.ndarray, metric: str) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x


@pytest.mark.parametrize("dim", [None, 17, 8])
@pytest.mark.parametrize("metric", METRICS)
def test_definition(metric: str, dim: int | None) -> None:
    index = trained(metric, rotation_dim=dim).add(X)
    assert index._rotations is not None and index.centroids is not None
    assert (index.dim, index.quantizer.dim) == (D, dim or D)
    matrices, x, q = index._rotations.matrices, unit(X, metric), unit(Q, metric)
    identity = np.eye(dim or D)[None].repeat(LISTS, 0)
    np.testing.assert_allclose(np.swapaxes(matrices, 1, 2) @ matrices, identity, atol=1e-5)
    lists = index.lists_of(np.arange(N))
    rotated = np.einsum("nd,nde->ne", x - index.centroids[lists], matrices[lists])
    pq = index.quantizer
    coded = pq.decode(pq.encode(rotated))
    decoded = np.einsum("ne,nde->nd", coded, matrices[lists]) + index.centroids[lists]
    np.testing.assert_allclose(index.reconstruct(np.arange(N)), decoded, atol=2e-4)
    seen = np.einsum("qld,lde->qle", q[:, None] - index.centroids, matrices)  # distances ignore dropped dimensions
    expected = -q @ decoded.T if metric != "l2" else ((seen[:, lists] - coded) ** 2).sum(-1)
    for n_probe in (1, 3, LISTS):
        by_spread = 0.3 * np.linalg.norm(q, axis=1, keepdims=True) * (0 if metric == "l2" else index._coarse.spreads)
        by_centroid = ((q[:, None] - index.centroids) ** 2).sum(-1) if metric == "l2" else -q @ index.centroids.T
        probed = np.argsort(by_centroid - by_spread, axis=1)[:, :n_probe]
        within = np.where((lists[None, :, None] == probed[:, None]).any(-1), expected, np.inf)
        distances, ids = index.search(Q, 10, n_probe=n_probe)
        best = np.sort(within, axis=1)[:, :10] * (1 if metric == "l2" else -1)
        found = np.isfinite(best)
        np.testing.assert_allclose(distances[found], best[found], atol=1e-3, rtol=1e-4)
        rows = np.take_along_axis(within, np.maximum(ids, 0), 1) * (1 if metric == "l2" else -1)
        np.testing.assert_allclose(rows[found], best[found], atol=1e-3, rtol=1e-4)
    radius = float(index.search(Q, 20, n_probe=4).distances[:, -1].mean())
    lims, distances, ids = index.range_search(Q, radius, n_probe=4)
    many = index.search(Q, N, n_probe=4)
    inside = many.distances <= radius if metric == "l2" else many.distances >= radius
    same((np.diff(lims), distances, ids), ((inside & (many.ids >= 0)).sum(1), many.distances[inside], many.ids[inside]))


@pytest.mark.parametrize("metric", METRICS)
def test_codes_are_more_accurate(metric: Any) -> None:
    index, plain = trained(metric).add(X), fpq.IVFPQIndex(LISTS, M, nbits=6, metric=metric, anisotropy=1).fit(X).add(X)
    truth = fpq.FlatIndex(metric).add(X).search(Q, 10).ids
    ours, theirs = (fpq.metrics.recall_at_k(i.search(Q, 10, n_probe=LISTS).ids, truth) for i in (index, plain))
    assert ours > theirs + 0.1
    error = [((i.reconstruct(np.arange(N)) - unit(X, metric)) ** 2).sum() for i in (index, plain)]
    assert error[0] < 0.5 * error[1]


@pytest.mark.parametrize("metric", METRICS)
def test_bits(metric: Any) -> None:
    index, other = trained(metric, None, n_threads=1).add(X), trained(metric, None, n_threads=3)
    for start in range(0, N, 411):
        other.add(X[start : start + 411])
    np.testing.assert_array_equal(index.reconstruct(np.arange(N)), other.reconstruct(np.arange(N)))
    expected = index.search(Q, 7, n_probe=5)
    same(other.search(Q, 7, n_probe=5), expected)
    same(index.search(Q, 7, n_probe=5, n_threads=2), expected)
    for i in (0, 33, 69):
        same(index.search(Q[i], 7, n_probe=5), (expected.distances[i], expected.ids[i]))
    few = RNG.choice(N, 90, replace=False)
    found = index.search(Q, 7, n_probe=LISTS, allowed=few)
    same(found, trained(metric, None).add(X[np.sort(few)], ids=np.sort(few)).search(Q, 7, n_probe=LISTS))


def test_batches_of_residuals(monkeypatch: pytest.MonkeyPatch) -> None:
    index = trained().add(X)
    expected = index.search(Q, 7, n_probe=5)
    monkeypatch.setattr("fpq.indexes.ivf_rows.RESIDUALS", 5 * D * 9)
    same(index.search(Q, 7, n_probe=5), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e17])
def test_any_scale(scale: float) -> None:
    index = trained().add(X)
    scaled = (
        fpq.IVFPQIndex(LISTS, M, nbits=6, local_rotations=True).fit(X * np.float32(scale)).add(X * np.float32(scale))
    )
    recalls = [
        fpq.metrics.recall_at_k(i.search(q, 10, n_probe=LISTS).ids, fpq.FlatIndex().add(X).search(Q, 10).ids)
        for i, q in ((index, Q), (scaled, Q * np.float32(scale)))
    ]
    assert recalls[1] == pytest.approx(recalls[0], abs=0.05)


@pytest.mark.parametrize("dim", [None, 11])
def test_files_copies_and_changes(tmp_path: Path, dim: int | None) -> None:
    index = trained(keep_vectors=True, list_capacity=1.3, rotation_dim=dim).add(X)
    index.save(tmp_path / "a")
    expected = index.search(Q, 9, n_probe=4, rerank=3)
    for again in (
        fpq.load(tmp_path / "a"), fpq.load(tmp_path / "a", mmap=True), pickle.loads(pickle.dumps(index)),
        copy.copy(index), index.copy(),
    ):  # fmt: skip
        same(again.search(Q, 9, n_probe=4, rerank=3), expected)
        assert (again.local_rotations, again.nbytes, repr(again)) == (True, index.nbytes, repr(index))
        assert f"rotation_dim={dim}" in repr(again) or dim is None
    options = {"keep_vectors": True, "list_capacity": 1.3, "rotation_dim": dim}
    other = trained(**options).add(X[:500], ids=np.arange(N, N + 500))
    index.merge(other)
    index.remove(np.arange(N, N + 500))
    same(index.search(Q, 9, n_probe=4, rerank=3), expected)
    index.update(X[100:200], np.arange(100))
    np.testing.assert_array_equal(index.reconstruct(np.arange(100)), index.reconstruct(np.arange(100, 200)))
    with pytest.raises(ValueError, match=r"^other: expected an index with the same"):
        index.merge(fpq.IVFPQIndex(LISTS, M, nbits=6, keep_vectors=True, list_capacity=1.3).fit(X))
    with pytest.raises(ValueError, match=r"^other: expected an index with the same codebooks"):
        index.merge(trained(**{**options, "rotation_dim": 10}))
    index.reset()
    assert len(index.add(X)) == N
    estimate = fpq.estimate(N, D, fpq.IVFPQIndex(LISTS, M, nbits=6, local_rotations=True, rotation_dim=dim))
    assert estimate.nbytes == pytest.approx(trained(rotation_dim=dim).add(X).nbytes, rel=0.03)
    trained(rotation_dim=dim).add(X).save(tmp_path / "b")
    assert estimate.file_nbytes == pytest.approx((tmp_path / "b").stat().st_size, rel=0.03)


def test_damaged_rotations(tmp_path: Path) -> None:
    index = trained().add(X)
    assert index._rotations is not None
    index._rotations.packed[3] *= 2
    with pytest.raises(ValueError, match=r"local_rotations: expected orthonormal columns, got others in rotation 3"):
        index.save(tmp_path / "a")


def test_fewer_dimensions_without_rotations(tmp_path: Path) -> None:
    index = trained(rotation_dim=11).add(X)
    vars(index).update(local_rotations=False, _rotations=None)
    with pytest.raises(ValueError, match=r"centroids: expected float32 \(12, 11\), got"):
        index.save(tmp_path / "a")


def test_shards_and_blocks(tmp_path: Path) -> None:
    one = trained().add(X)
    files = []
    for i, start in enumerate(range(0, N, 1000)):
        files.append(tmp_path / f"{i}.fpq")
        trained().add(X[start : start + 1000]).save(files[-1])
    many = fpq.ShardedIndex.create(tmp_path / "manifest.json", files, offsets=[0, 1000, 2000])
    same(many.search(Q, 8, n_probe=3), one.search(Q, 8, n_probe=3))
    blocks = fpq.IVFPQIndex(LISTS, M, nbits=6, local_rotations=True).fit(iter([X[:1700], X[1700:]])).add(iter([X]))
    assert fpq.metrics.recall_at_k(blocks.search(Q, 5).ids, one.search(Q, 5).ids) > 0.3


def test_few_rows_and_one_list() -> None:
    x = X[:3]
    index = fpq.IVFPQIndex(1, 2, nbits=1, local_rotations=True).fit(x).add(x)
    assert set(index.search(x, 3).ids[0]) == {0, 1, 2}
    same_rows = np.ones((50, 4), np.float32)
    index = fpq.IVFPQIndex(2, 2, nbits=2, local_rotations=True).fit(same_rows).add(same_rows)
    assert index.search(same_rows[0], 2, n_probe=2).distances.tolist() == [0, 0]


@pytest.mark.parametrize("options", [{"residual": False}, {"rotation": "opq"}, {"refine": "sq8"}])
def test_what_does_not_go_together(options: Any) -> None:
    with pytest.raises(ValueError, match=r"^local_rotations: expected False with residual=False, rotation or refine"):
        fpq.IVFPQIndex(LISTS, M, local_rotations=True, **options)
    with pytest.raises(ValueError, match=r"^rotation_dim: expected at least 5, got 4"):
        fpq.IVFPQIndex(LISTS, M, local_rotations=True, rotation_dim=M - 1)
    with pytest.raises(ValueError, match=r"^rotation_dim: expected at most the 20 dimension\(s\) of X, got 21"):
        fpq.IVFPQIndex(LISTS, M, local_rotations=True, rotation_dim=D + 1).fit(X)
    with pytest.raises(ValueError, match=r"^local_rotations: expected one of False, True, got 'yes'"):
        fpq.IVFPQIndex(LISTS, M, local_rotations="yes")  # type: ignore[arg-type]
