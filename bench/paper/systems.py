"""The systems that are compared, one function each: from training images to a search.

Each gets the images as the files have them, uint8; a copy as float32, if it needs one, is made on its clock and counts
as its memory. Where `System.given` says so the images come as float32 instead. A function returns how to search and how
many bytes of its index each image takes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from bench.paper import plain
from fpq import FlatIndex, OpenIndexing, PQIndex

CS = (1.0, 1.25, 1.5, 2.0, 3.0)
RECOMMENDED = {"m": 16, "rotation": "pca", "rotation_dim": 64, "open_indexing": 1.5}  # by tune.py, not by the test rows

Search = Callable[[np.ndarray, int], np.ndarray]  # queries, k -> ids (nq, k), nearest first


class Built(NamedTuple):
    """What a system made of the training images."""

    search: Search
    bytes_per_image: int


class System(NamedTuple):
    """A row of the table."""

    title: str
    build: Callable[[np.ndarray, int], Built]  # training images, number of threads
    modules: tuple[str, ...] = ()  # imported before the clock starts
    single_thread: bool = False
    given: str = "uint8"  # element type of the input

    @property
    def missing(self) -> list[str]:
        """Modules that are not installed."""
        return [module for module in self.modules if importlib.util.find_spec(module.split(".")[0]) is None]


def sklearn_brute(train: np.ndarray, threads: int, dtype: str = "float32") -> Built:
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(algorithm="brute", n_jobs=threads).fit(train.astype(dtype, copy=False))

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        return model.kneighbors(queries.astype(dtype, copy=False), k, return_distance=False)

    return Built(search, train.shape[1] * np.dtype(dtype).itemsize)


def _faiss(index: object, train: np.ndarray, bytes_per_image: int) -> Built:
    x = train.astype(np.float32)
    index.train(x)
    index.add(x)
    return Built(lambda queries, k: index.search(queries.astype(np.float32), k)[1], bytes_per_image)


def faiss_flat(train: np.ndarray, threads: int) -> Built:
    import faiss

    return _faiss(faiss.IndexFlatL2(train.shape[1]), train, 4 * train.shape[1])


def faiss_pq(train: np.ndarray, threads: int, m: int = 8) -> Built:
    import faiss

    return _faiss(faiss.IndexPQ(train.shape[1], m, 8), train, m)


def nanopq(train: np.ndarray, threads: int, m: int = 8) -> Built:
    import nanopq

    x = train.astype(np.float32)
    pq = nanopq.PQ(M=m, Ks=256, verbose=False).fit(x)
    codes = pq.encode(x)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        tables = map(pq.dtable, queries.astype(np.float32))
        return np.array([plain.smallest(table.adist(codes), k) for table in tables])

    return Built(search, m)


def plain_pq(train: np.ndarray, threads: int, m: int = 8) -> Built:
    pq = plain.PlainPQ(train.astype(np.float32), m)
    return Built(pq.search, m)


def fpq_flat(train: np.ndarray, threads: int) -> Built:
    index = FlatIndex(n_threads=threads).add(train)
    return Built(lambda queries, k: index.search(queries, k)[1], train.shape[1])


def fpq_pq(train: np.ndarray, threads: int, **settings: object) -> Built:
    index = PQIndex(n_threads=threads, **settings).fit(train).add(train)
    return Built(lambda queries, k: index.search(queries, k)[1], index.quantizer.code_size)


def _paper(c: float, scope: str) -> System:
    settings = {"m": 8, "open_indexing": OpenIndexing(c, 2, scope)}
    where = "counters shared, as printed" if scope == "shared" else "a counter a subspace"
    return System(f"FPQ, paper's settings, c = {c:g}, {where}", partial(fpq_pq, **settings))


SYSTEMS = {
    "sklearn": System("scikit-learn brute force", sklearn_brute, ("sklearn.neighbors",)),
    "sklearn-uint8": System(
        "scikit-learn, bytes as they are", partial(sklearn_brute, dtype="uint8"), ("sklearn.neighbors",)
    ),
    "faiss-flat": System("faiss IndexFlatL2", faiss_flat, ("faiss",)),
    "fpq-flat": System("fpq FlatIndex", fpq_flat),
    "plain-pq": System("plain PQ m = 8, one thread", plain_pq, (), True),
    "nanopq": System("nanopq m = 8", nanopq, ("nanopq",)),
    "faiss-pq": System("faiss IndexPQ m = 8", faiss_pq, ("faiss",)),
    "fpq-pq": System("fpq PQ m = 8", partial(fpq_pq, m=8)),
    **{f"paper-{scope}-{c:g}": _paper(c, scope) for scope in ("shared", "subspace") for c in (1.0, 1.5)},
    "fpq": System("**FPQ, recommended**", partial(fpq_pq, **RECOMMENDED)),
    "sklearn-float32": System("scikit-learn, given float32", sklearn_brute, ("sklearn.neighbors",), given="float32"),
    "fpq-float32": System("FPQ, recommended, given float32", partial(fpq_pq, **RECOMMENDED), given="float32"),
}
GROWTH = ("sklearn", "plain-pq", "paper-shared-1.5", "fpq")  # the paper's three curves and ours
