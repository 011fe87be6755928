"""IVFPQIndex against exhaustive NumPy models of what it promises."""

import gc
import itertools
import math
import weakref

import numpy as np
import pytest

import fpq
from fpq.indexes import ivf_rows

N, D, LISTS = 3000, 24, 30


def made_up(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, D)) * 2
    return (centres[rng.integers(12, size=n)] + rng.normal(size=(n, D))).astype(np.float32)


X, Q = made_up(N), made_up(15, 1)


def build(**parameters: object) -> fpq.IVFPQIndex:
    return fpq.IVFPQIndex(LISTS, **{"m": 6, "n_threads": 2, **parameters}).fit(X)


def distances_by_definition(index: fpq.IVFPQIndex, ids: np.ndarray) -> np.ndarray:
    rows = index.reconstruct(ids).astype(np.float64)
    queries = Q.astype(np.float64)
    if index.metric == "cosine":
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    if index.metric == "l2":
        return ((queries[:, None] - rows[None]) ** 2).sum(2)
    return -queries @ rows.T


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("m", "nbits"), [(6, 8), (8, 4), (5, 5)])
def test_all_lists_give_the_exhaustive_answer(isa, metric, residual, m, nbits):
    index = build(m=m, nbits=nbits, metric=metric, residual=residual).add(X, np.arange(N) * 3 + 1)
    index.remove(np.arange(0, N, 7) * 3 + 1)
    ids = np.sort(index.ids)
    expected = distances_by_definition(index, ids)
    for allowed in (None, ids[::5]):
        if allowed is not None:
            expected = np.where(np.isin(ids, allowed), expected, np.inf)
        found = index.search(Q, 12, n_probe=LISTS, allowed=allowed)
        sign = 1 if metric == "l2" else -1
        np.testing.assert_allclose(sign * found.distances, np.sort(expected, axis=1)[:, :12], rtol=1e-4, atol=1e-4)
        if allowed is not None:
            assert np.isin(found.ids, allowed).all()
        limit = float(np.median(expected[np.isfinite(expected)])) * 0.9
        within = index.range_search(Q, sign * limit, n_probe=LISTS, allowed=allowed)
        assert np.abs(np.diff(within.lims) - (expected <= limit).sum(1)).max() <= 1
        first = slice(within.lims[0], within.lims[1])
        assert set(within.ids[first]) <= set(ids)
        assert (np.diff(sign * within.distances[first]) >= 0).all()


@pytest.mark.parametrize(("metric", "residual", "n_probe", "origin"), [
    ("cosine", True, 5, 0), ("cosine", False, 5, 0), ("l2", True, 20, 0), ("l2", True, 20, 3000),
])  # fmt: skip
def test_same_bits_under_every_isa_batch_and_thread_count(metric, residual, n_probe, origin):
    index = fpq.IVFPQIndex(LISTS, m=6, n_threads=2, residual=residual, metric=metric).fit(X + origin).add(X + origin)
    queries = Q + np.float32(origin)
    expected = None
    before = fpq._native.isa()
    for isa in fpq._native.isas():
        fpq._native.use_isa(isa)
        try:
            batch = index.search(queries, 10, n_probe=n_probe)
            single = [index.search(q, 10, n_probe=n_probe, n_threads=1) for q in queries]
        finally:
            fpq._native.use_isa(before)
        expected = expected or batch
        assert np.array_equal(batch.ids, expected.ids)
        assert np.array_equal(batch.distances, expected.distances)
        assert np.array_equal(np.stack([s.ids for s in single]), expected.ids)
        assert np.array_equal(np.stack([s.distances for s in single]), expected.distances)


def test_centroids_of_one_isa_select_lists_under_another(isa):
    """Their bytes have the range that their own instruction set adds without overflow: here all are the largest."""
    signs = np.where(np.arange(256) % 2, 1, -1)[:, None]
    x = (signs * (1 + 0.01 * np.random.default_rng(0).random((256, 128)))).astype(np.float32)
    index = fpq.IVFPQIndex(128, m=16, metric="ip", residual=False).fit(np.tile(x, (4, 1))).add(x)
    before = fpq._native.isa()
    for other in fpq._native.isas():
        fpq._native.use_isa(other)
        try:
            found = index.search(x, 5, n_probe=4).ids
        finally:
            fpq._native.use_isa(before)
        assert (signs[found[:, 0]] == signs).all()


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_same_bits_where_threads_share_the_probes_of_a_query(metric):
    x = made_up(9000)
    index = fpq.IVFPQIndex(64, m=12, metric=metric, residual=metric == "l2").fit(x[:3000]).add(np.tile(x, (8, 1)))
    for search in (
        lambda n_threads: index.search(Q[0], 40, n_probe=64, n_threads=n_threads),
        lambda n_threads: index.search(Q[:2], 40, n_probe=64, n_threads=n_threads),
        lambda n_threads: index.range_search(Q[0], index.search(Q[0], 40).distances[-1], n_threads=n_threads),
    ):
        for one, several in zip(search(1), search(3), strict=True):
            assert np.array_equal(one, several)


@pytest.mark.parametrize(
    "kind", ["plain", "rerank", "sq4", "sq8 and rerank", "rotated", "without residuals", "PQIndex"]
)
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_single_queries_have_the_bits_of_batches_while_the_index_changes(metric, kind):
    options = {"m": 6, "metric": metric, "keep_vectors": "rerank" in kind, "refine": kind[:3] if "sq" in kind else None}
    if kind == "PQIndex":
        index = fpq.PQIndex(**options).fit(X)
    else:
        rotation, residual = "pca" if kind == "rotated" else None, kind != "without residuals"
        index = fpq.IVFPQIndex(LISTS, rotation=rotation, residual=residual, **options).fit(X)
    efforts = [{}] if kind == "PQIndex" else [{"n_probe": 1}, {}, {"n_probe": 9}, {"n_probe": LISTS + 1}]
    if "rerank" in kind:
        efforts = [effort | {"rerank": 3} for effort in efforts]

    def compare() -> None:
        for effort, k in itertools.product(efforts, (1, 10)):
            batch = index.search(Q, k, **effort)
            for form in (lambda q: q, lambda q: q[None], lambda q: q.astype(float), lambda q: np.repeat(q, 2)[::2]):
                found = [
                    index.search(form(q), k, n_threads=n, **effort) for q, n in zip(Q, (None, 1, 2) * 5, strict=True)
                ]
                assert np.array_equal(np.stack([each.ids.ravel() for each in found]), batch.ids)
                assert np.array_equal(np.stack([each.distances.ravel() for each in found]), batch.distances)

    assert (index.search(Q[0]).ids == -1).all()
    index.add(X[:1000])
    compare()
    index.add(X[1000:], ids=np.arange(5000, 7000))
    compare()
    index.remove(np.arange(0, 6000, 3))
    compare()
    index.update(X[:300], np.arange(300))
    compare()
    twin = index.copy()
    twin.reset()
    compare()
    assert (twin.search(Q[0]).ids == -1).all()


def test_arguments_are_checked_again_unless_they_are_the_same_integers():
    index = build().add(X)
    expected = index.search(Q[0], 1, n_probe=1, n_threads=1)
    assert np.array_equal(index.search(Q[0], np.int64(1), n_probe=np.int8(1)).ids, expected.ids)
    for name in ("k", "n_probe", "n_threads", "rerank"):
        for equal in (True, 1.0):
            with pytest.raises(TypeError, match=f"{name}: expected an integer"):
                index.search(Q[0], **{"k": 1, "n_probe": 1, "n_threads": 1, name: equal})
    index.n_probe = LISTS
    every = index.search(Q[0], 1)
    index.n_probe = 1
    assert np.array_equal(index.search(Q[0], 1).ids, expected.ids)
    index.n_probe = LISTS
    assert np.array_equal(index.search(Q[0], 1).ids, every.ids)
    with pytest.raises(ValueError, match="rerank: expected None"):
        index.search(Q[0], 1, rerank=2)
    with pytest.raises(ValueError, match="Q: expected vectors of dimension 24, got dimension 23"):
        index.search(Q[0, 1:], 1)
    with pytest.raises(ValueError, match="got NaN or infinity in row 0"):
        index.search(np.full(D, np.nan), 1)


def test_an_index_is_freed_with_its_last_reference():
    index = build().add(X)
    index.search(Q[0])
    freed = weakref.ref(index)
    gc.disable()
    try:
        del index
        assert freed() is None
    finally:
        gc.enable()


def test_probes_only_the_nearest_lists():
    index = build().add(X)
    nearest = ((Q[:, None] - index.centroids[None]) ** 2).sum(2).argsort(1)
    list_of = ((X[:, None] - index.centroids[None]) ** 2).sum(2).argmin(1)
    for n_probe in (1, 3):
        found = index.search(Q, 20, n_probe=n_probe).ids
        for row, lists in zip(found, nearest[:, :n_probe], strict=True):
            assert np.isin(list_of[row[row >= 0]], lists).all()


def test_residual_distances_are_table_sums():
    index = build().add(X)
    list_of = ((X[:, None] - index.centroids[None]) ** 2).sum(2).argmin(1)
    codes = index.quantizer.encode(X - index.centroids[list_of])
    found = index.search(Q[0], 5, n_probe=LISTS)
    for distance, row in zip(found.distances, found.ids, strict=True):
        table = index.quantizer.distance_table(Q[0] - index.centroids[list_of[row]])
        total = np.float32(0)
        for j, code in enumerate(codes[row]):
            total += table[j, code]
        assert total == distance


def test_many_adds_equal_one():
    whole = build(list_capacity=None).add(X)
    parts = build(list_capacity=None)
    for start in range(0, N, 170):
        parts.add(X[start : start + 170])
    for n_probe in (1, 4, LISTS):
        for ours, theirs in zip(whole.search(Q, 9, n_probe=n_probe), parts.search(Q, 9, n_probe=n_probe), strict=True):
            assert np.array_equal(ours, theirs)
    assert np.array_equal(whole.list_sizes, parts.list_sizes)


@pytest.mark.parametrize("capacity", [1.0, 1.5])
def test_capacity_holds_after_every_add(capacity):
    skewed = np.concatenate([X, X[:1] + np.random.default_rng(3).normal(0, 0.01, size=(N, D)).astype(np.float32)])
    index = fpq.IVFPQIndex(LISTS, 6, list_capacity=capacity).fit(skewed)
    for start in range(0, len(skewed), 1100):
        index.add(skewed[start : start + 1100])
        assert index.list_sizes.sum() == len(index)
        assert index.list_sizes.max() <= math.ceil(capacity * len(index) / LISTS)
    assert fpq.IVFPQIndex(LISTS, 6).fit(skewed).add(skewed).list_sizes.max() > 2 * len(skewed) / LISTS
    again = fpq.IVFPQIndex(LISTS, 6, list_capacity=capacity, n_threads=1).fit(skewed)
    for start in range(0, len(skewed), 1100):
        again.add(skewed[start : start + 1100])
    assert np.array_equal(again.search(Q, 5).ids, index.search(Q, 5).ids)


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_products_are_probed_by_spreads(metric):
    rng = np.random.default_rng(4)
    x = X * np.exp(rng.normal(0, 0.4, N)).astype(np.float32)[:, None]
    index = fpq.IVFPQIndex(LISTS, 6, metric=metric).fit(x)
    rows = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    lists = ((rows[:, None] - index.centroids) ** 2).sum(2).argmin(1)
    squared = ((rows - index.centroids[lists]) ** 2).sum(1)
    spreads = np.sqrt([squared[lists == number].mean() for number in range(LISTS)])
    np.testing.assert_allclose(index._coarse.spreads, spreads, rtol=0.15)  # of a sample
    score = Q @ index.centroids.T + 0.3 * np.linalg.norm(Q, axis=1, keepdims=True) * index._coarse.spreads
    for n_probe in (1, 3, LISTS):
        expected = np.argsort(-score, axis=1)[:, :n_probe]
        assert (index._coarse.probe(Q, n_probe, 2) == expected).mean() > 0.98  # rounding
        index.reset().add(x)
        found = index.search(Q[0], 50, n_probe=n_probe).ids
        assert np.isin(index.lists_of(found[found >= 0]), expected[0]).all()


def test_an_empty_list_has_the_spread_of_all():
    x = np.repeat(X[:LISTS], 200, axis=0)
    index = fpq.IVFPQIndex(LISTS, 6, metric="ip").fit(x).add(x)
    assert np.isfinite(index._coarse.spreads).all()
    assert index.search(Q, 5, n_probe=LISTS).ids.min() >= 0


def with_room(labels, squared, sizes, limit):
    """The lists of rows under a limit, by its definition: `squared` has the distances of all rows to all centroids."""
    labels, closed = labels.copy(), np.zeros(len(sizes), bool)
    while True:
        counts = sizes + np.bincount(labels, minlength=len(sizes))
        closed |= counts >= limit
        over = np.flatnonzero(counts > np.maximum(limit, sizes))
        if not len(over):
            return labels
        nexts = np.where(closed, np.inf, squared).argmin(1)
        losses = squared[np.arange(len(labels)), nexts] - squared[np.arange(len(labels)), labels]
        for c in over:
            rows = np.flatnonzero(labels == c)
            leaving = rows[np.argsort(losses[rows], kind="stable")[: counts[c] - max(limit, sizes[c])]]
            labels[leaving] = nexts[leaving]


@pytest.mark.parametrize("capacity", [1.0, 1.2, 2.0])
def test_rows_that_lose_least_leave_full_lists(capacity):
    rng = np.random.default_rng(7)
    skewed = np.concatenate([X, X[:1] + rng.normal(0, 0.3, size=(N, D)).astype(np.float32)])[rng.permutation(2 * N)]
    index = fpq.IVFPQIndex(LISTS, 6, list_capacity=capacity).fit(skewed)
    squared = ((skewed[:, None] - index.centroids).astype(np.float64) ** 2).sum(2)
    sizes = np.zeros(LISTS, np.int64)
    for rows in (slice(0, N), slice(N, 2 * N)):
        index.add(skewed[rows])
        limit = math.ceil(capacity * len(index) / LISTS)
        expected = with_room(squared[rows].argmin(1), squared[rows], sizes, limit)
        assert np.array_equal(index.lists_of(np.arange(rows.start, rows.stop)), expected)
        sizes = index.list_sizes.copy()


def test_capacity_of_equal_rows():
    index = fpq.IVFPQIndex(LISTS, 6, list_capacity=1.0).fit(X)
    index.add(np.repeat(X[:1], 40 * LISTS, axis=0))
    assert index.list_sizes.tolist() == [40] * LISTS


def test_capacity_on_real_vectors():
    try:
        base = fpq.datasets.load("sift500k").base[:60_000]
    except FileNotFoundError:
        pytest.skip("sift500k is not here")
    index = fpq.IVFPQIndex(200, 8, list_capacity=1.5).fit(base).add(base)
    assert index.list_sizes.max() <= math.ceil(1.5 * len(base) / 200)
    free = fpq.IVFPQIndex(200, 8).fit(base).add(base)
    assert free.list_sizes.max() > 1.5 * len(base) / 200
    assert (free.lists_of([0, 5]) >= 0).all()


def test_remove_and_add_again_reuse_blocks():
    index = build().add(X)
    codes = {i: index.reconstruct([i])[0] for i in range(0, N, 111)}
    for _ in range(3):
        assert index.remove(np.arange(5, 2000)) == 1995 if 5 in index.ids else True
        index.add(X[5:2000], np.arange(5, 2000))
    assert len(index) == N
    for i, vector in codes.items():
        assert np.array_equal(index.reconstruct([i])[0], vector)
    assert index._lists.layout.n_blocks <= build().add(X)._lists.layout.n_blocks + LISTS
    assert index.remove(index.ids) == N
    assert index.search(Q, 3).ids.tolist() == [[-1] * 3] * len(Q)
    index.add(X[:10])
    assert index.search(X[:1], 1, n_probe=LISTS).ids.shape == (1, 1)


def test_rerank_gives_exact_distances():
    index = build(keep_vectors=True).add(X)
    found = index.search(Q, 5, n_probe=LISTS, rerank=100)
    exact = fpq.FlatIndex().add(X).search(Q, 5)
    assert np.array_equal(found.ids, exact.ids)
    assert np.array_equal(found.distances, exact.distances)


@pytest.mark.parametrize("rotation", ["pca", "opq"])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_rotations(rotation, metric):
    index = build(rotation=rotation, metric=metric).add(X)
    expected = np.sort(distances_by_definition(index, np.arange(N)), axis=1)[:, :8]
    found = index.search(Q, 8, n_probe=LISTS).distances
    np.testing.assert_allclose(found if metric == "l2" else -found, expected, rtol=1e-3, atol=1e-3)
    assert build(rotation=rotation, rotation_dim=12).add(X).search(Q, 8).ids.min() >= 0


def test_open_indexing_counts_follow_adds_and_removals():
    index = build(open_indexing=1.5).add(X[:2000]).add(X[2000:])
    assert (index._counts.sum(1) == N).all()
    index.remove(np.arange(700))
    assert (index._counts.sum(1) == N - 700).all()


@pytest.mark.parametrize("parameters", [{}, {"residual": False, "metric": "ip"}, {"list_capacity": 1.2, "nbits": 4}])
def test_save_and_load(tmp_path, parameters):
    index = build(keep_vectors=True, **parameters).add(X, np.arange(N) * 2)
    index.remove(np.arange(0, N, 3) * 2)
    index.n_probe = 7
    index.save(tmp_path / "index.fpq")
    for mmap in (False, True):
        loaded = fpq.load(tmp_path / "index.fpq", mmap=mmap)
        assert loaded.n_probe == 7
        for ours, theirs in zip(index.search(Q, 9, rerank=3), loaded.search(Q, 9, rerank=3), strict=True):
            assert np.array_equal(ours, theirs)
        assert np.array_equal(loaded.list_sizes, index.list_sizes)
    loaded = fpq.load(tmp_path / "index.fpq").add(X[:3], np.arange(3) * 6)
    assert len(loaded) == len(index) + 3


def test_untrained_saves_too(tmp_path):
    fpq.IVFPQIndex(5, 4).save(tmp_path / "index.fpq")
    assert not fpq.load(tmp_path / "index.fpq").is_trained


def test_few_lists_and_rows():
    one = fpq.IVFPQIndex(1, 4, nbits=2).fit(X[:9]).add(X[:1])
    assert one.search(X[0], 3, n_probe=5).ids.tolist() == [0, -1, -1]
    with pytest.raises(ValueError, match=r"X: expected at least one row for each of the 30 lists, got 29"):
        fpq.IVFPQIndex(30, 4).fit(X[:29])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fpq.IVFPQIndex(0), ValueError, "n_lists"),
        (lambda: fpq.IVFPQIndex(4.5), TypeError, "n_lists"),
        (lambda: fpq.IVFPQIndex(4, list_capacity=0.9), ValueError, "list_capacity"),
        (lambda: fpq.IVFPQIndex(4, residual="yes"), ValueError, "residual"),
        (lambda: fpq.IVFPQIndex(4).search(Q), ValueError, "not trained"),
        (lambda: fpq.IVFPQIndex(4).add(X), ValueError, "not trained"),
        (lambda: build().search(Q, n_probe=0), ValueError, "n_probe"),
        (lambda: build().add(X).search(Q, rerank=2), ValueError, "rerank"),
        (lambda: build().add(X[:, :5]), ValueError, "dimension 24, got dimension 5"),
        (lambda: build().add(X).fit(X), ValueError, "holds 3000 vectors"),
        (lambda: build().add(X[:3], [1, 2, 2]), ValueError, "unique"),
        (lambda: build().add(X[:3]).reconstruct([7]), ValueError, "expected ids in the index, got 7"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_failed_add_changes_nothing(monkeypatch):
    index = build(keep_vectors=True, open_indexing=2.0, list_capacity=2.0).add(X[:1000])
    before = index.search(Q, 10), index.list_sizes, index.nbytes
    monkeypatch.setattr(index._ids, "adding", lambda *_: (_ for _ in ()).throw(MemoryError("no memory")))
    with pytest.raises(MemoryError):
        index.add(X[1000:])
    monkeypatch.undo()
    assert len(index) == 1000
    after = index.search(Q, 10), index.list_sizes
    assert np.array_equal(before[0].ids, after[0].ids)
    assert np.array_equal(before[1], after[1])
    index.add(X[1000:])
    whole = build(keep_vectors=True, open_indexing=2.0, list_capacity=2.0).add(X[:1000]).add(X[1000:])
    assert np.array_equal(index.search(Q, 10).ids, whole.search(Q, 10).ids)


def test_queries_in_batches(monkeypatch):
    """The lists near some queries at a time are in memory; the answers do not show it."""
    for residual in (True, False):
        index = build(residual=residual).add(X)
        radius = float(index.search(Q, 30, n_probe=7).distances.max())
        expected = index.search(Q, 10, n_probe=7), index.range_search(Q, radius, n_probe=7)
        for probes in (1, 30):
            monkeypatch.setattr(ivf_rows, "PROBES", probes)
            found = index.search(Q, 10, n_probe=7), index.range_search(Q, radius, n_probe=7)
            for ours, theirs in zip(found, expected, strict=True):
                for a, b in zip(ours, theirs, strict=True):
                    np.testing.assert_array_equal(a, b)
        monkeypatch.undo()
        assert len(expected[1].ids) > 100


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exponent", [-40, 40, 55])
def test_lists_are_in_the_same_order_at_any_scale(exponent: int) -> None:
    x = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    plain = fpq.IVFPQIndex(20, 4, nbits=4).fit(x)
    scaled = fpq.IVFPQIndex(20, 4, nbits=4).fit(np.ldexp(x, exponent))
    np.testing.assert_array_equal(np.ldexp(plain.centroids, exponent), scaled.centroids)
