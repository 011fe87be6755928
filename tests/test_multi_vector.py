"""MultiVectorIndex beside a definition in NumPy: MaxSim over decoded tokens, among the documents of probed lists."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import _native, cli
from fpq.indexes import multi_vector_rows

RNG = np.random.default_rng(0)
D = 20
LENGTHS = RNG.integers(1, 12, 150)
DOCUMENTS = [RNG.normal(size=(n, D)).astype(np.float32) for n in LENGTHS]
TOKENS = np.concatenate(DOCUMENTS)
QUERIES = [RNG.normal(size=(n, D)).astype(np.float32) for n in (1, 5, 17, 40)]
pytestmark = pytest.mark.filterwarnings("ignore:.*training rows for:RuntimeWarning")


def index(metric: Any = "cosine", **options: Any) -> fpq.MultiVectorIndex:
    return fpq.MultiVectorIndex(12, 5, metric, **options).fit(DOCUMENTS)


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def maxsim(query: Any, documents: Any) -> Any:
    return np.array([(query.astype(np.float64) @ each.T.astype(np.float64)).max(axis=1).sum() for each in documents])


def by_row(filled: fpq.MultiVectorIndex, tokens: Any) -> Any:
    return np.split(tokens, filled._tokens.first[1:-1])


def decoded(filled: fpq.MultiVectorIndex) -> Any:
    """The tokens of each document as its codes say, in the order of index.ids."""
    return by_row(filled, multi_vector_rows.decoded(filled, np.arange(filled.n_tokens)))


def definition(filled: fpq.MultiVectorIndex, query: Any, k: int, n_probe: int, n_candidates: int) -> Any:
    """Scores and ids of the three steps."""
    assert filled.centroids is not None
    query = unit(query) if filled.metric == "cosine" else query
    products = query @ filled.centroids.T
    nearness = products if filled.metric == "ip" else 2 * products - (filled.centroids**2).sum(axis=1)
    probed = np.unique(np.argsort(-nearness, axis=1)[:, :n_probe])
    lists = by_row(filled, filled._tokens.lists)
    found = [i for i, each in enumerate(lists) if np.isin(each, probed).any()]
    rough = np.array([products[:, lists[i]].max(axis=1).sum() for i in found])
    best = np.array(found)[np.lexsort((filled.ids[found], -rough))[:n_candidates]]
    scores = maxsim(query, [decoded(filled)[i] for i in best])
    order = np.lexsort((filled.ids[best], -scores))[:k]
    return scores[order], filled.ids[best[order]], len(found)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize(("n_probe", "n_candidates"), [(1, 20), (3, 50), (12, 200), (99, 10**6)])
def test_search_is_the_definition(metric: str, residual: bool, n_probe: int, n_candidates: int) -> None:
    filled = index(metric, residual=residual).add(DOCUMENTS, ids=np.arange(150)[::-1] * 3)
    answers = [filled.search(q, 7, n_probe=n_probe, n_candidates=n_candidates) for q in QUERIES]
    for query, (scores, ids) in zip(QUERIES, answers, strict=True):
        expected, expected_ids, _ = definition(filled, query, 7, n_probe, n_candidates)
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(ids, expected_ids)
    together = filled.search(QUERIES, 7, n_probe=n_probe, n_candidates=n_candidates)
    np.testing.assert_array_equal(together.ids, [ids for _, ids in answers])
    np.testing.assert_array_equal(together.distances, [scores for scores, _ in answers])
    found = [definition(filled, query, 7, n_probe, n_candidates)[2] for query in QUERIES]
    np.testing.assert_array_equal(filled.last_found, found)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_rerank_is_exact(metric: str) -> None:
    filled = index(metric, keep_vectors=True).add(DOCUMENTS)
    vectors = [unit(each) for each in DOCUMENTS] if metric == "cosine" else DOCUMENTS
    for query in QUERIES:
        scores, ids = filled.search(query, 5, n_probe=12, rerank=30)
        expected = maxsim(unit(query) if metric == "cosine" else query, vectors)
        np.testing.assert_array_equal(ids, np.argsort(-expected, kind="stable")[:5])
        np.testing.assert_allclose(scores, np.sort(expected)[::-1][:5], rtol=1e-5)
    filled.rerank = 30
    np.testing.assert_array_equal(filled.search(QUERIES[-1], 5, n_probe=12).ids, ids)


def test_rerank_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    filled = index(keep_vectors=True).add(DOCUMENTS)
    whole = filled.search(QUERIES, 9, rerank=5)
    monkeypatch.setattr("fpq.indexes.parts.tokens.PRODUCTS", 100)
    for ours, other in zip(filled.search(QUERIES, 9, rerank=5), whole, strict=True):
        np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", _native.isas())
def test_the_same_bits(isa: str, threads: int, tmp_path: Path) -> None:
    filled = index("ip").add(DOCUMENTS)
    path = tmp_path / "a"
    filled.save(path)
    np.savez(tmp_path / "q.npz", *QUERIES)
    code = f"""
import numpy as np, fpq
queries = list(np.load({str(tmp_path / "q.npz")!r}).values())
index = fpq.load({str(path)!r})
for some in (queries, queries[:1]):
    print([each.tobytes().hex() for each in index.search(some, 9, n_candidates=40, n_threads={threads})])
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.environ['FPQ_ISA'] = {isa!r}\n{code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = [filled.search(some, 9, n_candidates=40) for some in (QUERIES, QUERIES[:1])]
    assert done.stdout.splitlines() == [str([each.tobytes().hex() for each in answer]) for answer in expected]


def test_long_queries_go_in_groups() -> None:
    """A query of more than 64 tokens scores as the sum of its parts."""
    filled = index("ip").add(DOCUMENTS)
    for n in (63, 64, 65, 150):
        query = RNG.normal(size=(n, D)).astype(np.float32)
        scores, ids = filled.search(query, 150, n_probe=12, n_candidates=150)
        expected = maxsim(query, decoded(filled))
        np.testing.assert_allclose(scores, np.sort(expected)[::-1], rtol=1e-4, atol=1e-4)
        assert sorted(ids.tolist()) == list(range(150))
        rough, rough_ids = filled.search(query, 150, n_probe=12, n_candidates=149, allowed=ids[:150])
        np.testing.assert_array_equal(rough, scores)  # k raises the number of candidates
        np.testing.assert_array_equal(rough_ids, ids)
        some = filled.search(query, 3, n_probe=12, n_candidates=30).ids
        np.testing.assert_array_equal(some, definition(filled, query, 3, 12, 30)[1])


def test_range_search() -> None:
    filled = index().add(DOCUMENTS)
    scores, ids = filled.search(QUERIES, 40, n_candidates=60)
    lims, found, found_ids = filled.range_search(QUERIES, 1.0, n_candidates=60)
    for i in range(len(QUERIES)):
        within = scores[i] >= 1.0
        n = min(40, lims[i + 1] - lims[i])
        assert n == within.sum()
        np.testing.assert_array_equal(found[lims[i] : lims[i] + n], scores[i][within])
        np.testing.assert_array_equal(found_ids[lims[i] : lims[i] + n], ids[i][within])
    assert filled.range_search(QUERIES, 1e9).lims.tolist() == [0] * 5


def test_forms_of_documents() -> None:
    lists = index().add(DOCUMENTS)
    flat = index().add(TOKENS, lengths=LENGTHS)
    double = index().add([each.astype(np.float64) for each in DOCUMENTS])
    strided = index().add(np.asfortranarray(np.repeat(TOKENS, 2, axis=0))[::2], lengths=LENGTHS.tolist())
    nested = index().add([each.tolist() for each in DOCUMENTS])
    for other in (flat, double, strided, nested):
        np.testing.assert_array_equal(other.search(QUERIES, 5).ids, lists.search(QUERIES, 5).ids)
        np.testing.assert_array_equal(other._tokens.codes, lists._tokens.codes)
    halves = index(keep_vectors=True).add([each.astype(np.float16) for each in DOCUMENTS])
    assert halves._tokens.vectors.data.dtype == np.float16
    even = np.stack([each[:1] for each in DOCUMENTS])
    one_token = index().add(even)
    assert len(one_token) == one_token.n_tokens == 150
    np.testing.assert_array_equal(one_token.search(even[:5, 0], 3).ids, one_token.search([even[:5, 0]], 3).ids[0])
    assert one_token.add([]).add(np.empty((0, 3, D))).n_tokens == 150


def test_forms_of_queries() -> None:
    filled = index().add(DOCUMENTS)
    batch = np.stack([QUERIES[2]] * 3)
    assert filled.search(QUERIES[2], 4).ids.shape == (4,)
    single = filled.search(QUERIES[2], 4)
    for answer in (filled.search(batch, 4), filled.search(list(batch), 4), filled.search(batch.tolist(), 4)):
        assert answer.ids.shape == (3, 4)
        np.testing.assert_array_equal(answer.ids[1], single.ids)
        np.testing.assert_array_equal(answer.distances[1], single.distances)
    np.testing.assert_array_equal(filled.search(QUERIES[2].tolist(), 4).ids, single.ids)
    assert filled.search([], 4).ids.shape == filled.search(batch[:0], 4).ids.shape == (0, 4)


def test_fewer_documents_than_k() -> None:
    filled = index().add(DOCUMENTS[:3])
    scores, ids = filled.search(QUERIES[1], 5, n_probe=12)
    assert ids.tolist()[3:] == [-1, -1]
    assert scores.tolist()[3:] == [-np.inf] * 2
    assert sorted(ids.tolist()[:3]) == [0, 1, 2]
    with pytest.warns(UserWarning, match="no vectors were added"):
        assert index().search(QUERIES[1], 2).ids.tolist() == [-1, -1]
    kept = index(keep_vectors=True).add(DOCUMENTS[:3])
    assert sorted(kept.search(QUERIES[1], 5, n_probe=12, rerank=3).ids.tolist()) == [-1, -1, 0, 1, 2]
    assert kept.search(QUERIES[1], 2, allowed=[], rerank=3).ids.tolist() == [-1, -1]


def test_duplicates_go_by_id() -> None:
    filled = index(keep_vectors=True).add([DOCUMENTS[0]] * 5, ids=[9, 4, 7, 2, 5])
    for options in ({}, {"rerank": 2}):
        assert filled.search(QUERIES[1], 3, n_probe=12, **options).ids.tolist() == [2, 4, 5]
    assert filled.search(QUERIES[1], 2, n_probe=12, n_candidates=2).ids.tolist() == [2, 4]


def test_allowed() -> None:
    filled = index().add(DOCUMENTS, ids=np.arange(150) * 2)
    everything = filled.search(QUERIES[3], 150, n_probe=12).ids
    some = np.arange(150)[::7] * 2
    expected = everything[np.isin(everything, some)]
    mask = np.zeros(299, bool)
    mask[some] = True
    for allowed in (some, mask):
        answer = filled.search(QUERIES[3], len(expected), n_probe=12, allowed=allowed).ids
        np.testing.assert_array_equal(answer, expected)


def test_changes() -> None:
    """An index after changes answers as one that was given the same documents at once."""
    filled = index(keep_vectors=True)
    for start in range(0, 150, 40):
        filled.add(DOCUMENTS[start : start + 40])
        filled.search(QUERIES[0])  # the rows of the lists are known before the next change
    assert filled.remove(np.arange(0, 150, 3)) == 50
    assert filled.remove([0, 3]) == 0
    filled.update([DOCUMENTS[0], DOCUMENTS[3][:1], DOCUMENTS[5]], ids=[1, 2, 500])
    left = {i: DOCUMENTS[i] for i in range(150) if i % 3} | {1: DOCUMENTS[0], 2: DOCUMENTS[3][:1], 500: DOCUMENTS[5]}
    fresh = index(keep_vectors=True).add(list(left.values()), ids=list(left))
    for changed in (filled, filled.copy()):
        assert sorted(changed.ids.tolist()) == sorted(left)
        assert 500 in changed
        assert 0 not in changed
        assert changed.n_tokens == fresh.n_tokens
        for options in ({}, {"rerank": 3}, {"allowed": [2, 500, 149]}):
            for ours, other in zip(changed.search(QUERIES, 9, **options), fresh.search(QUERIES, 9, **options),
                                   strict=True):  # fmt: skip
                np.testing.assert_array_equal(ours, other)
        for number, tokens in zip(left, changed.reconstruct(list(left)), strict=True):
            np.testing.assert_allclose(tokens, unit(left[number]), rtol=1e-5, atol=1e-6)
    assert filled.remove(filled.ids) == 101
    assert len(filled) == filled.n_tokens == 0
    assert len(filled.add(DOCUMENTS[:2])) == 2
    assert filled.reset().add(DOCUMENTS[:2]).ids.tolist() == [0, 1]


def test_removal_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpq.indexes.parts.tokens.PIECE", 7)
    test_changes()


def test_merge() -> None:
    for keep_vectors in (False, True):
        first = index(keep_vectors=keep_vectors).add(DOCUMENTS[:60])
        second = first.copy().reset().add(DOCUMENTS[60:], ids=np.arange(60, 150))
        whole = first.copy().reset().add(DOCUMENTS)
        first.merge(second)
        for ours, other in zip(first.search(QUERIES, 9), whole.search(QUERIES, 9), strict=True):
            np.testing.assert_array_equal(ours, other)
        assert len(first.merge(second.copy().reset())) == 150
    with pytest.raises(ValueError, match=r"^other: expected an index with the same centroids"):
        index().merge(fpq.MultiVectorIndex(12, 5, seed=1).fit(DOCUMENTS).add(DOCUMENTS))


def test_files(tmp_path: Path) -> None:
    for number, filled in enumerate((
        fpq.MultiVectorIndex(), index(), index("ip", residual=False).add(DOCUMENTS, ids=np.arange(150) * 2),
        index(keep_vectors=True).add([each.astype(np.float16) for each in DOCUMENTS]),
    )):  # fmt: skip
        filled.n_probe, filled.n_candidates, filled.rerank = 7, 33, 2 if filled.keep_vectors else None
        path = tmp_path / str(number)
        filled.save(path)
        description = repr(filled)  # before a search has listed the documents of each list
        for other in (fpq.load(path), fpq.load(path, fpq.MultiVectorIndex, mmap=True)):
            other.verify()
            assert repr(other) == description
            if len(filled):
                for ours, theirs in zip(other.search(QUERIES, 5), filled.search(QUERIES, 5), strict=True):
                    np.testing.assert_array_equal(ours, theirs)
        mapped = fpq.load(path, mmap=True)
        if filled.is_trained:
            with pytest.raises(ValueError, match="mapped from a file"):
                mapped.add(DOCUMENTS)
            with pytest.raises(ValueError, match="mapped from a file"):
                mapped.update(DOCUMENTS[:1], ids=[0])


def test_a_damaged_map_is_not_read_out_of_bounds(tmp_path: Path) -> None:
    filled = index().add(DOCUMENTS)
    filled._tokens.lists[5] = 12
    path = tmp_path / "a"
    filled.save(path)
    with pytest.raises(fpq.FormatError, match=r"lists: expected numbers below 12"):
        fpq.load(path)
    with pytest.raises(fpq.FormatError, match=r"^lists: the data are damaged"):
        fpq.load(path, mmap=True).search(QUERIES[0])
    with pytest.raises(fpq.FormatError, match=r"^lists: the data are damaged"):
        fpq.load(path, mmap=True).reconstruct([0, 1, 2])


NAN = [DOCUMENTS[0], np.full((2, D), np.nan)]


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        (DOCUMENTS[0], {}, r"documents: expected a list .* got shape \(\d+, 20\): give lengths"),
        ([DOCUMENTS[0], DOCUMENTS[1][:0]], {}, "documents: expected at least one token in each, got none in number 1"),
        (np.empty((4, 0, D)), {}, "documents: expected at least one token in each, got none in number 0"),
        ([DOCUMENTS[0], DOCUMENTS[1][:, :5]], {}, r"documents\[1\]: expected an array \(tokens, 20\), got shape"),
        ([DOCUMENTS[0], DOCUMENTS[1][0]], {}, r"documents\[1\]: expected an array \(tokens, 20\), got shape \(20,\)"),
        ([each[:, :5] for each in DOCUMENTS], {}, "documents: expected tokens of dimension 20, got dimension 5"),
        (NAN, {}, "documents: expected numbers that are finite .* in token 0 of number 1"),
        (TOKENS, {"lengths": [1, 2]}, r"lengths: expected numbers that add up to the \d+ tokens, got 3"),
        (TOKENS, {"lengths": [[1, 2]]}, r"lengths: expected a 1-d array, got shape \(1, 2\)"),
        (TOKENS[:3], {"lengths": [3, 0]}, "documents: expected at least one token in each, got none in number 1"),
        (TOKENS[:3], {"lengths": [4, -1]}, "lengths: expected numbers that add up"),
        (TOKENS[0], {"lengths": [20]}, r"documents: expected tokens of at least one dimension, got shape \(20,\)"),
        (DOCUMENTS[:2], {"ids": [1]}, r"ids: expected 2 ids for 2 row\(s\), got 1"),
        (DOCUMENTS[:2], {"ids": [1, 1]}, "ids: expected unique ids, got 1 more than once"),
        (DOCUMENTS[:2], {"ids": [1, 3]}, "ids: expected ids that are not in the index, got 3"),
    ],
)
def test_refused_documents(documents: Any, options: Any, message: str) -> None:
    filled = index().add(DOCUMENTS[:4], ids=[3, 4, 5, 6])
    before = filled._pieces()
    with pytest.raises(ValueError, match=message):
        filled.add(documents, **options)
    assert filled._pieces() == before


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        (QUERIES[0][:, :5], {}, "Q: expected tokens of dimension 20, got dimension 5"),
        (QUERIES[0][0], {}, r"Q: expected one query \(tokens, d\), a list of them"),
        (QUERIES[0][:0], {}, "Q: expected at least one token in each, got none in number 0"),
        (QUERIES[0] * np.nan, {}, "Q: expected numbers that are finite"),
        (QUERIES[0], {"k": 0}, "k: expected at least 1, got 0"),
        (QUERIES[0], {"n_probe": 0}, "n_probe: expected at least 1, got 0"),
        (QUERIES[0], {"n_candidates": 0}, "n_candidates: expected at least 1, got 0"),
        (QUERIES[0], {"rerank": 2}, "rerank: expected None, got 2: build the index with keep_vectors=True"),
    ],
)
def test_refused_queries(query: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        index().add(DOCUMENTS[:4]).search(query, **options)


def test_refused_training() -> None:
    for arguments, message in (
        ({"n_lists": 10**4}, r"documents: expected a token for each of the 10000 lists, got \d+ token\(s\)"),
        ({"n_lists": 3, "m": 21}, r"m: expected at most the 20 dimension\(s\) of X, got 21"),
    ):
        new = fpq.MultiVectorIndex(**arguments)
        with pytest.raises(ValueError, match=f"^{message}"):
            new.fit(DOCUMENTS)
        assert not new.is_trained
    with pytest.raises(ValueError, match=r"^metric: expected one of 'cosine', 'ip', got 'l2'"):
        fpq.MultiVectorIndex(metric="l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is not trained: call fit first"):
        fpq.MultiVectorIndex().add(DOCUMENTS)
    with pytest.raises(ValueError, match="is not trained: call fit first"):
        fpq.MultiVectorIndex().search(QUERIES[0])
    with pytest.raises(ValueError, match="fit: the index holds 150 vectors"):
        index().add(DOCUMENTS).fit(DOCUMENTS)


def test_defaults() -> None:
    filled = fpq.MultiVectorIndex(verbose=False).fit(TOKENS, lengths=LENGTHS).add(DOCUMENTS)
    assert filled.n_lists == int(4 * len(TOKENS) ** 0.5)
    assert filled.quantizer.m == 10
    assert filled.search(DOCUMENTS[40], 1).ids.tolist() == [40]


def test_numbers_of_any_size() -> None:
    for scale in (2.0**-70, 2.0**60):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            huge = fpq.MultiVectorIndex(12, 5, "ip", keep_vectors=True).fit([x * scale for x in DOCUMENTS])
        huge.add([x * scale for x in DOCUMENTS])
        plain = index("ip", keep_vectors=True).add(DOCUMENTS)
        for options in ({}, {"rerank": 2}):
            ours, theirs = huge.search(QUERIES[1] / scale, 5, **options), plain.search(QUERIES[1], 5, **options)
            np.testing.assert_array_equal(ours.ids, theirs.ids)
            np.testing.assert_allclose(ours.distances, theirs.distances, rtol=1e-5)


def test_the_command_line_has_no_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index().add(DOCUMENTS).save(tmp_path / "a")
    np.save(tmp_path / "q.npy", QUERIES[1])
    assert cli.main(["info", str(tmp_path / "a")]) == 0
    assert cli.main(["search", str(tmp_path / "a"), str(tmp_path / "q.npy"), "-o", str(tmp_path / "out.npz")]) != 0
    assert "expected an index of vectors, got a MultiVectorIndex" in capsys.readouterr().err
