"""Bad input raises ValueError or TypeError naming the argument, before any work; the object stays as it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fpq

X = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
BAD_ROWS = {
    "1-d": (X[0], r"2-d array \(n, d\), got shape \(12,\)"),
    "3-d": (X[None], r"2-d array \(n, d\), got shape \(1, 300, 12\)"),
    "NaN": (np.where(np.arange(300)[:, None] == 7, np.nan, X), "got NaN or infinity in row 7"),
    "infinity": (np.where(np.arange(300)[:, None] == 299, -np.inf, X), "got NaN or infinity in row 299"),
    "too large for float32": (np.full((3, 12), 1e300), "finite as float32, got .* in row 0"),
    "strings": (np.full((3, 12), "a"), "real numbers, got dtype <U1"),
    "objects": (np.full((3, 12), None), "real numbers, got dtype object"),
    "complex": (X + 1j, "real numbers, got dtype complex"),
    "ragged": ([[1.0, 2.0], [3.0]], "rectangular array"),
    "no dimensions": (np.empty((3, 0)), "at least one dimension"),
    "None": (None, "real numbers, got dtype object"),
}


def state(thing: object) -> dict[str, Any]:
    """What is in an object, in a form that can be compared."""
    parts: dict[str, Any] = {}
    for name, value in vars(thing).items():
        if name in ("_table", "memo"):  # a look-up table of ids, and what searches have worked out: made when needed
            continue
        simple = isinstance(value, (int, float, str, bool, type(None), np.ndarray))
        parts[name] = pickle.dumps(value) if simple else state(value) if hasattr(value, "__dict__") else repr(value)
    return parts


def refused(thing: object, call: Callable[[], object], message: str) -> None:
    before = state(thing)
    with pytest.raises((ValueError, TypeError), match=message):
        call()
    assert state(thing) == before


def trained() -> list[Any]:
    return [
        fpq.PQIndex(4, nbits=5, open_indexing=1.5, keep_vectors=True).fit(X).add(X[:100]),
        fpq.PQIndex(4, nbits=5, metric="cosine", rotation="pca").fit(X).add(X[:100], ids=np.arange(100) * 3),
        fpq.FlatIndex().add(X[:100]),
    ]


@pytest.mark.parametrize("case", BAD_ROWS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: fpq.KMeans(5),
        lambda: fpq.ProductQuantizer(4, nbits=4),
        lambda: fpq.PQIndex(4, nbits=4),
        lambda: fpq.PQIndex(4, nbits=4, metric="cosine"),
    ],
)
def test_fit(make: Callable[[], Any], case: str) -> None:
    bad, message = BAD_ROWS[case]
    new, old = make(), make().fit(X)
    refused(new, lambda: new.fit(bad), f"^X: .*{message}")
    refused(old, lambda: old.fit(bad), f"^X: .*{message}")


@pytest.mark.parametrize("case", BAD_ROWS)
def test_add(case: str) -> None:
    bad, message = BAD_ROWS[case]
    for index in trained():
        refused(index, lambda: index.add(bad), f"^X: .*{message}")
        assert len(index) == 100


@pytest.mark.parametrize("case", [c for c in BAD_ROWS if c not in ("1-d", "3-d", "no dimensions")])
def test_queries(case: str) -> None:
    bad, message = BAD_ROWS[case]
    for index in trained():
        refused(index, lambda: index.search(bad), f"^Q: .*{message}")
        refused(index, lambda: index.range_search(bad, 1.0), f"^Q: .*{message}")


def test_shapes_of_queries() -> None:
    for index in trained():
        for bad in (X[None], np.float32(3)):
            refused(index, lambda: index.search(bad), r"^Q: expected one query \(d,\) or several")
        refused(index, lambda: index.search(X[:, :7]), "^Q: expected vectors of dimension 12, got dimension 7")
        refused(index, lambda: index.add(X[:, :7]), "^X: expected vectors of dimension 12, got dimension 7")


@pytest.mark.parametrize("make", [fpq.KMeans, fpq.ProductQuantizer, fpq.PQIndex])
def test_empty_training_set(make: Callable[[int], Any]) -> None:
    thing = make(4)
    refused(thing, lambda: thing.fit(np.empty((0, 12))), "^X: expected at least 1 row")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fpq.ProductQuantizer(0), "^m: expected at least 1, got 0"),
        (lambda: fpq.ProductQuantizer(4.0), "^m: expected an integer, got 4.0"),
        (lambda: fpq.ProductQuantizer(True), "^m: expected an integer, got True"),
        (lambda: fpq.ProductQuantizer(4, nbits=0), "^nbits: expected 1 to 8, got 0"),
        (lambda: fpq.ProductQuantizer(4, init="any"), "^init: expected one of 'k-means\\+\\+', 'random', got 'any'"),
        (lambda: fpq.PQIndex(4, nbits=9), "^nbits: expected 1 to 8, got 9"),
        (lambda: fpq.PQIndex(4, rotation="svd"), "^rotation: expected one of None, 'pca', 'opq', got 'svd'"),
        (lambda: fpq.PQIndex(4, rotation=np.eye(3)), "^rotation: expected one of None, 'pca', 'opq', got array"),
        (lambda: fpq.FlatIndex(["l2", "ip"]), "^metric: expected one of 'l2', 'ip', 'cosine', got \\['l2', 'ip'\\]"),
        (lambda: fpq.FlatIndex(np.array(["l2", "ip"])), "^metric: expected one of 'l2', 'ip', 'cosine', got array"),
        (lambda: fpq.PQIndex(4, rotation="pca", rotation_dim=3), "^rotation_dim: expected at least 4, got 3"),
        (lambda: fpq.PQIndex(4, rotation_dim=8), "^rotation_dim: expected None without a rotation, got 8"),
        (lambda: fpq.PQIndex(4, open_indexing=0.9), "^open_indexing: expected a finite number of at least 1, got 0.9"),
        (lambda: fpq.PQIndex(4, open_indexing="much"), "^open_indexing: expected a number, got 'much'"),
        (lambda: fpq.OpenIndexing(0.5), "^c: expected a finite number of at least 1, got 0.5"),
        (lambda: fpq.OpenIndexing(np.nan), "^c: expected a finite number"),
        (lambda: fpq.OpenIndexing(candidates=0), "^candidates: expected at least 1, got 0"),
        (lambda: fpq.OpenIndexing(scope="all"), "^scope: expected one of 'subspace', 'shared', got 'all'"),
        (lambda: fpq.PQIndex(4, metric="l1"), "^metric: expected one of 'l2', 'ip', 'cosine', got 'l1'"),
        (lambda: fpq.FlatIndex("euclid"), "^metric: expected one of 'l2', 'ip', 'cosine', got 'euclid'"),
        (lambda: fpq.PQIndex(4, seed=-1), "^seed: expected at least 0, got -1"),
        (lambda: fpq.PQIndex(4, n_threads=0), "^n_threads: expected at least 1, got 0"),
        (lambda: fpq.PQIndex(4, n_threads=1.5), "^n_threads: expected an integer, got 1.5"),
        (
            lambda: fpq.PQIndex(4, keep_vectors=3),
            "^keep_vectors: expected False, True or the path of a .npy file, got 3",
        ),
        (lambda: fpq.KMeans(0), "^n_clusters: expected at least 1, got 0"),
        (lambda: fpq.KMeans(3, n_iter=0), "^n_iter: expected at least 1, got 0"),
        (lambda: fpq.KMeans(3, init="best"), "^init: expected one of 'random', 'k-means\\+\\+', got 'best'"),
        (lambda: fpq.KMeans(3, capacity=0.5), "^capacity: expected a finite number of at least 1, got 0.5"),
        (lambda: fpq.KMeans(3, init=X[:2]).fit(X), "^init: expected at least 3 row"),
        (lambda: fpq.KMeans(3, init=X[:4]).fit(X), "^init: expected 3 centroids, got 4"),
    ],
)
def test_parameters(call: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_more_subspaces_than_dimensions() -> None:
    index = fpq.PQIndex(13)
    refused(index, lambda: index.fit(X), r"^m: expected at most the 12 dimension\(s\) of X, got 13")
    index = fpq.PQIndex(4, rotation="pca", rotation_dim=13)
    refused(index, lambda: index.fit(X), r"^rotation_dim: expected at most the 12 dimension\(s\) of X, got 13")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 1], "expected unique ids, got 1 more than once"),
        ([1000, 5, 1001], "expected ids that are not in the index, got 5"),
        ([-1, 1000, 1001], "expected ids of at least 0, got -1"),
        ([1000, 1001], r"expected 3 ids for 3 row\(s\), got 2"),
        ([1000.0, 1001.0, 1002.0], "expected integer ids, got dtype float64"),
        ([[1000, 1001, 1002]], "expected a 1-d array of ids"),
        (np.array([2**63, 1000, 1001], np.uint64), r"expected ids below 2\*\*63"),
    ],
)
def test_ids(ids: Any, message: str) -> None:
    for index in (trained()[0], trained()[2]):
        refused(index, lambda: index.add(X[:3], ids=ids), f"^ids: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "^k: expected at least 1, got 0"),
        ({"k": 2.0}, "^k: expected an integer, got 2.0"),
        ({"k": "3"}, "^k: expected an integer, got '3'"),
        ({"n_threads": -1}, "^n_threads: expected at least 1, got -1"),
        ({"allowed": np.ones(5, bool)}, "^allowed: expected a mask with an entry for each id up to"),
        ({"allowed": [0.5]}, "^allowed: expected integer ids"),
        ({"allowed": [-3]}, "^allowed: expected ids of at least 0"),
    ],
)
def test_search_arguments(arguments: dict[str, Any], message: str) -> None:
    for index in trained():
        refused(index, lambda: index.search(X[:2], **arguments), message)


def test_allowed_of_an_empty_index() -> None:
    for index in (fpq.FlatIndex(), fpq.PQIndex(4, nbits=5).fit(X)):
        refused(index, lambda: index.search(X[:2], allowed=[0.5]), "^allowed: expected integer ids")
        refused(index, lambda: index.range_search(X[:2], 1.0, allowed=[-3]), "^allowed: expected ids of at least 0")
        refused(index, lambda: index.search(X[:2], allowed=[[True]]), "^allowed: expected a mask")
        for allowed in ([], [3], np.zeros(0, bool), np.ones(9, bool)):
            assert (index.search(X[:2], 3, allowed=allowed).ids == -1).all()
            assert index.range_search(X[:2], 1.0, allowed=allowed).lims.tolist() == [0, 0, 0]


def test_rerank() -> None:
    keeps, does_not, _ = trained()
    refused(
        does_not, lambda: does_not.search(X[:2], rerank=3), "^rerank: expected None, got 3: the index keeps no vectors"
    )
    refused(keeps, lambda: keeps.search(X[:2], rerank=0), "^rerank: expected at least 1, got 0")


def test_before_fit() -> None:
    index = fpq.PQIndex(4)
    for call in (
        lambda: index.search(X),
        lambda: index.add(X),
        lambda: index.range_search(X, 1.0),
        lambda: index.reconstruct([0]),
    ):
        refused(index, call, "^PQIndex is not trained: call fit first")
    pq = fpq.ProductQuantizer(4)
    for call in (lambda: pq.encode(X), lambda: pq.distance_table(X), lambda: pq.decode(np.zeros((1, 4), np.uint8))):
        refused(pq, call, "^ProductQuantizer is not trained: call fit first")
    kmeans = fpq.KMeans(3)
    refused(kmeans, lambda: kmeans.predict(X), "^KMeans is not trained: call fit first")


def test_codes() -> None:
    pq = fpq.ProductQuantizer(4, nbits=5).fit(X)
    refused(pq, lambda: pq.decode(np.zeros((2, 3), int)), "^codes: expected dtype uint8, got int64")
    refused(pq, lambda: pq.decode(np.zeros((2, 4), np.uint8)), r"^codes: expected shape \(n, 3\), got \(2, 4\)")


def test_reconstruct_and_fit_again() -> None:
    for index in trained():
        refused(index, lambda: index.reconstruct([1000]), "^ids: expected ids in the index, got 1000")
    index = trained()[0]
    refused(index, lambda: index.fit(X), "^fit: the index holds 100 vectors")


def test_radius() -> None:
    for index in trained():
        refused(index, lambda: index.range_search(X[:2], np.nan), "^radius: expected a finite number, got nan")
        refused(index, lambda: index.range_search(X[:2], "wide"), "^radius: expected a number, got 'wide'")
