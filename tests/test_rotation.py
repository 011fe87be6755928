"""Rotations: orthonormal, principal directions in balanced subspaces, OPQ no worse than none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fpq
from fpq.learning import rotation as rotations
from fpq.learning.kmeans import even_offsets
from fpq.learning.lloyd import LocalRows

RNG = np.random.default_rng(1)
D = 18
MIX = RNG.normal(size=(D, D)) * np.geomspace(5, 0.05, D)[:, None]
X = (RNG.normal(size=(3000, D)) @ MIX + RNG.normal(size=D)).astype(np.float32)  # correlated dimensions


def made(kind: str, dim: int, x: Any = X, rows: Any = None, n_threads: int = 2, k: int = 16) -> rotations.Rotation:
    training = LocalRows(x, rows, n_threads)
    if kind == "pca":
        return rotations.pca(training, 4, dim)
    return rotations.opq(training, 4, k, dim, np.random.default_rng(0), n_threads)


@pytest.mark.parametrize("kind", ["pca", "opq"])
@pytest.mark.parametrize("dim", [4, 7, 18])
def test_columns_are_orthonormal(isa: str, kind: str, dim: int) -> None:
    matrix = made(kind, dim).matrix
    assert matrix.shape == (D, dim)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(dim), atol=3e-6)


@pytest.mark.parametrize("kind", ["pca", "opq"])
@pytest.mark.parametrize("dim", [4, 7, 17, 18])
def test_apply_and_inverse(isa: str, kind: str, dim: int) -> None:
    rotation = made(kind, dim)
    for n in (0, 1, 96, 97):
        rotated = rotation.apply(X[:n], 2)
        np.testing.assert_allclose(rotated, X[:n].astype(np.float64) @ rotation.matrix, rtol=1e-5, atol=1e-4)
        restored = rotation.inverse(rotated, 2)
        assert restored.shape == (n, D)
        np.testing.assert_allclose(rotation.apply(restored, 1), rotated, rtol=1e-4, atol=1e-4)
        projector = rotation.matrix.astype(np.float64) @ rotation.matrix.T
        expected = (X[:n] - rotation.mean) @ projector + rotation.mean
        np.testing.assert_allclose(restored, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rotation.mean, X.mean(0, dtype=np.float64), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [4, 7, 18])
def test_pca_explains_the_most_variance(dim: int) -> None:
    covariance = np.cov(X.astype(np.float64), rowvar=False)
    best = np.linalg.eigvalsh(covariance)[::-1][:dim]
    matrix = made("pca", dim).matrix.astype(np.float64)
    rotated = matrix.T @ covariance @ matrix
    np.testing.assert_allclose(np.sort(np.diag(rotated))[::-1], best, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(rotated - np.diag(np.diag(rotated)), 0, atol=best[0] * 1e-5)
    assert made("opq", dim).apply(X, 1).var(0).sum() == pytest.approx(best.sum(), rel=1e-3)  # the same space


def test_subspaces_are_balanced() -> None:
    variances = np.geomspace(1000, 0.001, 16)
    order = rotations.balanced_order(variances, even_offsets(16, 4))
    assert sorted(order) == list(range(16))
    loads = np.log(variances[order]).reshape(4, 4).sum(1)
    assert np.ptp(loads) < 0.3 * np.ptp(np.log(variances).reshape(4, 4).sum(1))
    uneven = rotations.balanced_order(variances[:10], even_offsets(10, 4))
    assert sorted(uneven) == list(range(10))
    assert rotations.balanced_order(np.zeros(6), even_offsets(6, 3)).shape == (6,)


@pytest.mark.parametrize("rotation_dim", [None, 8])
def test_opq_is_better_than_pca_and_pca_than_nothing(rotation_dim: int | None) -> None:
    errors = {}
    for rotation in (None, "pca", "opq"):
        dim = rotation_dim if rotation else None
        pq = fpq.ProductQuantizer(4, nbits=5, rotation=rotation, rotation_dim=dim).fit(X)
        decoded = pq.decode(pq.encode(X))
        errors[rotation] = ((decoded.astype(np.float64) - X) ** 2).sum(1).mean()
    assert errors["opq"] <= errors["pca"] * 1.05  # for normal data balanced PCA is best already (Ge et al. 2013)
    assert errors["opq"] < errors[None] * 0.9
    assert errors["pca"] < errors[None]


@pytest.mark.parametrize("kind", ["pca", "opq"])
def test_same_bits_for_any_number_of_threads(kind: str) -> None:
    x = np.vstack([X] * 4)  # several blocks of rows
    first = made(kind, 9, x, n_threads=1)
    for n_threads in (2, 3):
        again = made(kind, 9, x, n_threads=n_threads)
        np.testing.assert_array_equal(again.matrix, first.matrix)
        np.testing.assert_array_equal(again.mean, first.mean)
        np.testing.assert_array_equal(again.apply(x, n_threads), first.apply(x, 1))


@pytest.mark.parametrize("kind", ["pca", "opq"])
def test_rows_and_element_types(kind: str) -> None:
    rows = np.sort(RNG.permutation(3000)[:700])
    np.testing.assert_array_equal(made(kind, 9, X, rows).matrix, made(kind, 9, X[rows]).matrix)
    whole = np.clip(X[:400] * 4 + 100, 0, 255).astype(np.uint8)
    expected = made(kind, 9, whole.astype(np.float32))
    for values in (whole, np.asfortranarray(whole), whole.astype(np.float16), whole[::-1, ::-1].copy()[::-1, ::-1]):
        np.testing.assert_array_equal(made(kind, 9, values).matrix, expected.matrix)


@pytest.mark.parametrize("kind", ["pca", "opq"])
@pytest.mark.parametrize("case", ["one row", "two rows", "equal rows", "constant columns", "zeros", "far away"])
def test_degenerate_rows(kind: str, case: str) -> None:
    x = {
        "one row": X[:1],
        "two rows": X[:2],
        "equal rows": np.repeat(X[:1], 50, 0),
        "constant columns": np.where(np.arange(D) % 3, X[:200], np.float32(0.1)),
        "zeros": np.zeros((40, D), np.float32),
        "far away": X[:300] + np.float32(1e4),
    }[case]
    rotation = made(kind, D, x, k=4)
    np.testing.assert_allclose(rotation.matrix.T @ rotation.matrix, np.eye(D), atol=3e-6)
    np.testing.assert_allclose(rotation.inverse(rotation.apply(x, 1), 1), x, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("n", "d"), [(1, 40), (5, 40), (30, 40), (100, 3000)])
def test_principal_directions_of_few_wide_rows(n: int, d: int) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(n, d)) * rng.random(d) ** 4 + 7).astype(np.float32)
    wide = rotations.pca_of_wide(x, 15, 1)
    np.testing.assert_array_equal(wide.matrix, rotations.pca_of_wide(x, 15, 3).matrix)
    np.testing.assert_allclose(wide.matrix.T @ wide.matrix, np.eye(15), atol=1e-6)
    centred = x - x.mean(0, dtype=np.float64)
    _, singular, _ = np.linalg.svd(centred, full_matrices=False)
    kept = np.linalg.norm(centred @ wide.matrix, axis=0)[: len(singular)]
    np.testing.assert_allclose(kept, singular[:15], rtol=1e-4, atol=1e-4)


def test_principal_directions_of_equal_rows() -> None:
    wide = rotations.pca_of_wide(np.full((9, 50), 3, dtype=np.uint8), 15, 2)
    np.testing.assert_allclose(wide.matrix.T @ wide.matrix, np.eye(15), atol=1e-6)
    assert (wide.mean == 3).all()
