"""Product quantization against its definition in NumPy."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest

import fpq
from fpq.learning.kmeans import even_offsets, sample_rows
from fpq.learning.lloyd import Training
from fpq.learning.quantizer import group_centroids

RNG = np.random.default_rng(1)
X = RNG.normal(size=(1200, 11)).astype(np.float32)
SHAPES = [(1, 1), (4, 4), (11, 3), (3, 3), (5, 2), (11, 11), (7, 1)]  # d, m


def numbers(codes: np.ndarray, m: int, nbits: int) -> np.ndarray:
    """Codes (n, code_size) to sub-codes (n, m): nbits bits each, low bits first."""
    bits = np.unpackbits(codes, axis=1, bitorder="little")
    assert not bits[:, m * nbits :].any()
    return bits[:, : m * nbits].reshape(len(codes), m, nbits).astype(np.int64) @ (1 << np.arange(nbits))


def pieces(pq: fpq.ProductQuantizer, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sub-vectors (n, d_j) and centroids (k, d_j) of each subspace."""
    parts = np.split(x, pq.offsets[1:-1], axis=1)
    return [(part, pq.codebooks[j, :, : part.shape[1]]) for j, part in enumerate(parts)]


def same(one: fpq.ProductQuantizer, two: fpq.ProductQuantizer) -> None:
    for name in ("codebooks", "offsets", "code_counts", "inertia", "n_iter_run", "dim"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    if one.rotation_matrix is not None:
        np.testing.assert_array_equal(one.rotation_matrix, two.rotation_matrix)


def exact(d: int, m: int, nbits: int) -> fpq.ProductQuantizer:
    """A quantizer whose centroids are small integers of mean zero: all its distances are exact."""
    half = RNG.integers(-4, 5, (1 << nbits >> 1, d))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pq = fpq.ProductQuantizer(m, nbits=nbits).fit(np.vstack([half, -half]))
    np.testing.assert_array_equal(pq.codebooks, np.round(pq.codebooks))
    return pq


@pytest.mark.parametrize("nbits", range(1, 9))
@pytest.mark.parametrize(("d", "m"), SHAPES)
def test_encode_and_decode(isa: str, nbits: int, d: int, m: int) -> None:
    pq = exact(d, m, nbits)
    x = RNG.integers(-5, 6, (130, d))
    codes = pq.encode(x)
    assert codes.dtype == np.uint8
    assert codes.shape == (130, pq.code_size) == (130, -(-m * nbits // 8))
    expected = [((part[:, None] - c) ** 2).sum(2).argmin(1) for part, c in pieces(pq, x)]
    np.testing.assert_array_equal(numbers(codes, m, nbits).T, expected)  # ties: the lower number
    decoded = pq.decode(codes)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(
        decoded, np.hstack([c[ids] for (_, c), ids in zip(pieces(pq, x), expected, strict=True)])
    )


@pytest.mark.parametrize("nbits", [1, 3, 4, 6, 8])
@pytest.mark.parametrize(("d", "m"), [(11, 3), (11, 11), (11, 1)])
@pytest.mark.parametrize("rotation", [None, "pca", "opq"])
def test_real_numbers(nbits: int, d: int, m: int, rotation: str | None) -> None:
    pq = fpq.ProductQuantizer(m, nbits=nbits, rotation=rotation, max_points_per_centroid=1200).fit(X)
    assert pq.dim == d
    assert pq.offsets.tolist() == even_offsets(d, m).tolist()
    assert pq.codebooks.shape == (m, 1 << nbits, -(-d // m))
    rotated = X if rotation is None else X.astype(np.float64) @ pq.rotation_matrix
    ids = numbers(pq.encode(X), m, nbits)
    total = 0.0
    for j, (part, c) in enumerate(pieces(pq, rotated)):
        distances = ((part[:, None].astype(np.float64) - c) ** 2).sum(2)
        chosen = distances[np.arange(len(X)), ids[:, j]]
        np.testing.assert_allclose(chosen, distances.min(1), rtol=1e-4, atol=1e-5)
        total += chosen.sum()
        np.testing.assert_array_equal(pq.code_counts[j], np.bincount(ids[:, j], minlength=1 << nbits))
        assert not pq.codebooks[j, :, part.shape[1] :].any()
    assert pq.code_counts.dtype == np.int64
    assert pq.inertia == pytest.approx(total, rel=1e-3)
    error = ((pq.decode(pq.encode(X)) - X) ** 2).sum(dtype=np.float64)
    assert error == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("nbits", range(1, 9))
@pytest.mark.parametrize("rotation", [None, "opq"])
def test_distance_table(isa: str, nbits: int, rotation: str | None) -> None:
    pq = fpq.ProductQuantizer(4, nbits=nbits, rotation=rotation).fit(X)
    queries = X[:9] + np.float32(0.5)
    table = pq.distance_table(queries)
    assert table.shape == (9, 4, 1 << nbits)
    rotated = pq.rotate(queries, 1)
    for j, (part, c) in enumerate(pieces(pq, rotated)):
        expected = np.zeros((9, 1 << nbits), np.float32)
        for t in range(part.shape[1]):  # bit for bit: every product is rounded, the sum goes from left to right
            expected += (part[:, t, None] - c[:, t]) ** 2
        np.testing.assert_array_equal(table[:, j], expected)
    np.testing.assert_array_equal(pq.distance_table(queries[2]), table[2])
    assert pq.distance_table(queries[:0]).shape == (0, 4, 1 << nbits)
    codes = pq.encode(X[:50])
    sums = table[:, np.arange(4), numbers(codes, 4, nbits)].sum(2)
    distances = ((queries[:, None].astype(np.float64) - pq.decode(codes)) ** 2).sum(2)
    np.testing.assert_allclose(sums, distances, rtol=1e-4, atol=1e-4)


def test_tables_are_the_same_bits_under_every_instruction_set(isa: str) -> None:
    pq = exact(11, 3, 8)
    queries = RNG.normal(size=(5, 11)).astype(np.float32)
    tables = [((part[:, None] - c) ** 2) for part, c in pieces(pq, queries)]
    expected = np.stack([np.add.accumulate(each, 2)[:, :, -1] for each in tables], 1)
    np.testing.assert_array_equal(pq.distance_table(queries), expected)


@pytest.mark.parametrize("nbits", [3, 8])
def test_more_iterations_lower_the_error(nbits: int) -> None:
    inertia = [fpq.ProductQuantizer(3, nbits=nbits, n_iter=n).fit(X).inertia for n in range(1, 9)]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(inertia))
    assert inertia[-1] < inertia[0]


def test_near_centroids_differ_in_bits_4_to_6_and_the_nearest_in_bits_4_and_5() -> None:
    pq = fpq.ProductQuantizer(3, nbits=8).fit(X)
    for j, (_, c) in enumerate(pieces(pq, X)):
        all_of_them = ((c - c.mean(0)) ** 2).sum()
        for bits, share in ((2, 0.3), (3, 0.4)):
            groups = c.reshape(2 ** (4 - bits), 2**bits, 16, -1)
            within = ((groups - groups.mean(1, keepdims=True)) ** 2).sum()
            assert within < share * all_of_them, (j, bits)
    ids = RNG.integers(0, 256, (3, 50)).astype(np.int32)
    before = Training(pq.codebooks[:, RNG.permutation(256)].copy(), ids, np.zeros((3, 50), np.float32), 1)
    after = group_centroids(before._replace(ids=ids.copy()), pq.offsets, 1)
    for j in range(3):  # renumbering changes nothing else
        np.testing.assert_array_equal(after.centroids[j, after.ids[j]], before.centroids[j, before.ids[j]])
        np.testing.assert_array_equal(np.sort(after.centroids[j], 0), np.sort(before.centroids[j], 0))


def test_starting_from_random_rows() -> None:
    half = X.copy()
    half[: len(X) // 2, :3] = 1  # rows that are drawn more than once in a subspace
    # Of 256 centroids, half start among rows that are nearly equal in the first subspace.
    for nbits, worse in ((3, 1.2), (8, 1.5)):
        pq, spread = (fpq.ProductQuantizer(3, nbits=nbits, init=init).fit(half) for init in ("random", "k-means++"))
        assert not np.array_equal(pq.codebooks, spread.codebooks)
        assert pq.inertia < worse * spread.inertia
        same(fpq.ProductQuantizer(3, nbits=nbits, init="random", n_threads=2).fit(half), pq)
    few = fpq.ProductQuantizer(3, nbits=2, init="random", n_iter=1).fit(X[:4])
    np.testing.assert_array_equal(few.decode(few.encode(X[:4])), X[:4])


@pytest.mark.parametrize("rotation", [None, "pca", "opq"])
def test_seeds_and_threads(isa: str, rotation: str | None) -> None:
    first = fpq.ProductQuantizer(4, nbits=5, rotation=rotation, open_indexing=1.2, n_threads=1).fit(X)
    for n_threads in (1, 2, 3):
        again = fpq.ProductQuantizer(4, nbits=5, rotation=rotation, open_indexing=1.2, n_threads=n_threads).fit(X)
        same(again, first)
        np.testing.assert_array_equal(again.encode(X), first.encode(X))
        np.testing.assert_array_equal(again.decode(first.encode(X)), first.decode(first.encode(X)))
    other = fpq.ProductQuantizer(4, nbits=5, rotation=rotation, open_indexing=1.2, seed=1).fit(X)
    assert other.inertia != first.inertia
    assert other.inertia == pytest.approx(first.inertia, rel=0.1)


def test_encoding_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for open_indexing in (None, 1.1, fpq.OpenIndexing(1.0, 3, "shared")):
        pq = fpq.ProductQuantizer(4, nbits=5, rotation="pca", open_indexing=open_indexing).fit(X)
        whole = pq.encode(X)
        with monkeypatch.context() as patch:
            patch.setattr("fpq.learning.quantizer.CHUNK_ROWS", 7)
            np.testing.assert_array_equal(pq.encode(X), whole)
        np.testing.assert_array_equal(pq.encode(X), whole)  # counters start at zero each time


@pytest.mark.parametrize("nbits", [4, 8])
def test_code_counts_of_open_indexing(nbits: int) -> None:
    policy = fpq.OpenIndexing(1.0, 1 << nbits)
    pq = fpq.ProductQuantizer(4, nbits=nbits, open_indexing=policy, max_points_per_centroid=1200).fit(X)
    ids = numbers(pq.encode(X), 4, nbits)
    np.testing.assert_array_equal(pq.code_counts, [np.bincount(column, minlength=1 << nbits) for column in ids.T])
    assert pq.code_counts.max() <= np.ceil(1200 / (1 << nbits))
    free = fpq.ProductQuantizer(4, nbits=nbits, max_points_per_centroid=1200).fit(X)
    np.testing.assert_array_equal(pq.codebooks, free.codebooks)  # it limits codes, not training
    assert pq.inertia == free.inertia


def test_the_sample() -> None:
    size = 3 << 4
    rows = sample_rows(1200, size, np.random.default_rng(5))
    other = np.full_like(X, 1e6)
    other[rows] = X[rows]
    for rotation in (None, "pca", "opq"):
        ours, twin = (
            fpq.ProductQuantizer(4, nbits=4, rotation=rotation, max_points_per_centroid=3, seed=5) for _ in "12"
        )
        same(ours.fit(X), twin.fit(other))
        assert ours.code_counts.sum() == 4 * size
        assert ours.max_training_rows == size


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int8", "int32"])
@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed", "read-only"])
def test_element_types_and_layouts(dtype: str, layout: str) -> None:
    whole = RNG.integers(0, 100, (300, 7))
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
    for parameters in ({}, {"rotation": "pca"}, {"open_indexing": 1.0}, {"max_points_per_centroid": 5}):
        ours, twin = fpq.ProductQuantizer(3, nbits=4, **parameters), fpq.ProductQuantizer(3, nbits=4, **parameters)
        same(ours.fit(values), twin.fit(plain))
        codes = ours.encode(values)
        np.testing.assert_array_equal(codes, twin.encode(plain))
        np.testing.assert_array_equal(ours.distance_table(values[:5]), twin.distance_table(plain[:5]))
        np.testing.assert_array_equal(ours.decode(np.asfortranarray(codes)), ours.decode(codes))
        np.testing.assert_array_equal(ours.decode(codes[::-2]), ours.decode(codes)[::-2])


@pytest.mark.parametrize("rotation", [None, "pca", "opq"])
@pytest.mark.parametrize("nbits", [2, 4, 8])
def test_fewer_rows_than_centroids(rotation: str | None, nbits: int) -> None:
    for n in (1, 3):
        with pytest.warns(RuntimeWarning, match=f"^{n} training rows for {1 << nbits} centroids"):
            pq = fpq.ProductQuantizer(4, nbits=nbits, rotation=rotation).fit(X[:n])
        np.testing.assert_allclose(pq.decode(pq.encode(X[:n])), X[:n], rtol=1e-4, atol=1e-5)
        used = (pq.code_counts > 0).sum(1)
        assert used.max() <= n
        if rotation is None:  # a few rows agree in some directions
            assert used.min() == n
        assert np.isfinite(pq.codebooks).all()


@pytest.mark.parametrize("rotation", [None, "pca", "opq"])
@pytest.mark.parametrize("nbits", [4, 8])
def test_constant_columns_and_duplicates(rotation: str | None, nbits: int) -> None:
    rows = np.repeat(X[:6], 70, 0)
    rows[:, 5:] = 0.1  # whole subspaces are constant
    pq = fpq.ProductQuantizer(4, nbits=nbits, rotation=rotation, open_indexing=None).fit(rows)
    np.testing.assert_allclose(pq.decode(pq.encode(rows)), rows, rtol=1e-4, atol=1e-4)
    assert (pq.code_counts > 0).sum(1).max() <= 6
    blank = fpq.ProductQuantizer(4, nbits=nbits, rotation=rotation).fit(np.zeros((300, 11)))
    np.testing.assert_array_equal(blank.decode(blank.encode(np.zeros((2, 11)))), np.zeros((2, 11)))
    assert blank.inertia == 0
    limited = fpq.ProductQuantizer(4, nbits=nbits, rotation=rotation, open_indexing=1.0).fit(np.zeros((300, 11)))
    np.testing.assert_array_equal(limited.decode(limited.encode(np.zeros((9, 11)))), np.zeros((9, 11)))


def test_nothing_to_encode_or_decode() -> None:
    for rotation in (None, "opq"):
        pq = fpq.ProductQuantizer(4, nbits=3, rotation=rotation, open_indexing=1.0).fit(X)
        assert pq.encode(X[:0]).shape == (0, 2)
        assert pq.decode(pq.encode(X[:0])).shape == (0, 11)
        assert pq.encode(X[:0]).dtype == np.uint8


def test_fit_again_and_sizes() -> None:
    pq = fpq.ProductQuantizer(4, nbits=3, rotation="pca", rotation_dim=5)
    assert not pq.is_trained
    assert pq.nbytes == 0
    assert pq.rotation_matrix is None
    assert "not trained" in repr(pq)
    pq.fit(X)
    assert pq.is_trained
    assert pq.rotation_matrix is not None
    assert pq.rotation_matrix.shape == (11, 5)
    assert "dim=11" in repr(pq)
    assert pq.nbytes >= pq.codebooks.nbytes + pq.code_counts.nbytes + pq.rotation_matrix.nbytes
    fresh = fpq.ProductQuantizer(4, nbits=3, rotation="pca", rotation_dim=5).fit(X[:, :8])
    same(pq.fit(X[:, :8]), fresh)
    assert fpq.ProductQuantizer(rotation_dim=None).code_size == 16
