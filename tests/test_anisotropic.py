"""Codes for inner products (anisotropic vector quantization): the definition in NumPy, recall, bits, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq.learning import anisotropic
from fpq.learning.anisotropic import Anisotropy
from fpq.learning.lloyd import LocalRows
from fpq.learning.prepared_rows import LocalPrepared

N, D, M, WEIGHT = 2000, 15, 4, 4.0
RNG = np.random.default_rng(4)
X = (RNG.normal(size=(N, D)) * 0.8 ** np.arange(D) + RNG.normal(size=D)).astype(np.float32)
Q = (RNG.normal(size=(60, D)) * 0.8 ** np.arange(D) + X[:60]).astype(np.float32)


def learned(**options: Any) -> fpq.ProductQuantizer:
    return fpq.ProductQuantizer(M, nbits=4, **options).fit(X)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True), 1e-300)


def losses(x: np.ndarray, decoded: np.ndarray, along: np.ndarray, weight: float = WEIGHT) -> np.ndarray:
    error = x.astype(np.float64) - decoded
    return (error**2).sum(axis=1) + (weight - 1) * (error * along).sum(axis=1) ** 2


def naive_codes(pq: fpq.ProductQuantizer, x: np.ndarray, along: np.ndarray, weight: float) -> np.ndarray:
    """The nearest codes, after each subquantizer has taken its turn up to four times."""
    codebooks = [pq.codebooks[j, :, : pq.offsets[j + 1] - pq.offsets[j]] for j in range(M)]
    parts = [slice(pq.offsets[j], pq.offsets[j + 1]) for j in range(M)]
    codes = np.stack([((x[:, p][:, None] - c) ** 2).sum(-1).argmin(1) for p, c in zip(parts, codebooks, strict=True)])
    for i, (row, u) in enumerate(zip(x.astype(np.float64), along, strict=True)):
        for _ in range(4):
            before = codes[:, i].copy()
            for j in range(M):
                error = row - np.concatenate([codebooks[t][codes[t, i]] for t in range(M)])
                others = error @ u - error[parts[j]] @ u[parts[j]]
                rest = row[parts[j]] - codebooks[j]
                codes[j, i] = ((rest**2).sum(1) + (weight - 1) * (others + rest @ u[parts[j]]) ** 2).argmin()
            if (codes[:, i] == before).all():
                break
    return codes.T


@pytest.mark.parametrize("weight", [1.5, 4.0, 50.0])
def test_definition_of_codes(weight: float, isa: str) -> None:
    pq = learned()
    for vectors, x in ((X, X), (X, X - X[0]), (np.zeros_like(X), X)):
        loss = Anisotropy(weight, lambda *_, v=vectors: v[:300])
        codes, _ = next(pq.encode_chunks(x[:300], None, 300, 2, anisotropy=loss))
        np.testing.assert_array_equal(pq._sub_codes(codes).T, naive_codes(pq, x[:300], unit(vectors[:300]), weight))


def test_codebooks_lower_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    along, found = unit(X).astype(np.float32), []
    for n_iter in (0, 1, 2, 4, 8):
        monkeypatch.setattr(anisotropic, "N_ITER", n_iter)
        pq = learned()
        before = pq.n_iter_run
        pq.adapt(LocalRows(X, None, 2), LocalRows(X * 3, None, 2), WEIGHT)
        codes = np.concatenate(
            [c for c, _ in pq.encode_chunks(X, None, N, 1, anisotropy=Anisotropy(WEIGHT, lambda x, _: x))]
        )
        decoded = pq.decode(codes)
        found.append(losses(X, decoded, along).sum())
        assert pq.inertia == pytest.approx(((X - decoded) ** 2).sum(), rel=0.02)  # by the codes of the last iteration
        assert pq.code_counts.sum() == M * N and pq.n_iter_run == before + n_iter
    assert (np.diff(found) < 0).all() and found[-1] < 0.95 * found[0]


def test_a_step_of_codebooks() -> None:
    pq, along = learned(), unit(X).astype(np.float32)
    ids = pq._sub_codes(pq.encode(X))
    parallel = anisotropic.descend(pq.codebooks, pq.offsets, X, along, WEIGHT, ids, 1)
    codes = np.empty((N, pq.code_size), np.uint8)
    fpq._native.pack_codes(ids, 4, codes, 1)
    error = X - pq.decode(codes)
    np.testing.assert_allclose(parallel, (error * along).sum(1), atol=1e-5)
    expected = pq.codebooks.astype(np.float64)
    lengths = np.stack(
        [np.linalg.norm(along[:, a:b], axis=1) for a, b in zip(pq.offsets[:-1], pq.offsets[1:], strict=True)]
    )
    for j in range(M):
        part = slice(pq.offsets[j], pq.offsets[j + 1])
        for c in np.unique(ids[j]):
            rows = ids[j] == c
            descent = error[rows, part] + (WEIGHT - 1) * parallel[rows, None] * along[rows, part]
            curvature = (1 + (WEIGHT - 1) * lengths[j, rows] * lengths[:, rows].sum(0)).sum()
            expected[j, c, : part.stop - part.start] += descent.sum(0) / curvature
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anisotropic, "N_ITER", 1)
        for chunk_rows in (N, 300):
            rows = anisotropic.adapting(pq.codebooks, pq.offsets, None, *(LocalRows(x, None, 2) for x in (X, along)))
            prepared = LocalPrepared(rows, 2)
            found = anisotropic.adapted(pq.codebooks, pq.offsets, prepared, WEIGHT, chunk_rows)
            np.testing.assert_allclose(found.centroids, expected, atol=1e-5)


KINDS = {
    "pq": lambda **o: fpq.PQIndex(M, nbits=4, **o),
    "ivf": lambda **o: fpq.IVFPQIndex(8, M, nbits=4, **o),
    "plain lists": lambda **o: fpq.IVFPQIndex(8, M, nbits=4, residual=False, **o),
    "local": lambda **o: fpq.IVFPQIndex(8, M, nbits=4, local_rotations=True, **o),
    "opq": lambda **o: fpq.IVFPQIndex(8, M, nbits=4, rotation="opq", **o),
    "pca": lambda **o: fpq.PQIndex(M, nbits=4, rotation="pca", rotation_dim=10, **o),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_codes_have_less_loss_and_higher_recall(kind: str, metric: Any) -> None:
    truth = fpq.FlatIndex(metric).add(X).search(Q, 10).ids
    x = unit(X) if metric == "cosine" else X
    loss, recall = [], []
    for weight in (1.0, None):
        index = KINDS[kind](metric=metric, anisotropy=weight).fit(X).add(X)
        effort = {"n_probe": 8} if isinstance(index, fpq.IVFPQIndex) else {}
        loss.append(losses(x, index.reconstruct(np.arange(N)), unit(X)).mean())
        recall.append(fpq.metrics.recall_at_k(index.search(Q, 10, **effort).ids, truth))
    assert index.anisotropy == WEIGHT
    assert loss[1] < loss[0] and recall[1] > recall[0]


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits(kind: str) -> None:
    one, many = (KINDS[kind](metric="ip", n_threads=t).fit(X).add(X[:1000]) for t in (1, 5))
    many.add(X[1000:])
    one.add(X[1000:1300]).add(X[1300:])
    np.testing.assert_array_equal(one.quantizer.codebooks, many.quantizer.codebooks)
    for a, b in zip(one.search(Q, 10), many.search(Q, 10), strict=True):
        np.testing.assert_array_equal(a, b)


def test_refinement_codes_of_what_is_left() -> None:
    truth = fpq.FlatIndex("ip").add(X).search(Q, 10).ids
    for index in (
        fpq.PQIndex(M, nbits=4, metric="ip", refine="sq8"),
        fpq.IVFPQIndex(8, M, nbits=4, metric="ip", refine="sq8"),
    ):
        index.fit(X).add(X)
        assert np.quantile(np.abs(index.reconstruct(np.arange(N)) - X), 0.999) < 0.03
        effort = {"n_probe": 8} if isinstance(index, fpq.IVFPQIndex) else {}
        assert fpq.metrics.recall_at_k(index.search(Q, 10, rerank=20, **effort).ids, truth) > 0.97


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64, np.int8])
def test_types_and_layouts(dtype: Any) -> None:
    x = np.asfortranarray((X * 10).clip(0, 120).astype(dtype))
    expected = fpq.PQIndex(M, metric="ip").fit(x.astype(np.float32)).add(x.astype(np.float32))
    index = fpq.PQIndex(M, metric="ip").fit(x).add(x)
    np.testing.assert_array_equal(index.codes, expected.codes)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_any_scale(scale: float) -> None:
    x = np.concatenate([X[:500], np.zeros((3, D), np.float32), np.repeat(X[:1], 300, axis=0)])
    plain = fpq.IVFPQIndex(4, M, nbits=4, metric="ip").fit(x).add(x)
    scaled = fpq.IVFPQIndex(4, M, nbits=4, metric="ip").fit(x * np.float32(scale)).add(x * np.float32(scale))
    same = scaled.search(Q, 10, n_probe=4).ids == plain.search(Q, 10, n_probe=4).ids
    assert np.isfinite(scaled.reconstruct(np.arange(len(x)))).all()
    assert same.mean() > 0.9


def test_default_and_errors() -> None:
    assert [fpq.PQIndex(M, metric=m).anisotropy for m in ("l2", "ip", "cosine")] == [1, 4, 4]
    assert fpq.PQIndex(M, metric="ip", open_indexing=1.5).anisotropy == 1
    assert fpq.IVFPQIndex(8, M, metric="cosine", anisotropy=2).anisotropy == 2
    for options in ({"metric": "l2"}, {"metric": "ip", "open_indexing": 2.0}):
        assert fpq.PQIndex(M, anisotropy=1, **options).anisotropy == 1
        with pytest.raises(ValueError, match=r"anisotropy: expected None or 1 .* got 2"):
            fpq.PQIndex(M, anisotropy=2, **options)
    for wrong, error in ((0.5, ValueError), (float("nan"), ValueError), ("4", TypeError)):
        with pytest.raises(error, match="anisotropy: expected"):
            fpq.PQIndex(M, metric="ip", anisotropy=wrong)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        fpq.PQIndex(M, metric="ip").anisotropy = 2.0
    with pytest.raises(ValueError, match="anisotropy"):
        one, two = (fpq.PQIndex(M, metric="ip", anisotropy=w).fit(X).add(X[:10]) for w in (2, 3))
        one.merge(two)


def test_files(tmp_path: Path) -> None:
    index = fpq.IVFPQIndex(8, M, metric="ip", anisotropy=3.5).fit(X).add(X[:1000])
    index.save(tmp_path / "a.fpq")
    loaded = fpq.load(tmp_path / "a.fpq")
    assert isinstance(loaded, fpq.IVFPQIndex) and loaded.anisotropy == 3.5
    for a, b in zip(index.add(X[1000:]).search(Q, 5), loaded.add(X[1000:]).search(Q, 5), strict=True):
        np.testing.assert_array_equal(a, b)


def test_files_from_before_have_plain_codes(tmp_path: Path) -> None:
    fpq.PQIndex(M, metric="ip", anisotropy=1).fit(X).save(tmp_path / "a.fpq")
    assert b"anisotropy" not in (tmp_path / "a.fpq").read_bytes()
    loaded = fpq.load(tmp_path / "a.fpq")
    assert isinstance(loaded, fpq.PQIndex) and loaded.anisotropy == 1
