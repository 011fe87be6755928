"""Shards: settings by `tune`, rows by their ids, removal."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_sharded import MAKERS, N, Q, X, same, shards

import fpq

RNG = np.random.default_rng(1)
QUERIES = RNG.normal(size=(40, 13)).astype(np.float32)


@pytest.mark.parametrize("name", [name for name in MAKERS if "pq" in name or "ivf" in name])
def test_tune_and_search_by_recall(name: str, tmp_path: Path) -> None:
    make = MAKERS[name]
    one, many = make().add(X), shards(make, tmp_path, 3)
    before = many.search(Q, 5)
    truth = fpq.FlatIndex(one.metric).add(X).search(QUERIES, 10).ids
    for options in ({}, {"X": X}, {"X": iter([X[:900], X[900:]])}, {"neighbors": truth}):
        tuned = many.tune(QUERIES, recall=0.9, **options)
        assert tuned.best.recall >= 0.9
        setting: dict[str, Any] = tuned.best.setting
        assert setting == {key: getattr(many, key) for key in setting}
        same(many.search(Q, 5), one.search(Q, 5, **setting))
        found = many.search(QUERIES, 10, **setting).ids
        assert fpq.metrics.recall_at_k(found, truth) == pytest.approx(tuned.best.recall, abs=0.05)
    for again in (copy.copy(many), pickle.loads(pickle.dumps(many))):
        same(again.search(Q, 5), many.search(Q, 5))
        same(again.search(Q, 10, recall=0.8), many.search(Q, 10, recall=0.8))
    most = max(trial.recall for trial in tuned.trials)
    assert fpq.metrics.recall_at_k(many.search(QUERIES, recall=0.8).ids, truth) >= 0.7
    with pytest.raises(ValueError, match="recall: expected at most" if most < 1 else "recall: expected a number"):
        many.search(Q, recall=1.0 if most < 1 else 1.1)
    with pytest.raises(ValueError, match=r"^rerank: expected None, as recall=0.8 chooses it, got 3"):
        many.search(Q, recall=0.8, rerank=3)
    many.n_probe = many.rerank = None
    same(many.search(Q, 5), before)


def test_what_tune_refuses(tmp_path: Path) -> None:
    flat = shards(fpq.FlatIndex, tmp_path / "flat", 2) if (tmp_path / "flat").mkdir() is None else None
    assert flat is not None
    with pytest.raises(ValueError, match=r"^tune: expected shards with search settings, got FlatIndex"):
        flat.tune(QUERIES)
    with pytest.raises(ValueError, match=r"^recall: expected shards of PQIndex or IVFPQIndex, got FlatIndex"):
        flat.search(Q, recall=0.9)
    many = shards(lambda: fpq.PQIndex(4).fit(X), tmp_path, 2)
    with pytest.raises(ValueError, match=r"^recall: expected None, as no tune has succeeded"):
        many.search(Q, recall=0.9)
    with pytest.raises(ValueError, match=r"^X: expected X or neighbors, as the index keeps no vectors, got neither"):
        many.tune(QUERIES)
    with pytest.raises(ValueError, match=r"^recall: 1.0 is not reached"):
        many.tune(QUERIES, recall=1.0, X=X)
    with pytest.raises(ValueError, match=r"^Q: expected at least one query, got none"):
        many.tune(QUERIES[:0], X=X)
    with pytest.raises(ValueError, match=r"^neighbors: expected either X or neighbors, got both"):
        many.tune(QUERIES, X=X, neighbors=np.zeros((40, 10), np.int64))
    assert (many.n_probe, many.rerank) == (None, None)
    with pytest.raises(ValueError, match=r"^n_probe: expected"):
        many.n_probe = 0


@pytest.mark.parametrize("name", ["flat l2", "pq ip", "ivf cosine"])
def test_ids_and_reconstruct(name: str, tmp_path: Path) -> None:
    one, many = MAKERS[name]().add(X), shards(MAKERS[name], tmp_path, 4)
    assert np.array_equal(np.sort(many.ids), np.arange(N))
    wanted = RNG.permutation(N)[:50]
    np.testing.assert_array_equal(many.reconstruct(wanted), one.reconstruct(wanted))
    assert many.reconstruct([]).shape == (0, 13)
    with pytest.raises(ValueError, match=rf"^ids: expected ids in the index, got {N}"):
        many.reconstruct([3, N])


@pytest.mark.parametrize("name", ["flat ip", "pq l2", "ivf l2"])
def test_removal(name: str, tmp_path: Path) -> None:
    one, many = MAKERS[name]().add(X), shards(MAKERS[name], tmp_path, 5)
    files = {file: (tmp_path / file).read_bytes() for file in many.shards}
    other = fpq.ShardedIndex(tmp_path / "manifest.json")
    gone = np.concatenate([np.arange(40), np.arange(600, 900), [10**9]])
    for removed, expected in ((gone, 340), (gone, 0), ([1], 0), ([41], 1)):
        assert many.remove(removed) == one.remove(removed) == expected
        assert len(many) == len(one)
        same(many.search(Q, 9), one.search(Q, 9))
        assert np.array_equal(np.sort(many.ids), np.sort(one.ids))
        same(fpq.ShardedIndex(tmp_path / "manifest.json").search(Q, 9), many.search(Q, 9))
    assert len(many.shards) == 4  # that of 600 to 899 is empty
    assert len(other) == N and other.search(X[0], 1).ids.tolist() in ([0], [700])
    assert all((tmp_path / file).read_bytes() == content for file, content in files.items())


def test_a_failed_removal_changes_nothing(tmp_path: Path) -> None:
    many = shards(fpq.FlatIndex, tmp_path, 3)
    damaged = tmp_path / many.shards[2]
    damaged.unlink()  # a file that is mapped must not change
    damaged.write_bytes(b"damaged")
    names, expected = sorted(path.name for path in tmp_path.iterdir()), many.search(Q, 3)
    with pytest.raises(fpq.FormatError, match=r"^.*2.fpq: "):
        many.remove([0, N - 1])
    with pytest.raises(TypeError, match=r"^ids: expected integer ids"):
        many.remove([0.5])
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert len(many) == N
    same(many.search(Q, 3), expected)
