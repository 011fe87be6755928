"""`search(recall=...)` after `tune`: the recall of other queries, files, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import tuning
from fpq.indexes.parts.operating_points import OperatingPoints
from fpq.storage import State

D = 24


def made_up(n: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, D))
    return (centres[rng.integers(40, size=n)] + rng.normal(size=(n, D))).astype(np.float32)


X, Q, HELD_OUT = made_up(4000, 0), made_up(600, 1), made_up(3000, 2)
KINDS = {
    "ivf": lambda: fpq.IVFPQIndex(120, 6, nbits=6, keep_vectors=True),
    "ivf sq8": lambda: fpq.IVFPQIndex(120, 6, refine="sq8"),
    "pq": lambda: fpq.PQIndex(8, nbits=6, keep_vectors=True),
}


@cache
def original(kind: str) -> Any:
    index = KINDS[kind]().fit(X).add(X)
    index.tune(Q, 10, 0.95, X=X)
    return index


def tuned(kind: str = "ivf") -> Any:
    return original(kind).copy()


def recall_of(index: Any, **search: Any) -> float:
    truth = fpq.FlatIndex(index.metric).add(X).search(HELD_OUT, 10).ids
    return fpq.metrics.recall_at_k(index.search(HELD_OUT, **search).ids, truth)


@pytest.mark.parametrize("kind", KINDS)
def test_the_recall_holds_for_other_queries(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = tuning.measured

    def by_work(search: Any, setting: Any, truth: Any) -> tuning.Trial:  # real times of so few rows are noise
        work = setting.get("n_probe", 1) * 3.0 + (setting["rerank"] or 0)
        return measured(search, setting, truth)._replace(seconds=work)

    monkeypatch.setattr(tuning, "measured", by_work)
    index = KINDS[kind]().fit(X).add(X)
    index.tune(Q, 10, 0.95, X=X)
    before = index.n_probe if kind != "pq" else None, index.rerank
    recalls = [recall_of(index, recall=target) for target in (0.8, 0.85, 0.9, 0.95, 0.97, 0.99)]
    for target, recall in zip((0.8, 0.85, 0.9, 0.95, 0.97, 0.99), recalls, strict=True):
        estimate = next(known for known in index._points.recalls if known >= target)
        assert abs(recall - estimate) <= 0.025  # of 600 queries
    assert recalls == sorted(recalls)
    assert before == (index.n_probe if kind != "pq" else None, index.rerank)


def test_the_setting_is_that_of_the_table() -> None:
    index = tuned()
    assert index._points is not None
    setting = index._points.setting(10, 0.9)
    np.testing.assert_array_equal(index.search(Q, recall=0.9).ids, index.search(Q, **setting).ids)
    one = index.search(Q[0], recall=0.9)
    np.testing.assert_array_equal(one.ids, index.search(Q[0], **setting).ids)


@pytest.mark.parametrize("kind", KINDS)
def test_files_and_copies_keep_the_table(kind: str, tmp_path: Path) -> None:
    index = tuned(kind)
    index.save(tmp_path / "index.fpq")
    expected = index.search(HELD_OUT, recall=0.9)
    twins = (fpq.load(tmp_path / "index.fpq"), fpq.load(tmp_path / "index.fpq", mmap=True))
    for twin in (*twins, index.copy(), copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        np.testing.assert_array_equal(twin.search(HELD_OUT, recall=0.9).ids, expected.ids)


def test_rows_come_and_go_and_fit_starts_again() -> None:
    index = tuned()
    index.remove(np.arange(100))
    index.add(X[:100])
    index.search(Q, recall=0.9)
    index.reset()
    with pytest.raises(ValueError, match="recall: expected None, as no tune has succeeded since fit"):
        index.search(Q, recall=0.9)


def test_filters() -> None:
    found = tuned().search(Q[:50], recall=0.9, allowed=[3, 4, 5])
    assert set(found.ids.ravel().tolist()) <= {-1, 3, 4, 5}


def test_measurements_with_fewer_vectors_than_k_are_not_kept() -> None:
    index = KINDS["ivf"]().fit(X).add(X[:5])
    index.tune(Q, 10, 0.8)
    with pytest.raises(ValueError, match="recall: expected None"):
        index.search(Q, 10, recall=0.8)


def test_low_recalls() -> None:
    index = KINDS["ivf"]().fit(X).add(X)
    best = index.tune(Q, 10, 0.2).best
    assert index._points is not None and index._points.recalls[0] <= best.recall
    assert best.setting in index._points.settings


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"recall": 1.5}, "recall: expected a number from 0 to 1"),
        ({"recall": "high"}, "recall: expected a number"),
        ({"recall": 0.9, "n_probe": 3}, "n_probe: expected None, as recall=0.9 chooses it, got 3"),
        ({"recall": 0.9, "rerank": 3}, "rerank: expected None, as recall=0.9 chooses it, got 3"),
        ({"recall": 0.9, "k": "10"}, "k: expected an integer"),
        ({"recall": 0.9, "k": 0}, "k: expected at least 1"),
        ({"recall": float("nan"), "n_probe": 3}, "recall: expected"),
        ({"recall": 0.99119}, "recall: expected at most 0.9911, the highest"),
        ({"recall": 0.9, "k": 5}, "recall: expected k=10, for which tune has measured, got k=5"),
        ({"recall": 1.0}, "recall: expected at most 0.99.., the highest that tune has measured, got 1.0"),
    ],
)
def test_refused(search: dict[str, Any], message: str) -> None:
    index = tuned()
    index._points = OperatingPoints(10, np.array([0.5, 0.99118]), np.array([1, 9]), np.array([0, 3]))
    with pytest.raises((ValueError, TypeError), match=message):
        index.search(Q, **search)


def test_untrained() -> None:
    with pytest.raises(ValueError, match="not trained"):
        fpq.PQIndex(4).search(Q, recall=0.9)


def test_points_of_made_up_trials() -> None:
    def trial(n_probe: int, rerank: int | None, recall: float, seconds: float) -> tuning.Trial:
        return tuning.Trial({"n_probe": n_probe, "rerank": rerank}, recall, seconds)

    slow = trial(16, 9, 0.85, 7)
    trials = [trial(4, None, 0.6, 1), trial(4, 2, 0.8, 2), trial(16, 2, 0.9, 5), slow]
    points = OperatingPoints.measured(5, trials)
    assert points.recalls == sorted(set(points.recalls)) and points.recalls[0] == 0.6 and points.recalls[-1] == 0.9
    assert points.setting(5, 0.5) == {"n_probe": 4, "rerank": None}
    assert points.setting(5, 0.61) == {"n_probe": 4, "rerank": 2}
    assert points.setting(5, 0.85) == {"n_probe": 8, "rerank": 2}  # between: the logarithm of 8 is in the middle
    alone = OperatingPoints.measured(5, [tuning.Trial({"rerank": 3}, 0.2, 1.0)])
    assert alone.setting(5, 0.2) == {"rerank": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tuned_recalls": np.array([0.9, 0.8])}, "tuned_recalls: expected ascending numbers from 0 to 1"),
        ({"tuned_recalls": np.array([0.9, np.nan])}, "tuned_recalls: expected ascending"),
        ({"tuned_recalls": np.array([0.9, 1.5])}, "tuned_recalls: expected ascending"),
        ({"tuned_recalls": np.empty(0)}, r"tuned_recalls: expected shape \(p,\)"),
        ({"tuned_n_probes": np.array([0, 2])}, "tuned_n_probes: expected integers of at least 1"),
        ({"tuned_reranks": np.array([-1, 2])}, "tuned_reranks: expected integers of at least 0"),
        ({"tuned_reranks": np.array([1])}, "tuned_reranks: expected int64"),
    ],
)
def test_damaged_files(change: dict[str, Any], message: str) -> None:
    points = OperatingPoints(10, np.array([0.5, 0.99]), np.array([1, 9]), np.array([0, 3]))
    index = tuned()
    index._points = points
    state = index._state()
    with pytest.raises(ValueError, match=message):
        index._rebuilt(State(state.params, state.arrays | change))
