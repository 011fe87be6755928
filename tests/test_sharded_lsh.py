"""LSH indexes in blocks and in shards: the fit of one array, and what shards answer."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_sharded import N, Q, X, posix_files, same, shards

import fpq
from fpq import cli, tuning

RNG = np.random.default_rng(2)
MANY = RNG.normal(size=(140_000, 6)).astype(np.float32)  # more than `fit` reads
WIDE = RNG.normal(size=(20_000, 33)).astype(np.float32)  # with sketches
KINDS: dict[str, Callable[[], Any]] = {
    "e2lsh": lambda: fpq.E2LSHIndex(n_tables=2),
    "e2lsh, width given": lambda: fpq.E2LSHIndex(width=3.0, metric="cosine", memory_limit=10_000_000),
    "c2lsh": fpq.C2LSHIndex,
    "c2lsh, width given": lambda: fpq.C2LSHIndex(width=2.0, metric="cosine"),
    "pmlsh": lambda: fpq.PMLSHIndex(seed=3),
}
BY_CANDIDATES: dict[str, Callable[[], Any]] = {
    "c2lsh": lambda: fpq.C2LSHIndex().fit(X),
    "pmlsh": lambda: fpq.PMLSHIndex(metric="cosine").fit(X),
    "pmlsh, second rule": lambda: fpq.PMLSHIndex(ratio=2.0, delta=0.3).fit(X),
}


def contents(index: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    params, arrays = index._state()
    return params, {name: array.tobytes() for name, array in arrays.items()}


def pieces(x: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    return (x[i : i + rows] for i in range(0, len(x), rows))


@pytest.mark.parametrize("rows", [7000, 50_000])
@pytest.mark.parametrize("kind", KINDS)
def test_fit_of_blocks_is_that_of_an_array(kind: str, rows: int) -> None:
    da = pytest.importorskip("dask.array")
    dask = pytest.importorskip("fpq.dask")
    for x in (MANY, WIDE):
        expected = contents(KINDS[kind]().fit(x))
        chunks = da.from_array(x, chunks=(rows, x.shape[1]))
        assert contents(KINDS[kind]().fit(chunks)) == expected
        assert contents(dask.fit(KINDS[kind](), chunks)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_fit_of_a_stream_does_not_depend_on_its_blocks(kind: str) -> None:
    one, other = (KINDS[kind]().fit(pieces(MANY, rows)) for rows in (9000, 70_000))
    assert contents(one) == contents(other)
    if "width" in kind:  # of the number of all rows, though only some are read
        assert one._state().params["chosen"] == KINDS[kind]().fit(MANY)._state().params["chosen"]
    few = MANY[:15_000]
    assert contents(KINDS[kind]().fit(pieces(few, 2000))) == contents(KINDS[kind]().fit(few))


@pytest.mark.parametrize("kind", KINDS)
def test_fit_and_build_on_a_cluster(kind: str, tmp_path: Path) -> None:
    da, distributed = pytest.importorskip("dask.array"), pytest.importorskip("distributed")
    import fpq.dask

    with (
        distributed.LocalCluster(2, processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        chunks = da.from_array(WIDE, chunks=(6000, 20))
        index = fpq.dask.fit(KINDS[kind](), chunks, client=client)
        one = KINDS[kind]().fit(WIDE)
        assert contents(index) == contents(one)
        manifest = fpq.dask.build(index, chunks, tmp_path, client=client)
        many = fpq.ShardedIndex(manifest, client=client)
        assert len(many) == len(WIDE) and many.kind == type(one).__name__
        found = many.search(WIDE[:50], 3)
        same(found, fpq.ShardedIndex(manifest).search(WIDE[:50], 3))
        assert (found.ids[:, 0] == np.arange(50)).all()


@pytest.mark.parametrize("kind", BY_CANDIDATES)
def test_shards_answer_with_the_nearest_of_their_answers(kind: str, tmp_path: Path) -> None:
    make = BY_CANDIDATES[kind]
    many = shards(make, tmp_path, 3)
    ranges = [(0, 500), (500, 1000), (1000, N)]
    own = [make().add(X[start:end], ids=np.arange(start, end)) for start, end in ranges]
    for options in ({}, {"n_candidates": 30}, {"allowed": np.arange(0, N, 7)}):
        answers = [index.search(Q, 5, **options) for index in own]
        similar = -1 if own[0].metric == "cosine" else 1
        distances = np.concatenate([answer.distances for answer in answers], axis=1) * similar
        ids = np.concatenate([answer.ids for answer in answers], axis=1)
        order = np.lexsort((ids, distances))[:, :5]
        found = many.search(Q, 5, **options)
        np.testing.assert_array_equal(found.ids, np.take_along_axis(ids, order, 1))
        np.testing.assert_array_equal(found.distances, np.take_along_axis(distances, order, 1) * np.float32(similar))
    radius = float(np.median(make().add(X).search(Q, 20).distances[:, -1]))
    same(many.range_search(Q, radius), make().add(X).range_search(Q, radius))  # it does not use the hashes


def test_candidates_of_shards_include_those_of_one_index(tmp_path: Path) -> None:
    make = BY_CANDIDATES["pmlsh"]
    one, many = make().add(X), shards(make, tmp_path, 4)
    for count in (5, 20, 100):
        found = many.search(Q, 5, n_candidates=count).distances
        assert (found >= one.search(Q, 5, n_candidates=count).distances).all()


@pytest.mark.parametrize("kind", ["c2lsh", "pmlsh"])
def test_settings_of_shards(kind: str, tmp_path: Path) -> None:
    many = shards(BY_CANDIDATES[kind], tmp_path, 2)
    expected = many.search(Q, 4, n_candidates=9)
    many.n_candidates = 9
    same(many.search(Q, 4), expected)
    name = type(BY_CANDIDATES[kind]()).__name__
    for option, kinds in (("n_probe", "IVFPQIndex or E2LSHIndex"), ("rerank", "PQIndex or IVFPQIndex")):
        with pytest.raises(ValueError, match=f"^{option}: expected shards of {kinds}, got {name}$"):
            many.search(Q, 4, **{option: 2})
    with pytest.raises(ValueError, match=f"^n_probe: expected shards of IVFPQIndex, got {name}$"):
        many.range_search(Q, 1.0, n_probe=2)
    with pytest.raises(ValueError, match=f"^recall: expected shards of PQIndex or IVFPQIndex, got {name}$"):
        many.search(Q, 4, recall=0.9)
    with pytest.raises(ValueError, match=r"^n_candidates: expected at least 1, got 0"):
        many.search(Q, 4, n_candidates=0)


def test_probes_of_e2lsh_shards_are_a_setting(tmp_path: Path) -> None:
    many = shards(lambda: fpq.E2LSHIndex(n_tables=2).fit(X), tmp_path, 2)
    with pytest.raises(
        ValueError, match=r"^n_candidates: expected shards of C2LSHIndex or PMLSHIndex, got E2LSHIndex$"
    ):
        many.search(Q, 4, n_candidates=3)
    expected = many.search(Q, 4, n_probe=3)
    many.n_probe = 3
    same(many.search(Q, 4), expected)
    assert many.range_search(Q, 1e9).lims[-1] == N * len(Q)


def queries(n: int = 60) -> np.ndarray:
    return X[:n] + RNG.normal(size=(n, X.shape[1])).astype(np.float32) / 4


def test_tune_of_e2lsh_shards_is_that_of_one_index(tmp_path: Path) -> None:
    make = lambda: fpq.E2LSHIndex(n_tables=2).fit(X)  # noqa: E731
    one, many, found = make().add(X), shards(make, tmp_path, 3), queries()
    expected = one.tune(found, 5, 0.9)
    truth = fpq.FlatIndex().add(X).search(found, 5).ids
    for options in ({}, {"X": X}, {"neighbors": truth}):
        tuned = many.tune(found, 5, 0.9, **options)
        assert [trial[:2] for trial in tuned.trials] == [trial[:2] for trial in expected.trials]
        assert many.n_probe == one.n_probe == tuned.best.setting["n_probe"]
    same(many.search(Q, 5), one.search(Q, 5))
    same(copy.copy(many).search(Q, 5), one.search(Q, 5))


@pytest.mark.parametrize("kind", BY_CANDIDATES)
def test_tune_by_candidates_of_each_shard(kind: str, tmp_path: Path) -> None:
    many, found = shards(BY_CANDIDATES[kind], tmp_path, 3), queries()
    truth = fpq.FlatIndex(many.metric).add(X).search(found, 5).ids
    tuned = many.tune(found, 5, 0.9)
    counts = [trial.setting["n_candidates"] for trial in tuned.trials]
    assert counts == tuning.steps(500, first=5)[: len(counts)]
    for trial in tuned.trials:
        assert trial.recall == fpq.metrics.recall_at_k(many.search(found, 5, **trial.setting).ids, truth)
    assert tuned.best is tuned.trials[-1] and tuned.best.recall >= 0.9
    assert all(trial.recall < 0.9 for trial in tuned.trials[:-1])
    assert many.n_candidates == counts[-1]
    same(many.search(Q, 5), many.search(Q, 5, n_candidates=counts[-1]))
    assert many.tune(found, 2000, 1.0).best.recall == 1 and many.n_candidates <= 500  # more neighbours than rows


def test_a_failed_tune_leaves_the_settings(tmp_path: Path) -> None:
    many, found = shards(BY_CANDIDATES["c2lsh"], tmp_path, 3), queries()
    many.n_candidates = 7
    expected = many.search(Q, 5)
    for arguments, message in (
        ((found[:0],), "Q: expected at least one query"),
        ((found, 0), "k: expected at least 1, got 0"),
        ((found, 5, 1.5), "recall: expected a number from 0 to 1, got 1.5"),
        ((found[:, 1:],), "Q: expected"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            many.tune(*arguments)
    with pytest.raises(ValueError, match=r"^recall: 1.0 is not reached"):  # of ids that no row has
        many.tune(found, 5, 1.0, neighbors=np.full((len(found), 5), N, np.int64))
    assert many.n_candidates == 7 and many.rerank is None
    same(many.search(Q, 5), expected)


@posix_files
def test_tune_with_a_shard_that_is_gone(tmp_path: Path) -> None:
    shards(BY_CANDIDATES["pmlsh"], tmp_path, 3)
    found = queries()
    (tmp_path / "1.fpq").unlink()
    with pytest.raises(fpq.FormatError, match=r"1.fpq"):
        fpq.ShardedIndex(tmp_path / "manifest.json")
    partial = fpq.ShardedIndex(tmp_path / "manifest.json", allow_partial=True)
    partial.tune(found, 5, 0.5)
    assert partial.search(found, 5).missing.keys() == {"1.fpq"}
    assert fpq.metrics.recall_at_k(partial.search(found, 5).ids, _nearest_of_others(found, partial.metric)) >= 0.5
    for file in ("0.fpq", "2.fpq"):
        (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=r"^tune: expected vectors in the shards, got no shards"):
        fpq.ShardedIndex(tmp_path / "manifest.json", allow_partial=True).tune(found)


def _nearest_of_others(found: np.ndarray, metric: Any) -> np.ndarray:
    """The true neighbours among the rows of the first and the last of three shards."""
    kept = np.r_[:500, 1000:N]
    return kept[fpq.FlatIndex(metric).add(X[kept]).search(found, 5).ids]


def test_shards_of_other_functions_are_refused(tmp_path: Path) -> None:
    many = shards(BY_CANDIDATES["c2lsh"], tmp_path, 2)
    fpq.C2LSHIndex(seed=1).fit(X).add(X[:9], ids=np.arange(9) + N).save(tmp_path / "other.fpq")
    with pytest.raises(fpq.FormatError, match="expected the training and parameters of the other shards"):
        many.add_shard(tmp_path / "other.fpq")


def test_a_failed_add_keeps_pending_rows() -> None:
    index = fpq.E2LSHIndex(n_tables=2).fit(X).add(X[:1000]).add(X[1000:1050])  # 50 rows are pending

    def breaks() -> Iterator[np.ndarray]:
        yield X[:700]  # merges them
        yield X[700:710]  # is pending in their place
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        index.add(breaks())
    same(index.search(X[1000:1050], 1), fpq.E2LSHIndex(n_tables=2).fit(X).add(X[:1050]).search(X[1000:1050], 1))


def test_commands_on_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = shards(BY_CANDIDATES["pmlsh"], tmp_path, 2).search(Q, 3, n_candidates=8)
    np.save(tmp_path / "queries.npy", Q)
    file = str(tmp_path / "manifest.json")
    assert cli.main(["info", file, "--verify"]) == 0
    assert "manifest of shards of PMLSHIndex" in capsys.readouterr().out
    options = ["-k", "3", "--n-candidates", "8", "--json", "--quiet"]
    assert cli.main(["search", file, str(tmp_path / "queries.npy"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == expected.ids.tolist()
