"""The kernels under every instruction set, through the module's own functions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import _bfloat16, _native
from fpq._arrays import aligned_empty, pack
from fpq.learning.kmeans import even_offsets
from fpq.learning.lloyd import LocalRows

BFLOAT16 = pytest.param(
    _bfloat16.installed(), marks=pytest.mark.skipif(_bfloat16.installed() is None, reason="no ml_dtypes")
)
KERNEL_TYPES = [np.float32, np.float64, np.float16, BFLOAT16, np.uint8, np.int8]
LAYOUTS = ["C", "F", "strided", "reversed", "one row", "read-only"]
EDGES = [1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129, 255, 256, 257]


def laid_out(values: np.ndarray, layout: str) -> np.ndarray:
    """The same matrix with other strides."""
    if layout == "F":
        return np.asfortranarray(values)
    if layout == "strided":
        return np.repeat(np.repeat(values, 2, 0), 3, 1)[::2, ::3]
    if layout == "reversed":
        return values[::-1, ::-1].copy()[::-1, ::-1]
    if layout == "one row":
        return np.broadcast_to(values[0], values.shape)
    if layout == "read-only":
        values = values.copy()
        values.flags.writeable = False
    return values


def centred(rng: np.random.Generator, m: int, k: int, d: int) -> np.ndarray:
    """Centroids of small integers and mean zero, many of them equal: all sums are exact and there are ties."""
    half = rng.integers(-3, 4, (m, k // 2, d))
    return np.concatenate([half, np.zeros((m, k % 2, d)), -half], 1).astype(np.float32)


def exact_adc(index: fpq.PQIndex, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The definition: float32 table sums in the order of the subspaces, sorted by distance, then id."""
    pq = index.quantizer
    tables = pq.distance_table(queries)
    sub_codes = np.empty((pq.m, len(index)), dtype=np.int32)
    _native.unpack_codes(index.codes, pq.nbits, sub_codes)
    sums = np.zeros((len(queries), len(index)), dtype=np.float32)
    for j in range(pq.m):
        sums += tables[:, j, sub_codes[j]]
    order = np.array([np.lexsort((index.ids, row))[:k] for row in sums])
    return np.take_along_axis(sums, order, 1), index.ids[order]


@pytest.mark.parametrize("nbits", range(1, 9))
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 1), (3, 63, 5), (8, 64, 64), (7, 65, 10), (16, 3000, 10), (32, 3000, 10), (33, 700, 100)]
)
def test_search_is_the_exact_adc_answer(isa: str, nbits: int, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.integers(0, 9, (n, 40)).astype(np.float32)  # small numbers: many ties
    index = fpq.PQIndex(m, nbits=nbits)
    index.fit(rng.integers(0, 9, (600, 40)).astype(np.float32)).add(x)
    queries = rng.integers(0, 9, (13, 40)).astype(np.float32)
    distances, ids = index.search(queries, k)
    expected_distances, expected_ids = exact_adc(index, queries, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(distances, expected_distances)


@pytest.mark.parametrize("k", [1, 16, 17, 64, 100, 256])
@pytest.mark.parametrize("d", [1, 5, 16, 98, 784])
def test_assignment_agrees_with_numpy(isa: str, k: int, d: int) -> None:
    rng = np.random.default_rng(d)
    x = rng.integers(0, 7, (101, d)).astype(np.uint8)
    centroids = rng.integers(0, 7, (1, k, d)).astype(np.float32)
    ids, errors = np.empty((1, len(x)), np.int32), np.empty((1, len(x)), np.float32)
    _native.assign(centroids, np.array([0, d], np.int32), x, None, ids, errors, 2)
    distances = ((x[:, None].astype(np.float64) - centroids) ** 2).sum(2)
    np.testing.assert_allclose(distances[np.arange(len(x)), ids[0]], distances.min(1), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(errors[0], distances.min(1), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("k", [*EDGES, 1000])
def test_assignment_at_the_edges_of_blocks(isa: str, k: int) -> None:
    rng = np.random.default_rng(k)
    sizes = itertools.cycle([1, 5, 6, 7, 11, 12, 13, 95, 96, 97])
    for d, n in zip([*range(1, 41), 64, 65], sizes, strict=False):
        x, centroids = rng.integers(-4, 5, (n, d)).astype(np.float32), centred(rng, 1, k, d)
        ids, errors = np.full((1, n), -1, np.int32), np.empty((1, n), np.float32)
        _native.assign(centroids, np.array([0, d], np.int32), x, None, ids, errors, 1)
        distances = ((x[:, None] - centroids[0]) ** 2).sum(2)
        np.testing.assert_array_equal(ids[0], distances.argmin(1), err_msg=f"{d=} {n=}")
        np.testing.assert_array_equal(errors[0], distances.min(1), err_msg=f"{d=} {n=}")


@pytest.mark.parametrize(("k", "d"), [(5000, 20), (200, 784), (65, 2000)])
def test_ties_between_panels_of_centroids(isa: str, k: int, d: int) -> None:
    rng = np.random.default_rng(k)
    few = centred(rng, 1, 6, d)
    centroids = np.concatenate([few[:, [0]], np.tile(few, (1, k // 6, 1))], 1)
    centroids[:, 0] = 0
    x = np.repeat(few[0], 17, 0)
    ids, errors = np.empty((1, len(x)), np.int32), np.empty((1, len(x)), np.float32)
    _native.assign(centroids, np.array([0, d], np.int32), x, None, ids, errors, 2)
    np.testing.assert_array_equal(ids[0], ((x[:, None] - centroids[0, :7]) ** 2).sum(2).argmin(1))
    assert not errors.any()


@pytest.mark.parametrize("dtype", KERNEL_TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_assignment_of_chosen_rows_in_subspaces(isa: str, dtype: Any, layout: str) -> None:
    rng = np.random.default_rng(0)
    d, k = 19, 33
    x = laid_out(rng.integers(0, 5, (300, d)).astype(dtype), layout)
    plain = x.astype(np.float32)
    for m, rows in ((1, None), (3, rng.integers(0, 300, 97)), (7, rng.permutation(300)), (19, None)):
        offsets = even_offsets(d, m)
        centroids = centred(rng, m, k, -(-d // m))
        for j in range(m):
            centroids[j, :, offsets[j + 1] - offsets[j] :] = 0
        picked = plain if rows is None else plain[rows]
        ids, errors = np.empty((m, len(picked)), np.int32), np.empty((m, len(picked)), np.float32)
        _native.assign(centroids, offsets, x, rows, ids, errors, 2)
        for j, part in enumerate(np.split(picked, offsets[1:-1], axis=1)):
            distances = ((part[:, None] - centroids[j, :, : part.shape[1]]) ** 2).sum(2)
            np.testing.assert_array_equal(ids[j], distances.argmin(1))
            np.testing.assert_array_equal(errors[j], distances.min(1))


@pytest.mark.parametrize("k", [1, 16, 17, 100])
def test_a_step_of_k_means(isa: str, k: int) -> None:
    rng = np.random.default_rng(k)
    for d, n in itertools.product([1, 2, 7, 8, 15, 16, 17, 33], [1, 96, 97, 3200]):
        x, centroids = rng.integers(-4, 5, (n, d)).astype(np.float32), centred(rng, 1, k, d)
        before = centroids.copy()
        counts, active, offsets = np.empty((1, k), np.int64), np.ones(1, np.uint8), np.array([0, d], np.int32)
        chunk_rows = _native.kmeans_chunk_rows(1, k, d, n)
        steps = LocalRows(x, None, 2).steps(offsets, (1, k, d), False)
        sums, changed = steps.sums(centroids, active, n, chunk_rows, 0.0)
        _native.kmeans_means(centroids, offsets, active, sums, counts, 2)
        ids = steps.assignment(0, n)[0][None].copy()
        np.testing.assert_array_equal(ids[0], ((x[:, None] - before[0]) ** 2).sum(2).argmin(1))
        np.testing.assert_array_equal(counts[0], np.bincount(ids[0], minlength=k))
        assert changed[0] == n
        for c in np.flatnonzero(counts[0]):
            np.testing.assert_array_equal(centroids[0, c], x[ids[0] == c].mean(0, np.float64).astype(np.float32))
        active[0] = 0  # a subspace that has come to rest is left alone
        rested = centroids.copy()
        sums, _ = steps.sums(centroids, active, n, chunk_rows, 0.0)
        _native.kmeans_means(centroids, offsets, active, sums, counts, 2)
        np.testing.assert_array_equal(centroids, rested)
        np.testing.assert_array_equal(steps.assignment(0, n)[0], ids[0])


@pytest.mark.parametrize("nbits", range(1, 9))
@pytest.mark.parametrize("inner_product", [False, True])
def test_tables_and_their_sums_have_the_same_bits_everywhere(isa: str, nbits: int, inner_product: bool) -> None:
    rng = np.random.default_rng(nbits)
    k = 1 << nbits
    for m, dsub, n in [
        (1, 1, 1),
        (2, 3, 63),
        (3, 8, 64),
        (5, 2, 65),
        (8, 5, 130),
        (16, 4, 200),
        (17, 7, 64),
        (40, 1, 129),
    ]:
        codebooks = rng.normal(size=(m, k, dsub)).astype(np.float32)
        queries = rng.normal(size=(3, m * dsub)).astype(np.float32)
        offsets = even_offsets(m * dsub, m)
        packed = aligned_empty(m, _native.packed_size(k, dsub))
        for j in range(m):
            packed[j] = pack(codebooks[j], dsub)
        adc = _native.ADC(packed, codebooks, offsets, nbits, inner_product)
        tables = aligned_empty(3, m, max(k, 16))
        adc.tables(queries, tables)
        expected = np.zeros((3, m, k), np.float32)
        for t in range(dsub):
            q, c = queries.reshape(3, m, 1, dsub)[..., t], codebooks[None, :, :, t]
            expected += q * c if inner_product else (q - c) ** 2
        np.testing.assert_array_equal(tables[:, :, :k], -expected if inner_product else expected)

        ids = rng.integers(0, k, (m, n)).astype(np.int32)
        codes = np.empty((n, -(-m * nbits // 8)), np.uint8)
        _native.pack_codes(ids, nbits, codes, 2)
        blocks = np.zeros((-(-n // 64), codes.shape[1], 64), np.uint8)
        _native.put_codes(codes, np.arange(n, dtype=np.int64), blocks)
        coded = _native.FlatCodes(adc, None, blocks, None, None, n)
        sums = np.zeros((3, n), np.float32)
        for j in range(m):
            sums += tables[:, j, ids[j]]
        for wanted in (1, n):
            distances, found = np.empty((3, wanted), np.float32), np.empty((3, wanted), np.int64)
            coded.search(queries, _native.TopK(distances, found), 2)
            order = np.argsort(sums, 1, kind="stable")[:, :wanted]
            np.testing.assert_array_equal(found, order)
            np.testing.assert_array_equal(distances, np.take_along_axis(sums, order, 1))
        within = _native.Within(3, np.inf)
        coded.search(queries, within, 2)
        distances, found = np.empty(3 * n, np.float32), np.empty(3 * n, np.int64)
        within.copy(distances, found)
        order = np.argsort(sums, 1, kind="stable")
        np.testing.assert_array_equal(found.reshape(3, n), order)
        np.testing.assert_array_equal(distances.reshape(3, n), np.take_along_axis(sums, order, 1))


@pytest.mark.parametrize("nbits", range(1, 9))
def test_codes_there_and_back(nbits: int) -> None:
    rng = np.random.default_rng(nbits)
    for m, n in itertools.product([*range(1, 18), 31, 64, 100], [0, 1, 63, 64, 65]):
        ids = rng.integers(0, 1 << nbits, (m, n)).astype(np.int32)
        codes = np.full((n, -(-m * nbits // 8)), 255, np.uint8)
        _native.pack_codes(ids, nbits, codes, 2)
        bits = (ids.T[:, :, None] >> np.arange(nbits) & 1).astype(np.uint8).reshape(n, m * nbits)
        np.testing.assert_array_equal(codes, np.packbits(bits, axis=1, bitorder="little"))
        back = np.full_like(ids, -1)
        _native.unpack_codes(codes, nbits, back)
        np.testing.assert_array_equal(back, ids)
        blocks = np.zeros((3, codes.shape[1], 64), np.uint8)
        rows = rng.permutation(192)[:n]
        _native.put_codes(codes, rows, blocks, 2)
        np.testing.assert_array_equal(blocks.transpose(0, 2, 1).reshape(192, -1)[rows], codes)
        assert blocks.astype(bool).sum() == codes.astype(bool).sum()
        again = np.empty_like(codes)
        _native.get_codes(blocks, rows, again)
        np.testing.assert_array_equal(again, codes)


def read(x: np.ndarray) -> np.ndarray:
    """The rows of a matrix as the kernels read them: its product with the identity."""
    out = np.empty(x.shape, np.float32)
    _native.project(x, pack(np.eye(x.shape[1], dtype=np.float32), x.shape[1]), out, 2)
    return out


@pytest.mark.parametrize("dtype", KERNEL_TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_reading_rows(isa: str, dtype: Any, layout: str) -> None:
    rng = np.random.default_rng(0)
    for d in (1, 2, 7, 8, 9, 15, 16, 17, 33, 40):
        for n in (1, 95, 96, 97):
            if np.issubdtype(dtype, np.integer):
                info = np.iinfo(dtype)
                values = rng.integers(info.min, info.max + 1, (n, d)).astype(dtype)
            else:
                values = (rng.normal(size=(n, d)) * 10.0 ** rng.integers(-5, 4, (n, d))).astype(dtype)
            x = laid_out(values, layout)
            np.testing.assert_array_equal(read(x), x.astype(np.float32))


def test_every_half_precision_number(isa: str) -> None:
    halves = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    column = finite[:, None]
    np.testing.assert_array_equal(read(column), column.astype(np.float32))
    assert _native.first_nonfinite_row(column, 2) == -1
    for each in halves[~np.isfinite(halves)][::97]:
        assert _native.first_nonfinite_row(np.array([[1, 2], [3, each]], np.float16), 1) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed"])
def test_the_first_row_that_is_not_finite(isa: str, dtype: Any, layout: str) -> None:
    bad = [np.nan, np.inf, -np.inf, *([1e39, -1e300] if dtype == np.float64 else [])]
    for value, (n, d) in itertools.product(bad, [(1, 1), (97, 3), (200, 33), (2, 1025), (3, 2100)]):
        top = np.finfo(np.float32 if dtype == np.float64 else dtype).max
        values = np.full((n, d), top, dtype)
        assert _native.first_nonfinite_row(laid_out(values, layout), 2) == -1
        for row, column in itertools.product({0, n // 2, n - 1}, {0, d // 2, d - 1}):
            values[:] = -top
            values[row, column] = value
            values[n - 1, 0] = value  # a later one
            assert _native.first_nonfinite_row(laid_out(values, layout), 2) == row
    assert _native.first_nonfinite_row(np.empty((0, 5), dtype), 2) == -1


@pytest.mark.parametrize("dtype", KERNEL_TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_exact_distances(isa: str, dtype: Any, layout: str) -> None:
    rng = np.random.default_rng(0)
    for d in (*range(1, 41), 63, 64, 65, 127, 128, 129, 300):
        x = laid_out(rng.integers(0, 9, (20, d)).astype(dtype), layout)
        plain = x.astype(np.float32)
        queries = rng.integers(-9, 9, (3, d)).astype(np.float32)
        rows = rng.integers(-1, 20, (3, 11))
        there = rows >= 0
        out, norms = np.empty((3, 11), np.float32), np.empty(20, np.float32)
        _native.flat_norms(x, norms, 2)
        np.testing.assert_array_equal(norms, (plain**2).sum(1))
        for inner_product in (False, True):
            _native.flat_distances(x, queries, rows, inner_product, out, 2)
            every = -(queries @ plain.T) if inner_product else ((queries[:, None] - plain) ** 2).sum(2)
            np.testing.assert_array_equal(out, np.where(there, np.take_along_axis(every, rows, 1), np.inf))


@pytest.mark.parametrize("k", EDGES)
def test_products(isa: str, k: int) -> None:
    rng = np.random.default_rng(k)
    for d, n in itertools.product([1, 3, 16, 17], [1, 6, 97]):
        x = rng.integers(-9, 9, (n, d)).astype(np.float32)
        columns = rng.integers(-9, 9, (k, d + 2)).astype(np.float32)
        packed, out = pack(columns, d), np.empty((n, k), np.float32)
        assert packed.ctypes.data % 64 == 0
        _native.project(x, packed, out, 2)
        np.testing.assert_array_equal(out, x @ columns[:, :d].T)


@pytest.mark.parametrize(("rotation", "dim", "nbits", "n"), [("opq", 20, 5, 9000), (None, None, 8, 4000)])
def test_same_bits_for_any_number_of_threads(
    isa: str, rotation: str | None, dim: int | None, nbits: int, n: int
) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, 24)).astype(np.float32)
    parameters: dict[str, Any] = {"rotation": rotation, "rotation_dim": dim, "open_indexing": 1.2}
    answers = []
    for n_threads in (1, 2, 3, 1):
        index = fpq.PQIndex(6, nbits=nbits, n_threads=n_threads, **parameters).fit(x).add(x)
        answers.append((index.quantizer.codebooks, index.codes, *index.search(x[:50], 7), *index.search(x[0], 7)))
    for answer in answers[1:]:
        for ours, first in zip(answer, answers[0], strict=True):
            np.testing.assert_array_equal(ours, first)
