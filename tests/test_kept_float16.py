"""Vectors of float16 with the metric "cosine": kept as float16, of length 1."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq

D = 34  # wide enough for sketches
RNG = np.random.default_rng(1)
X = (RNG.normal(size=(400, D)) * 10.0 ** RNG.integers(-3, 3, (400, 1))).astype(np.float16)
X[[7, 100]] = 0
Q = np.concatenate([X[:4], X[7:8], -X[:1]]).astype(np.float32)
KINDS: dict[str, Callable[[], Any]] = {
    "flat": lambda: fpq.FlatIndex("cosine"),
    "pq": lambda: fpq.PQIndex(4, nbits=4, metric="cosine", keep_vectors=True),
    "ivfpq": lambda: fpq.IVFPQIndex(5, 4, nbits=4, metric="cosine", keep_vectors=True),
    "e2lsh": lambda: fpq.E2LSHIndex(metric="cosine"),
    "c2lsh": lambda: fpq.C2LSHIndex(metric="cosine"),
    "pmlsh": lambda: fpq.PMLSHIndex(metric="cosine"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def unit(x: Any) -> Any:
    """Rows of length 1, in float64; zero rows stay zero."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)


def nearest(index: Any, k: int) -> Any:
    """A search that misses nothing."""
    options: dict[str, Any] = {"FlatIndex": {}, "E2LSHIndex": {"n_probe": 1 << 20}, "C2LSHIndex": {"n_candidates": 500}}
    options["PMLSHIndex"] = options["C2LSHIndex"]
    return index.search(Q, k, **options.get(type(index).__name__, {"rerank": 500}))


@every_kind
def test_rows_stay_float16(kind: str) -> None:
    index = KINDS[kind]().fit(X).add(X)
    wide = KINDS[kind]().fit(X).add(X.astype(np.float32))
    assert index._vectors.data.dtype == np.float16 and wide._vectors.data.dtype == np.float32
    assert index._vectors.nbytes == X.nbytes == wide._vectors.nbytes // 2
    kept = index.reconstruct(np.arange(400))
    np.testing.assert_array_equal(kept, wide.reconstruct(np.arange(400)).astype(np.float16))
    np.testing.assert_allclose(kept, unit(X), rtol=2.0**-11 + 1e-6, atol=2.0**-25)
    similarities = unit(Q) @ kept.T.astype(np.float64)
    found = nearest(index, 30)
    known = found.ids >= 0
    rows = np.take_along_axis(similarities, np.maximum(found.ids, 0), 1)
    np.testing.assert_allclose(found.distances[known], rows[known], atol=1e-6)
    np.testing.assert_allclose(found.distances[:4, 0], 1, atol=5e-4)
    np.testing.assert_allclose(nearest(wide, 30).distances[:4], found.distances[:4], atol=5e-4)
    if kind == "flat":
        np.testing.assert_allclose(found.distances, -np.sort(-similarities, axis=1)[:, :30], atol=1e-6)
    if kind not in ("pq", "ivfpq"):  # range searches of codes do not read vectors
        limits = index.range_search(Q[:4], 0.3).lims
        assert np.abs(np.diff(limits) - (similarities[:4] >= 0.3).sum(1)).max() <= 1


@every_kind
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_zero_rows_have_similarity_0(kind: str, dtype: str) -> None:
    x = np.clip(X, -100, 100).astype(dtype)
    index = KINDS[kind]().fit(X).add(x)
    assert index._vectors.data.dtype == ("float16" if dtype == "float16" else "float32")
    found, within = nearest(index, 400), index.range_search(Q, -1.0)
    for distances, ids in ((found.distances, found.ids), (within.distances, within.ids)):
        assert not np.isnan(distances).any() and not np.signbit(distances[distances == 0]).any()
        if distances.ndim == 2:
            assert (distances[np.isin(ids, [7, 100])] == 0).all()
            assert (distances[4][ids[4] >= 0] == 0).all()
    assert (index.reconstruct([7, 100]) == 0).all()
    if kind == "flat":
        assert {7, 100} <= set(found.ids[0].tolist())


@every_kind
def test_rows_of_several_dtypes(kind: str) -> None:
    """What is kept of a row depends on its own dtype, not on the order of additions."""
    trained = KINDS[kind]().fit(X)
    wide = X[:50].astype(np.float32) + np.float32(0.001)
    parts = [(X[50:90], np.arange(50, 90)), (wide, np.arange(50)), (X[90:95].astype(np.float64), np.arange(90, 95))]
    answers = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        index = copy.deepcopy(trained)
        for i in order:
            index.add(parts[i][0], ids=parts[i][1])
        assert index._vectors.data.dtype == np.float32
        answers.append([index.reconstruct(np.arange(95)).tolist(), nearest(index, 9).ids.tolist()])
    assert answers[0] == answers[1] == answers[2]
    alone = copy.deepcopy(trained).add(X[50:90], ids=np.arange(50, 90))
    np.testing.assert_array_equal(index.reconstruct(np.arange(50, 90)), alone.reconstruct(np.arange(50, 90)))


@every_kind
def test_saving_and_removing(kind: str, tmp_path: Path) -> None:
    index = KINDS[kind]().fit(X).add(X)
    index.remove(np.arange(0, 400, 3))
    index.save(tmp_path / "a")
    for again in (fpq.load(tmp_path / "a"), fpq.load(tmp_path / "a", mmap=True), index.copy(), copy.deepcopy(index)):
        assert again._vectors.data.dtype == np.float16
        assert [a.tolist() for a in nearest(again, 9)] == [a.tolist() for a in nearest(index, 9)]
    again = fpq.load(tmp_path / "a").add(X[:3])
    assert again._vectors.data.dtype == np.float16


@every_kind
def test_files_of_float32_take_float16(kind: str, tmp_path: Path) -> None:
    """Files of earlier versions keep float32 for rows of float16."""
    KINDS[kind]().fit(X).add(X.astype(np.float32)).save(tmp_path / "a")
    index = fpq.load(tmp_path / "a")
    before = index.reconstruct(np.arange(400))
    index.add(X[:9])
    assert index._vectors.data.dtype == np.float32
    np.testing.assert_array_equal(index.reconstruct(np.arange(400)), before)
    np.testing.assert_array_equal(index.reconstruct(np.arange(400, 409)), before[:9].astype(np.float16))


def test_pieces_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fpq.FlatIndex("cosine", n_threads=1).add(X).reconstruct(np.arange(400))
    monkeypatch.setattr("fpq.indexes.parts.vectors.SCALED_VALUES", 3 * D + 1)
    np.testing.assert_array_equal(fpq.FlatIndex("cosine", n_threads=2).add(X).reconstruct(np.arange(400)), whole)
