"""Mistakes that users of scikit-learn, faiss, hnswlib and usearch make: each error says what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fpq

N, D = 600, 32
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
KEYS = [f"image-{i}" for i in range(N)]


def ivf(**options: Any) -> Any:
    return fpq.IVFPQIndex(8, 8, nbits=4, **options).fit(X).add(X)


MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "faiss: nprobe": (lambda: setattr(ivf(), "nprobe", 64), AttributeError, "did you mean n_probe?"),
    "hnswlib: ef": (lambda: setattr(ivf(), "ef", 100), AttributeError, "n_probe or rerank .*no graph"),
    "a slip": (lambda: setattr(ivf(), "n_probee", 3), AttributeError, "did you mean n_probe?"),
    "a setting of another index": (
        lambda: setattr(fpq.PQIndex(8), "n_lists", 3), AttributeError, "its settings are n_threads, rerank, verbose",
    ),
    "a setting of no number": (lambda: setattr(ivf(), "n_probe", "x"), TypeError, "n_probe: expected an integer"),
    "a setting of the training": (lambda: setattr(ivf(), "n_lists", 9), AttributeError, "make a new IVFPQIndex"),
    "faiss: ntotal": (lambda: ivf().ntotal, AttributeError, r"did you mean len\(index\)"),
    "faiss: train": (lambda: fpq.PQIndex(8).train(X), AttributeError, "did you mean fit?"),  # type: ignore[attr-defined]
    "hnswlib: knn_query": (lambda: ivf().knn_query(X, 3), AttributeError, "did you mean search?"),
    "hnswlib: add_items": (lambda: ivf().add_items(X), AttributeError, "did you mean add?"),
    "scikit-learn: kneighbors": (lambda: ivf().kneighbors(X), AttributeError, "did you mean search?"),
    "faiss: IndexIVFPQ(d, n_lists)": (
        lambda: fpq.IVFPQIndex(32, 256).fit(X), ValueError, "m is the number of subquantizers, and the dimension comes",
    ),
    "faiss: IndexPQ(d, m, nbits)": (lambda: fpq.PQIndex(D, 8, 8), TypeError, "positional argument"),  # type: ignore[misc]
    "usearch: add(keys, vectors)": (lambda: ivf().add(np.arange(N), X), ValueError, r"expected add\(X, ids\)"),
    "columns as vectors": (lambda: ivf().search(X[:9].T), ValueError, r"pass Q\.T"),
    "one vector as rows": (lambda: ivf().add(X[0]), ValueError, r"X: expected a 2-d array \(n, d\)"),
    "another dimension": (lambda: ivf().search(X[:, :-1]), ValueError, "expected vectors of dimension 32"),
    "strings as vectors": (lambda: ivf().add(np.array([KEYS[:2]])), TypeError, "expected an array of real numbers"),
    "search before fit": (lambda: fpq.PQIndex(8).search(X), ValueError, "is not trained: call fit first"),
    "add before fit": (lambda: fpq.IVFPQIndex(8).add(X), ValueError, "is not trained: call fit first"),
    "keys as ids": (lambda: ivf().add(X, ids=KEYS), TypeError, r"look the keys up: keys\[ids\]"),
    "k as a float": (lambda: ivf().search(X, 10.0), TypeError, "k: expected an integer, got 10.0"),
    "scikit-learn: euclidean": (lambda: fpq.FlatIndex("euclidean"), ValueError, "use 'l2'"),  # type: ignore[arg-type]
    "faiss: inner_product": (lambda: ivf(metric="inner_product"), ValueError, "use 'ip'"),
    "a dimension as the metric": (lambda: fpq.FlatIndex(128), ValueError, "metric: expected one of"),  # type: ignore[arg-type]
    "rerank without vectors": (lambda: ivf().search(X, rerank=4), ValueError, "build it with keep_vectors=True"),
    "fit again": (lambda: ivf().fit(X), ValueError, "the index holds 600 vectors"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*training rows:RuntimeWarning")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_error_says_what_to_do(mistake: str) -> None:
    call, error, match = MISTAKES[mistake]
    with pytest.raises(error, match=match):
        call()


def test_a_table_with_text_as_vectors() -> None:
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(X, columns=[f"x{i}" for i in range(D)]).assign(name=KEYS)
    with pytest.raises(TypeError, match="select the columns of numbers"):
        fpq.FlatIndex().add(table)
    numbers = fpq.FlatIndex().add(table.drop(columns="name"))
    assert numbers.search(X[:3], 1).ids[:, 0].tolist() == [0, 1, 2]


def test_cosine_of_vectors_of_any_length() -> None:
    """The vectors need not be normalised first."""
    lengths = np.random.default_rng(1).uniform(0.1, 50, size=(N, 1)).astype(np.float32)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    ours, theirs = fpq.FlatIndex("cosine").add(X * lengths).search(X[:9] * 7, 5), unit[:9] @ unit.T
    np.testing.assert_array_equal(ours.ids[:, 0], np.arange(9))
    np.testing.assert_allclose(ours.distances, -np.sort(-theirs, axis=1)[:, :5], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*training rows:RuntimeWarning")
def test_fit_without_add() -> None:
    index = fpq.PQIndex(8, nbits=4).fit(X)
    with pytest.warns(UserWarning, match=r"no vectors were added: fit only learns, add\(X\) stores"):
        assert (index.search(X[0], 3).ids == -1).all()
    index.add(X).remove(np.arange(N))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index.search(X[0], 3)


@pytest.mark.filterwarnings("ignore:.*training rows:RuntimeWarning")
def test_the_dimension_as_m() -> None:
    with pytest.warns(UserWarning, match="m is not the dimension") as warned:
        fpq.PQIndex(D, nbits=4).fit(X)
    assert warned[0].filename == __file__
