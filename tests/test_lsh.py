"""E2LSHIndex, C2LSHIndex and PMLSHIndex do what their definitions say, written again in plain NumPy."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import _native
from fpq.indexes import c2lsh, pmlsh
from fpq.indexes.lsh import collision_probability
from fpq.indexes.parts.sketches import sketch_size

RNG = np.random.default_rng(5)
CENTRES = RNG.normal(size=(30, 40)) * 4
X = (CENTRES[RNG.integers(0, 30, 3000)] + RNG.normal(size=(3000, 40))).astype(np.float32)
Q = (CENTRES[RNG.integers(0, 30, 40)] + RNG.normal(size=(40, 40))).astype(np.float32)
MAKERS: dict[str, Any] = {
    "E2LSH": lambda **more: fpq.E2LSHIndex(n_tables=5, n_hashes=6, width=8.0, **more),
    "C2LSH": lambda **more: fpq.C2LSHIndex(n_hashes=40, **more),
    "PMLSH": lambda **more: fpq.PMLSHIndex(n_hashes=12, **more),
}
DEFAULTS: dict[str, Any] = {"E2LSH": fpq.E2LSHIndex, "C2LSH": fpq.C2LSHIndex, "PMLSH": fpq.PMLSHIndex}
ALL_DEFAULTS = pytest.mark.parametrize("make", DEFAULTS.values(), ids=DEFAULTS)
ALL = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def squared(q: np.ndarray, x: np.ndarray) -> np.ndarray:
    return ((q[:, None].astype(np.float64) - x.astype(np.float64)) ** 2).sum(2)


def values(index: Any, x: np.ndarray) -> np.ndarray:
    """The hash values before the floor, by the definition, in double precision."""
    n_tables, n_hashes, centre, packed, shifts, _ = index._hashes.arguments
    columns = np.vstack(list(packed.reshape(-1, x.shape[1], 16).transpose(0, 2, 1)))[: n_tables * n_hashes]
    product = (x.astype(np.float64) - centre) @ columns.T.astype(np.float64) + shifts[: n_tables * n_hashes]
    return product.reshape(len(x), n_tables, n_hashes)


def keys(index: Any, buckets: np.ndarray) -> np.ndarray:
    """Keys (..., n_tables) of bucket numbers (..., n_tables, n_hashes)."""
    mixers = index._hashes.arguments[5].reshape(buckets.shape[-2:])
    with np.errstate(over="ignore"):
        return (buckets.astype(np.int64).view(np.uint64) * mixers).sum(-1, dtype=np.uint64) >> np.uint64(32)


def sharp(v: np.ndarray) -> np.ndarray:
    """Where single precision cannot change the floor."""
    return np.abs(v - np.round(v)) > 1e-4


def test_keys_are_the_definition(isa: str) -> None:
    index = MAKERS["E2LSH"]().fit(X).add(X)
    v = values(index, X)
    ours = np.empty((len(X), 30), np.float32)
    index._hashes.values(X, ours, 2)
    np.testing.assert_allclose(ours.reshape(v.shape), v, atol=2e-5)
    expected = keys(index, np.floor(v))
    for table, entries in enumerate(index._tables.entries):
        assert (entries[1:] > entries[:-1]).all()
        rows = (entries & np.uint64(0xFFFFFFFF)).astype(int)
        assert sorted(rows) == list(range(len(X)))
        certain = sharp(v[rows, table]).all(1)
        assert certain.mean() > 0.98
        np.testing.assert_array_equal((entries >> np.uint64(32))[certain], expected[rows, table][certain])
        starts = index._tables.starts[table]
        slots = (entries >> np.uint64(64 - index._tables.bits)).astype(int)
        np.testing.assert_array_equal(starts, np.searchsorted(slots, np.arange((1 << index._tables.bits) + 1)))


def probed(index: Any, q: np.ndarray, n_probe: int) -> list[tuple[int, int]]:
    """Tables and keys of one query's probes: its own buckets, then all others in order of cost."""
    v = values(index, q[None])[0]
    home = np.floor(v)
    order = [(-1.0, table, int(key)) for table, key in enumerate(keys(index, home))]
    for table in range(len(v)):
        for change in itertools.product((-1, 0, 1), repeat=v.shape[1]):
            delta = np.array(change)
            if delta.any():
                inside = v[table] - home[table]
                cost = (np.where(delta < 0, inside, np.where(delta > 0, 1 - inside, 0)) ** 2).sum()
                there = home.copy()
                there[table] += delta
                order.append((cost, table, int(keys(index, there)[table])))
    order.sort(key=lambda probe: probe[0])
    return [(table, key) for _, table, key in order[:n_probe]]


@pytest.mark.parametrize("n_probe", [1, 2, 3, 30, 200, 10_000])
def test_probes_are_the_cheapest_buckets(isa: str, n_probe: int) -> None:
    index = fpq.E2LSHIndex(n_tables=2, n_hashes=4, width=7.0).fit(X).add(X)
    table_keys = index._tables.entries >> np.uint64(32)
    for q in Q[:6]:
        wanted = probed(index, q, n_probe)
        rows, buckets, candidates = set(), 0, 0
        for table, key in wanted:
            at = np.flatnonzero(table_keys[table] == key)
            rows.update((index._tables.entries[table][at] & np.uint64(0xFFFFFFFF)).astype(int).tolist())
            buckets += len(at) > 0
            candidates += len(at)
        distances, ids = index.search(q, len(X), n_probe=n_probe)
        assert index.last_stats.buckets.tolist() == [buckets]
        assert index.last_stats.candidates.tolist() == [candidates]
        assert set(ids[ids >= 0].tolist()) == rows
        among = np.array(sorted(rows), int)
        exact = squared(q[None], X[among])[0]
        np.testing.assert_allclose(distances[: len(among)], np.sort(exact), rtol=1e-4)
        assert np.isposinf(distances[len(among) :]).all()
        few = index.search(q, 5, n_probe=n_probe)
        np.testing.assert_array_equal(few.ids, ids[:5])
        np.testing.assert_array_equal(few.distances, distances[:5])


@pytest.mark.parametrize("ratio", [1.5, 2.0])
def test_candidates_are_those_that_collide_often(isa: str, ratio: float) -> None:
    index = fpq.C2LSHIndex(n_hashes=40, ratio=ratio, beta=0.02).fit(X).add(X)
    v, vq = values(index, X)[:, 0], values(index, Q)[:, 0]
    k, checked = 5, 0
    for i in range(len(Q)):
        found: list[int] = []
        budget = k + int(np.ceil(0.02 * len(X)))
        uncertain = False
        for level in range(99):
            half = c2lsh.WINDOW * ratio**level
            uncertain |= not sharp(np.stack([vq[i] - half, vq[i] + half])).all()
            if half >= 127:
                found = list(range(len(X)))
                break
            low, high = np.floor(vq[i] - half), np.floor(vq[i] + half)
            counts = ((np.floor(v) - low) % 256 <= high - low).sum(1)
            order = [row for row in np.lexsort((np.arange(len(X)), -counts)) if row not in found]
            found += [row for row in order if counts[row] >= index.threshold][: budget - len(found)]
            near = np.sort(squared(Q[i : i + 1], X[found])[0])[:k]
            if len(found) >= budget or (len(near) == k and near[-1] <= (index.radius * ratio ** (level + 1)) ** 2):
                break
        distances, ids = index.search(Q[i], k)
        if uncertain or index.last_stats.candidates[0] != len(found):
            continue  # a bucket's edge within rounding: the next query
        checked += 1
        assert index.last_stats.buckets[0] == level + 1
        exact = squared(Q[i : i + 1], X[found])[0]
        np.testing.assert_array_equal(ids, np.array(found)[np.lexsort((found, exact))[:k]])
        np.testing.assert_allclose(distances, np.sort(exact)[:k], rtol=1e-4)
    assert checked > len(Q) * 0.8


def sums(index: fpq.PMLSHIndex, x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Squared distances, in 16ths of a bucket, between the numbers of queries and the middles of buckets."""
    codes = np.clip(np.floor(values(index, x)[:, 0]), -127, 126)
    at = np.floor(np.clip(values(index, q)[:, 0], -127, 127) * 16 + 0.5) - 8
    return np.asarray(((at[:, None] - 16 * codes) ** 2).sum(2))


@pytest.mark.parametrize(
    ("ratio", "delta", "far"),
    [(1.0, 0.3, False), (1.2, 0.01, False), (1.5, 0.3, False), (2.0, 0.6, False), (1.1, 0.7, True)],
)
@pytest.mark.parametrize("n_hashes", [8, 16])
def test_candidates_are_those_with_near_projections(
    isa: str, n_hashes: int, ratio: float, delta: float, far: bool
) -> None:
    """All that either rule requires, and no more than the distances of the first rows let pass.

    Rows have the same direction from a query far from all of them, so that their projections err together.
    """
    x = np.random.default_rng(1).normal(size=(20_000, 20)).astype(np.float32)
    q, k, n = x[:20] * 9 if far else x[:20] + np.float32(0.1), 3, len(x)
    index = fpq.PMLSHIndex(n_hashes=n_hashes, ratio=ratio, delta=delta, width=1.0 if far else None).fit(x).add(x)
    reach, error = math.sqrt(pmlsh.chi_squared_quantile(1 - delta, n_hashes)), 0.6 * math.sqrt(n_hashes)
    codes = np.clip(np.floor(values(index, x)[:, 0]), -127, 126)
    clipped = np.isin(codes, [-127, 126]).any(1).sum()
    found, stats, by_budget = index.search(q, k), index.last_stats, 0
    for i, projected in enumerate(np.sqrt(sums(index, x, q)) / 16):
        order = np.argsort(projected, kind="stable")
        taken = order[: stats.candidates[i]]
        exact = squared(q[i : i + 1], x[taken])[0]
        np.testing.assert_array_equal(found.ids[i], taken[np.lexsort((taken, exact))[:k]])
        first = math.ceil(min(1024, k + clipped + index.beta * n))
        kth = math.sqrt(np.sort(squared(q[i : i + 1], x[order[:first]])[0])[k - 1])
        reached = max(projected[order[first - 1]], reach * kth / ratio / index.width + error)
        assert len(taken) <= (projected <= reached + 1e-3).sum()
        radius = (projected[order[len(taken)]] - error) / reach  # of the first row that is left out
        if ratio * radius * index.width < math.sqrt(found.distances[i, -1]) * (1 - 1e-6):
            by_budget += 1
            beyond = (reach + 2 * error / radius) / ratio
            assert len(taken) >= k + clipped + 2 * _native.chi_squared(beyond**2, n_hashes) * n
    assert (by_budget > 0) == far


def test_projections_by_any_number_of_threads() -> None:
    """One query shares the rows among the threads, many share the queries."""
    x = np.random.default_rng(2).normal(size=(50_000, 40)).astype(np.float32)
    for options in ({}, {"ratio": 1.5, "delta": 0.1}):
        index = fpq.PMLSHIndex(**options).fit(x).add(x)
        for n_candidates in (None, 1, 3000):
            one = index.search(x[:9], 40, n_candidates=n_candidates, n_threads=1)
            stats = index.last_stats
            assert stats is not None
            for n_threads in (2, 5):
                for rows in (slice(0, 9), slice(4, 5)):
                    found = index.search(x[rows], 40, n_candidates=n_candidates, n_threads=n_threads)
                    np.testing.assert_array_equal(found.ids, one.ids[rows])
                    np.testing.assert_array_equal(found.distances, one.distances[rows])
                    for ours, theirs in zip(index.last_stats, stats, strict=True):
                        np.testing.assert_array_equal(ours, theirs[rows])


def test_rows_outside_all_buckets() -> None:
    """Their codes say little about their distances, and the answers stay within the ratio."""
    index = fpq.PMLSHIndex(ratio=2.0, delta=0.3).fit(X).add(X).add(X + np.float32(1000))
    assert index.beta < 0.05 and index._clipped() >= len(X)
    flat = fpq.FlatIndex().add(X).add(X + np.float32(1000))
    for q in (Q, Q + np.float32(1000)):
        assert (index.search(q, 5).distances <= 4 * flat.search(q, 5).distances).all()


@pytest.mark.parametrize("m", [4, 16, 64])
def test_chi_squared(m: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for x in (0.0, 1e-3, 1.0, m / 2, float(m), 3.0 * m, 1e4, 1e300):
        assert _native.chi_squared(x, m) == pytest.approx(stats.chi2.cdf(x, m), abs=1e-14)
    for p in (1e-9, 0.01, 0.5, 1 - 1 / math.e, 0.99, 1 - 1e-9):
        assert pmlsh.chi_squared_quantile(p, m) == pytest.approx(stats.chi2.ppf(p, m), rel=1e-5)


def test_n_candidates_are_the_rows_with_the_most_collisions() -> None:
    index = fpq.C2LSHIndex(n_hashes=40).fit(X).add(X)
    recalls = []
    truth = np.argsort(squared(Q, X), axis=1)[:, :10]
    for n_candidates in (10, 50, 250, 3000):
        ids = index.search(Q, 10, n_candidates=n_candidates).ids
        assert (index.last_stats.candidates == n_candidates).all()
        recalls.append(fpq.metrics.recall_at_k(ids, truth))
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1


@ALL_DEFAULTS
def test_sketches_change_no_result(make: Any) -> None:
    assert sketch_size(40) == 16
    x = np.round(X * 8).astype(np.float32)
    index = make().fit(x).add(x)
    if not isinstance(index, fpq.E2LSHIndex):
        index.n_candidates = 1000
    bare = copy.copy(index)
    bare._sketcher = bare._row_sketches = None
    if isinstance(bare, fpq.E2LSHIndex):
        bare._tables = bare._tables._replace(sketches=None)
    for k in (1, 10, 100):
        ours, theirs = index.search(Q * 8, k), bare.search(Q * 8, k)
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.distances, theirs.distances)
    index.search(Q * 8, 1)
    bare.search(Q * 8, 1)
    assert index.last_stats.verified.sum() < bare.last_stats.verified.sum() / 2


@ALL_DEFAULTS
@pytest.mark.parametrize("case", ["far outliers", "far from the origin", "nearly parallel"])
def test_sketches_are_safe_where_rounding_is_large(make: Any, case: str) -> None:
    x, q = X.copy(), Q.copy()
    if case == "far outliers":
        x[:400] = 3e5 + RNG.normal(size=(400, 40))
        q[:20] = x[:20] + RNG.normal(size=(20, 40)) / 4
    elif case == "far from the origin":
        x, q = x + np.float32(1e4), q + np.float32(1e4)
    else:
        x, q = 1 + x * np.float32(1e-4), 1 + q * np.float32(1e-4)
    index = make(metric="cosine" if case == "nearly parallel" else "l2").fit(x).add(x)
    bare = copy.copy(index)
    bare._sketcher = bare._row_sketches = None
    if isinstance(bare, fpq.E2LSHIndex):
        bare._tables = bare._tables._replace(sketches=None)
    ours, theirs = index.search(q, 5), bare.search(q, 5)
    np.testing.assert_array_equal(ours.distances, theirs.distances)
    np.testing.assert_array_equal(ours.ids, theirs.ids)


@ALL_DEFAULTS
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_results_are_good_and_exact(isa: str, make: Any, metric: str) -> None:
    index = make(metric=metric)
    flat = fpq.FlatIndex(metric).add(X)
    index.fit(X).add(X)
    distances, ids = index.search(Q, 10)
    truth = flat.search(Q, 10)
    assert fpq.metrics.recall_at_k(ids, truth.ids) > 0.8
    same = ids == truth.ids
    np.testing.assert_array_equal(distances[same], truth.distances[same])
    lims, found, found_ids = index.range_search(Q, float(np.median(truth.distances)))
    expected = flat.range_search(Q, float(np.median(truth.distances)))
    np.testing.assert_array_equal(lims, expected.lims)
    np.testing.assert_array_equal(found_ids, expected.ids)
    np.testing.assert_array_equal(found, expected.distances)


@ALL
def test_same_results_for_any_number_of_threads_and_batch(make: Any) -> None:
    answers = []
    for n_threads in (1, 2, 3):
        index = make(n_threads=n_threads).fit(X).add(X)
        answers.append(index.search(Q, 7))
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.ids, answers[0].ids)
        np.testing.assert_array_equal(answer.distances, answers[0].distances)
    for q, distances, ids in zip(Q, *answers[0], strict=True):
        single = index.search(q, 7)
        np.testing.assert_array_equal(single.ids, ids)
        np.testing.assert_array_equal(single.distances, distances)


@ALL
def test_adding_in_parts_is_adding_at_once(make: Any) -> None:
    whole, parts = make().fit(X).add(X), make().fit(X)
    for part in (X[:1], X[1:64], X[64:64], X[64:2000], X[2000:]):
        parts.add(part)
    np.testing.assert_array_equal(parts.search(Q, 9).ids, whole.search(Q, 9).ids)
    for ours, theirs in zip(parts.last_stats, whole.last_stats, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@ALL
def test_remove(make: Any) -> None:
    ids = RNG.permutation(9000)[: len(X)]
    index = make().fit(X).add(X, ids)
    gone = np.concatenate([ids[::3], [9001]])
    assert index.remove(gone) == len(ids[::3])
    assert index.remove(gone) == 0
    left = np.setdiff1d(np.arange(len(X)), np.arange(0, len(X), 3))
    again = make().fit(X).add(X[left], ids[left])
    ours, theirs = index.search(Q, 9), again.search(Q, 9)
    if isinstance(index, fpq.E2LSHIndex):  # the others: equal rows come in the order of their places
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.distances, theirs.distances)
    assert not np.isin(ours.ids, gone).any()
    assert fpq.metrics.recall_at_k(ours.ids, theirs.ids) > 0.95
    np.testing.assert_array_equal(index.reconstruct(ids[left[:5]]), X[left[:5]])
    index.add(X[::3], ids[::3])
    assert fpq.metrics.recall_at_k(index.search(Q, 9).ids, make().fit(X).add(X, ids).search(Q, 9).ids) > 0.95
    assert index.remove(index.ids) == len(X)
    assert (index.search(Q, 3).ids == -1).all()
    assert index.add(X[:4]).search(X[:1], 1).ids.tolist() == [[9000 if 8999 in ids else ids.max() + 1]]


@ALL
def test_allowed(make: Any) -> None:
    index = make().fit(X).add(X)
    some = np.arange(0, len(X), 7)
    ids = index.search(Q, 5, allowed=some).ids
    assert np.isin(ids[ids >= 0], some).all()
    mask = np.zeros(len(X), bool)
    mask[some] = True
    np.testing.assert_array_equal(index.search(Q, 5, allowed=mask).ids, ids)
    if isinstance(index, fpq.E2LSHIndex):
        everything = index.search(Q, len(X)).ids
        for i in range(len(Q)):
            here = everything[i][np.isin(everything[i], some)][:5]
            np.testing.assert_array_equal(ids[i][ids[i] >= 0], here)
    assert (index.search(Q, 5, allowed=[]).ids == -1).all()
    assert set(index.search(X[3:4], 5, allowed=[3, 99999]).ids[0].tolist()) == {3, -1}


@ALL
def test_queries_far_outside_the_data(make: Any) -> None:
    index = make().fit(X).add(X)
    for factor in (1e3, 1e9, 1e18):
        distances, ids = index.search(np.sign(Q) * np.float32(factor), 4)
        assert ids.shape == (40, 4)
        assert ((ids >= -1) & (ids < len(X))).all()
        assert (np.isposinf(distances) == (ids < 0)).all()
    for factor in (1e30, -3e38):
        try:
            assert (index.search(np.sign(Q) * np.float32(factor), 4).ids == -1).all()
        except ValueError as error:
            assert "Q: expected distances within float32" in str(error)
    assert (
        fpq.E2LSHIndex(n_tables=1, n_hashes=20, width=0.5).fit(X).add(X).search(Q[:1] + 1000, 3, n_probe=1).ids == -1
    ).all()


@ALL_DEFAULTS
@pytest.mark.parametrize("dtype", ["float64", "float16", "uint8", "int8", "F", "strided", "read-only"])
def test_element_types_and_layouts(make: Any, dtype: str) -> None:
    plain = np.clip(np.round(X * 3 + 60), 0, 120).astype(np.float32)
    x: Any = plain
    if dtype == "F":
        x = np.asfortranarray(plain)
    elif dtype == "strided":
        x = np.repeat(np.repeat(plain, 2, 0), 3, 1)[::2, ::3]
    elif dtype == "read-only":
        x = plain.copy()
        x.flags.writeable = False
    else:
        x = plain.astype(dtype)
    ours, theirs = make().fit(x).add(x), make().fit(plain).add(plain)
    np.testing.assert_array_equal(ours.search(Q * 3 + 60, 6).ids, theirs.search(Q * 3 + 60, 6).ids)
    np.testing.assert_array_equal(ours.reconstruct([4, 1]), plain[[4, 1]])


@pytest.mark.parametrize("d", [1, 2, 31, 32, 33, 70, 300])
def test_dimensions_and_few_rows(d: int) -> None:
    x = RNG.normal(size=(70, d)).astype(np.float32)
    for index in (fpq.E2LSHIndex(), fpq.C2LSHIndex(), fpq.PMLSHIndex()):
        index.fit(x)
        assert (index.search(x[:2], 3).ids == -1).all()
        assert index.range_search(x[:2], 1.0).lims.tolist() == [0, 0, 0]
        for n in (1, 2, 70):
            index.add(x[len(index) : n])
            assert index.search(x[0], 1).ids.tolist() == [0]
            assert index.search(x[:3], 100).ids.shape == (3, 100)
        assert index.search(np.empty((0, d)), 2).ids.shape == (0, 2)
        assert index.add(np.empty((0, d))).remove([]) == 0


def test_equal_rows() -> None:
    x = np.tile(X[:1], (50, 1))
    for index in (fpq.E2LSHIndex(), fpq.C2LSHIndex(), fpq.PMLSHIndex()):
        with pytest.raises(ValueError, match=r"width: .* pass width"):
            index.fit(x)
        assert not index.is_trained
    with pytest.raises(ValueError, match="pass width"):
        fpq.E2LSHIndex().fit(X[:1])
    for index in (fpq.E2LSHIndex(width=1.0), fpq.C2LSHIndex(width=1.0), fpq.PMLSHIndex(width=1.0)):
        assert index.fit(x).add(x).search(x[0], 3).ids.tolist() == [0, 1, 2]
    mostly = np.vstack([np.tile(X[:1], (2000, 1)), X[:40]])
    assert fpq.E2LSHIndex().fit(mostly).width > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fpq.E2LSHIndex(n_tables=0), "n_tables: expected 1 to 1024, got 0"),
        (lambda: fpq.E2LSHIndex(n_hashes=0), "n_hashes: expected 1 to 32, got 0"),
        (lambda: fpq.E2LSHIndex(n_hashes=33), "n_hashes: expected 1 to 32, got 33"),
        (lambda: fpq.E2LSHIndex(n_tables=1.5), "n_tables: expected an integer"),
        (lambda: fpq.E2LSHIndex(width=0), "width: expected a number above 0, got 0"),
        (lambda: fpq.E2LSHIndex(width=-1.0), "width: expected a number above 0, got -1"),
        (lambda: fpq.E2LSHIndex(width=np.nan), "width: expected a finite number"),
        (lambda: fpq.E2LSHIndex(metric="ip"), "metric: expected one of 'l2', 'cosine', got 'ip'"),
        (lambda: fpq.E2LSHIndex(memory_limit=0), "memory_limit: expected at least 1, got 0"),
        (lambda: fpq.E2LSHIndex(memory_limit=1000).fit(X), r"memory_limit: expected at least \d+ bytes for 1 table"),
        (lambda: fpq.E2LSHIndex(n_tables=3, memory_limit=100_000).fit(X), r"memory_limit: expected .* for 3 table"),
        (lambda: fpq.C2LSHIndex(n_hashes=256), "n_hashes: expected 1 to 255, got 256"),
        (
            lambda: fpq.C2LSHIndex(n_hashes=20, threshold=21),
            "threshold: expected at most n_hashes = 20 collisions, got 21",
        ),
        (lambda: fpq.C2LSHIndex(threshold=0), "threshold: expected at least 1, got 0"),
        (lambda: fpq.C2LSHIndex(width=0.0), "width: expected a number above 0"),
        (lambda: fpq.C2LSHIndex(ratio=1.0), "ratio: expected a number above 1"),
        (lambda: fpq.C2LSHIndex(ratio=1.1), "ratio, delta, beta: expected values that need at most 255"),
        (lambda: fpq.C2LSHIndex(delta=0), "delta: expected a number between 0 and 1"),
        (lambda: fpq.C2LSHIndex(beta=1), "beta: expected a number between 0 and 1"),
        (lambda: fpq.PMLSHIndex(n_hashes=68), "n_hashes: expected 4 to 64, got 68"),
        (lambda: fpq.PMLSHIndex(n_hashes=15), "n_hashes: expected a multiple of 4, got 15"),
        (lambda: fpq.PMLSHIndex(ratio=0.9), "ratio: expected a finite number of at least 1, got 0.9"),
        (lambda: fpq.PMLSHIndex(delta=1.0), "delta: expected a number between 0 and 1"),
        (lambda: fpq.PMLSHIndex(width=-1.0), "width: expected a number above 0"),
        (lambda: fpq.E2LSHIndex(seed=-1), "seed: expected at least 0"),
        (lambda: fpq.E2LSHIndex().search(Q), "E2LSHIndex is not trained"),
        (lambda: fpq.C2LSHIndex().add(X), "C2LSHIndex is not trained"),
        (lambda: fpq.E2LSHIndex().fit(X[0]), "X: expected a 2-d array"),
        (lambda: fpq.E2LSHIndex().fit(X[:0]), "X: expected at least 1 row"),
        (lambda: fpq.C2LSHIndex().fit(np.full((5, 3), np.nan)), "X: .* got NaN or infinity in row 0"),
        (lambda: fpq.E2LSHIndex().fit(X).search(Q, n_probe=0), "n_probe: expected at least 1, got 0"),
        (lambda: fpq.C2LSHIndex().fit(X).search(Q, n_candidates=0), "n_candidates: expected at least 1, got 0"),
        (lambda: fpq.E2LSHIndex().fit(X).search(Q[:, 1:]), "Q: expected vectors of dimension 40, got dimension 39"),
        (lambda: fpq.E2LSHIndex().fit(X).add(X).fit(X), "fit: the index holds 3000 vectors"),
        (lambda: fpq.E2LSHIndex().fit(X).add(X[:3], [1, 1, 2]), "ids: expected unique ids"),
        (lambda: fpq.E2LSHIndex().fit(X).tune(Q), "tune: expected vectors in the index, got an empty index"),
        (lambda: fpq.E2LSHIndex().fit(X).add(X).tune(Q[:0]), "Q: expected at least one query"),
        (lambda: fpq.E2LSHIndex().fit(X).add(X).tune(Q, recall=1.5), "recall: expected a number from 0 to 1, got 1.5"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@ALL
def test_a_failed_call_changes_nothing(make: Any) -> None:
    index = make().fit(X).add(X)
    before = index.search(Q, 5)
    for call in (lambda: index.add(X[:, :3]), lambda: index.add(X[:2], [5, 9999]), lambda: index.fit(X)):
        with pytest.raises(ValueError):
            call()
    assert len(index) == len(X)
    np.testing.assert_array_equal(index.search(Q, 5).ids, before.ids)


def test_memory_limit_and_defaults() -> None:
    free = fpq.E2LSHIndex().fit(X)
    assert free.n_tables == 8
    assert 1 <= free.n_hashes <= 32
    again = fpq.E2LSHIndex().fit(X)
    assert (again.n_hashes, again.width) == (free.n_hashes, free.width)
    limited = fpq.E2LSHIndex(memory_limit=250_000).fit(X).add(X)
    assert 1 <= limited.n_tables < 8
    assert limited.nbytes - limited._vectors.nbytes <= 250_000


@ALL
def test_tune(make: Any) -> None:
    index = make().fit(X).add(X)
    tuned = index.tune(Q, 5, 0.9)
    assert tuned.best is tuned.trials[-1]
    assert tuned.best.recall >= 0.9
    assert all(trial.recall < 0.9 for trial in tuned.trials[:-1])
    assert "recall" in str(tuned).splitlines()[0]
    assert "chosen" in str(tuned).splitlines()[-1]
    truth = fpq.FlatIndex().add(X).search(Q, 5).ids
    assert fpq.metrics.recall_at_k(index.search(Q, 5).ids, truth) == pytest.approx(tuned.best.recall)


def test_an_unreachable_recall_says_how_far_one_gets() -> None:
    index = fpq.E2LSHIndex(n_tables=1, n_hashes=12, width=2.0).fit(X).add(X)
    n_probe = index.n_probe
    with pytest.raises(ValueError, match=r"recall: 0.99 is not reached, the best is 0\.\d+ at \{'n_probe': \d+\}"):
        index.tune(Q[:3], 5, 0.99)
    assert index.n_probe == n_probe


@ALL
def test_copies_and_pickles(make: Any) -> None:
    index = make().fit(X).add(X)
    again = pickle.loads(pickle.dumps(index))
    np.testing.assert_array_equal(again.search(Q, 5).ids, index.search(Q, 5).ids)
    again.add(X[:1] + 100)
    assert len(index) == len(X)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 63, 64])
@pytest.mark.parametrize("size", [16, 32, 48, 64])
def test_sketches_are_the_definition(isa: str, n: int, size: int) -> None:
    d = 16 * size // 4 if size > 16 else 40
    x = RNG.normal(size=(max(n, 2), d)).astype(np.float32)
    index = fpq.C2LSHIndex(width=5.0).fit(RNG.normal(size=(300, d)).astype(np.float32)).add(x)
    centre, packed, _, least, scale = index._sketcher.arguments
    r = len(least) - 1
    directions = np.vstack(list(packed.reshape(-1, d, 16).transpose(0, 2, 1)))[:r].astype(np.float64)
    y = (x - centre) @ directions.T
    rest = np.linalg.norm((x - centre) - y @ directions, axis=1)
    codes = np.clip((np.column_stack([y, rest]) - least) * scale, 0, 255)
    assert np.abs(index._row_sketches.data[: len(x)] - codes).max() < 0.51


def test_collision_probability() -> None:
    assert collision_probability(0.0, 3.0) == pytest.approx(1)
    falling = collision_probability(np.linspace(0, 50, 100), 3.0, 2.0)
    assert (np.diff(falling) <= 1e-12).all()
    assert falling[-1] < 0.2
    with pytest.raises(ValueError):
        _native.use_isa("none")


@pytest.mark.parametrize(
    "make",
    [lambda: fpq.E2LSHIndex(n_tables=4, n_hashes=2, width=300.0), lambda: fpq.C2LSHIndex(n_hashes=20), fpq.PMLSHIndex],
)
@pytest.mark.parametrize(("n", "d"), [(1, 300), (40, 300), (60, 20_000)])
def test_few_wide_rows(make: Any, n: int, d: int) -> None:
    """Their sketches are learned without a (d, d) matrix, and lose no neighbour."""
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    x[:, 0] *= 20
    index = make()
    if n == 1:
        index = (
            fpq.E2LSHIndex(n_tables=4, n_hashes=2, width=300.0)
            if isinstance(index, fpq.E2LSHIndex)
            else type(index)(n_hashes=20, width=300.0)
        )
    index.fit(x).add(x)
    found = index.search(x, 3, **({"n_probe": 5000} if isinstance(index, fpq.E2LSHIndex) else {"n_candidates": n}))
    exact = fpq.FlatIndex().add(x).search(x, 3)
    np.testing.assert_array_equal(found.ids[:, 0], exact.ids[:, 0])
    same = found.ids == exact.ids
    assert same.mean() > 0.9
    np.testing.assert_array_equal(found.distances[same], exact.distances[same])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("d", [8, 40])  # without sketches and with
@pytest.mark.parametrize("exponent", [-30, -25, -15, 0, 15, 18, 30, 37])
@pytest.mark.parametrize("make", [fpq.E2LSHIndex, fpq.C2LSHIndex, fpq.PMLSHIndex])
def test_data_of_any_scale(make: Any, exponent: int, d: int, tmp_path: Path) -> None:
    """Widths and sketches are chosen as for the same data at scale 1, and whatever is accepted can be saved."""
    scale = 2.0 ** round(exponent * np.log2(10))
    x = np.random.default_rng(0).normal(size=(300, d)).astype(np.float32)
    plain = make().fit(x).add(x)
    rows = (x * scale).astype(np.float32)
    index = make().fit(rows).add(rows)
    assert index.width == pytest.approx(plain.width * scale)
    if abs(exponent) <= 15:  # where float32 holds squared distances
        np.testing.assert_array_equal(index.search(rows[:20], 5).ids, plain.search(x[:20], 5).ids)

    def answer(index: Any) -> Any:
        try:
            return index.search(rows[:5], 3).ids.tolist()
        except ValueError as error:
            assert exponent >= 30 and str(error).startswith("Q: expected distances within float32")
            return str(error)

    assert isinstance(answer(index), str) == (exponent >= 30)  # where squared distances of different rows leave float32
    for width in (None, 1e-36 * 5, 3 * scale, 1.0, 1e38, 1e300):
        index = make(width=width).fit(rows).add(rows)
        index.save(tmp_path / "a")
        assert answer(index) == answer(fpq.load(tmp_path / "a"))


def test_width_out_of_range() -> None:
    for make, least in ((fpq.E2LSHIndex, "1e-37"), (fpq.C2LSHIndex, "2e-36"), (fpq.PMLSHIndex, "1e-37")):
        with pytest.raises(ValueError, match=f"^width: expected at least {least}, .*, got 1e-45"):
            make(width=1e-45)
        with pytest.raises(ValueError, match=r"^width: expected buckets of at least 1e-37, got"):
            make().fit(X * np.float32(1e-40))
    huge = np.random.default_rng(0).normal(size=(100, 40)).clip(-1, 1) * 3e38
    for make in (fpq.E2LSHIndex, fpq.C2LSHIndex, fpq.PMLSHIndex):
        with pytest.raises(ValueError, match=r"^X: expected rows whose distances are finite as float32"):
            make().fit(huge.astype(np.float32))


def test_ratio_out_of_range() -> None:
    for ratio in (1.0, 1 + 1e-15, 1.0099):
        with pytest.raises(ValueError, match=r"^ratio: expected (a number above 1|at least 1\.01), got 1\."):
            fpq.C2LSHIndex(n_hashes=10, ratio=ratio)
    index = fpq.C2LSHIndex(n_hashes=10, ratio=1.01).fit(X).add(X)
    assert index.search(X[:3], 1).ids[:, 0].tolist() == [0, 1, 2]
