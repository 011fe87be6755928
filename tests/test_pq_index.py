"""PQIndex against NumPy: float32 table entries added in the order of the subspaces, sorted by distance, then id."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import _native

RNG = np.random.default_rng(1)
N, D, M = 700, 21, 4  # subspaces of 6, 5, 5, 5 dimensions
X = RNG.integers(-4, 5, (N, D)).astype(np.float32)
X[500:600] = X[:100]  # duplicates: ties go to the lower id
IDS = RNG.permutation(3 * N)[:N]
Q = RNG.integers(-4, 5, (13, D)).astype(np.float32)
LARGEST = float(np.finfo(np.float32).max)
METRICS = ["l2", "ip", "cosine"]


def sub_codes(codes: np.ndarray, m: int, nbits: int) -> np.ndarray:
    """Codes (n, code_size) to numbers (n, m): nbits bits each, low bits first."""
    bits = np.unpackbits(codes, axis=1, bitorder="little")[:, : m * nbits].reshape(len(codes), m, nbits)
    return bits.astype(np.int64) @ (1 << np.arange(nbits))


def tables(index: fpq.PQIndex, queries: np.ndarray) -> np.ndarray:
    """Distances, or negated inner products, of sub-vectors and centroids."""
    pq = index.quantizer
    if index.metric == "cosine":  # small integers: sums of squares are exact
        lengths = np.sqrt((queries.astype(np.float64) ** 2).sum(1, keepdims=True))
        queries = (queries / lengths).astype(np.float32)
    if index.metric == "l2":
        return pq.distance_table(queries)
    rotated = pq.rotate(queries, 1)
    out = np.zeros((len(queries), pq.m, 1 << pq.nbits), np.float32)
    for j in range(pq.m):
        for t in range(pq.offsets[j + 1] - pq.offsets[j]):
            out[:, j] += rotated[:, pq.offsets[j] + t, None] * pq.codebooks[j, :, t]
    return -out


def sums(index: fpq.PQIndex, queries: np.ndarray) -> np.ndarray:
    """The asymmetric distances (nq, n) of queries to the index's rows."""
    pq = index.quantizer
    numbers, entries = sub_codes(index.codes, pq.m, pq.nbits), tables(index, queries)
    out = np.zeros((len(queries), len(index)), np.float32)
    for j in range(pq.m):
        out += entries[:, j, numbers[:, j]]
    return out


def nearest(index: fpq.PQIndex, queries: np.ndarray, k: int, rows: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    distances, ids = sums(index, queries)[:, rows], index.ids[rows]
    order = np.array([np.lexsort((ids, row))[:k] for row in distances])
    found, found_ids = np.take_along_axis(distances, order, 1), ids[order]
    missing = ((0, 0), (0, k - order.shape[1]))
    found = np.pad(found, missing, constant_values=np.inf)
    return found if index.metric == "l2" else -found, np.pad(found_ids, missing, constant_values=-1)


def same(ours: Any, expected: Any) -> None:
    for our, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(our, other)


@functools.cache
def built(metric: str = "l2", nbits: int = 5, rotation: str | None = None, dim: int | None = None) -> fpq.PQIndex:
    """A filled index; tests leave it as it is."""
    index = fpq.PQIndex(M, nbits=nbits, rotation=rotation, rotation_dim=dim, metric=metric, keep_vectors=True)
    return index.fit(X).add(X, IDS)


def fresh(nbits: int = 5, **parameters: Any) -> fpq.PQIndex:
    return fpq.PQIndex(M, nbits=nbits, **parameters).fit(X)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("nbits", "rotation", "dim"),
    [(nbits, None, None) for nbits in range(1, 9)]
    + [(nbits, rotation, dim) for nbits in (3, 8) for rotation in ("pca", "opq") for dim in (None, 18)],
)
def test_search_is_the_exact_adc_answer(
    isa: str, metric: str, nbits: int, rotation: str | None, dim: int | None
) -> None:
    index = built(metric, nbits, rotation, dim)
    for k in (1, 10, N + 5):
        same(index.search(Q, k), nearest(index, Q, k))
    same(index.search(Q[3], 10), [each[0] for each in nearest(index, Q[3:4], 10)])


@pytest.mark.parametrize("order", ["random", "sorted", "misleading"])
@pytest.mark.parametrize("nq", [1, 5])
def test_thresholds_estimated_from_a_part_of_the_rows_lose_none(isa: str, order: str, nq: int) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(30_000, 8)).astype(np.float32)
    lengths = (x**2).sum(1)
    if order == "sorted":
        x = x[lengths.argsort()]
    if order == "misleading":  # the blocks that a search begins with have the near rows
        first = np.arange(len(x)) // 64 % 9 == 0
        x[np.r_[np.flatnonzero(first), np.flatnonzero(~first)]] = x[lengths.argsort()]
    index = fpq.PQIndex(4, n_threads=1).fit(x[::10])
    index.add(x)
    queries = 0.1 * rng.normal(size=(nq, 8)).astype(np.float32)
    whole = index.search(queries, len(x))  # no threshold
    for k in (1, 10, 40, 300):
        same(index.search(queries, k), [each[:, :k] for each in whole])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rotation", [None, "opq"])
def test_distances_are_those_of_the_decoded_vectors(metric: str, rotation: str | None) -> None:
    index = built(metric, 6, rotation)
    queries = Q / np.linalg.norm(Q, axis=1, keepdims=True) if metric == "cosine" else Q
    decoded = index.quantizer.decode(index.codes).astype(np.float64)
    if metric == "l2":
        expected = ((queries[:, None].astype(np.float64) - decoded) ** 2).sum(2)
    else:
        expected = queries @ decoded.T
    distances, ids = index.search(Q, N)
    rows = np.argsort(index.ids)[np.searchsorted(np.sort(index.ids), ids)]
    np.testing.assert_allclose(distances, np.take_along_axis(expected, rows, 1), rtol=1e-4, atol=1e-4)


def test_codes_are_those_of_the_quantizer() -> None:
    index = built(nbits=7, rotation="opq")
    np.testing.assert_array_equal(index.ids, IDS)
    np.testing.assert_array_equal(index.codes, index.quantizer.encode(X))


@pytest.mark.parametrize("sizes", [[1] * 130, [63, 1, 64, 2], [0, 65, 0, 65], [130]])
def test_many_small_adds_are_one_big_add(sizes: list[int]) -> None:
    index, start = fresh(keep_vectors=True), 0
    for size in sizes:
        index.add(X[start : start + size])
        start += size
    whole = fresh(keep_vectors=True).add(X[:130])
    assert len(index) == 130
    same((index.codes, index.ids, *index.search(Q, 20)), (whole.codes, whole.ids, *whole.search(Q, 20)))
    same(index.search(Q, 3, rerank=5), whole.search(Q, 3, rerank=5))


def test_ids() -> None:
    index = fresh().add(X[:3]).add(X[3:5], [7, 2**40]).add(X[5:7])
    assert index.ids.tolist() == [0, 1, 2, 7, 2**40, 2**40 + 1, 2**40 + 2]
    assert index.ids.dtype == np.int64
    same(index.search(Q, 9), nearest(index, Q, 9))
    index.ids[:] = 0  # a copy
    assert index.ids[3] == 7
    assert fresh().add(X[:2], np.array([5, 4], np.uint8)).ids.tolist() == [5, 4]


@pytest.mark.parametrize("ids", [None, IDS])
def test_remove(ids: np.ndarray | None) -> None:
    index = fresh(keep_vectors=True).add(X, ids)
    names = index.ids
    codes, vectors = dict(zip(names, index.codes, strict=True)), dict(zip(names, X, strict=True))
    rng = np.random.default_rng(2)
    largest = names.max()
    for size in (1, 63, 64, 65, 300, 0):
        gone = rng.permutation(index.ids)[:size]
        assert index.remove([*gone, *gone, 10**9]) == size
        for name in gone:
            del codes[name], vectors[name]
        assert sorted(index.ids) == sorted(codes)
        np.testing.assert_array_equal(index.codes, [codes[name] for name in index.ids])
        np.testing.assert_array_equal(index.reconstruct(index.ids), [vectors[name] for name in index.ids])
        same(index.search(Q, 10), nearest(index, Q, 10))
    assert index.remove(gone) == index.remove([]) == 0
    index.remove(index.ids.max())
    assert index.add(X[:2]).ids[-2:].tolist() == [largest + 1, largest + 2]  # a removed id does not come back by itself
    index.add(X[:1], [largest])  # but may be given again
    assert index.remove(index.ids) == len(names) - 493 + 3 - 1
    assert len(index) == 0
    assert index.search(Q[:1], 2).ids.tolist() == [[-1, -1]]
    assert index.add(X[:1]).ids.tolist() == [largest + 3]
    np.testing.assert_array_equal(index.codes, index.quantizer.encode(X[:1]))


def test_fit_again_when_empty() -> None:
    index = fresh(keep_vectors=True, open_indexing=1.0).add(X[:9])
    index.remove(np.arange(9))
    index.fit(X[:, :8]).add(X[:100, :8])
    assert index.dim == 8
    assert index.ids.min() == 9
    same(index.search(Q[:, :8], 5), nearest(index, Q[:, :8], 5))


@pytest.mark.parametrize("metric", METRICS)
def test_rerank(metric: str) -> None:
    index = built(metric, 3)
    flat = fpq.FlatIndex(metric).add(X, IDS)
    same(index.search(Q, 9, rerank=N), flat.search(Q, 9))
    same(index.search(Q, N + 3, rerank=1), flat.search(Q, N + 3))
    same(index.search(Q[2], 2, rerank=N), flat.search(Q[2], 2))
    same(index.search(Q, 4, rerank=N, allowed=IDS[:50]), flat.search(Q, 4, allowed=IDS[:50]))
    distances, ids = index.search(Q, 5, rerank=3)
    candidates = index.search(Q, 15).ids
    for i in range(len(Q)):
        same((distances[i], ids[i]), flat.search(Q[i], 5, allowed=candidates[i]))
    same(index.search(Q, 4, rerank=10**12), flat.search(Q, 4))
    assert index.search(Q[0], 2, rerank=3, allowed=[]).ids.tolist() == [-1, -1]
    empty = fpq.PQIndex(M, nbits=3, metric=metric, keep_vectors=True).fit(X)
    assert empty.search(Q, 2, rerank=3).ids.tolist() == [[-1, -1]] * len(Q)
    assert empty.search(Q[0], 2, rerank=3).distances.tolist() == [np.inf if metric == "l2" else -np.inf] * 2


def test_reconstruct() -> None:
    keeps, codes_only = built(nbits=6, rotation="pca"), fresh(6, rotation="pca").add(X, IDS)
    some = [5, 5, 699, 0]
    np.testing.assert_array_equal(keeps.reconstruct(IDS[some]), X[some])
    decoded = keeps.quantizer.decode(keeps.codes)
    np.testing.assert_array_equal(codes_only.reconstruct(IDS[some]), decoded[some])
    assert codes_only.reconstruct(IDS[3]).shape == (1, D)
    for index in (keeps, codes_only):
        assert index.reconstruct([]).shape == (0, D)
        assert index.reconstruct([]).dtype == np.float32
    unit = built("cosine").reconstruct(IDS)
    np.testing.assert_allclose(unit, X / np.linalg.norm(X, axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nq", [1, 13])
def test_range_search(isa: str, metric: str, nq: int) -> None:
    index = built(metric, 5)
    distances = sums(index, Q[:nq])
    limit = float(np.sort(distances.ravel())[40 * nq])  # a distance that occurs: the radius itself is within
    sign = 1 if metric == "l2" else -1
    for allowed in (None, IDS[::3], []):
        rows = np.arange(N) if allowed is None else np.flatnonzero(np.isin(index.ids, allowed))
        lims, found, ids = index.range_search(Q[:nq], sign * limit, allowed=allowed)
        assert lims.dtype == ids.dtype == np.int64
        assert found.dtype == np.float32
        assert lims[0] == 0
        assert lims[-1] == len(found) == len(ids)
        for i in range(nq):
            order = rows[np.lexsort((index.ids[rows], distances[i, rows]))]
            order = order[distances[i, order] <= limit]
            np.testing.assert_array_equal(ids[lims[i] : lims[i + 1]], index.ids[order])
            np.testing.assert_array_equal(found[lims[i] : lims[i + 1]], sign * distances[i, order])


@pytest.mark.parametrize("metric", METRICS)
def test_range_search_finds_what_search_finds(isa: str, metric: str) -> None:
    """All rows for a radius without end, none for the opposite, and the k nearest for the distance of the k-th."""
    index = built(metric)
    distances, ids = index.search(Q, N, allowed=IDS[::2])
    endless = LARGEST if metric == "l2" else -LARGEST
    lims, found, found_ids = index.range_search(Q, endless, allowed=IDS[::2])
    kept = ids >= 0
    np.testing.assert_array_equal(lims, [0, *np.cumsum(kept.sum(axis=1))])
    np.testing.assert_array_equal(found, distances[kept])
    np.testing.assert_array_equal(found_ids, ids[kept])
    assert index.range_search(Q, -endless).lims[-1] == 0
    for i, k in enumerate((1, 7, 64)):
        lims, found, found_ids = index.range_search(Q[i], float(distances[i, k - 1]), allowed=IDS[::2])
        assert len(found) >= k
        np.testing.assert_array_equal(found[:k], distances[i, :k])
        np.testing.assert_array_equal(found_ids, ids[i, : len(found)])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nbits", [2, 4, 8])
@pytest.mark.parametrize("nq", [1, 13])
def test_allowed(isa: str, metric: str, nbits: int, nq: int) -> None:
    index = built(metric, nbits)
    for rows in (np.arange(0, N, 7), np.arange(64, 128), np.arange(690, N), np.arange(1), np.arange(N), np.arange(0)):
        expected = nearest(index, Q[:nq], 12, rows)
        mask = np.zeros(3 * N, bool)
        mask[IDS[rows]] = True
        unknown = np.setdiff1d(np.arange(3 * N), IDS)[:5]
        same(index.search(Q[:nq], 12, allowed=IDS[rows]), expected)
        same(index.search(Q[:nq], 12, allowed=[*IDS[rows], *IDS[rows], *unknown]), expected)
        same(index.search(Q[:nq], 12, allowed=mask), expected)
        same(index.search(Q[:nq], 12, allowed=mask[: IDS.max() + 1]), expected)


def test_nbytes() -> None:
    index = fresh(6)
    learned = index.nbytes
    assert learned >= index.quantizer.nbytes > index.quantizer.codebooks.nbytes
    index.add(X[:640])
    assert index.nbytes - learned == 640 * 3  # four times six bits
    index.add(X[640:], np.arange(1000, 1060))
    assert index.nbytes - learned >= N * (3 + 8)
    kept = fresh(6, keep_vectors=True).add(X[:640].astype(np.uint8))
    assert kept.nbytes - learned == 640 * (3 + D)
    kept.remove(np.arange(600))
    assert kept.nbytes > learned
    assert fpq.PQIndex(4).nbytes >= 0


def open_indexing_model(index: fpq.PQIndex, policy: fpq.OpenIndexing, counts: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The paper's Algorithm 1 for rows added to an index; `counts` go on."""
    pq = index.quantizer
    total = len(index) + len(x)
    limit = policy.c * total * (pq.m if policy.scope == "shared" else 1) / 2**pq.nbits
    entries = pq.distance_table(x)
    out = np.empty((len(x), pq.m), np.int64)
    for i in range(len(x)):
        for j in range(pq.m):
            count = counts[min(j, len(counts) - 1)]
            order = np.argsort(entries[i, j], kind="stable")[: policy.candidates]
            out[i, j] = next((c for c in order if count[c] < limit), order[-1])
            count[out[i, j]] += 1
    return out


@pytest.mark.parametrize("scope", ["subspace", "shared"])
@pytest.mark.parametrize(("c", "candidates"), [(1.0, 2), (1.0, 16), (1.3, 3), (1.5, 1)])
def test_open_indexing_goes_on_across_adds(scope: str, c: float, candidates: int) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, D)).astype(np.float32) ** 3  # skewed counts, no near-ties
    policy = fpq.OpenIndexing(c, candidates, scope)
    index = fpq.PQIndex(M, nbits=4, open_indexing=policy).fit(x)
    counts = np.zeros((M if scope == "subspace" else 1, 16), np.int64)
    for start, end in ((0, 150), (150, 151), (151, 151), (151, 400)):
        expected = open_indexing_model(index, policy, counts, x[start:end])
        index.add(x[start:end])
        np.testing.assert_array_equal(sub_codes(index.codes[start:end], M, 4), expected)
    gone = rng.permutation(400)[:170]
    for row in sub_codes(index.codes[gone], M, 4):
        for j in range(M):
            counts[min(j, len(counts) - 1), row[j]] -= 1
    index.remove(gone)
    expected = open_indexing_model(index, policy, counts, x[:90] * 0.9)
    index.add(x[:90] * 0.9)
    np.testing.assert_array_equal(sub_codes(index.codes[-90:], M, 4), expected)


def test_open_indexing_bounds_the_counts() -> None:
    index = fpq.PQIndex(M, nbits=5, open_indexing=fpq.OpenIndexing(1.0, candidates=32)).fit(X).add(X)
    for numbers in sub_codes(index.codes, M, 5).T:
        assert np.bincount(numbers, minlength=32).max() <= np.ceil(N / 32)
    np.testing.assert_array_equal(index.codes, index.quantizer.encode(X))


@pytest.mark.parametrize("keep_vectors", [False, True])
def test_a_failed_add_leaves_the_index_unchanged(keep_vectors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpq.learning.quantizer.CHUNK_ROWS", 64)
    index = fresh(open_indexing=1.0, keep_vectors=keep_vectors).add(X[:100])
    before = (index.codes, index.ids, *index.search(Q, 10))
    pack, calls = _native.pack_codes, []

    def pack_once(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        pack(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_native, "pack_codes", pack_once)
        index.add(X[100:300])
    for bad in ({"X": X[:2], "ids": [99, 100]}, {"X": X[:2, 1:]}, {"X": X[:2] * np.nan}):
        with pytest.raises(ValueError):
            index.add(**bad)
    assert len(index) == 100
    same((index.codes, index.ids, *index.search(Q, 10)), before)
    twin = fresh(open_indexing=1.0, keep_vectors=keep_vectors).add(X[:100]).add(X[100:])
    np.testing.assert_array_equal(index.add(X[100:]).codes, twin.codes)
    np.testing.assert_array_equal(index.reconstruct(twin.ids), twin.reconstruct(twin.ids))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int8", "int64", "bool", ">f4", ">i2"])
@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed", "read-only", "memmap"])
def test_element_types_and_layouts(dtype: str, layout: str, tmp_path: Path) -> None:
    whole = abs(X[:90]) % 2 if dtype == "bool" else abs(X[:90])
    values: Any = whole.astype(dtype)
    if layout == "F":
        values = np.asfortranarray(values)
    elif layout == "strided":
        values = np.repeat(np.repeat(values, 2, 0), 3, 1)[::2, ::3]
    elif layout == "reversed":
        values = values[::-1, ::-1].copy()[::-1, ::-1]
    elif layout == "read-only":
        values.flags.writeable = False
    elif layout == "memmap":
        values.tofile(tmp_path / "x")
        values = np.memmap(tmp_path / "x", dtype, "r", shape=whole.shape)
    for parameters in ({"rotation": "opq"}, {"metric": "cosine"}, {"keep_vectors": True}):
        index = fpq.PQIndex(M, nbits=3, **parameters).fit(values).add(values)
        plain = fpq.PQIndex(M, nbits=3, **parameters).fit(whole).add(whole)
        same((index.codes, index.quantizer.codebooks), (plain.codes, plain.quantizer.codebooks))
        same(index.search(values[:9], 5), plain.search(whole[:9], 5))
        same(index.search(values[3], 5), plain.search(whole[3], 5))
    same(index.search(values, 3, rerank=2), plain.search(whole, 3, rerank=2))
    np.testing.assert_array_equal(index.reconstruct([4, 1]), whole[[4, 1]])
    assert np.array_equal(np.asarray(values, np.float32), whole)  # input is left alone


def test_lists_and_other_array_likes() -> None:
    index = fpq.PQIndex(M, nbits=3).fit(X[:50].tolist()).add(X[:50].tolist(), list(range(50)))
    same(index.search(Q[0].tolist(), 3), index.search(Q[0], 3))
    assert index.search(Q, np.int64(3)).ids.shape == (13, 3)


def test_many_threads_search_at_the_same_time() -> None:
    index = built(rotation="opq")
    calls = [
        lambda: index.search(Q, 9),
        lambda: index.search(Q[0], 9, allowed=IDS[::2]),
        lambda: index.search(Q, 9, rerank=3),
        lambda: index.range_search(Q, 50.0),
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(8) as pool:
        for i, found in enumerate(pool.map(lambda i: calls[i % 4](), range(80))):
            same(found, expected[i % 4])


@pytest.mark.parametrize("nq", [1, 5, 40])
@pytest.mark.parametrize("nbits", [4, 6, 8])
def test_same_bits_for_any_number_of_threads(nq: int, nbits: int) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(80_000, 12)).astype(np.float32)  # enough for several threads per query
    index = fpq.PQIndex(12, nbits=nbits).fit(x[:5000]).add(x)
    one = index.search(x[:nq] + 0.1, 50, n_threads=1)
    for n_threads in (2, 3):
        same(index.search(x[:nq] + 0.1, 50, n_threads=n_threads), one)
    same(one, nearest(index, x[:nq] + np.float32(0.1), 50))
    few = index.range_search(x[:nq], 2.0, n_threads=1)
    same(index.range_search(x[:nq], 2.0, n_threads=2), few)


@pytest.mark.parametrize("nbits", [4, 8])
def test_distances_too_large_for_float32_are_refused(nbits: int) -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
    for index in (fpq.PQIndex(16, nbits=nbits), fpq.IVFPQIndex(8, 16, nbits=nbits, residual=False)):
        index.fit(rows).add(rows)
        with pytest.raises(ValueError, match=r"Q: .* within float32 .* got inf for query 0 and id \d+"):
            index.search(np.full(32, 3e38), 4)
        assert index.search(np.full(32, 1e18), 4).ids.min() >= 0
