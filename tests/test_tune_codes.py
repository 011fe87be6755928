"""`tune` of indexes over codes: the chosen setting, where the exact answers come from, what it refuses."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import _native, tuning
from fpq.indexes.parts.true_neighbors import true_neighbors

D, LISTS = 16, 24


def made_up(n: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, D)) * 2
    return (centres[rng.integers(40, size=n)] + rng.normal(size=(n, D))).astype(np.float32)


X, Q, HELD_OUT = made_up(3000, 0), made_up(2000, 1), made_up(2000, 2)
IDS = np.arange(3000) * 2 + 5


def ivf(**parameters: Any) -> fpq.IVFPQIndex:
    return fpq.IVFPQIndex(LISTS, 4, nbits=6, **{"keep_vectors": True, **parameters}).fit(X)


def truth(queries: Any, metric: str = "l2") -> Any:
    return fpq.FlatIndex(metric=metric).add(X).search(queries, 10).ids


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("target", [0.8, 0.9, 0.95, 0.99])
def test_target_holds_for_other_queries(target: float, metric: str) -> None:
    index = ivf(metric=metric).add(X)
    tuned = index.tune(Q, recall=target)
    assert tuned.best.recall >= target
    assert dict(tuned.best.setting) == {"n_probe": index.n_probe, "rerank": index.rerank}
    found = index.search(HELD_OUT)
    assert fpq.metrics.recall_at_k(found.ids, truth(HELD_OUT, metric)) >= target - 0.01
    again = index.search(HELD_OUT, n_probe=index.n_probe, rerank=index.rerank)
    np.testing.assert_array_equal(found.ids, again.ids)


def test_the_fastest_of_all_that_were_measured_and_serve() -> None:
    tuned = ivf().add(X).tune(Q, recall=0.9)
    serve = [trial for trial in tuned.trials if trial.recall >= 0.9]
    assert tuned.best.seconds == min(trial.seconds for trial in serve)
    lines = str(tuned).splitlines()
    assert lines[0].split() == ["n_probe", "rerank", "recall", "us/query"]
    assert sum("chosen" in line for line in lines) == 1


def test_table_leaves_out_what_is_slower_and_no_better() -> None:
    figures = [(0.50, 1), (0.40, 2), (0.70, 3), (0.70, 4), (0.95, 5), (0.90, 6), (0.99, 7), (0.99, 7)]
    trials = [tuning.Trial({"n_probe": i + 1, "rerank": None}, *each) for i, each in enumerate(figures)]
    lines = str(tuning.Tuning(tuple(trials), trials[4])).splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        [str(i + 1), "-", f"{figures[i][0]:.4f}"] for i in (0, 2, 4, 6)
    ]  # fmt: skip
    assert [line for line in lines if "chosen" in line] == [lines[3]]
    slow = str(tuning.Tuning(tuple(trials), trials[5])).splitlines()
    assert len(slow) == 6 and "chosen" in slow[4]


def test_staircase_of_a_made_up_search(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: clock[0])
    wanted = np.arange(100).reshape(10, 10)

    def search(setting: Any) -> Any:
        rerank = setting["rerank"] or 1
        clock[0] += setting["n_probe"] + rerank
        hits = min(10, setting["n_probe"], rerank)
        return np.where(np.arange(10) < hits, wanted, -1)

    efforts = [{"n_probe": n} for n in (1, 2, 5, 8, 20, 40)]
    tuned = tuning.fastest(search, efforts, [None, 2, 4, 6, 9, 60], wanted, 0.5)
    assert dict(tuned.best.setting) == {"n_probe": 5, "rerank": 6}
    searched: list[int] = []

    def limited(setting: Any) -> Any:  # codes alone: more probes find no more than half
        searched.append(setting["n_probe"])
        return np.where(np.arange(10) < min(5, setting["n_probe"]), wanted, -1)

    many = [{"n_probe": n} for n in tuning.steps(10_000)]
    assert tuning.fastest(limited, many, [None], wanted, 0.4, (0.3, 0.9)).best.recall == 0.4
    assert max(searched) < 10  # and the search for a recall of 0.9 is given up
    with pytest.raises(ValueError, match=r"recall: 0.95 is not reached, the best is 0.9000 at \{'n_probe': 20, "):
        tuning.fastest(search, efforts[:5], [None, 9], wanted, 0.95)


def test_exact_answers_from_rows_or_neighbours() -> None:
    index = ivf(keep_vectors=False).add(X)
    with pytest.raises(ValueError, match="X: expected X or neighbors, as the index keeps no vectors"):
        index.tune(Q)
    by_rows = index.tune(Q, recall=0.3, X=X)
    by_ids = index.tune(Q, recall=0.3, neighbors=truth(Q))
    recalls = [{str(t.setting): t.recall for t in tuned.trials} for tuned in (by_rows, by_ids)]
    for setting in recalls[0].keys() & recalls[1].keys():
        assert recalls[0][setting] == recalls[1][setting]
    assert index.rerank is None
    sparse = ivf(keep_vectors=False).add(X, IDS)
    sparse.remove(IDS[::3])
    rows = np.zeros((IDS[-1] + 1, D), np.float32)
    rows[IDS] = X
    left = np.setdiff1d(IDS, IDS[::3])
    expected = fpq.FlatIndex().add(rows[left], left).search(Q, 10).ids
    np.testing.assert_array_equal(np.sort(true_neighbors(sparse, Q, 10, rows, None, 1)), np.sort(expected))


def test_pq_index() -> None:
    index = fpq.PQIndex(4, nbits=6, keep_vectors=True).fit(X).add(X, IDS)
    tuned = index.tune(Q[:400], recall=0.95)
    assert index.rerank == tuned.best.setting["rerank"]
    assert index.rerank is not None
    expected = IDS[truth(HELD_OUT)]
    assert fpq.metrics.recall_at_k(index.search(HELD_OUT).ids, expected) >= 0.94


@pytest.mark.parametrize("mmap", [False, True])
def test_settings_are_saved(tmp_path: Path, mmap: bool) -> None:
    for index in (ivf().add(X), fpq.PQIndex(4, nbits=6, keep_vectors=True).fit(X).add(X)):
        index.tune(Q[:200], recall=0.95)
        index.save(tmp_path / "index.fpq")
        for again in (fpq.load(tmp_path / "index.fpq", mmap=mmap), pickle.loads(pickle.dumps(index))):
            assert again.rerank == index.rerank
            np.testing.assert_array_equal(again.search(HELD_OUT).ids, index.search(HELD_OUT).ids)


def test_shards_are_not_re_ranked_one_by_one(tmp_path: Path) -> None:
    index = ivf().add(X)
    index.rerank = 20
    index.save(tmp_path / "index.fpq")
    sharded = fpq.ShardedIndex.create(tmp_path / "all.json", [tmp_path / "index.fpq"])
    np.testing.assert_array_equal(sharded.search(Q, 5, rerank=3).ids, index.search(Q, 5, rerank=3).ids)


def test_few_rows_and_queries() -> None:
    index = fpq.IVFPQIndex(2, 4, nbits=2, keep_vectors=True).fit(X[:9]).add(X[:3])
    tuned = index.tune(Q[:1], k=10, recall=1.0)
    assert tuned.best.recall == 1.0
    assert index.search(Q[:1], 10).ids[0, 3:].tolist() == [-1] * 7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.tune(Q, recall=1.2), "recall: expected a number from 0 to 1"),
        (lambda index: index.tune(Q, 0), "k: expected at least 1"),
        (lambda index: index.tune(Q[:0]), "Q: expected at least one query"),
        (lambda index: index.tune(Q[:, :5]), "Q: expected vectors of dimension 16"),
        (lambda index: index.tune(Q, X=X[:10]), "X: expected at least 3000"),
        (lambda index: index.tune(Q, X=X, neighbors=truth(Q)), "neighbors: expected either X or neighbors"),
        (lambda index: index.tune(Q, neighbors=truth(Q)[:, :4]), r"neighbors: expected integers of shape \(2000, 10\)"),
        (lambda index: index.tune(Q, neighbors=truth(Q) * 1.0), "neighbors: expected integer ids"),
        (lambda index: index.tune(Q[:90], recall=0.99, neighbors=truth(Q[:90]) + 5000), "the best is 0.0000"),
        (lambda index: ivf().tune(Q), "tune: expected vectors in the index, got an empty index"),
        (lambda index: fpq.IVFPQIndex(4).tune(Q), "not trained"),
    ],
)
def test_refused(call: Any, message: str) -> None:
    index = ivf().add(X)
    index.n_probe, index.rerank = 3, 2
    with pytest.raises((ValueError, TypeError), match=message):
        call(index)
    assert (index.n_probe, index.rerank) == (3, 2)


@pytest.mark.parametrize("n_queries", [1, 50, 500])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_smallest(k: int, n_queries: int) -> None:
    rng = np.random.default_rng(0)
    distances = rng.integers(-3, 4, size=(n_queries, 40)).astype(np.float32)
    distances[distances == 3] = np.inf
    distances[0, :20] = -0.0
    distances[0, 20:] = 0.0
    distances[-1, ::3] = np.nan
    ids = rng.permuted(np.tile(np.arange(40), (n_queries, 1)), axis=1)
    ids[:, 7] = -1
    found, chosen = np.empty((n_queries, k), np.float32), np.empty((n_queries, k), np.int64)
    _native.smallest(distances, ids, found, chosen, 2)
    known = np.nan_to_num(distances, nan=np.inf, posinf=np.inf)
    order = np.lexsort((ids, known, ids < 0))[:, :k]
    np.testing.assert_array_equal(chosen, np.take_along_axis(ids, order, 1))
    expected = np.take_along_axis(known, order, 1)
    np.testing.assert_array_equal(found, np.where(chosen < 0, np.inf, expected))
